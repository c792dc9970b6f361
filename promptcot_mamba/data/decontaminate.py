"""Training prompts against benchmark problems: 13 shared words remove a row, 8 are reported.

A problem shorter than 13 words has to occur whole: from 8 words on anywhere in the prompt, below that as whole
sentences of it (three words such as "Compute sin 60" occur inside many other questions). Phrases that return from
problem to problem ("The input is given from Standard Input in the following format", "where m and n are relatively
prime positive integers") are nobody's question: an n-gram mostly covered by them is no evidence.

The problems are handed in; this module knows no benchmark.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from promptcot_mamba.data.words import content_words, hash_ngrams, hash_words

REMOVE_N = 13  # the customary size since GPT-3 (arXiv 2005.14165, appendix C)
REPORT_N = 8
ANYWHERE_N = 8  # shorter problems must be whole sentences of the prompt
PHRASE_N = 6  # a run of this many words...
PHRASE_PROBLEMS = 4  # ...in this many problems is boilerplate
MAX_PHRASE_SHARE = 0.5  # of an n-gram's words

_SENTENCE_END = re.compile(r"(?:(?<=[.?!:;])(?=\s))|\n")


@dataclass(frozen=True)
class BenchmarkText:
    """One problem to keep out of training: the bare question."""

    benchmark: str
    problem: str
    text: str


@dataclass(frozen=True)
class Hit:
    """What a prompt shares with a benchmark."""

    benchmark: str
    problem: str
    kind: str  # 13-gram | whole | 8-gram
    shared: str  # the words in common


@dataclass
class _Table:
    """n-gram hashes of the benchmarks, sorted, with the problem each came from first."""

    n: int
    hashes: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    owners: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    def first_hit(self, grams: np.ndarray) -> tuple[int, int] | None:
        """`(position in grams, owner)` of the first gram found."""
        if not len(grams) or not len(self.hashes):
            return None
        at = np.minimum(np.searchsorted(self.hashes, grams), len(self.hashes) - 1)
        found = np.flatnonzero(self.hashes[at] == grams)
        return (int(found[0]), int(self.owners[at[found[0]]])) if len(found) else None

    def all_hits(self, grams: np.ndarray) -> list[tuple[int, int]]:
        if not len(grams) or not len(self.hashes):
            return []
        at = np.minimum(np.searchsorted(self.hashes, grams), len(self.hashes) - 1)
        found = np.flatnonzero(self.hashes[at] == grams)
        return list(zip(found.tolist(), self.owners[at[found]].tolist(), strict=True))


def _make_table(n: int, entries: Sequence[tuple[np.ndarray, int]]) -> _Table:
    if not entries:
        return _Table(n)
    hashes = np.concatenate([grams for grams, _ in entries])
    owners = np.concatenate([np.full(len(grams), owner, np.int64) for grams, owner in entries])
    unique, first = np.unique(hashes, return_index=True)
    return _Table(n, unique, owners[first])


class Decontaminator:
    """Benchmark problems as tables of hashed n-grams; `check` asks them about one prompt."""

    def __init__(self, problems: Iterable[BenchmarkText]):
        self.problems = list(problems)
        words = [hash_words(content_words(problem.text)) for problem in self.problems]
        common = self._common_phrases(words)
        removing: list[tuple[np.ndarray, int]] = []
        reporting: list[tuple[np.ndarray, int]] = []
        whole: dict[int, list[tuple[np.ndarray, int]]] = defaultdict(list)
        for owner, own in enumerate(words):
            phrase = self._phrase_words(own, common)
            kept = self._distinctive(own, phrase, REMOVE_N)
            if len(kept):
                removing.append((kept, owner))
            elif len(own):
                # Shorter than 13 words, or nothing but boilerplate: only the whole of it is evidence.
                whole[len(own)].append((hash_ngrams(own, len(own)), owner))
            reporting.append((self._distinctive(own, phrase, REPORT_N), owner))
        self._remove = _make_table(REMOVE_N, removing)
        self._report = _make_table(REPORT_N, reporting)
        self._whole = [_make_table(n, entries) for n, entries in sorted(whole.items(), reverse=True)]

    @staticmethod
    def _common_phrases(words: Sequence[np.ndarray]) -> np.ndarray:
        """Sorted hashes of the PHRASE_N-grams that PHRASE_PROBLEMS different problems share.

        Problems that several benchmarks hold (HumanEval and HumanEval+) count once.
        """
        different = {own.tobytes(): own for own in words}.values()
        grams = [np.unique(hash_ngrams(own, PHRASE_N)) for own in different]
        values, counts = np.unique(np.concatenate([np.empty(0, np.uint64), *grams]), return_counts=True)
        return values[counts >= PHRASE_PROBLEMS]

    @staticmethod
    def _phrase_words(words: np.ndarray, common: np.ndarray) -> np.ndarray:
        """(words) bool: whether a word belongs to a common phrase."""
        covered = np.zeros(len(words), dtype=bool)
        for start in np.flatnonzero(np.isin(hash_ngrams(words, PHRASE_N), common)):
            covered[start : start + PHRASE_N] = True
        return covered

    @staticmethod
    def _distinctive(words: np.ndarray, phrase: np.ndarray, n: int) -> np.ndarray:
        """The n-grams of which at most MAX_PHRASE_SHARE is boilerplate."""
        grams = hash_ngrams(words, n)
        if not len(grams):
            return grams
        covered = np.concatenate([[0], np.cumsum(phrase)])
        return grams[covered[n:] - covered[:-n] <= MAX_PHRASE_SHARE * n]

    def check(self, prompt: str) -> tuple[Hit | None, list[Hit]]:
        """The hit that removes this prompt (None if it is clean), and the 8-gram hits to report, one a problem."""
        text = content_words(prompt)
        words = hash_words(text)
        removing = self._find_removing(prompt, text, words)
        near: dict[int, int] = {}
        for position, owner in self._report.all_hits(hash_ngrams(words, REPORT_N)):
            near.setdefault(owner, position)
        reported = [self._hit(owner, "8-gram", text[at : at + REPORT_N]) for owner, at in near.items()]
        return removing, reported

    def check_completion(self, completion: str) -> Hit | None:
        return None

    def _find_removing(self, prompt: str, text: list[str], words: np.ndarray) -> Hit | None:
        found = self._remove.first_hit(hash_ngrams(words, REMOVE_N))
        if found:
            position, owner = found
            return self._hit(owner, "13-gram", text[position : position + REMOVE_N])
        edges: set[int] | None = None
        for table in self._whole:
            for position, owner in table.all_hits(hash_ngrams(words, table.n)):
                if table.n < ANYWHERE_N:
                    edges = _sentence_edges(prompt) if edges is None else edges
                    if position not in edges or position + table.n not in edges:
                        continue
                return self._hit(owner, "whole", text[position : position + table.n])
        return None

    def _hit(self, owner: int, kind: str, shared: list[str]) -> Hit:
        problem = self.problems[owner]
        return Hit(problem.benchmark, problem.problem, kind, " ".join(shared))


def _sentence_edges(prompt: str) -> set[int]:
    """The word counts at which a sentence or line of the prompt ends (and 0)."""
    edges, count = {0}, 0
    for sentence in _SENTENCE_END.split(prompt):
        count += len(content_words(sentence))
        edges.add(count)
    return edges
