"""Which rows enter, how often, and in which order: a pure function of the rows' ids, the recipe and the seed.

A row's place is decided by a hash of its own id, so adding or dropping one row moves no other's draw.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from promptcot_mamba.data.sources import SourceSpec
from promptcot_mamba.data.words import mix
from promptcot_mamba.errors import InputError
from promptcot_mamba.records import derive_seed


def _draw(ids: np.ndarray, *address: str | int) -> np.ndarray:
    """(rows) uint64: one random number a row, independent for every address (its first part is the seed)."""
    return mix(mix(ids + np.uint64(derive_seed(*address))) ^ np.uint64(derive_seed(*address, "again") << 31))


def count_targets(specs: Sequence[SourceSpec], available: Sequence[int], total_examples: int | None) -> list[int]:
    """How many rows of each source enter.

    Weights share `total_examples` by largest remainder, so that they add up exactly; without `total_examples` it is
    the most that repeats no row.

    Raises InputError if a source has no row left.
    """
    for spec, count in zip(specs, available, strict=True):
        if count == 0:
            raise InputError(f"sources.{spec.name}: no row is left after filtering; see the drops logged above")
    if specs[0].weight is None:
        return [
            spec.examples or max(1, round((1.0 if spec.epochs is None else spec.epochs) * count))
            for spec, count in zip(specs, available, strict=True)
        ]
    weights = np.array([float(spec.weight or 0.0) for spec in specs])
    weights /= weights.sum()
    if total_examples is None:
        total_examples = int(min(count / weight for count, weight in zip(available, weights, strict=True)))
    exact = weights * total_examples
    targets = np.floor(exact).astype(np.int64)
    for position in np.argsort(targets - exact, kind="stable")[: total_examples - int(targets.sum())]:
        targets[position] += 1
    return targets.tolist()


def choose_rows(ids: np.ndarray, target: int, source: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the rows that enter, and the number of the copy each is: whole passes, then a random part of one.

    `ids` (rows) uint64. Both arrays have `target` entries.
    """
    passes, rest = divmod(target, len(ids))
    part = np.sort(np.argsort(_draw(ids, seed, "choose", source), kind="stable")[:rest])
    positions = np.concatenate([np.tile(np.arange(len(ids)), passes), part])
    copies = np.concatenate([np.repeat(np.arange(passes), len(ids)), np.full(rest, passes)])
    return positions, copies


def shuffle_rows(ids: np.ndarray, copies: np.ndarray, seed: int) -> np.ndarray:
    """The order of the whole mixture: a permutation of its entries."""
    return np.argsort(_draw(ids + mix(copies.astype(np.uint64)), seed, "shuffle"), kind="stable")


def cut_shards(lengths: np.ndarray, shard_tokens: int) -> np.ndarray:
    """Edges (shards + 1) that cut the shuffled mixture into shards of nearly equal tokens, about `shard_tokens`."""
    ends = np.cumsum(lengths, dtype=np.int64)
    shards = max(1, -(-int(ends[-1]) // shard_tokens))
    shards = min(shards, len(lengths))
    inner = np.searchsorted(ends, np.arange(1, shards) * (int(ends[-1]) / shards)) + 1
    return np.unique(np.concatenate([[0], inner, [len(lengths)]]))
