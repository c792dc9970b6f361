"""Duplicates: rows equal to an earlier one, prompts nearly equal to an earlier one, answers beyond k per prompt.

The nearness of two prompts is the Jaccard index of their sets of SHINGLE_WORDS-word shingles. MinHash (Broder 1997)
in BANDS bands of BAND_ROWS proposes pairs: at Jaccard 0.9 a pair is missed with probability (1 - 0.9^6)^20 = 2e-7,
at 0.8 with 0.2 %. Every proposed pair is then measured exactly, so that nothing below the threshold is ever dropped.
All of it is columns of numbers: 1.2 million prompts take 16 bytes each and one band at a time.
"""

from collections.abc import Callable, Iterator

import numpy as np

from promptcot_mamba.data.words import hash_ngrams, hash_words, mix, symbol_words

SHINGLE_WORDS = 3
BANDS = 20
BAND_ROWS = 6
THRESHOLD = 0.8
LEADER_THRESHOLD = 0.5  # a chain of near-duplicates must not drift away from its first prompt
MAX_NEIGHBOURS = 32  # pairs proposed per prompt and band, beside the one with the band's first prompt

_GENERATOR = np.random.default_rng(20250528)  # fixed: signatures are part of a run's cached chunks
_MULTIPLIERS = _GENERATOR.integers(0, 1 << 63, size=BANDS * BAND_ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_OFFSETS = _GENERATOR.integers(0, 1 << 63, size=BANDS * BAND_ROWS, dtype=np.uint64)


def make_shingles(prompt: str) -> np.ndarray:
    """The prompt's set of shingles: sorted unique uint32. A prompt shorter than one shingle is one shingle."""
    words = hash_words(symbol_words(prompt))
    grams = hash_ngrams(words, min(SHINGLE_WORDS, max(len(words), 1)))
    return np.unique((grams >> np.uint64(32)).astype(np.uint32))


def make_band_keys(shingles: np.ndarray) -> np.ndarray:
    """(BANDS,) uint64: one key a band; prompts that share one are measured against each other."""
    if not len(shingles):
        return np.zeros(BANDS, dtype=np.uint64)
    spread = mix(shingles.astype(np.uint64))  # (s)
    # The high half of a * x + b is a universal hash of x (Dietzfelbinger); its minimum is one MinHash value.
    values = (spread[None, :] * _MULTIPLIERS[:, None] + _OFFSETS[:, None]) >> np.uint64(32)  # (bands * rows, s)
    minima = values.min(axis=1).reshape(BANDS, BAND_ROWS)
    key = np.zeros(BANDS, dtype=np.uint64)
    for row in range(BAND_ROWS):
        key = mix(key + minima[:, row] + np.uint64(row))
    return key


def jaccard(left: np.ndarray, right: np.ndarray) -> float:
    """Of two sorted arrays of unique numbers; two empty sets are equal."""
    if not len(left) and not len(right):
        return 1.0
    shared = len(np.intersect1d(left, right, assume_unique=True))
    return shared / (len(left) + len(right) - shared)


def normal_form(text: str) -> str:
    """Text without what a copy changes in passing: case, line ends, runs of white space."""
    return " ".join(text.casefold().split())


def mark_repeats(ids: np.ndarray) -> np.ndarray:
    """(rows) bool: whether an equal id stands earlier."""
    repeated = np.ones(len(ids), dtype=bool)
    repeated[np.unique(ids, return_index=True)[1]] = False
    return repeated


def count_earlier(groups: np.ndarray) -> np.ndarray:
    """(rows) int64: how many earlier rows belong to the same group."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(groups) else np.empty(0, int)
    sizes = np.diff(np.append(starts, len(groups)))
    earlier = np.empty(len(groups), dtype=np.int64)
    earlier[order] = np.arange(len(groups)) - np.repeat(starts, sizes)
    return earlier


def _pairs_of_band(keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Index pairs `(earlier, later)` of prompts that share a key: all of a small bucket, some of a large one."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    bucket = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(keys))))  # (prompts) bucket number
    first = starts[bucket]  # position of the bucket's first prompt
    positions = np.arange(len(keys))
    far = positions - first > MAX_NEIGHBOURS
    yield order[first[far]], order[positions[far]]
    for back in range(1, MAX_NEIGHBOURS + 1):
        near = positions - first >= back
        if not near.any():
            return
        yield order[positions[near] - back], order[positions[near]]


def propose_pairs(read_band: Callable[[int], np.ndarray], count: int) -> np.ndarray:
    """(pairs, 2) int64, sorted by the later prompt then the earlier: all pairs that share a band key.

    `read_band(band)` returns the (count,) keys of one band.
    """
    if count < 2:
        return np.empty((0, 2), dtype=np.int64)
    found = np.empty(0, dtype=np.int64)
    for band in range(BANDS):
        codes = [later * count + earlier for earlier, later in _pairs_of_band(read_band(band))]
        found = np.unique(np.concatenate([found, *codes]))
    return np.stack([found % count, found // count], axis=1)


def find_leaders(
    pairs: np.ndarray, count: int, read_shingles: Callable[[int], np.ndarray], threshold: float
) -> np.ndarray:
    """(prompts) int64: the earlier prompt each nearly equals, itself where there is none.

    `pairs` as `propose_pairs` returns them; prompts are visited in order, so the first of a family leads it.
    """
    leaders = np.arange(count)
    for earlier, later in pairs.tolist():
        if leaders[later] != later:
            continue
        leader = int(leaders[earlier])
        own = read_shingles(later)
        nearness = jaccard(read_shingles(earlier), own)
        if nearness >= threshold and (
            leader == earlier or jaccard(read_shingles(leader), own) >= min(LEADER_THRESHOLD, threshold)
        ):
            leaders[later] = leader
    return leaders
