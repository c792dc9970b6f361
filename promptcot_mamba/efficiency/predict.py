"""What a wave of chains should take, by arithmetic: a cost per step, and a cache that runs out of room.

    seconds of a step = base + per_chain * chains + per_context * tokens they attend to
                        + per_prompt * prompts read + per_prefill * their tokens

The five costs are measured on waves that fit the cache. Everything a memory budget does then follows by playing the
engine's rules step by step: chains grow a token a step; when no block is free the latest admitted chain is put back and
must be read again later, prompt and words so far.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

from promptcot_mamba.efficiency.models import Shape

BLOCK = 32  # tokens of a cache block: the fewest that vLLM has on CPU and CUDA alike


@dataclass(frozen=True)
class Work:
    """What some steps consist of, added up."""

    steps: int = 0
    chains: int = 0  # chain-steps: tokens generated
    context: int = 0  # token-steps attended to
    prompts: int = 0  # read, or after a preemption read again
    prefill: int = 0  # their tokens
    preemptions: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def as_row(self) -> list[int]:
        return [self.steps, self.chains, self.context, self.prompts, self.prefill]


@dataclass(frozen=True)
class Costs:
    """Seconds of each kind of work."""

    base: float
    per_chain: float
    per_context: float
    per_prompt: float
    per_prefill: float

    def seconds(self, work: Work) -> float:
        return float(np.dot(astuple(self), work.as_row()))


def fit_costs(works: Sequence[Work], seconds: Sequence[float]) -> Costs:
    """Non-negative least squares on relative errors: every measurement counts alike, however long it took.

    What reads nothing gives the three costs of generating. Then those of reading follow from the rest, so that the
    shortest and least certain measurements, single steps, do not bend the others.
    """
    rows, times = np.array([work.as_row() for work in works], dtype=float), np.array(seconds)
    reads = rows[:, 3] > 0
    generating = _solve(rows[~reads, :3], times[~reads], times[~reads])
    left = times[reads] - rows[reads, :3] @ generating
    return Costs(*generating, *_solve(rows[reads, 3:], left, times[reads]))


def _solve(rows: np.ndarray, values: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """`rows @ solution` nearest to `values` in units of `spread`, nothing negative."""
    from scipy.optimize import nnls

    scale = rows.max(axis=0)  # the kinds of work differ by powers of ten
    scale[scale == 0] = 1
    solution, _ = nnls(rows / scale / spread[:, None], values / spread)
    return solution / scale


@dataclass
class _Chain:
    number: int
    generated: int = 0
    blocks: int = 0


def play_wave(
    shape: Shape, *, cache_bytes: int, max_num_seqs: int, chains: int, prompt: int, length: int
) -> tuple[Work, Work]:
    """The work of `chains` equal chains through a cache of `cache_bytes`, by the engine's rules.

    First the step that reads the first prompts and gives their first tokens, then all the others together.
    """
    play = _play_constant if shape.is_mamba2 else _play_growing
    return play(shape, cache_bytes, max_num_seqs, chains, prompt, length)


def _play_growing(
    shape: Shape, cache_bytes: int, most: int, chains: int, prompt: int, length: int
) -> tuple[Work, Work]:
    """Caches that grow by a token a step."""
    free = int(cache_bytes // (shape.token_bytes * BLOCK))
    waiting = deque(_Chain(number) for number in range(chains))
    running: list[_Chain] = []
    first, rest = Work(), Work()
    while waiting or running:
        preemptions = prompts = prefill = 0
        for chain in list(running):  # those admitted first are served first
            if chain not in running:
                continue
            needed = _blocks(prompt + chain.generated + 1) - chain.blocks
            while needed > free and chain.blocks:
                if len(running) == 1:
                    raise ValueError(f"a chain of {prompt + length} tokens does not fit the cache alone")
                victim = running.pop()  # at last the chain itself
                free += victim.blocks
                victim.blocks = 0
                waiting.appendleft(victim)
                preemptions += 1
            if chain.blocks:
                free -= needed
                chain.blocks += needed
        while waiting and not preemptions and len(running) < most:
            needed = _blocks(prompt + waiting[0].generated + 1)
            if needed > free:
                break
            chain = waiting.popleft()
            chain.blocks = needed
            free -= needed
            prompts += 1
            prefill += prompt + chain.generated
            running.append(chain)
        for chain in running:
            chain.generated += 1
        context = sum(prompt + chain.generated for chain in running)
        step = Work(1, len(running), context, prompts, prefill, preemptions)
        if not first.steps:
            first = step
        else:
            rest += step
        for chain in [chain for chain in running if chain.generated == length]:
            running.remove(chain)
            free += chain.blocks
    return first, rest


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK)


def _play_constant(
    shape: Shape, cache_bytes: int, most: int, chains: int, prompt: int, length: int
) -> tuple[Work, Work]:
    """Constant states: as many at once as fit, in even waves; nothing is ever put back."""
    at_once = min(most, chains, int(cache_bytes // shape.sequence_bytes))
    waves = -(-chains // at_once)
    first = Work(1, at_once, 0, at_once, at_once * prompt)
    later = chains - at_once
    return first, Work(waves * length - 1, chains * length - at_once, 0, later, later * prompt)


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
    share = ratio[i] / (ratio[i] - ratio[i + 1])
    return float(np.exp(np.log(lengths[i]) + share * (np.log(lengths[i + 1]) - np.log(lengths[i]))))
