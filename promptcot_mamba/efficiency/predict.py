"""What a wave of chains should take, by arithmetic: a cost per step, and a cache that runs out of room.

    seconds of a step = base + per_chain * chains + per_context * tokens they attend to
                        + per_prompt * prompts read + per_prefill * their tokens

The five costs are measured on waves that fit the cache. Everything a memory budget does then follows by playing the
engine's rules step by step: chains grow by a token a step; when no block is free the latest admitted chain is put back
and must be read again later, prompt and words so far.
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from promptcot_mamba.efficiency.models import Shape

BLOCK = 32  # tokens of a cache block: the fewest that vLLM has on CPU and CUDA alike
# Each cost, in seconds, and the work it is of; what reads nothing has the first three alone.
COSTS = {
    "base": "steps",
    "per_chain": "chains",  # chain-steps: tokens generated
    "per_context": "context",  # token-steps attended to
    "per_prompt": "prompts",  # read, or after a preemption read again
    "per_prefill": "prefill",  # their tokens
}
GENERATING = 3
Work = Counter[str]  # what some steps consist of, added up; `preemptions` too, which cost what they make others do
Costs = dict[str, float]


@dataclass(frozen=True)
class Load:
    """A wave of equal chains: how many, and the tokens each reads and generates."""

    chains: int
    prompt: int
    length: int

    @property
    def tokens(self) -> int:
        """Generated ones."""
        return self.chains * self.length

    @property
    def context(self) -> int:
        """Tokens of a chain at its end."""
        return self.prompt + self.length


def count_seconds(costs: Costs, work: Work) -> float:
    return sum(costs[name] * work[kind] for name, kind in COSTS.items())


def fit_costs(works: Sequence[Work], seconds: Sequence[float]) -> Costs:
    """Non-negative least squares on relative errors: every measurement counts alike, however long it took.

    What reads nothing gives the three costs of generating. Then those of reading follow from the rest, so that the
    shortest and least certain measurements, single steps, do not bend the others.
    """
    rows = np.array([[work[kind] for kind in COSTS.values()] for work in works], dtype=float)
    times, reads = np.array(seconds), np.array([work["prompts"] > 0 for work in works])
    generating = _solve(rows[~reads, :GENERATING], times[~reads], times[~reads])
    left = times[reads] - rows[reads, :GENERATING] @ generating
    reading = _solve(rows[reads, GENERATING:], left, times[reads])
    return dict(zip(COSTS, map(float, (*generating, *reading)), strict=True))


def _solve(rows: np.ndarray, values: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """`rows @ solution` nearest to `values` in units of `spread`, nothing negative."""
    from scipy.optimize import nnls

    scale = rows.max(axis=0)  # the kinds of work differ by powers of ten
    scale[scale == 0] = 1
    solution, _ = nnls(rows / scale / spread[:, None], values / spread)
    return solution / scale


@dataclass(eq=False)
class _Chain:
    generated: int = 0
    blocks: int = 0


def play_wave(shape: Shape, load: Load, *, cache_bytes: int, max_num_seqs: int) -> tuple[Work, Work]:
    """The work of a wave through a cache of `cache_bytes`, by the engine's rules.

    First the step that reads the first prompts and gives their first tokens, then all the others together. A constant
    state is one block that never grows. Raises ValueError for a chain that does not fit the cache alone.
    """
    constant, misfit = shape.sequence_bytes, f"a chain of {load.context} tokens does not fit the cache alone"
    free = int(cache_bytes // (constant or shape.token_bytes * BLOCK))

    def count_blocks(chain: _Chain) -> int:
        return 1 if constant else -(-(load.prompt + chain.generated + 1) // BLOCK)

    waiting = deque(_Chain() for _ in range(load.chains))
    running: list[_Chain] = []
    first, rest = Work(), Work()
    while waiting or running:
        step = Work(steps=1)
        for chain in list(running):  # those admitted first are served first
            if not chain.blocks:  # put back meanwhile
                continue
            needed = count_blocks(chain) - chain.blocks
            while needed > free and chain.blocks:
                if len(running) == 1:
                    raise ValueError(misfit)
                victim = running.pop()  # at last the chain itself
                free += victim.blocks
                victim.blocks = 0
                waiting.appendleft(victim)
                step["preemptions"] += 1
            if chain.blocks:
                free -= needed
                chain.blocks += needed
        while waiting and not step["preemptions"] and len(running) < max_num_seqs:
            needed = count_blocks(waiting[0])
            if needed > free:
                break
            chain = waiting.popleft()
            chain.blocks = needed
            free -= needed
            step["prompts"] += 1
            step["prefill"] += load.prompt + chain.generated
            running.append(chain)
        if not running:
            raise ValueError(misfit)
        for chain in running:
            chain.generated += 1
            step["context"] += 0 if constant else load.prompt + chain.generated
        step["chains"] = len(running)
        for chain in [chain for chain in running if chain.generated == load.length]:
            running.remove(chain)
            free += chain.blocks
        (rest if first else first).update(step)
    return first, rest


def find_crossover(lengths: Sequence[float], ratios: Sequence[float]) -> float | None:
    """The length from which a ratio stays above 1, interpolated on logarithmic axes; None if it never does.

    The first length if it is above 1 everywhere.
    """
    ratio = np.log(ratios)
    if ratio[-1] <= 0:
        return None
    below = np.flatnonzero(ratio <= 0)
    if not len(below):
        return float(lengths[0])
    i = int(below[-1])
    return float(np.exp(np.interp(0, ratio[i : i + 2], np.log(lengths[i : i + 2]))))
