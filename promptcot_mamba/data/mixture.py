"""Which rows enter, how often, and in which order: a pure function of the rows' ids, the recipe and the seed.

A row's place is decided by a hash of its own id, so adding or dropping one row moves no other's draw.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from promptcot_mamba.data.sources import SourceSpec
from promptcot_mamba.data.words import mix
from promptcot_mamba.errors import InputError
from promptcot_mamba.records import derive_seed

ORDERS = ("shuffled", "short_first")


@dataclass(frozen=True)
class MixturePlan:
    """What decides the selection, beside the sources' own amounts."""

    near_duplicate_threshold: float = 0.8
    total_examples: int | None = None
    total_tokens: int | None = None
    max_passes: float = 4.0  # gains of repeating data fade after about four epochs (arXiv 2305.16264)
    order: str = "shuffled"
    shard_tokens: int = 1 << 24
    seed: int = 0


def _draw(ids: np.ndarray, seed: int, *address: str | int) -> np.ndarray:
    """(rows) uint64: one random number a row, independent for every seed and address."""
    return mix(
        mix(ids + np.uint64(derive_seed(seed, *address))) ^ np.uint64(derive_seed(seed, *address, "again") << 31)
    )


def _of_tokens(ids: np.ndarray, lengths: np.ndarray, tokens: int, source: str, seed: int) -> int:
    """How many rows, in the order in which they are drawn, come closest to `tokens` from below, whole passes first."""
    passes, rest = divmod(tokens, int(lengths.sum()))
    held = np.cumsum(lengths[np.argsort(_draw(ids, seed, "choose", source), kind="stable")], dtype=np.int64)
    return max(1, passes * len(ids) + int(np.searchsorted(held, rest, side="right")))


def _shares(weights: np.ndarray, total: int) -> np.ndarray:
    """`total` shared by weights, by largest remainder, so that the shares add up exactly."""
    exact = weights * total
    shares = np.floor(exact).astype(np.int64)
    shares[np.argsort(shares - exact, kind="stable")[: total - int(shares.sum())]] += 1
    return shares


def _weighted(
    specs: Sequence[SourceSpec], lengths: Sequence[np.ndarray], ids: Sequence[np.ndarray], plan: MixturePlan
) -> list[int]:
    weights = np.array([float(spec.weight or 0.0) for spec in specs])
    weights /= weights.sum()
    if plan.total_tokens is not None:
        shares = _shares(weights, plan.total_tokens).tolist()
        return [
            _of_tokens(own, length, share, spec.name, plan.seed)
            for spec, length, own, share in zip(specs, lengths, ids, shares, strict=True)
        ]
    examples = plan.total_examples
    if examples is None:
        examples = int(min(len(length) / weight for length, weight in zip(lengths, weights, strict=True)))
    return _shares(weights, examples).tolist()


def _check_passes(spec: SourceSpec, count: int, target: int, plan: MixturePlan) -> None:
    allowed = plan.max_passes if spec.max_passes is None else spec.max_passes
    if target > allowed * count:
        raise InputError(
            f"sources.{spec.name}: {target:,} examples of {count:,} usable rows are {target / count:,.1f} passes over "
            f"them, more than {allowed:g}; ask for {int(allowed * count):,} or fewer, find "
            f"{math.ceil(target / allowed):,} usable rows, or set sources.{spec.name}.max_passes: {-(-target // count)}"
        )


def count_targets(
    specs: Sequence[SourceSpec], lengths: Sequence[np.ndarray], ids: Sequence[np.ndarray], plan: MixturePlan
) -> list[int]:
    """How many rows of each source enter; `lengths` and `ids` are those of its usable rows.

    Weights share `total_examples` or `total_tokens`; without those it is the most that repeats no row.

    Raises InputError if a source has no row left, or enters more often than `max_passes`.
    """
    for spec, length in zip(specs, lengths, strict=True):
        if len(length) == 0:
            raise InputError(f"sources.{spec.name}: no row is left after filtering; see the drops logged above")
    if specs[0].weight is not None:
        targets = _weighted(specs, lengths, ids, plan)
    else:
        targets = [
            spec.examples
            or (spec.tokens and _of_tokens(own, length, spec.tokens, spec.name, plan.seed))
            or max(1, round((1.0 if spec.epochs is None else spec.epochs) * len(length)))
            for spec, length, own in zip(specs, lengths, ids, strict=True)
        ]
    for spec, length, target in zip(specs, lengths, targets, strict=True):
        _check_passes(spec, len(length), target, plan)
    return targets


def choose_rows(ids: np.ndarray, target: int, source: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the rows that enter, and the number of the copy each is: whole passes, then a random part of one.

    `ids` (rows) uint64. Both arrays have `target` entries.
    """
    passes, rest = divmod(target, len(ids))
    part = np.sort(np.argsort(_draw(ids, seed, "choose", source), kind="stable")[:rest])
    positions = np.concatenate([np.tile(np.arange(len(ids)), passes), part])
    copies = np.concatenate([np.repeat(np.arange(passes), len(ids)), np.full(rest, passes)])
    return positions, copies


def order_rows(ids: np.ndarray, copies: np.ndarray, lengths: np.ndarray, plan: MixturePlan) -> np.ndarray:
    """The order of the whole mixture, a permutation of its entries: shuffled, or from short to long in each pass."""
    drawn = _draw(ids + mix(copies.astype(np.uint64)), plan.seed, "shuffle")
    if plan.order == "short_first":
        return np.lexsort((drawn, lengths, copies))
    return np.argsort(drawn, kind="stable")


def cut_shards(lengths: np.ndarray, shard_tokens: int) -> np.ndarray:
    """Edges (shards + 1) that cut the shuffled mixture into shards of nearly equal tokens, about `shard_tokens`."""
    ends = np.cumsum(lengths, dtype=np.int64)
    shards = max(1, -(-int(ends[-1]) // shard_tokens))
    shards = min(shards, len(lengths))
    inner = np.searchsorted(ends, np.arange(1, shards) * (int(ends[-1]) / shards)) + 1
    return np.unique(np.concatenate([[0], inner, [len(lengths)]]))
