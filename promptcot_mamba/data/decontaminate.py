"""Training text against benchmark problems: a row goes when it holds a good share of a problem, not one shared phrase.

Two opinions are asked. The first is cheap: the share of a problem's n-grams (2 and 3 words, `gist_words`), weighted by
rarity over the benchmarks and a sample of the corpus, that a stretch of the text holds. Boilerplate ("print the answer
modulo 10^9 + 7") is common and weighs nothing. Texts with enough of it are aligned with the problem word by word, signs
of formulas included (`gist_signs`; rapidfuzz): how alike the best stretch is, whether its numbers agree, and whether
something else stands in place of a part, as in another problem of the same setting. Where that fails because a
problem lies in pieces (its sentences in another order, or thoughts between them), the pieces are counted. Short
problems must be whole sentences of the text, with all their numbers.

The problems are handed in; this module knows no benchmark.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz import fuzz
from rapidfuzz.distance import Levenshtein

from promptcot_mamba.chat_format import THINK_END, THINK_START
from promptcot_mamba.data.ngram_index import SIZES, GramIndex, Sieve, common_from, gram_places, make_grams
from promptcot_mamba.data.words import gist_signs, gist_words, hash_ngrams, hash_words, take_out, without_tags

CANDIDATE_SHARE = 0.3  # of a problem's weighted n-grams, from which a text is aligned with it
MAX_CANDIDATES = 8
VERY_ALIKE = 86.0  # per cent of an alignment (Indel ratio) from which a text is a copy,
ALIKE = 80.0  # from which it is with ALIKE_SHARE of the n-grams and half of the numbers,
ALIKE_SHARE = 0.4
RATHER_ALIKE = 72.0  # and from which it is with STRONG_SHARE of the n-grams and most of the numbers;
STRONG_SHARE = 0.55
HALF_OF_NUMBERS = 0.5
MOST_NUMBERS = 0.75
CONTRADICTED = 0.25  # of a problem's numbers with another number in their place: another problem of the same template
REPLACED = 3  # words on end with others in their place, from where on it is another problem of the same setting
MIN_PART = 0.5  # of a problem's words, or ALIKE_SHARE of its n-grams: a text that holds less is no copy, however alike
SHORT = 14  # words and signs: below, whole sentences with the same numbers are asked for
SHORT_ALIKE = 84.0
VERY_SHORT = 10
VERY_SHORT_ALIKE = 88.0
SHORT_SHARE = 0.6  # of a short problem's different words, from which a sentence is compared with it
SLACK = 5  # a fifth of a problem's length more on both sides, where its words are looked for one by one
WINDOW = 1.6  # lengths of the problem that its n-grams may lie apart in a long text
CUT_PART = 0.7  # of a problem whose text ends before the question, with nothing in its place: a copy cut off
CUT_ALIKE = 95.0  # of what is left of a programming problem whose head is cut off
CUT_REST = 3  # signs that may follow there
HALF = 0.42  # of a problem, and
HALF_SIGNS = 20  # on end: a text that is the first half of one, and nothing more
HALF_ALIKE = 97.0
PROSE = 12  # words that a problem has beside its formulas, and
FORMULAS = 8  # signs in formulas, from where on a text whose formulas are taken out is compared without them
PROSE_ALIKE = 92.0
PIECE = 4  # words and signs on end that a piece of a problem has at least
PIECES_SHARE = 0.6  # of a problem's n-grams, wherever in the text, from which its pieces are counted
IN_PIECES = 0.85  # of its words and signs, and
PIECES_NUMBERS = 0.9  # of its numbers, and
PIECES_MISSING = 6  # on end, at most: more is another question
PIECES_ASK = 0.5  # of the sentence that asks, that must lie in pieces the text holds
SAME_ASK = 0.45  # of the sentence that asks: the same setting with another question is another problem
MIN_ASK = 4
SHOWN_WORDS = 60
HEAD = 400  # characters of a thought, and of an answer, in which a short problem is looked for

COPY_SHARE = 0.8  # of a problem's n-grams in a text of the sample: a copy, which makes nothing common
_ASKS = re.compile(
    r"\s*(?:compute|find|determine|what|how|calculate|evaluate|solve|prove|show|express|give|in|for|if)\b|[^?]*\?\s*\Z",
    re.IGNORECASE,
)
# Where the samples of a programming problem begin: what stands before tells which problem it is.
_SAMPLES = re.compile(
    r"\n[ \t]*[-#*]*[ \t]*(?:sample[ \t]+(?:input|1)\b|example[ \t]*1\b|examples?[ \t]*:?[ \t*-]*\n)", re.IGNORECASE
)
FRAME = 12  # common words on end, from which on what stands before or after a problem is its frame, no part of it
_SENTENCE_END = re.compile(r"(?:(?<=[.?!:;])(?=\s))|\n")


@dataclass(frozen=True)
class BenchmarkText:
    """One problem to keep out of training: the bare question."""

    benchmark: str
    problem: str
    text: str


@dataclass(frozen=True)
class Hit:
    """What a text shares with a benchmark problem."""

    benchmark: str
    problem: str
    kind: str  # prompt | completion
    share: float  # of the problem's weighted n-grams, 0..1
    alike: float  # per cent of the alignment
    shared: str  # the words in common


class Decontaminator:
    """Benchmark problems as a table of weighted n-grams; `check` asks them about one prompt.

    `sample` is some of the corpus's questions: what is common there is no evidence either.
    """

    def __init__(self, problems: Iterable[BenchmarkText], sample: Iterable[str] = ()):
        self.problems = list(problems)
        statements = [_statement(problem.text) for problem in self.problems]
        self._words = [gist_words(text) for text in statements]
        self._signs = [gist_signs(text) for text in statements]
        self._asks = [_ask_length(text) for text in statements]
        grams = [make_grams(words) for words in self._words]
        frequency, texts = self._count(grams, sample)
        self._signs = [
            _without_frame(words, signs, [frequency[gram] > common_from(texts) for gram in own.tolist()])
            for words, signs, own in zip(self._words, self._signs, grams, strict=True)
        ]
        self._index = GramIndex(grams, frequency, texts)
        self._sieve = Sieve(self._words, frequency, texts)
        self._short: dict[str, list[int]] = {}  # word -> the short problems that hold it
        for owner, signs in enumerate(self._signs):
            if len(signs) < SHORT:
                for word in set(signs):
                    self._short.setdefault(word, []).append(owner)

    def _count(self, grams: list[np.ndarray], sample: Iterable[str]) -> tuple[Counter[int], int]:
        """How many different texts hold each n-gram of a problem, and of how many; copies of a problem do not count."""
        # Problems that several benchmarks hold (HumanEval and HumanEval+) count once.
        different = {tuple(words): own for words, own in zip(self._words, grams, strict=True)}
        frequency: Counter[int] = Counter()
        for own in different.values():
            frequency.update(np.unique(own).tolist())
        texts = len(different)
        alone = GramIndex(grams, frequency, texts)
        sizes = np.bincount(alone.owners, minlength=len(grams))
        for text in dict.fromkeys(sample):
            own = np.unique(make_grams(gist_words(text)))
            held = np.bincount(alone.owners[alone.find(own)[1]], minlength=len(grams))
            if (held < COPY_SHARE * np.maximum(sizes, 1)).all():
                frequency.update(gram for gram in own.tolist() if gram in frequency)
            texts += 1
        return frequency, texts

    def check(self, prompt: str) -> tuple[Hit | None, list[Hit]]:
        """The hit that removes this prompt (None if it is clean), and near ones to report, one a problem."""
        return self._check(prompt, "prompt")

    def check_completion(self, completion: str) -> Hit | None:
        """The hit that removes an answer: a problem restated in it; a short one where its thought or answer begins."""
        found = self._check(completion, "completion")[0] if self._sieve.suspects(completion) else None
        if found is not None or not self._short:
            return found
        heads = (part.lstrip()[:HEAD] for part in completion.removeprefix(THINK_START).partition(THINK_END)[::2])
        return next((hit for head in heads if (hit := self._find_short(head, "completion"))), None)

    def _check(self, text: str, kind: str) -> tuple[Hit | None, list[Hit]]:
        words = gist_words(text)
        near: list[Hit] = []
        best: Hit | None = None
        signs: list[str] | None = None
        pieces: set[int] | None = None
        for share, owner, window, anywhere in self._candidates(words):
            if signs is None:
                signs = gist_signs(text)
            stretch = signs if window is None else _cut(signs, words, window)
            hit, is_copy = self._align(owner, stretch, share, kind)
            if not is_copy and window is None and len(statement := _statement(text)) < len(text):
                # Samples stand where the head of a copy without it would be looked for.
                bare, is_copy = self._align(owner, gist_signs(statement), share, kind)
                is_copy = is_copy and bare.alike >= CUT_ALIKE
                hit = bare if is_copy else hit
            if not is_copy and anywhere >= PIECES_SHARE:
                if pieces is None:
                    pieces = set(hash_ngrams(hash_words(signs), PIECE).tolist())
                hit, is_copy = self._count_pieces(owner, pieces, anywhere, kind) or (hit, False)
            if not is_copy:
                near.append(hit)
            elif best is None or hit.alike > best.alike:
                best = hit
        if best is None and kind == "prompt" and self._short:
            best = self._find_short(text, kind)
        return best, near

    def _candidates(self, words: list[str]) -> list[tuple[float, int, tuple[int, int] | None, float]]:
        """`(share, problem, window in words, share anywhere)` of the problems that a text may hold, likeliest first."""
        grams = make_grams(words)
        places, entries = self._index.find(grams)
        if not len(entries):
            return []
        index, found = self._index, []
        whole = np.bincount(index.owners[entries], weights=index.weights[entries], minlength=len(self.problems))
        starts, _ = gram_places(len(words))
        for owner in np.flatnonzero(whole >= CANDIDATE_SHARE * index.totals).tolist():
            if len(self._signs[owner]) < SHORT:
                continue
            own = index.owners[entries] == owner
            share, window = _densest(
                starts[places[own]], entries[own], index.weights, WINDOW * len(self._words[owner]), len(words)
            )
            share /= index.totals[owner]
            anywhere = float(index.weights[np.unique(entries[own])].sum() / index.totals[owner])
            if share >= CANDIDATE_SHARE or anywhere >= PIECES_SHARE:
                found.append((float(share), owner, window, anywhere))
        return sorted(found, reverse=True, key=lambda one: one[0])[:MAX_CANDIDATES]

    def _count_pieces(self, owner: int, pieces: set[int], share: float, kind: str) -> tuple[Hit, bool] | None:
        """A problem that a text holds in pieces (`pieces`: hashes of its PIECE words and signs on end), or None."""
        signs = self._signs[owner]
        held = np.zeros(len(signs), bool)
        for at, gram in enumerate(hash_ngrams(hash_words(signs), PIECE).tolist()):
            if gram in pieces:
                held[at : at + PIECE] = True
        numbers = held[[at for at, sign in enumerate(signs) if sign.isdigit()]]
        asked = held[len(signs) - self._asks[owner] :]
        parts = ((held, IN_PIECES), (numbers, PIECES_NUMBERS), (asked, PIECES_ASK))
        missing = np.diff(np.flatnonzero(np.concatenate([[True], held, [True]]))).max() - 1
        if missing > PIECES_MISSING or any(part.size and part.mean() < least for part, least in parts):
            return None
        same = [sign for sign, is_held in zip(signs, held.tolist(), strict=True) if is_held]
        return self._hit(owner, kind, share, 100 * float(held.mean()), same), True

    def _align(self, owner: int, signs: list[str], share: float, kind: str) -> tuple[Hit, bool]:
        """The problem laid over the text's best stretch: what they share, and whether that is a copy."""
        alike, replaced, contradicted, places, rest = _compare(self._signs[owner], signs)
        same = [self._signs[owner][place] for place in places]
        numbers = Counter(filter(str.isdigit, self._signs[owner]))
        held = (numbers & Counter(filter(str.isdigit, same))).total() / numbers.total() if numbers else 1.0
        part = len(same) / len(self._signs[owner])
        ask = self._asks[owner]
        asked = sum(place >= len(self._signs[owner]) - ask for place in places) / ask if ask else 1.0
        is_copy = (
            alike >= VERY_ALIKE
            or (alike >= ALIKE and share >= ALIKE_SHARE and held >= HALF_OF_NUMBERS)
            or (alike >= RATHER_ALIKE and share >= STRONG_SHARE and held >= MOST_NUMBERS)
        ) and (
            replaced <= REPLACED
            and (part >= MIN_PART or share >= ALIKE_SHARE)
            and (asked >= SAME_ASK or (part >= CUT_PART and rest <= CUT_REST))
            and contradicted <= CONTRADICTED * numbers.total()
        )
        is_half = (
            part >= HALF and len(same) >= HALF_SIGNS and alike >= HALF_ALIKE and replaced <= 1 and rest <= CUT_REST
        )
        is_copy = is_copy or is_half or _lacks_formulas(self._signs[owner], signs)
        return self._hit(owner, kind, share, alike, same), is_copy

    def _find_short(self, text: str, kind: str) -> Hit | None:
        """A short problem that is a sentence of the text, or several on end."""
        sentences = [gist_signs(sentence) for sentence in _SENTENCE_END.split(without_tags(take_out(text)))]
        sentences = [signs for signs in sentences if signs]
        for at in range(len(sentences)):
            signs: list[str] = []
            for sentence in sentences[at:]:
                signs = signs + sentence
                if len(signs) > SHORT + 2:
                    break
                hit = self._match_short(signs, kind)
                if hit is not None:
                    return hit
        return None

    def _match_short(self, signs: list[str], kind: str) -> Hit | None:
        own = set(signs)
        shared = Counter(owner for word in own for owner in self._short.get(word, ()))
        for owner, count in sorted(shared.items()):
            theirs = self._signs[owner]
            if count < SHORT_SHARE * len(set(theirs)):
                continue
            if Counter(filter(str.isdigit, theirs)) != Counter(filter(str.isdigit, signs)):
                continue
            alike = fuzz.ratio(theirs, signs)
            if alike >= (SHORT_ALIKE if len(theirs) >= VERY_SHORT else VERY_SHORT_ALIKE):
                same = [word for word in theirs if word in own]
                return self._hit(owner, kind, len(same) / len(theirs), alike, same)
        return None

    def _hit(self, owner: int, kind: str, share: float, alike: float, same: Sequence[str]) -> Hit:
        problem = self.problems[owner]
        words = " ".join(same[:SHOWN_WORDS]) + (" ..." if len(same) > SHOWN_WORDS else "")
        return Hit(problem.benchmark, problem.problem, kind, round(share, 3), round(alike, 1), words)


def _densest(
    starts: np.ndarray, entries: np.ndarray, weights: np.ndarray, width: float, length: int
) -> tuple[float, tuple[int, int] | None]:
    """The weight of the n-grams in the window that holds most of it, and the window (None: all of a short text)."""
    first = np.unique(entries, return_index=True)[1]
    if length <= 2 * width:
        return float(weights[entries[first]].sum()), None
    order = np.argsort(starts, kind="stable")
    starts, entries = starts[order], entries[order]
    best, window = 0.0, (0, 0)
    for at in np.unique(np.searchsorted(starts, starts - width / 2)).tolist():
        stop = int(np.searchsorted(starts, starts[at] + width, side="right"))
        held = float(weights[np.unique(entries[at:stop])].sum())
        if held > best:
            best, window = held, (int(starts[at]), int(starts[stop - 1]) + max(SIZES))
    return best, window


def _cut(signs: list[str], words: list[str], window: tuple[int, int]) -> list[str]:
    """The stretch of `signs` around a window of `words`; what the one has more than the other is spread evenly."""
    scale = len(signs) / max(1, len(words))
    slack = (window[1] - window[0]) // 2 + 40
    return signs[max(0, int((window[0] - slack) * scale)) : int((window[1] + slack) * scale)]


def _statement(text: str) -> str:
    """A problem without its samples, unless little else is left."""
    found = _SAMPLES.search(text)
    return text[: found.start()] if found and len(text[: found.start()].split()) >= SHORT else text


def _without_frame(words: list[str], signs: list[str], common: list[bool]) -> list[str]:
    """`signs` without a long run of common words at either end; `common`: which of `make_grams(words)` are.

    Benchmarks put the same frame around all of their problems; a training row has another or none.
    """
    places = [at for at, sign in enumerate(signs) if len(sign) > 1 or sign.isdigit()]  # of `words` in `signs`
    told = np.zeros(len(words), bool)  # words that tell this problem from others
    for start, size, is_common in zip(*gram_places(len(words)), common, strict=True):
        if not is_common:
            told[start : start + size] = True
    own = np.flatnonzero(told)
    if len(places) != len(words) or not len(own):
        return signs
    first, last = own[0], own[-1]
    begin = places[first] if first >= FRAME else 0
    end = places[last] + 1 if len(words) - 1 - last >= FRAME else len(signs)
    return signs[begin:end]


def _ask_length(text: str) -> int:
    """Words and signs of a problem's last sentence, if that is what asks; 0 if it is not, or says too little."""
    sentences = [sentence for sentence in re.split(r"(?<=[.?!])\s", text.strip()) if sentence.strip()]
    if not sentences or not _ASKS.match(sentences[-1]):
        return 0
    length = len(gist_signs(sentences[-1]))
    return length if length >= MIN_ASK else 0


def _lacks_formulas(problem: list[str], text: list[str]) -> bool:
    """Whether a text is the problem's words with nothing in the places of its formulas."""
    ours, theirs = ([sign for sign in signs if len(sign) > 1 and sign.isalpha()] for signs in (problem, text))
    formulas, left = len(problem) - len(ours), len(text) - len(theirs)
    if len(ours) < PROSE or formulas < FORMULAS or 3 * left > formulas or 5 * len(theirs) < 4 * len(ours):
        return False
    return fuzz.partial_ratio(ours, theirs) >= PROSE_ALIKE


def _compare(problem: list[str], text: list[str]) -> tuple[float, int, int, list[int], int]:
    """The problem against the best stretch of a text: `(alike, replaced, contradicted, places, rest)`.

    The ratio of the shorter with its best stretch of the longer; the longest run of the problem's words with others in
    their place; how many of its numbers have another number there; where in the problem words agree; and how many words
    of the text follow the last that does.
    """
    numbers: dict[str, int] = {}
    ours = [numbers.setdefault(word, len(numbers)) for word in problem]
    theirs = [numbers.setdefault(word, len(numbers)) for word in text]
    found = fuzz.partial_ratio_alignment(ours, theirs)
    if found is None:
        return 0.0, 0, 0, [], len(theirs)
    digits = {numbers[word] for word in numbers if word.isdigit()}
    begin, stop = found.dest_start, found.dest_end
    if len(ours) > len(theirs):
        laid = _lay(ours[found.src_start : found.src_end], theirs, digits)
        return float(found.score), *laid[:2], [found.src_start + place for place in laid[2]], len(theirs) - laid[3]
    laid = _lay(ours, theirs[begin:stop], digits)
    # The stretch is as long as the problem: words put in between push its ends out, which a longer one holds.
    wide = max(0, begin - len(ours) // SLACK)
    longer = _lay(ours, theirs[wide : stop + len(ours) // SLACK], digits)
    places, rest = (longer[2], longer[3] + wide) if len(longer[2]) > len(laid[2]) else (laid[2], laid[3] + begin)
    return float(found.score), *laid[:2], places, len(theirs) - rest


def _lay(ours: list[int], theirs: list[int], digits: set[int]) -> tuple[int, int, list[int], int]:
    """`(replaced, contradicted, places, end)` of one text laid over another; `end`: after the last word that agrees."""
    replaced = contradicted = end = 0
    same: list[int] = []
    for step in Levenshtein.opcodes(ours, theirs):
        if step.tag == "replace":
            here, there = ours[step.src_start : step.src_end], theirs[step.dest_start : step.dest_end]
            replaced = max(replaced, min(len(here), len(there)))
            contradicted += min(sum(word in digits for word in here), sum(word in digits for word in there))
        elif step.tag == "equal":
            same += range(step.src_start, step.src_end)
            end = step.dest_end
    return replaced, contradicted, same, end
