"""[heavy] Stopwatches in processes of their own: a model with dummy weights in vLLM, a fixed cache, equal chains.

Engines take turns, so short that a machine whose speed drifts is the same to all of them.
"""

import json
import os
import random
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from promptcot_mamba.efficiency.models import Shape
from promptcot_mamba.efficiency.predict import BLOCK, Load

WARM_UP_TOKENS = 16
TURN_SECONDS = 0.1  # shorter ones cost more: the first steps of a turn find cold caches


@dataclass(frozen=True)
class Wave(Load):
    """What one load did, in seconds of wall time and generated tokens.

    Its beginning, up to the step that gives the first tokens, reads prompts; what is read again later, after a
    preemption, is part of generating.
    """

    steps: int
    preemptions: int
    seconds: float
    first_seconds: float
    first_tokens: int

    @property
    def tokens_per_second(self) -> float:
        """Of generating: what comes after the first tokens."""
        return (self.tokens - self.first_tokens) / (self.seconds - self.first_seconds)

    @property
    def running(self) -> float:
        """Mean number of chains that gained a token in a step."""
        return self.tokens / self.steps

    def as_row(self) -> dict[str, float]:
        """A JSON row, ratios included."""
        return {**asdict(self), "tokens_per_second": self.tokens_per_second, "running": self.running}


class Stopwatch:
    """A vLLM engine with a cache of exactly `cache_bytes`, and never more than `max_num_seqs` chains at once.

    A wave is begun once and advanced as often as it takes; the time between two advances is not its own.
    """

    def __init__(self, shape: Shape, folder: Path, *, cache_bytes: int, max_num_seqs: int, context: int, seed: int = 0):
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")  # it would want nvcc (sampling/vllm_engine.py)
        import torch
        from vllm import EngineArgs, LLMEngine, SamplingParams

        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(shape.config))
        on_cuda = torch.cuda.is_available()
        arguments: dict[str, Any] = {
            "model": str(folder),
            "load_format": "dummy",
            "skip_tokenizer_init": True,
            "dtype": shape.dtype,
            "max_model_len": context,
            "max_num_seqs": max_num_seqs,
            "kv_cache_memory_bytes": cache_bytes,
            "enable_prefix_caching": False,
            "enforce_eager": not on_cuda,
            "gpu_memory_utilization": 0.9 if on_cuda else 0.2,
            "seed": seed,
        }
        if shape.is_mamba2:
            arguments["mamba_ssm_cache_dtype"] = "float32"
        else:
            arguments["block_size"] = BLOCK  # the CPU build's own choice of 128 is coarse for chains scaled down
        self._engine = LLMEngine.from_engine_args(EngineArgs(**arguments, disable_log_stats=False))
        self._params = SamplingParams
        self._random = random.Random(seed)
        self._vocab = shape.config["vocab_size"]
        self._requests = 0
        self._wave: dict[str, Any] = {}  # what is known of the one under way
        warm_up = Load(max_num_seqs, prompt=8, length=WARM_UP_TOKENS)
        while self.advance(warm_up, 60.0)[1] is None:
            pass

    def advance(self, load: Load, seconds: float) -> tuple[int, dict[str, float] | None]:
        """Go on with a wave of this load, for about so long: tokens generated so far and, once through, its row."""
        if not self._wave:
            self._begin(load)
        wave, already, started = self._wave, self._wave["seconds"], time.perf_counter()
        while self._engine.has_unfinished_requests():
            gained = len(self._engine.step())
            wave["steps"] += 1
            self._tokens += gained
            wave["seconds"] = already + time.perf_counter() - started
            if gained and not wave["first_tokens"]:
                wave |= {"first_seconds": wave["seconds"], "first_tokens": gained}
            if wave["seconds"] >= already + seconds and self._engine.has_unfinished_requests():
                return self._tokens, None
        wave["preemptions"] += self._preemptions()
        self._wave = {}
        return self._tokens, Wave(**wave).as_row()

    def _begin(self, load: Load) -> None:
        """Queue chains after prompts of random tokens; none will end early."""
        self._wave = dict.fromkeys(Wave.__dataclass_fields__, 0) | asdict(load)
        self._wave["preemptions"] -= self._preemptions()
        self._tokens = 0
        params = self._params(max_tokens=load.length, ignore_eos=True, temperature=1.0, detokenize=False)
        for _ in range(load.chains):
            ids = [self._random.randrange(self._vocab) for _ in range(load.prompt)]
            self._engine.add_request(str(self._requests), {"prompt_token_ids": ids}, params)
            self._requests += 1

    def _preemptions(self) -> int:
        named = [metric for metric in self._engine.get_metrics() if metric.name == "vllm:num_preemptions"]
        return int(sum(metric.value for metric in named))


class EngineProcess:
    """A stopwatch in a process of its own, whose end frees the engine's memory. Starting goes on in the background."""

    def __init__(self, shape: Shape, folder: Path, **settings: Any):
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        self._started = self._pool.submit(_start, shape, folder, settings)

    def wait(self) -> None:
        """Until it has started; raises what hindered it."""
        self._started.result()

    def advance(self, load: Load, seconds: float) -> tuple[int, dict[str, float] | None]:
        return self._pool.submit(_advance, load, seconds).result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


_stopwatch: Stopwatch  # the child process's


def _start(shape: Shape, folder: Path, settings: dict[str, Any]) -> None:
    global _stopwatch
    _stopwatch = Stopwatch(shape, folder, **settings)


def _advance(load: Load, seconds: float) -> tuple[int, dict[str, float] | None]:
    return _stopwatch.advance(load, seconds)


def take_turns(
    engines: Mapping[str, EngineProcess], load: Load, seconds: float = TURN_SECONDS
) -> Iterator[tuple[str, dict[str, float]]]:
    """A wave of this load in each engine: its name and row as they end.

    The next turn is always of the engine that has generated the fewest tokens, so that all begin and end together,
    however much or little time they take.
    """
    generated = dict.fromkeys(engines, 0)
    while generated:
        name = min(generated, key=generated.__getitem__)
        generated[name], row = engines[name].advance(load, seconds)
        if row is not None:
            yield name, row
            del generated[name]
