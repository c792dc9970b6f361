"""What is to be measured: which waves, through which engines, so that every number of the comparison has its wave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from promptcot_mamba.efficiency.derive_small import GIB, Pair
from promptcot_mamba.efficiency.predict import BLOCK
from promptcot_mamba.efficiency.shapes import Shape
from promptcot_mamba.efficiency.throughput import Load
from promptcot_mamba.errors import InputError

# Lengths of single chains, and the two lengths from which the costs of a step are learnt; 7B units.
SINGLE, LEARN = (1024, 16384, 65536), (2048, 12288)
LONG_SHARE = 1 / 5  # of the longest chain: what is longer is a long wave
LONG_ROUNDS = 3


@dataclass(frozen=True)
class Job:
    """One engine: a model, its cache, the waves it runs."""

    shape: Shape
    cache_bytes: int
    loads: list[Load]
    is_felt: bool = False  # whether chains have to make room for one another

    def in_rounds(self) -> list[Load]:
        """Every wave several times, spread over the run: a machine's drift is not to look like a slope.

        The short ones stand before each long one and after the last. Long ones come in rounds of their own, but once
        under a budget that is felt: then they take most of the time, and differ by factors.
        """
        longest = max(load.length for load in self.loads)
        long = [load for load in self.loads if load.length > LONG_SHARE * longest]
        short = [load for load in self.loads if load not in long]
        return [load for one in long * (1 if self.is_felt else LONG_ROUNDS) for load in (*short, one)] + short


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

    def singles(self) -> list[Load]:
        """One chain alone."""
        lengths = [tokens for tokens in SINGLE if tokens <= self.lengths[-1]]
        return [Load(1, *map(self.pair.length, (self.prompt, tokens))) for tokens in lengths]

    def calibration(self) -> list[Load]:
        """Waves without pressure, each rich in another kind of work: steps, chains, context, reading."""
        prompt, short, long = map(self.pair.length, (self.prompt, *LEARN))
        many = self.max_num_seqs
        return [Load(1, prompt, short), Load(many, prompt, short), Load(many, prompt, long), Load(1, long, short)]

    def is_felt(self, shape: Shape, budget: float) -> bool:
        """Whether a budget is too small for all chains of the longest wave at once."""
        longest = self.waves()[-1]
        tokens = longest.prompt + longest.length + BLOCK
        return shape.chains_in(self.pair.cache_bytes(shape, budget), tokens) < longest.chains + 1

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
        jobs = {}
        for shape in self.shapes:
            roomy = [*self.calibration(), *self.singles()]
            for budget in self.budgets_gib:
                cache = self.pair.cache_bytes(shape, budget)
                if cache <= 0:
                    need = self.pair.budget_divisor * shape.weight_bytes / GIB
                    raise InputError(f"--budget_gib {budget:g}: the weights of {shape.name} alone need {need:.1f} GiB")
                if self.is_felt(shape, budget):
                    jobs[self.engine(shape, budget)] = Job(shape, cache, self.waves(), is_felt=True)
                else:
                    roomy += self.waves()
            roomy = list(dict.fromkeys(roomy))
            jobs[self.engine(shape)] = Job(shape, _roomy_cache(shape, roomy), roomy)
        return jobs


def _roomy_cache(shape: Shape, loads: Sequence[Load]) -> int:
    """Bytes in which no wave feels any pressure."""
    tokens = max(load.chains * (load.prompt + load.length + BLOCK) for load in loads)
    return 2 * (max(load.chains for load in loads) * shape.sequence_bytes + tokens * shape.token_bytes)
