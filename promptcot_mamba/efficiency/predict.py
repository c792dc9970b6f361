"""What a wave of chains should take, by arithmetic: a cost per step, and a cache that runs out of room.

    seconds of a step = base + per_chain * chains + per_context * tokens they attend to + per_prefill * tokens read

The four costs are measured on waves that fit the cache. Everything a memory budget does then follows by playing the
engine's rules step by step: chains grow a token a step; when no block is free the latest admitted chain is put back and
must be read again later, prompt and words so far.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from promptcot_mamba.efficiency.shapes import Shape

BLOCK = 32  # tokens of a cache block: the fewest that vLLM has on CPU and CUDA alike


@dataclass(frozen=True)
class Work:
    """What a wave consists of, summed over its steps."""

    steps: int
    chains: int  # chain-steps: tokens generated
    context: int  # token-steps attended to
    prefill: int  # tokens read
    preemptions: int

    def as_row(self) -> list[int]:
        return [self.steps, self.chains, self.context, self.prefill]


@dataclass(frozen=True)
class Costs:
    """Seconds of each kind of work."""

    base: float
    per_chain: float
    per_context: float
    per_prefill: float

    def seconds(self, work: Work) -> float:
        return float(np.dot([self.base, self.per_chain, self.per_context, self.per_prefill], work.as_row()))


def fit_costs(works: Sequence[Work], seconds: Sequence[float]) -> Costs:
    """Non-negative least squares on relative errors: every wave counts alike, however long it took."""
    from scipy.optimize import nnls

    rows = np.array([work.as_row() for work in works], dtype=float) / np.array(seconds)[:, None]
    scale = rows.max(axis=0)
    solution, _ = nnls(rows / np.where(scale > 0, scale, 1), np.ones(len(works)))
    return Costs(*(solution / np.where(scale > 0, scale, 1)))


@dataclass
class _Chain:
    number: int
    generated: int = 0
    blocks: int = 0


def play_wave(shape: Shape, *, cache_bytes: int, max_num_seqs: int, chains: int, prompt: int, length: int) -> Work:
    """The work of `chains` equal chains through a cache of `cache_bytes`, by the engine's rules."""
    if shape.is_mamba2:
        return _play_constant(shape, cache_bytes, max_num_seqs, chains, prompt, length)
    free = int(cache_bytes // (shape.token_bytes * BLOCK))
    waiting = deque(_Chain(number) for number in range(chains))
    running: list[_Chain] = []
    steps = chain_steps = context = prefill = preemptions = 0
    while waiting or running:
        preempted = False
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
                preempted = True
            if chain.blocks:
                free -= needed
                chain.blocks += needed
        while waiting and not preempted and len(running) < max_num_seqs:
            needed = _blocks(prompt + waiting[0].generated + 1)
            if needed > free:
                break
            chain = waiting.popleft()
            chain.blocks = needed
            free -= needed
            prefill += prompt + chain.generated
            running.append(chain)
        steps += 1
        chain_steps += len(running)
        for chain in running:
            chain.generated += 1
            context += prompt + chain.generated
        for chain in [chain for chain in running if chain.generated == length]:
            running.remove(chain)
            free += chain.blocks
    return Work(steps, chain_steps, context, prefill, preemptions)


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK)


def _play_constant(shape: Shape, cache_bytes: int, most: int, chains: int, prompt: int, length: int) -> Work:
    """Constant states: as many at once as fit, in even waves; nothing is ever put back."""
    at_once = min(most, chains, int(cache_bytes // shape.sequence_bytes))
    waves = -(-chains // at_once)
    return Work(waves * length, chains * length, 0, chains * prompt, 0)


def find_crossover(lengths: Sequence[float], first: Sequence[float], second: Sequence[float]) -> float | None:
    """The length from which `first` stays above `second`, interpolated on a logarithmic axis; None if it never does.

    0-th length if it is above everywhere.
    """
    ratio = np.log(np.array(first) / np.array(second))
    if ratio[-1] <= 0:
        return None
    below = np.flatnonzero(ratio <= 0)
    if not len(below):
        return float(lengths[0])
    i = int(below[-1])
    share = ratio[i] / (ratio[i] - ratio[i + 1])
    return float(np.exp(np.log(lengths[i]) + share * (np.log(lengths[i + 1]) - np.log(lengths[i]))))
