"""Documents in one row: `cu_seqlens` <-> lengths <-> `seq_idx`, and the chunk table whose chunks never cross one.

`cu_seqlens` (docs+1) holds where each document starts and, last, where the row ends: three documents of 3, 1 and 2
tokens are `[0, 3, 4, 6]`, and `seq_idx` (1, l) is `[[0, 0, 0, 1, 2, 2]]`.
"""

import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from promptcot_mamba.errors import InputError

T = TypeVar("T")

# What was already worked out for a cu_seqlens tensor: every layer, forward and backward, asks for the same, and
# on a CUDA device each answer costs a wait for the device. Keyed weakly by the tensor and by its version.
_known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _facts(cu_seqlens: torch.Tensor) -> dict:
    current = None if cu_seqlens.is_inference() else cu_seqlens._version  # inference tensors count no versions
    version, facts = _known.get(cu_seqlens, (None, None))
    if facts is None or version != current:
        facts = {}
        _known[cu_seqlens] = (current, facts)
    return facts


def remember(cu_seqlens: torch.Tensor, key: Hashable, make: Callable[[], T]) -> T:
    """`make()`, once for these documents and this key."""
    facts = _facts(cu_seqlens)
    if key not in facts:
        facts[key] = make()
    return facts[key]


def boundaries(cu_seqlens: torch.Tensor) -> list[int]:
    """`cu_seqlens` as Python numbers, fetched from its device once."""
    return remember(cu_seqlens, "boundaries", cu_seqlens.tolist)


@lru_cache(maxsize=32)
def row_boundaries(batch: int, length: int, device: torch.device) -> torch.Tensor:
    """cu_seqlens (b+1) of a batch of equal rows laid end to end."""
    return torch.arange(0, (batch + 1) * length, length, dtype=torch.int64, device=device)


def check_cu_seqlens(cu_seqlens: torch.Tensor, length: int) -> None:
    """Raise InputError unless `cu_seqlens` is 1-D int32/int64, starts at 0, ends at `length` and increases."""
    if not isinstance(cu_seqlens, torch.Tensor) or cu_seqlens.dtype not in (torch.int32, torch.int64):
        found = cu_seqlens.dtype if isinstance(cu_seqlens, torch.Tensor) else type(cu_seqlens).__name__
        raise InputError(f"cu_seqlens: expected an int32 or int64 tensor, found {found}")
    if cu_seqlens.dim() != 1 or cu_seqlens.numel() < 2:
        raise InputError(f"cu_seqlens: expected shape (docs+1) with at least one document, found {cu_seqlens.shape}")
    marks = boundaries(cu_seqlens)
    if marks[0] != 0:
        raise InputError(f"cu_seqlens: must start at 0, found {marks[0]}")
    if marks[-1] != length:
        raise InputError(f"cu_seqlens: must end at the row's length {length}, found {marks[-1]}")
    for document, (start, end) in enumerate(itertools.pairwise(marks)):
        if end <= start:
            raise InputError(f"cu_seqlens: must increase, but document {document} runs from {start} to {end}")


def cu_seqlens_from_lengths(lengths: Sequence[int] | torch.Tensor, device: torch.device | None = None) -> torch.Tensor:
    """Lengths (docs) -> cu_seqlens (docs+1), int32 as varlen kernels read it."""
    lengths = torch.as_tensor(lengths, dtype=torch.int64, device=device)
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)


def seq_idx_from_cu_seqlens(cu_seqlens: torch.Tensor) -> torch.Tensor:
    """cu_seqlens (docs+1) -> seq_idx (1, l) int32: the document each token belongs to."""
    documents = torch.arange(cu_seqlens.numel() - 1, device=cu_seqlens.device, dtype=torch.int32)
    return documents.repeat_interleave(cu_seqlens.diff().long())[None]


@dataclass(frozen=True, eq=False)
class ChunkTable:
    """Chunks of at most `chunk_size` tokens, in order, none of which crosses a document.

    Offsets are int64: a row's elements outgrow int32 on long inputs.
    """

    chunk_size: int
    starts: torch.Tensor  # (c) first token of each chunk
    lengths: torch.Tensor  # (c) tokens in it, at least 1
    documents: torch.Tensor  # (c) the document it belongs to
    positions: torch.Tensor  # (c) how many tokens of the document come before it
    first_chunks: torch.Tensor  # (docs+1) each document's first chunk, and the number of chunks

    @property
    def n_chunks(self) -> int:
        return self.starts.numel()

    @property
    def n_documents(self) -> int:
        return self.first_chunks.numel() - 1


def make_chunk_table(cu_seqlens: torch.Tensor, chunk_size: int) -> ChunkTable:
    """The chunks of each document, on the device of `cu_seqlens`; made once per tensor and chunk size."""
    if chunk_size < 1:
        raise InputError(f"chunk_size: must be at least 1, found {chunk_size}")
    return remember(cu_seqlens, ("chunks", chunk_size), lambda: _cut_chunks(cu_seqlens, chunk_size))


def _cut_chunks(cu_seqlens: torch.Tensor, chunk_size: int) -> ChunkTable:
    marks = torch.tensor(boundaries(cu_seqlens), dtype=torch.int64)
    chunks = (marks.diff() + chunk_size - 1) // chunk_size  # (docs)
    first_chunks = torch.nn.functional.pad(chunks.cumsum(0), (1, 0))
    documents = torch.arange(len(chunks)).repeat_interleave(chunks)
    within = torch.arange(len(documents)) - first_chunks[documents]
    positions = within * chunk_size
    starts = marks[documents] + positions
    lengths = (marks[documents + 1] - starts).clamp(max=chunk_size)
    parts = [part.to(cu_seqlens.device) for part in (starts, lengths, documents, positions, first_chunks)]
    return ChunkTable(chunk_size, *parts)
