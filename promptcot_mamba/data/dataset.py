"""Token stores as training rows: over-long documents dropped or cut, the rest packed or one to a row.

A row is `{"input_ids", "labels", "lengths", "example_ids"}`: documents end to end, the length and id of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from promptcot_mamba.data.pack import fill_share, pack_lengths
from promptcot_mamba.data.tokens import TokenStore
from promptcot_mamba.errors import InputError
from promptcot_mamba.records import IGNORE_INDEX

OVERLONG = ("drop", "truncate")
TrainRow = dict[str, Any]


@dataclass(frozen=True)
class Selection:
    """What `max_length` left of a store, and what it took."""

    documents: np.ndarray  # (usable) document numbers
    lengths: np.ndarray  # (usable) tokens of each, after cutting
    dropped: int
    truncated: int

    def describe(self) -> str:
        parts = [f"{len(self.documents):,} examples", f"{int(self.lengths.sum()):,} tokens"]
        if self.dropped:
            parts.append(f"{self.dropped:,} over-long dropped")
        if self.truncated:
            parts.append(f"{self.truncated:,} truncated")
        return ", ".join(parts)


def select_documents(store: TokenStore, max_length: int, overlong: str = "drop") -> Selection:
    """Apply `max_length`: documents beyond it are dropped, or cut where some completion remains to learn from.

    Raises InputError if no document is left, telling the shortest one's length.
    """
    lengths = store.lengths
    fits = lengths <= max_length
    # A cut document keeps its prompt, at least one completion token, and room for the end of text.
    cuttable = ~fits & (store.prompt_lengths <= max_length - 2) if overlong == "truncate" else np.zeros_like(fits)
    usable = fits | cuttable
    if not usable.any():
        shortest = int(lengths.min()) if len(lengths) else 0
        raise InputError(
            f"--max_length {max_length}: no usable example; the shortest of {len(lengths):,} has {shortest} tokens"
        )
    return Selection(
        documents=np.flatnonzero(usable),
        lengths=np.minimum(lengths[usable], max_length),
        dropped=int((~usable).sum()),
        truncated=int(cuttable.sum()),
    )


@dataclass
class TokenRows:
    """A map-style dataset of rows over one store."""

    store: TokenStore
    selection: Selection
    rows: Sequence[np.ndarray] | np.ndarray  # row -> positions in `selection`
    max_length: int
    packed: bool

    def __len__(self) -> int:
        return len(self.rows)

    def _document(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and labels of one usable document."""
        document = int(self.selection.documents[position])
        ids = self.store.input_ids(document)
        keep = int(self.selection.lengths[position])
        if keep < len(ids):
            # Every document ends in the end of text; at a cut it carries no loss, for it is not where thought ended.
            ids = np.concatenate([ids[: keep - 1], ids[-1:]])
        labels = ids.copy()
        labels[: self.store.prompt_lengths[document]] = IGNORE_INDEX
        if keep < self.store.lengths[document]:
            labels[-1] = IGNORE_INDEX
        return ids, labels

    def __getitem__(self, row: int) -> TrainRow:
        positions = self.rows[row]
        documents = [self._document(int(position)) for position in positions]
        return {
            "input_ids": np.concatenate([ids for ids, _ in documents]),  # (l)
            "labels": np.concatenate([labels for _, labels in documents]),  # (l)
            "lengths": self.selection.lengths[positions],  # (docs)
            "example_ids": [self.store.ids[self.selection.documents[position]] for position in positions],
        }

    @property
    def fill(self) -> float:
        """The share of `rows x max_length` that holds tokens."""
        return fill_share(self.selection.lengths, self.rows, self.max_length)

    def split_by_source(self) -> dict[str, TokenRows]:
        """One dataset per source, one document a row: what validation iterates over."""
        sources = np.asarray(self.store.sources)[self.selection.documents]
        return {
            str(source): TokenRows(
                self.store, self.selection, np.flatnonzero(sources == source)[:, None], self.max_length, packed=False
            )
            for source in np.unique(sources)
        }


def make_rows(store: TokenStore, max_length: int, *, packing: bool, overlong: str = "drop", seed: int = 0) -> TokenRows:
    """Usable documents of a store as rows: packed into `max_length` tokens, or one document each.

    Raises InputError as `select_documents`.
    """
    chosen = select_documents(store, max_length, overlong)
    if packing:
        rows: Sequence[np.ndarray] | np.ndarray = pack_lengths(chosen.lengths, max_length, seed)
    else:
        rows = np.arange(len(chosen.documents))[:, None]
    return TokenRows(store, chosen, rows, max_length, packing)


class UnpackedRows:
    """Rows of several documents taken apart: one document a row, for models that cannot keep documents apart."""

    packed = False

    def __init__(self, rows: Any):
        self.source = rows
        counts = [len(rows[row]["lengths"]) for row in range(len(rows))]
        self._row_of = np.repeat(np.arange(len(counts)), counts)  # (docs)
        self._first_of = np.concatenate([[0], np.cumsum(counts)])  # row -> number of its first document
        self.max_length = rows.max_length
        self.ordered = getattr(rows, "ordered", False)

    def __len__(self) -> int:
        return len(self._row_of)

    def __getitem__(self, document: int) -> TrainRow:
        number = int(self._row_of[document])
        row, within = self.source[number], document - int(self._first_of[number])
        stop = int(np.cumsum(row["lengths"])[within])
        start = stop - int(row["lengths"][within])
        return {
            "input_ids": row["input_ids"][start:stop],
            "labels": row["labels"][start:stop],
            "lengths": row["lengths"][within : within + 1],
            "example_ids": row["example_ids"][within : within + 1],
        }


def describe_rows(rows: Any) -> str:
    """A dataset of rows in a line of the log."""
    parts = [f"{len(rows):,} rows"]
    if isinstance(rows, TokenRows):
        parts.append(rows.selection.describe())
    if rows.packed:
        parts.append(f"{rows.fill:.1%} full")
    return ", ".join(parts)
