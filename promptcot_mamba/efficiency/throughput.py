"""[heavy] Stopwatch: one model with dummy weights in vLLM, a fixed cache, a wave of equal chains at each length."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from promptcot_mamba.efficiency.predict import BLOCK
from promptcot_mamba.efficiency.shapes import Shape

WARM_UP_TOKENS = 16
# A short wave is repeated for this long, at most so often, and its median taken: one hiccup would decide it alone.
REPEAT_SECONDS, MOST_REPEATS = 4.0, 5


@dataclass(frozen=True)
class Load:
    """A wave of equal chains: how many, and the tokens each reads and generates."""

    chains: int
    prompt: int
    length: int


@dataclass(frozen=True)
class Wave:
    """What one wave did. Seconds are wall time, tokens are generated ones."""

    chains: int
    prompt: int
    length: int
    tokens: int
    seconds: float
    steps: int
    preemptions: int

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def running(self) -> float:
        """Mean number of chains that gained a token in a step."""
        return self.tokens / self.steps


class Stopwatch:
    """A vLLM engine with a cache of exactly `cache_bytes`, and never more than `max_num_seqs` chains at once."""

    def __init__(self, shape: Shape, folder: Path, *, cache_bytes: int, max_num_seqs: int, context: int, seed: int = 0):
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        import torch
        from vllm import EngineArgs, LLMEngine, SamplingParams

        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(shape.config))
        on_cuda = torch.cuda.is_available()
        arguments = {
            "model": str(folder),
            "load_format": "dummy",
            "skip_tokenizer_init": True,
            "dtype": {2: "bfloat16", 4: "float32"}[shape.weight_width],
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
        self._counter = 0
        self.run(Load(max_num_seqs, prompt=8, length=WARM_UP_TOKENS))

    def run(self, load: Load) -> Wave:
        """Generate chains after prompts of random tokens; none ends early."""
        before = self._preemptions()
        params = self._params(max_tokens=load.length, ignore_eos=True, temperature=1.0, detokenize=False)
        for _ in range(load.chains):
            ids = [self._random.randrange(self._vocab) for _ in range(load.prompt)]
            self._engine.add_request(str(self._counter), {"prompt_token_ids": ids}, params)
            self._counter += 1
        started, steps = time.perf_counter(), 0
        while self._engine.has_unfinished_requests():
            self._engine.step()
            steps += 1
        seconds = time.perf_counter() - started
        tokens = load.chains * load.length
        return Wave(
            **asdict(load), tokens=tokens, seconds=seconds, steps=steps, preemptions=self._preemptions() - before
        )

    def run_repeatedly(self, load: Load) -> Wave:
        """The wave of median time among as many as a few seconds hold."""
        waves = [self.run(load)]
        while len(waves) < MOST_REPEATS and sum(wave.seconds for wave in waves) + waves[0].seconds < REPEAT_SECONDS:
            waves.append(self.run(load))
        return sorted(waves, key=lambda wave: wave.seconds)[len(waves) // 2]

    def _preemptions(self) -> int:
        named = [metric for metric in self._engine.get_metrics() if metric.name == "vllm:num_preemptions"]
        return int(sum(metric.value for metric in named))


def measure(
    shape: Shape, folder: Path, *, cache_bytes: int, max_num_seqs: int, loads: Sequence[Load]
) -> list[dict[str, float]]:
    """The waves of `loads`, in order, in a cache of `cache_bytes`.

    Run it in a process of its own: an engine's memory is freed only with its process.
    """
    context = max(load.prompt + load.length for load in loads)
    stopwatch = Stopwatch(shape, folder, cache_bytes=cache_bytes, max_num_seqs=max_num_seqs, context=context)
    return [describe(stopwatch.run_repeatedly(load)) for load in loads]


def describe(wave: Wave) -> dict[str, float]:
    """A wave as a JSON row, its ratios included."""
    return {**asdict(wave), "tokens_per_second": wave.tokens_per_second, "running": wave.running}
