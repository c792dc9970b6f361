"""Encoded documents on disk, memory-mapped: written once per (data, tokenizer), read by every process without a copy.

A store is a folder: `tokens.bin` (int32, all documents end to end), `index.npz` (where each starts, how much of it is
prompt), `documents.jsonl` (id and source of each). It is complete or absent: it is written beside and moved.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from promptcot_mamba.data.encode import encode_examples
from promptcot_mamba.data.rows import Example, iter_examples
from promptcot_mamba.errors import InputError
from promptcot_mamba.log import get_logger

logger = get_logger(__name__)

STORE_VERSION = 1  # raise whenever the tokens of an unchanged file would change
ENCODE_BATCH = 512  # examples per tokenizer call


@dataclass(frozen=True)
class TokenStore:
    """Document `i` is `tokens[starts[i]:starts[i + 1]]`, the first `prompt_lengths[i]` of them its prompt."""

    tokens: np.ndarray  # (tokens) int32, memory-mapped
    starts: np.ndarray  # (docs + 1) int64
    prompt_lengths: np.ndarray  # (docs) int32
    ids: list[str]
    sources: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    def input_ids(self, document: int) -> np.ndarray:
        return np.asarray(self.tokens[self.starts[document] : self.starts[document + 1]])


def _batches(examples: Iterator[Example], size: int) -> Iterator[list[Example]]:
    while batch := list(islice(examples, size)):
        yield batch


@contextmanager
def _moved_when_done(folder: Path) -> Iterator[Path]:
    """A temporary neighbour folder that becomes `folder` if the block ends well, and vanishes otherwise."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True, exist_ok=False)
    except OSError as error:
        raise InputError(f"{folder.parent}: cannot write the token cache here ({error.strerror})") from None
    try:
        yield temporary
        if not folder.exists():  # another process may have finished the same store meanwhile
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_documents(examples: Iterator[Example], tokenizer: Any, tokens: IO[bytes], documents: IO[str]):
    """Stream every document out; return starts and prompt lengths."""
    starts, prompt_lengths = [0], []
    for batch in _batches(examples, ENCODE_BATCH):
        encoded = encode_examples(tokenizer, [(example.prompt, example.completion) for example in batch])
        for example, document in zip(batch, encoded, strict=True):
            tokens.write(np.asarray(document.input_ids, dtype=np.int32).tobytes())
            documents.write(json.dumps([example.id, example.source]) + "\n")
            starts.append(starts[-1] + len(document.input_ids))
            prompt_lengths.append(document.prompt_length)
        if len(prompt_lengths) % (64 * ENCODE_BATCH) == 0:
            logger.info("tokenized %s examples, %s tokens", f"{len(prompt_lengths):,}", f"{starts[-1]:,}")
    return np.asarray(starts, dtype=np.int64), np.asarray(prompt_lengths, dtype=np.int32)


def build_store(folder: Path, files: Sequence[Path], tokenizer: Any) -> None:
    """Encode every example of `files` into a new store at `folder`, unless it is already there.

    Raises InputError for a bad row (nothing is left behind) or an unwritable folder.
    """
    if folder.exists():
        return
    with _moved_when_done(folder) as temporary:
        with (temporary / "tokens.bin").open("wb") as tokens, (temporary / "documents.jsonl").open("w") as documents:
            starts, prompt_lengths = _write_documents(iter_examples(files), tokenizer, tokens, documents)
        np.savez(temporary / "index.npz", starts=starts, prompt_lengths=prompt_lengths)


def open_store(folder: Path) -> TokenStore:
    """Memory-map a finished store."""
    with np.load(folder / "index.npz") as index:
        starts, prompt_lengths = index["starts"], index["prompt_lengths"]
    with (folder / "documents.jsonl").open() as file:
        documents = [json.loads(line) for line in file]
    return TokenStore(
        tokens=np.memmap(folder / "tokens.bin", dtype=np.int32, mode="r"),
        starts=starts,
        prompt_lengths=prompt_lengths,
        ids=[identity for identity, _ in documents],
        sources=[source for _, source in documents],
    )
