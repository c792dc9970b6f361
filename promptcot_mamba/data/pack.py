"""Documents -> rows of one capacity: best-fit decreasing, the only packer.

The longest document goes first, each into the row whose remaining space fits it most tightly. Documents of one
length are placed together (a row with space r takes r // length of them at once), so two million lengths pack in
a few seconds; the rows' remaining spaces are those of placing the documents one by one.
"""

from collections.abc import Sequence

import numpy as np

from promptcot_mamba.errors import InputError


class _OpenRows:
    """Rows that still have space, by how much; finds the tightest that fits."""

    def __init__(self):
        self._rows: dict[int, list[int]] = {}  # space -> row numbers; only spaces that there are
        self._spaces = 0  # bit s is set where there is _rows[s]

    def tightest_space(self, length: int) -> int | None:
        """The smallest space of any open row that is at least `length`."""
        fitting = self._spaces >> length
        return length + (fitting & -fitting).bit_length() - 1 if fitting else None

    def take(self, space: int, count: int) -> list[int]:
        """Remove and return up to `count` rows with this space, the latest first."""
        rows = self._rows[space]
        taken = rows[-count:][::-1]
        del rows[-count:]
        if not rows:
            del self._rows[space]
            self._spaces ^= 1 << space
        return taken

    def put(self, space: int, rows: Sequence[int]) -> None:
        if space and rows:
            self._rows.setdefault(space, []).extend(rows)
            self._spaces |= 1 << space


def pack_lengths(lengths: Sequence[int] | np.ndarray, capacity: int, seed: int = 0) -> list[np.ndarray]:
    """Pack documents of these lengths into rows that hold at most `capacity` tokens.

    Returns the rows, each an int64 array of document numbers. Documents of equal length are interchangeable to the
    algorithm; `seed` decides which goes where. The result depends on nothing else.

    Raises InputError if a document is empty or longer than `capacity`.
    """
    lengths = np.asarray(lengths, dtype=np.int64)  # (docs)
    if lengths.size == 0:
        return []
    if lengths.min() < 1 or lengths.max() > capacity:
        raise InputError(f"cannot pack lengths from {lengths.min()} to {lengths.max()} into rows of {capacity} tokens")
    capacity = min(capacity, int(lengths.sum()))  # what no row can fill costs nothing
    shuffled = np.random.default_rng(seed).permutation(lengths.size)
    order = shuffled[np.argsort(-lengths[shuffled], kind="stable")]  # longest first, equals in seeded order
    row_of = np.empty(lengths.size, dtype=np.int64)  # [position in order]
    starts = np.flatnonzero(np.diff(lengths[order], prepend=-1))
    open_rows, row_count = _OpenRows(), 0
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), lengths.size], strict=True):
        length = int(lengths[order[start]])
        while start < stop:
            tightest = open_rows.tightest_space(length)
            space = capacity if tightest is None else tightest
            per_row = space // length
            wanted = -(-(stop - start) // per_row)
            if tightest is None:
                rows = list(range(row_count, row_count + wanted))
                row_count += wanted
            else:
                rows = open_rows.take(space, wanted)
            placed = min(stop - start, per_row * len(rows))
            row_of[start : start + placed] = np.repeat(rows, per_row)[:placed]
            in_last = placed - per_row * (len(rows) - 1)
            open_rows.put(space - per_row * length, rows[:-1])
            open_rows.put(space - in_last * length, rows[-1:])
            start += placed
    by_row = np.argsort(row_of, kind="stable")
    return np.split(order[by_row], np.flatnonzero(np.diff(row_of[by_row])) + 1)


def fill_share(lengths: Sequence[int] | np.ndarray, rows: Sequence[np.ndarray] | np.ndarray, capacity: int) -> float:
    """The share of the rows' capacity that holds tokens, 0..1."""
    return float(np.sum(np.asarray(lengths, dtype=np.int64))) / (len(rows) * capacity)
