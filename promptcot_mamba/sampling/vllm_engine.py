"""vLLM inside this process: requests go in one by one, finished chains come out after any engine step.

Works on vLLM's CPU build and on CUDA. The engine is driven by `add_request` and `step` instead of `LLM.generate`,
which returns only when the slowest chain has ended.
"""

import itertools
import os
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from promptcot_mamba.errors import InputError
from promptcot_mamba.log import logger
from promptcot_mamba.sampling.backend import (
    LENGTH,
    LOOP,
    STOP,
    BackendFailedError,
    Generated,
    Request,
    SamplingSettings,
)
from promptcot_mamba.sampling.decode import completion_text
from promptcot_mamba.sampling.loops import BLOCK, find_loop
from promptcot_mamba.sampling.vllm_cpu import patch_vllm
from promptcot_mamba.token_scores import TOP, TokenScores, entropy_of

STREAM_INTERVAL = BLOCK  # tokens a request gathers before we hear of it: progress and loops need no more


@dataclass(frozen=True)
class EngineSettings:
    """How the engine is laid out. Nothing here but the dtypes changes samples."""

    model_path: str
    dtype: str
    state_dtype: str  # of the SSM state; float32 keeps long chains exact
    context: int
    max_num_seqs: int
    tensor_parallel_size: int = 1
    on_cpu: bool = False
    cache_bytes: int | None = None  # states or KV in all; None leaves it to vLLM
    memory_fraction: float = 0.9
    dummy_weights: bool = False  # random weights of the config's shapes: a stopwatch needs no others
    has_states: bool = False  # of layers that are no Mamba-2's: a hybrid's, Mamba-1's
    prefix_caching: bool = True  # of attention; off where re-reading must give the same bits whatever was read before
    quantization: str | None = None
    hf_overrides: dict[str, Any] | None = None  # of the checkpoint's config: rope scaling


def engine_arguments(settings: EngineSettings, *, is_mamba2: bool) -> dict[str, Any]:
    """vLLM's `EngineArgs`, the same for an engine in this process and for `vllm serve`."""
    arguments: dict[str, Any] = {
        "model": settings.model_path,
        "dtype": settings.dtype,
        "max_model_len": settings.context,
        "max_num_seqs": settings.max_num_seqs,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "generation_config": "vllm",  # every setting is sent with the request; a checkpoint's defaults change nothing
        "language_model_only": True,  # of a model that sees: no tower, nor room for images, nor their processor
        "stream_interval": STREAM_INTERVAL,
        "use_tqdm_on_load": False,
        "gpu_memory_utilization": settings.memory_fraction,
    }
    if is_mamba2 or settings.has_states:
        arguments["mamba_ssm_cache_dtype"] = settings.state_dtype
        arguments["enable_prefix_caching"] = False  # it would keep further states for short prompts
    elif not settings.prefix_caching:
        arguments["enable_prefix_caching"] = False
    if settings.quantization is not None:
        arguments["quantization"] = settings.quantization
    if settings.hf_overrides:
        arguments["hf_overrides"] = settings.hf_overrides
    if settings.dummy_weights:
        arguments["load_format"] = "dummy"
    if settings.cache_bytes is not None:
        arguments["kv_cache_memory_bytes"] = settings.cache_bytes
    if settings.on_cpu:
        # A seeded request whose prompt is cut by chunked prefill kills the CPU engine, so prompts go in whole.
        # Compiling the model costs more than it gains here: mixers are compiled C++ either way.
        arguments |= {
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": settings.context,
            "enforce_eager": True,
        }
    return arguments


def share_cores(workers: int) -> str:
    """`VLLM_CPU_OMP_THREADS_BIND` that gives each of `workers` its own cores: by itself vLLM wants a NUMA node each."""
    cores = sorted(os.sched_getaffinity(0))
    share = len(cores) // workers
    if not share:
        raise InputError(f"--n_gpus {workers}: without GPUs a device is a core, and this machine lends {len(cores)}")
    return "|".join(",".join(map(str, cores[part * share : (part + 1) * share])) for part in range(workers))


def add_scores(scores: TokenScores, given: Any) -> None:
    """Add what vLLM tells of fresh tokens (`FlatLogprobs`): at each place the drawn token, then the likeliest ones."""
    for start, end in zip(given.start_indices, given.end_indices, strict=True):
        logprobs, ids = given.logprobs[start:end], given.token_ids[start:end]
        alternatives = logprobs[1:] if ids[0] in ids[1:] else logprobs  # the drawn one may be among the likeliest
        scores.logprobs.append(logprobs[0])
        scores.entropies.append(entropy_of(alternatives))


@dataclass
class _Running:
    """One request in the engine: what it has said so far."""

    request: Request
    submitted: float
    ids: array = field(default_factory=lambda: array("i"))  # of the completion, those kept from before included


class VllmEngine:
    """The `Backend` that runs vLLM in this process."""

    def __init__(self, settings: EngineSettings, sampling: SamplingSettings, *, is_mamba2: bool, tokenizer: Any):
        if settings.on_cpu:
            os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # one process: half the start-up, no pickling a step
            if settings.tensor_parallel_size > 1:
                os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", share_cores(settings.tensor_parallel_size))
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        # FlashInfer's sampler takes no seed of a request, so ours never reach it; but vLLM tries it at start, and where
        # nvcc is missing its compiling ends the engine (vllm-project/vllm#49497).
        os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
        # The CPU build warns about a dozen things that are as they should be.
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR" if settings.on_cpu else "WARNING")
        from pydantic import ValidationError
        from vllm import EngineArgs, LLMEngine, SamplingParams
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError

        if settings.on_cpu:
            patch_vllm()
        started = time.monotonic()
        try:
            self._engine = LLMEngine.from_engine_args(
                EngineArgs(**engine_arguments(settings, is_mamba2=is_mamba2), disable_log_stats=True)
            )
        except ValidationError as error:  # of its settings, before anything is loaded
            words = "; ".join(each["msg"] for each in error.errors())
            raise InputError(f"--model_path {settings.model_path}: vLLM refuses its settings ({words})") from None
        except ValueError as error:  # of what it finds in model and memory
            words = (str(error).strip().splitlines() or [type(error).__name__])[0]
            if settings.on_cpu and "failed to be inspected" in words:
                words += " Models that see want torchvision, which has no wheel beside torch's CPU build."
            raise InputError(f"--model_path {settings.model_path}: vLLM cannot start it ({words})") from error
        except RuntimeError as error:  # of the process that an engine on GPUs has to itself, whose log is above
            if settings.on_cpu:
                raise
            raise BackendFailedError(f"{settings.model_path}: vLLM's engine did not start ({error})") from error
        logger.info("vLLM engine ready in %.1f s", time.monotonic() - started)
        # In one process a free place is filled between two steps; an engine of its own needs requests at the door.
        self.window = settings.max_num_seqs if settings.on_cpu else settings.max_num_seqs * 5 // 4 + 8
        self.generated_tokens = 0
        self._max_num_seqs = settings.max_num_seqs
        self._sampling = sampling
        self._tokenizer = tokenizer
        self._running: dict[str, _Running] = {}
        self._params_class = SamplingParams
        self._output_kind = RequestOutputKind.DELTA
        self._dead_error = EngineDeadError
        self._final_only = RequestOutputKind.FINAL_ONLY

    def set_sampling(self, sampling: SamplingSettings) -> None:
        """Draw the requests submitted from now on in another way."""
        self._sampling = sampling

    def submit(self, request: Request) -> None:
        sampling = self._sampling
        params = self._params_class(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,  # counts the prompt's tokens like the completion's
            seed=request.seed,
            max_tokens=request.max_tokens,
            ignore_eos=sampling.ignore_eos,
            stop_token_ids=list(sampling.stop_token_ids),
            skip_special_tokens=sampling.skip_special_tokens,
            output_kind=self._output_kind,
            detokenize=False,  # ours, once, at the end
            logprobs=TOP if request.scores is not None else None,
            flat_logprobs=True,
        )
        assert request.prompt_ids is not None  # whoever has the checkpoint has its tokenizer
        prompt = [*request.prompt_ids, *request.kept]
        self._engine.add_request(str(request.unit), {"prompt_token_ids": prompt}, params)
        self._running[str(request.unit)] = _Running(request, time.monotonic(), array("i", request.kept))

    def poll(self, timeout: float) -> list[Generated]:
        """One engine step: the engine is its own clock, so `timeout` is not needed."""
        finished = []
        try:
            outputs = self._engine.step()
        except self._dead_error as error:
            raise BackendFailedError(f"vLLM's engine died ({error}); see its log above") from error
        for output in outputs:
            running = self._running.get(output.request_id)
            if running is None:
                continue  # a chain cut as a loop, whose last words were on their way
            said = output.outputs[0]
            self.generated_tokens += len(said.token_ids)
            looked_at = len(running.ids)
            running.ids.extend(said.token_ids)
            if running.request.scores is not None and said.logprobs:
                add_scores(running.request.scores, said.logprobs)
            cut = find_loop(running.ids, looked_at) if self._sampling.stop_on_loop else None
            if cut is not None:
                del running.ids[cut:]  # whatever it said after that
                if running.request.scores is not None:
                    running.request.scores.fit(cut)
                if not output.finished:
                    self._engine.abort_request([output.request_id])
                finished.append(self._generated(running, LOOP))
            elif output.finished:
                finished.append(self._generated(running, said.finish_reason))
        return finished

    def _generated(self, running: _Running, reason: str) -> Generated:
        if reason not in (STOP, LENGTH, LOOP):
            raise BackendFailedError(f"vLLM ended a request with {reason!r}; see its log above")
        request = running.request
        assert request.prompt_ids is not None
        del self._running[str(request.unit)]
        return Generated(
            request.unit,
            completion_text(self._tokenizer, self._sampling, request.prompt_ids, running.ids, reason),
            reason,
            len(request.prompt_ids),
            len(running.ids),
            time.monotonic() - running.submitted,
            token_ids=running.ids,
        )

    def growing(self) -> Mapping[int, Sequence[int]]:
        return {
            each.request.unit: each.ids for each in self._running.values() if len(each.ids) > len(each.request.kept)
        }

    def log_likelihoods(self, sequences: Iterable[tuple[list[int], int]]) -> Iterator[float]:
        """log p(ids[start:] | ids[:start]) in nats for each (ids, start), in order, one chain window at a time.

        Uses prompt log-probabilities: the engine reads each sequence once and generates one token that is dropped.
        """
        params = self._params_class(
            max_tokens=1, temperature=0.0, prompt_logprobs=0, output_kind=self._final_only, detokenize=False
        )
        pending = iter(sequences)
        while batch := list(itertools.islice(pending, self.window)):
            for i, (ids, _) in enumerate(batch):
                self._engine.add_request(f"score-{i}", {"prompt_token_ids": ids}, params)
            scores: dict[str, float] = {}
            while len(scores) < len(batch):
                for output in self._engine.step():
                    ids, start = batch[int(output.request_id.removeprefix("score-"))]
                    tables = output.prompt_logprobs
                    scores[output.request_id] = sum(tables[i][ids[i]].logprob for i in range(start, len(ids)))
            yield from (scores[f"score-{i}"] for i in range(len(batch)))

    def drop(self, unit: int) -> None:
        if self._running.pop(str(unit), None) is not None:
            self._engine.abort_request([str(unit)])

    def running(self) -> int:
        return min(len(self._running), self._max_num_seqs)

    def close(self) -> None:
        self._running.clear()
        shutdown = getattr(self._engine.engine_core, "shutdown", None)
        if shutdown is not None:
            shutdown()
