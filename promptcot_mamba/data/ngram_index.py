"""Word n-grams of benchmark problems, weighted by rarity, as sorted tables that texts are looked up in."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import repeat

import numpy as np

from promptcot_mamba.data.words import NUMBER_WORDS, SILENT, fold_quickly, hash_ngrams, hash_words, mix

SIZES = (2, 3)  # words of an n-gram
MAX_DOCUMENT_SHARE = 0.02  # of all texts: a more frequent n-gram is boilerplate
MIN_COMMON = 10  # texts that may share an n-gram however few texts there are
SIEVE_SHARE = 0.2  # of a problem's rare word triples that a long text must hold to be looked at...
SIEVE_TRIPLES = 3  # ...and at least so many
_SILENT_ID = -1
_SIEVE_WORDS = re.compile(r"[a-z]{2,}|\d+")


def make_grams(words: Sequence[str]) -> np.ndarray:
    """Hashes of all n-grams, size after size, in order."""
    hashed = hash_words(list(words))
    return np.concatenate([hash_ngrams(hashed, size) for size in SIZES])


def gram_places(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each of `make_grams` begins, and how long it is, in words."""
    counts = [max(0, count - size + 1) for size in SIZES]
    return np.concatenate([np.arange(count) for count in counts]), np.repeat(SIZES, counts)


def common_from(texts: int) -> float:
    """In more texts than this an n-gram is boilerplate, which weighs nothing."""
    return max(MIN_COMMON, MAX_DOCUMENT_SHARE * texts)


class GramIndex:
    """n-gram -> the problems that hold it, as one sorted table."""

    def __init__(self, grams: Sequence[np.ndarray], frequency: Counter[int], texts: int):
        limit = common_from(texts)
        own = [np.unique(part) for part in grams]
        all_grams = np.concatenate([np.empty(0, np.uint64), *own])
        owners = np.repeat(np.arange(len(own)), [len(part) for part in own])
        counts = np.array([frequency[gram] for gram in all_grams.tolist()], dtype=np.float64)
        order = np.lexsort((owners, all_grams))
        order = order[counts[order] <= limit]
        self.grams, self.owners = all_grams[order], owners[order]
        self.weights = np.log1p(texts / counts[order])
        self.totals = np.bincount(self.owners, weights=self.weights, minlength=len(grams)) + 1e-9

    def find(self, grams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`(positions in grams, entries of the table)` of all matches."""
        if not len(grams) or not len(self.grams):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        first = np.searchsorted(self.grams, grams, side="left")
        last = np.searchsorted(self.grams, grams, side="right")
        counts = last - first
        places = np.repeat(np.arange(len(grams)), counts)
        starts = np.repeat(first, counts)
        within = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
        return places, starts + within


class Sieve:
    """Says of a long text in about a millisecond that it holds no problem: too few rare word triples of any."""

    def __init__(self, words: Sequence[Sequence[str]], frequency: Counter[int], texts: int):
        self._ids: dict[str, int] = dict.fromkeys(SILENT, _SILENT_ID)
        for own in words:
            for word in own:
                self._ids.setdefault(word, len(self._ids) + 1)
        for name, value in {**NUMBER_WORDS, "squared": 2, "cubed": 3}.items():
            if str(value) in self._ids:
                self._ids[name] = self._ids[str(value)]
        limit = common_from(texts)
        codes, owners = [], []
        for owner, own in enumerate(words):
            ids = np.array([self._ids[word] for word in own], dtype=np.int64)
            rare = np.array([frequency[gram] <= limit for gram in hash_ngrams(hash_words(list(own)), 3).tolist()], bool)
            codes.append(np.unique(_triples(ids)[rare]))
            owners.append(np.full(len(codes[-1]), owner))
        self._needed = np.maximum(SIEVE_TRIPLES, SIEVE_SHARE * np.array([len(own) for own in codes]))
        flat, owner = np.concatenate([np.empty(0, np.int64), *codes]), np.concatenate([np.empty(0, np.int64), *owners])
        order = np.argsort(flat, kind="stable")
        self._codes, self._owners = flat[order], owner[order]
        self._bits = np.zeros(1 << 22, dtype=bool)  # most triples of other texts stop here
        self._bits[_slot(self._codes)] = True

    def suspects(self, text: str) -> bool:
        found = _SIEVE_WORDS.findall(fold_quickly(text))
        ids = np.fromiter(map(self._ids.get, found, repeat(0)), dtype=np.int64, count=len(found))
        codes = _triples(ids[ids != _SILENT_ID])
        codes = np.unique(codes[self._bits[_slot(codes)]])
        first = np.searchsorted(self._codes, codes, side="left")
        counts = np.searchsorted(self._codes, codes, side="right") - first
        entries = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        held = np.bincount(self._owners[entries], minlength=len(self._needed))
        return bool((held >= self._needed).any())


def _triples(ids: np.ndarray) -> np.ndarray:
    """(words - 2) int64: one number for each three words on end, 0 where one of them is unknown."""
    if len(ids) < 3:
        return np.empty(0, np.int64)
    codes = (ids[:-2] << 42) | (ids[1:-1] << 21) | ids[2:]
    return np.where((ids[:-2] > 0) & (ids[1:-1] > 0) & (ids[2:] > 0), codes, 0)


def _slot(codes: np.ndarray) -> np.ndarray:
    return (mix(codes.astype(np.uint64)) >> np.uint64(42)).astype(np.int64)
