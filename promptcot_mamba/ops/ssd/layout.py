"""Rows cut into chunks of one size: (b, l, ...) <-> (c, q, ...), documents apart, short chunks padded."""

import itertools
from dataclasses import dataclass

import torch

from promptcot_mamba.ops.packing import ChunkTable, boundaries, make_chunk_table, remember, row_boundaries

SMALL_CHUNKS = (64, 32, 16)
WASTE = 1.25  # chunks shrink while padding would cost more than this factor in tokens


def choose_chunk_size(marks: list[int]) -> int:
    """The largest of SMALL_CHUNKS that short documents do not fill mostly with padding.

    Small chunks are fastest on CPU: the work inside a chunk grows with its size, that between chunks does not.
    """
    lengths = [end - start for start, end in itertools.pairwise(marks)]
    for size in SMALL_CHUNKS:
        padded = sum(-(-length // size) * size for length in lengths)
        if padded <= WASTE * marks[-1]:
            return size
    return SMALL_CHUNKS[-1]


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each token of (b, l) stands among the chunks, and back."""

    batch: int
    length: int
    table: ChunkTable
    tokens: torch.Tensor | None  # (c*q) the token at each place, padding repeating a real one; None if all are full
    places: torch.Tensor | None  # (b*l) the place of each token
    padding: torch.Tensor | None  # (c, q) true where a place holds no token

    def split(self, tensor: torch.Tensor) -> torch.Tensor:
        """(b, l, ...) -> (c, q, ...), a view where every chunk is full; padding holds arbitrary real rows."""
        rows = tensor.flatten(0, 1)
        if self.tokens is not None:
            rows = rows.index_select(0, self.tokens)
        return rows.unflatten(0, (self.table.n_chunks, self.table.chunk_size))

    def split_zeroed(self, tensor: torch.Tensor) -> torch.Tensor:
        """(b, l, ...) -> (c, q, ...) with zeros in the padding."""
        chunks = self.split(tensor)
        if self.padding is not None:
            chunks.masked_fill_(self.padding.view(*self.padding.shape, *[1] * (chunks.dim() - 2)), 0)
        return chunks

    def join(self, chunks: torch.Tensor) -> torch.Tensor:
        """(c, q, ...) -> (b, l, ...), padding left out."""
        rows = chunks.flatten(0, 1)
        if self.places is not None:
            rows = rows.index_select(0, self.places)
        return rows.unflatten(0, (self.batch, self.length))


def make_layout(
    batch: int, length: int, cu_seqlens: torch.Tensor | None, chunk_size: int | None, device: torch.device
) -> Layout:
    """The layout of a batch of equal rows, or of the documents of one packed row; made once per `cu_seqlens`."""
    if cu_seqlens is None:
        cu_seqlens = row_boundaries(batch, length, device)
    key = ("layout", batch, length, chunk_size, device)
    return remember(cu_seqlens, key, lambda: _lay_out(batch, length, cu_seqlens, chunk_size, device))


def _lay_out(batch: int, length: int, cu_seqlens: torch.Tensor, chunk_size: int | None, device: torch.device) -> Layout:
    table = make_chunk_table(cu_seqlens, chunk_size or choose_chunk_size(boundaries(cu_seqlens)))
    size, n_tokens = table.chunk_size, batch * length
    if table.n_chunks * size == n_tokens:  # every chunk is full
        return Layout(batch, length, table, None, None, None)
    within = torch.arange(size, device=table.starts.device)
    padding = within >= table.lengths[:, None]  # (c, q)
    tokens = (table.starts[:, None] + within.clamp(max=size)).where(~padding, table.starts[:, None])
    places = (~padding).flatten().nonzero()[:, 0]
    return Layout(batch, length, table, tokens.flatten().to(device), places.to(device), padding.to(device))
