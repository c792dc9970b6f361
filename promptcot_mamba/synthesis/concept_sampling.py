r"""Draw sets of concepts that belong together: co-occurrence plus cosine similarity, tempered and seeded.

The definition, for a set S drawn so far and a concept j outside it:

    score(j | S) = 1/|S| * sum over i in S of  [ cooccurrence_weight * a(i, j) + similarity_weight * cos(e_i, e_j) ]
    p(j | S)     = softmax over j not in S of  score(j | S) / temperature

with a(i, j) the positive pointwise mutual information or log(1 + count) of seed problems that hold both. The
first concept is drawn by its frequency. Temperature 0 is the arg max, the lowest index winning ties.

`next_probabilities` is that definition, dense and in float64; `draw_sets` is the fast path, whose draws are the
same for any number of workers: items are cut into blocks of a fixed size, every item has its own uniforms.
"""

import contextlib
import multiprocessing
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, islice
from typing import Any

import numpy as np
import torch
from scipy import sparse

from promptcot_mamba.errors import InputError
from promptcot_mamba.log import logger
from promptcot_mamba.records import derive_seed

BLOCK = 256  # items drawn together, and whose common concepts are scored once
ROWS = 16  # items whose weights are made together: they stay within a core's cache
CHUNK = 256  # concepts whose weights are summed before one is looked for among them
FLOAT32_FROM = 8192  # concepts above which similarities are computed in float32: half the time, errors near 1e-7


@dataclass(frozen=True)
class ConceptTable:
    """Concepts with their statistics.

    names: `n` concepts, sorted; frequency: (n,) number of seed problems that hold each;
    association: (n, n) sparse, symmetric, zero diagonal; embeddings: (n, d) unit rows, or None.
    """

    names: tuple[str, ...]
    frequency: np.ndarray
    association: sparse.csr_matrix
    embeddings: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)


def make_concept_table(
    concept_lists: Sequence[Sequence[str]],
    embeddings: Mapping[str, Sequence[float] | np.ndarray] | None = None,
    association: str = "pmi",
) -> ConceptTable:
    """Count concepts and their pairs; a concept named twice by one problem counts once.

    `association` is "pmi" (positive PMI, natural log, of problem counts) or "log_count" (log(1 + count)).
    Raises InputError for an empty list, a concept without embedding or embeddings of mixed or zero length.
    """
    if association not in ("pmi", "log_count"):
        raise InputError(f"association {association!r}: expected 'pmi' or 'log_count'")
    names = tuple(sorted({concept for concepts in concept_lists for concept in concepts}))
    if not names:
        raise InputError("no concepts: the extraction stage gave none")
    index = {name: i for i, name in enumerate(names)}
    frequency = np.zeros(len(names))
    pairs: Counter[tuple[int, int]] = Counter()
    for concepts in concept_lists:
        present = sorted({index[concept] for concept in concepts})
        frequency[present] += 1
        pairs.update(combinations(present, 2))
    matrix = _associate(pairs, frequency, len(concept_lists), association)
    return ConceptTable(names, frequency, matrix, _unit_rows(names, embeddings))


def _associate(pairs: Counter, frequency: np.ndarray, problems: int, kind: str) -> sparse.csr_matrix:
    n = len(frequency)
    if not pairs:
        return sparse.csr_matrix((n, n))
    rows, columns = np.array(list(pairs), dtype=np.int64).T
    counts = np.fromiter(pairs.values(), dtype=np.float64, count=len(pairs))
    if kind == "pmi":
        values = np.maximum(np.log(counts * problems / (frequency[rows] * frequency[columns])), 0.0)
    else:
        values = np.log1p(counts)
    upper = sparse.csr_matrix((values, (rows, columns)), shape=(n, n))
    return (upper + upper.T).tocsr()


def _unit_rows(
    names: Sequence[str], embeddings: Mapping[str, Sequence[float] | np.ndarray] | None
) -> np.ndarray | None:
    if embeddings is None:
        logger.info("no concept embeddings: concept sets are drawn by co-occurrence alone")
        return None
    missing = [name for name in names if name not in embeddings]
    if missing:
        raise InputError(f"{len(missing)} concepts have no embedding, the first is {missing[0]!r}; embed them again")
    widths = {len(embeddings[name]) for name in names}
    if len(widths) != 1:
        raise InputError(f"embeddings of different lengths: {sorted(widths)}; they come from different models")
    matrix = np.array([embeddings[name] for name in names], dtype=np.float64)
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    bad = ~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0))
    if bad.any():
        raise InputError(f"the embedding of {names[int(np.argmax(bad))]!r} is zero or not finite")
    return matrix / norms


@dataclass(frozen=True)
class Weights:
    """How a set grows: temperature (0 is arg max) and the two terms' weights."""

    temperature: float = 0.2
    cooccurrence: float = 1.0
    similarity: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise InputError(f"temperature {self.temperature}: must be 0 or more")


def next_probabilities(table: ConceptTable, chosen: Sequence[int], weights: Weights) -> np.ndarray:
    """The definition: p(j | chosen), float64 (n,). With nothing chosen, by frequency."""
    if not chosen:
        return table.frequency / table.frequency.sum()
    scores = np.zeros(len(table))
    for i in chosen:
        scores += weights.cooccurrence * table.association[[i]].toarray()[0]
        if table.embeddings is not None:
            scores += weights.similarity * (table.embeddings @ table.embeddings[i])
    scores /= len(chosen)
    scores[list(chosen)] = -np.inf
    if weights.temperature == 0:
        return np.eye(len(table))[int(np.argmax(scores))]
    # divide the difference from the maximum, never the score: 1/temperature may overflow
    with np.errstate(over="ignore"):
        exponents = np.exp((scores - scores.max()) / weights.temperature)
    return exponents / exponents.sum()


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One thread, so that the order of additions does not depend on the machine, and no subnormal numbers.

    Subnormal weights, below 1e-38 of the greatest, would make the exponential ten times slower; they become zeros.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


class _Drawer:
    """Draws blocks of sets; one per worker process.

    A concept's similarities to all others are one row of a matrix product, made once a block however many items hold
    it. Drawing needs no running sum over all concepts: the sums of CHUNK weights say in which chunk to look.
    """

    def __init__(self, table: ConceptTable, size: int, weights: Weights, seed: int):
        self.n, self.size, self.weights, self.seed = len(table), size, weights, seed
        self.dtype = torch.float32 if self.n >= FLOAT32_FROM else torch.float64
        self.embeddings = None if table.embeddings is None else torch.from_numpy(table.embeddings).to(self.dtype)
        self.starts = table.association.indptr
        self.columns = torch.from_numpy(table.association.indices.astype(np.int64))
        self.values = torch.from_numpy(table.association.data).to(self.dtype) * weights.cooccurrence
        self.first = torch.from_numpy(np.cumsum(table.frequency))
        chunks = -(-self.n // CHUNK)
        self.scores = torch.empty((BLOCK, self.n), dtype=self.dtype)  # sums over the chosen
        self.exponents = torch.zeros((ROWS, chunks * CHUNK), dtype=self.dtype)  # the last chunk ends in zeros

    @_alone()
    def draw(self, items: range) -> np.ndarray:
        """The sets of these item numbers: (items, size) concept indices, in the order drawn."""
        uniforms = torch.from_numpy(
            np.array([np.random.default_rng(derive_seed(self.seed, item)).random(self.size) for item in items])
        )
        chosen = torch.empty((len(items), self.size), dtype=torch.int64)
        chosen[:, 0] = _inverse_cdf(self.first.expand(len(items), -1), uniforms[:, :1])[0]
        scores = self.scores[: len(items)].zero_()
        for step in range(1, self.size):
            self._add(scores, chosen[:, step - 1])
            scores.scatter_(1, chosen[:, :step], -torch.inf)
            for start in range(0, len(items), ROWS):
                rows = slice(start, start + ROWS)
                chosen[rows, step] = self._pick(scores[rows], step, uniforms[rows, step : step + 1])
        return chosen.numpy()

    def _add(self, scores: torch.Tensor, latest: torch.Tensor) -> None:
        """Add the terms of each item's latest concept to its scores (items, n)."""
        concepts, where = torch.unique(latest, return_inverse=True)  # popular concepts recur within a block
        terms = None
        if self.embeddings is not None:
            terms = self.embeddings[concepts] @ self.embeddings.T  # (concepts, n)
        for row, (concept, place) in enumerate(zip(latest.tolist(), where.tolist(), strict=True)):
            if terms is not None:
                scores[row].add_(terms[place], alpha=self.weights.similarity)
            span = slice(self.starts[concept], self.starts[concept + 1])
            scores[row].index_add_(0, self.columns[span], self.values[span])

    def _pick(self, scores: torch.Tensor, chosen: int, uniforms: torch.Tensor) -> torch.Tensor:
        """One concept an item, given `chosen` ones so far: (rows)."""
        if self.weights.temperature == 0:
            return (scores == scores.amax(dim=1, keepdim=True)).to(torch.uint8).argmax(dim=1)
        weights = self._weigh(scores, chosen)
        by_chunk = weights.view(len(scores), -1, CHUNK)  # (rows, chunks, CHUNK)
        chunk, share = _inverse_cdf(by_chunk.sum(dim=2).cumsum(dim=1, dtype=torch.float64), uniforms)
        within = by_chunk[torch.arange(len(scores)), chunk].cumsum(dim=1, dtype=torch.float64)
        return chunk * CHUNK + _inverse_cdf(within, share[:, None])[0]

    def _weigh(self, scores: torch.Tensor, chosen: int) -> torch.Tensor:
        """The unnormalised p(j | chosen), zeros after the last concept: (rows, chunks * CHUNK), until the next call."""
        # Divide the difference from the maximum, never the score. Beyond what the dtype holds, the divisor's size
        # makes no difference: quotients are 0 or -inf either way.
        limits = torch.finfo(self.dtype)
        divisor = min(max(chosen * self.weights.temperature, limits.tiny), limits.max)
        exponents = self.exponents[: len(scores)]
        found = exponents[:, : self.n]
        torch.sub(scores, scores.amax(dim=1, keepdim=True), out=found)
        found.div_(divisor).exp_()
        return exponents


def _inverse_cdf(cumulative: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """First index whose cumulative weight exceeds u * total, and how far into its weight that is (0..1): (items) each.

    Entries of zero weight are never hit. `cumulative` (items, n) float64; `uniforms` (items, 1).
    """
    total = cumulative[:, -1:]
    targets = torch.minimum(uniforms * total, torch.nextafter(total, torch.zeros_like(total)))
    index = torch.searchsorted(cumulative.contiguous(), targets, right=True)  # (items, 1)
    before = torch.where(index > 0, cumulative.gather(1, (index - 1).clamp(min=0)), torch.zeros_like(total))
    share = (targets - before) / (cumulative.gather(1, index) - before)
    return index[:, 0], share[:, 0]


_worker: _Drawer


def _start_worker(*arguments: Any) -> None:
    global _worker
    _worker = _Drawer(*arguments)


def _draw_in_worker(items: range) -> np.ndarray:
    return _worker.draw(items)


def draw_sets(
    table: ConceptTable, count: int, size: int, weights: Weights, seed: int, *, workers: int = 1, first: int = 0
) -> Iterator[tuple[str, ...]]:
    """Draw sets number `first` to `count - 1`, in order, each of `size` distinct concepts.

    Set i depends on the table, the weights and (seed, i) only: whatever the number of workers, and whether or
    not the sets before it were drawn in this run (`first` is rounded down to a block's start, then skipped).

    Raises InputError if there are fewer concepts than `size`, or an argument is out of range.
    """
    if not 1 <= size <= len(table):
        raise InputError(f"size {size}: must be between 1 and the number of concepts, {len(table)}")
    if count < 0 or workers < 1:
        raise InputError(f"count {count} and workers {workers}: must be at least 0 and 1")
    start = first // BLOCK * BLOCK
    blocks = [range(i, i + BLOCK) for i in range(start, count, BLOCK)]
    arguments = (table, size, weights, seed)
    with contextlib.ExitStack() as stack:
        if workers == 1:
            drawn: Iterator[np.ndarray] = map(_Drawer(*arguments).draw, blocks)
        else:
            pool = multiprocessing.get_context("spawn").Pool(workers, _start_worker, arguments)
            drawn = stack.enter_context(pool).imap(_draw_in_worker, blocks)
        for row in islice(chain.from_iterable(drawn), first - start, max(count - start, 0)):
            yield tuple(table.names[i] for i in row)
