"""One engine for many problem files: a start costs more than a short benchmark, and no sample depends on it."""

from collections.abc import Callable
from typing import cast

from promptcot_mamba.cli import parse_args
from promptcot_mamba.sampling.arguments import SamplingArguments
from promptcot_mamba.sampling.backend import Backend
from promptcot_mamba.sampling.engines import make_backend
from promptcot_mamba.sampling.plan import Plan, place
from promptcot_mamba.sampling.recipes import read_problems
from promptcot_mamba.sampling.vllm_engine import VllmEngine

EXIT_LEFT = 3  # all was asked for, and some samples could not be made


def sample_each(commands: dict[str, list[str]], sample: Callable[..., int], make: Callable[[Plan], Backend]) -> int:
    """Run `sample(flags, make_backend)` for each benchmark's command line, with one start of the engine for all.

    Every file of problems is read before anything is sampled. Samples that no server could answer are left for a rerun,
    and keep no other benchmark waiting; anything else that ends one ends all. Returns the first status that is not 0.
    """
    counts, first = [], 0
    for flags in commands.values():
        args = parse_args(SamplingArguments, flags)
        counts.append(args.n * len(read_problems(args.data_path, args.benchmark, args.limit)))
    engine = SharedEngine(max(counts), make)
    try:
        for name, flags in commands.items():
            print(f"== {name}", flush=True)
            status = sample(flags, engine)
            first = first or status
            if status not in (0, EXIT_LEFT):
                break
    finally:
        engine.close()
    return first


class SharedEngine:
    """Makes a back end for a plan, or lends the one it has where that would be the same engine.

    `samples` is how many the largest file asks for: the engine is laid out for that many. Replicas behind a server
    are not shared.
    """

    def __init__(self, samples: int, make: Callable[[Plan], Backend] = make_backend):
        self._samples = samples
        self._make = make
        self._engine: VllmEngine | None = None
        self._layout: tuple | None = None

    def __call__(self, plan: Plan) -> Backend:
        if plan.args.base_url or plan.args.replicas > 1:
            return self._make(plan)
        assert plan.checkpoint is not None  # only servers do without
        layout = (
            *(plan.args.model_path, plan.checkpoint.fingerprint(), plan.dtype, plan.args.state_dtype),
            *(plan.context, plan.args.tensor_parallel_size, plan.args.max_num_seqs),
            *(plan.args.quantization, plan.args.rope_scaling, plan.args.segment_len is None),
        )
        if layout != self._layout:
            self.close()
            place(plan, self._samples)
            self._engine, self._layout = cast(VllmEngine, self._make(plan)), layout
        else:
            assert self._engine is not None  # its layout is known
            self._engine.set_sampling(plan.sampling())
        return _Lease(self._engine)

    def close(self) -> None:
        """End the engine; its memory is free for another."""
        if self._engine is not None:
            self._engine.close()
        self._engine = self._layout = None


class _Lease:
    """A back end for one file: counts its own tokens, and leaves the engine open."""

    def __init__(self, engine: VllmEngine):
        self._engine = engine
        self._tokens_before = engine.generated_tokens
        self.window, self.submit, self.poll = engine.window, engine.submit, engine.poll
        self.drop, self.running, self.growing = engine.drop, engine.running, engine.growing

    @property
    def generated_tokens(self) -> int:
        return self._engine.generated_tokens - self._tokens_before

    def close(self) -> None:
        """The engine stays."""
