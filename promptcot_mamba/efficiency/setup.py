"""What is to be measured: which waves, through which engines, so that every number of the comparison has its wave."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from promptcot_mamba.efficiency.models import GIB, Pair, Shape
from promptcot_mamba.efficiency.predict import BLOCK, Load, play_wave
from promptcot_mamba.errors import InputError

SINGLE = (1024, 16384, 65536)  # lengths of single chains, 7B units
# What the costs of a step are learnt from: a length in 7B units, a share of the longest, some chains between 1 and all.
SHORT, LONG_SHARE, FEW = 2048, 5 / 16, 8
ROOMY = 1 << 62  # bytes of a cache that no wave fills
# How often a stage comes: until it has so many steps, those that are compared and others, but not more often than this.
COMPARED_STEPS, OTHER_STEPS, MOST_TIMES = 4800, 3000, 6


@dataclass(frozen=True)
class Stage:
    """Waves of one load in all the engines whose speeds will be set against each other, side by side."""

    load: Load
    engines: tuple[str, ...]

    @property
    def name(self) -> str:
        load = self.load
        return f"{load.chains} chains of {load.prompt} + {load.length} tokens: {'; '.join(self.engines)}"


@dataclass(frozen=True)
class Job:
    """One engine: a model, its cache, the loads it will get."""

    shape: Shape
    cache_bytes: int
    loads: list[Load]


@dataclass(frozen=True)
class Setup:
    """Two models under the same budgets with the same chains; lengths and budgets in 7B units, lengths ascending."""

    pair: Pair
    budgets_gib: Sequence[float]
    lengths: Sequence[int]
    prompt: int
    max_num_seqs: int

    @property
    def shapes(self) -> tuple[Shape, Shape]:
        return self.pair.mamba2, self.pair.qwen2

    def waves(self) -> list[Load]:
        """The waves that are compared: all chains at every length."""
        return [Load(self.max_num_seqs, *map(self.pair.length, (self.prompt, tokens))) for tokens in self.lengths]

    def compared(self, budget: float) -> list[Stage]:
        """Both models under one budget at every length."""
        engines = tuple(self.engine(shape, budget) for shape in self.shapes)
        return [Stage(load, engines) for load in self.waves()]

    def singles(self) -> list[Stage]:
        """One chain alone."""
        lengths = [tokens for tokens in SINGLE if tokens <= self.lengths[-1]]
        return self._roomy(Load(1, *map(self.pair.length, (self.prompt, tokens))) for tokens in lengths)

    def calibration(self) -> list[Stage]:
        """Waves without pressure, each rich in another kind of work: steps, chains, context, reading."""
        longest = max(2 * SHORT, int(LONG_SHARE * self.lengths[-1]))
        prompt, short, long = map(self.pair.length, (self.prompt, SHORT, longest))
        many, few = self.max_num_seqs, min(FEW, self.max_num_seqs)
        numbers = dict.fromkeys((1, few, many))
        return self._roomy(
            [*(Load(chains, prompt, short) for chains in numbers), Load(many, prompt, long), Load(1, long, short)]
        )

    def _roomy(self, loads: Iterable[Load]) -> list[Stage]:
        return [Stage(load, tuple(map(self.engine, self.shapes))) for load in loads]

    def stages(self) -> list[Stage]:
        """All that is to be measured."""
        compared = (stage for budget in self.budgets_gib for stage in self.compared(budget))
        return list(dict.fromkeys([*compared, *self.calibration(), *self.singles()]))

    def in_rounds(self) -> list[Stage]:
        """Every stage as often as it should come, spread evenly over the run.

        A machine's drift is not to look like a slope. The longest come once, and see every mood of the machine.
        """
        jobs, stages = self.jobs(), self.stages()
        compared = [stage for budget in self.budgets_gib for stage in self.compared(budget)]
        places: list[tuple[float, int]] = []
        for number, stage in enumerate(stages):
            steps = sum(
                part["steps"]
                for job in (jobs[engine] for engine in stage.engines)
                for part in play_wave(
                    job.shape, stage.load, cache_bytes=job.cache_bytes, max_num_seqs=self.max_num_seqs
                )
            )
            enough = COMPARED_STEPS if stage in compared else OTHER_STEPS
            times = min(MOST_TIMES, math.ceil(enough / steps))
            places += [((i + 0.5) / times, number) for i in range(times)]
        return [stages[number] for _, number in sorted(places)]

    def is_felt(self, shape: Shape, budget: float) -> bool:
        """Whether a budget is too small for all chains of the longest wave at once."""
        longest = self.waves()[-1]
        cache = self.pair.cache_bytes(shape, budget)
        return shape.chains_in(cache, longest.context + BLOCK) < longest.chains + 1

    def engine(self, shape: Shape, budget: float | None = None) -> str:
        """The name of the engine that measures a model under a budget, or with room to spare."""
        felt = budget is not None and self.is_felt(shape, budget)
        return f"{shape.name}, {budget:g} GiB" if felt else f"{shape.name}, roomy"

    def jobs(self) -> dict[str, Job]:
        """An engine a model with room to spare, and one for each budget that is felt.

        A budget in which every chain keeps its place to the end is not felt: the roomy engine stands for it.
        Raises InputError where a model's weights exceed a budget.
        """
        if self.waves()[0].length < 2:
            least = 2 * self.pair.length_divisor
            raise InputError(f"--lengths {self.lengths[0]}: less than two tokens of this pair; at least {least:.0f}")
        for shape in self.shapes:
            for budget in self.budgets_gib:
                if self.pair.cache_bytes(shape, budget) <= 0:
                    need = self.pair.budget_divisor * shape.weight_bytes / GIB
                    raise InputError(f"--budget_gib {budget:g}: the weights of {shape.name} alone need {need:.1f} GiB")
        stages = self.stages()
        jobs: dict[str, Job] = {}
        for shape in self.shapes:
            roomy = self.engine(shape)
            names = {roomy: 0.0} | {self.engine(shape, budget): budget for budget in self.budgets_gib}
            for name, budget in names.items():
                loads = [stage.load for stage in stages if name in stage.engines]
                cache = _roomy_cache(shape, loads) if name == roomy else self.pair.cache_bytes(shape, budget)
                jobs[name] = Job(shape, cache, loads)
        return jobs


def _roomy_cache(shape: Shape, loads: Sequence[Load]) -> int:
    """Bytes in which no wave feels any pressure, and a little more."""
    tokens = max(load.chains * (load.context + 2 * BLOCK) for load in loads)
    return 2 * max(load.chains for load in loads) * shape.sequence_bytes + tokens * shape.token_bytes
