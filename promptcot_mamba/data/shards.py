"""Packed token shards: Arrow files whose rows are read in place, with an index and a manifest beside them.

A folder of shards is `shard-00000.arrow` ..., `index.json` (rows and hash of each), `manifest.json` (what they were
made from), `report.md`. A row is `input_ids`, `labels` (int32), `cu_seqlens` (int32: where its documents begin, then
its length), `example_ids` (hex content hashes), `origins` and `licences` (of each document; not in old shards).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from promptcot_mamba.data.encode import IGNORE_INDEX
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import hash_file, replace_atomically

INDEX_FILE = "index.json"
MANIFEST_FILE = "manifest.json"
ROWS_PER_BATCH = 64
SCHEMA = pa.schema([
    ("input_ids", pa.list_(pa.int32())),
    ("labels", pa.list_(pa.int32())),
    ("cu_seqlens", pa.list_(pa.int32())),
    ("example_ids", pa.list_(pa.string())),
    ("origins", pa.list_(pa.string())),
    ("licences", pa.list_(pa.string())),
])  # fmt: skip


class Document(NamedTuple):
    """One document of a packed row."""

    input_ids: np.ndarray  # (l)
    prompt_length: int
    example_id: str
    origin: str
    licence: str


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.arrow"


def _lists(parts: Sequence[np.ndarray]) -> pa.ListArray:
    edges = np.cumsum([0, *map(len, parts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(edges), pa.array(np.concatenate(parts)))


def make_batch(rows: Sequence[Sequence[Document]]) -> pa.RecordBatch:
    """Rows of documents as one record batch."""
    ids, labels, edges = [], [], []
    for row in rows:
        row_ids = np.concatenate([document.input_ids for document in row]).astype(np.int32)  # (l)
        row_edges = np.cumsum([0, *(len(document.input_ids) for document in row)]).astype(np.int32)  # (docs + 1)
        row_labels = row_ids.copy()
        for start, document in zip(row_edges, row, strict=False):
            row_labels[start : start + document.prompt_length] = IGNORE_INDEX
        ids.append(row_ids)
        labels.append(row_labels)
        edges.append(row_edges)
    texts = [
        pa.array([[getattr(document, name) for document in row] for row in rows], pa.list_(pa.string()))
        for name in ("example_id", "origin", "licence")
    ]
    return pa.record_batch([_lists(ids), _lists(labels), _lists(edges), *texts], schema=SCHEMA)


def write_shard(path: Path, rows: Sequence[Sequence[int]], read_document: Any) -> str:
    """Write rows of document numbers; `read_document(number)` gives a Document.

    The file appears whole or not at all. Returns its sha256.
    """
    with replace_atomically(path, "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        for start in range(0, len(rows), ROWS_PER_BATCH):
            batch = rows[start : start + ROWS_PER_BATCH]
            writer.write_batch(make_batch([[read_document(number) for number in row] for row in batch]))
    return hash_file(path)


def is_shard_folder(path: str | Path) -> bool:
    return (Path(path) / MANIFEST_FILE).is_file()


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """A shard folder's manifest; raises InputError if the folder was never finished."""
    path = Path(folder) / MANIFEST_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{folder}: no {MANIFEST_FILE}; not a folder of shards, or not finished: run scripts.prepare_sft_data again"
        ) from None


class ShardRows:
    """Packed rows as a map-style dataset: `len(rows)`, `rows[i]`, the same `i` in every process.

    `rows[i]` is `{"input_ids", "labels", "lengths", "example_ids"}`, the arrays views of the mapped file: nothing is
    copied and nothing held. Which rows a rank reads, and in which order, is the sampler's business.

    Raises InputError if a shard is missing or is not of the size the index says.
    """

    packed = True

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.manifest = read_manifest(folder)
        self._shards = json.loads((self.folder / INDEX_FILE).read_text(encoding="utf-8"))["shards"]
        self._starts = np.cumsum([0, *(shard["rows"] for shard in self._shards)])
        self._readers: dict[int, pa.ipc.RecordBatchFileReader] = {}
        self._batches: dict[int, tuple[int, pa.RecordBatch]] = {}
        for shard in self._shards:
            path = self.folder / shard["file"]
            if not path.is_file() or path.stat().st_size != shard["bytes"]:
                raise InputError(f"{path}: missing or not {shard['bytes']} bytes long; copy or prepare it again")

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": {}, "_batches": {}}  # maps are opened anew in each worker

    @property
    def max_length(self) -> int:
        return int(self.manifest["max_length"])

    @property
    def ordered(self) -> bool:
        """Whether training is to take the rows in the order they have (a curriculum), not shuffled."""
        return self.manifest.get("recipe", {}).get("order", "shuffled") != "shuffled"

    @property
    def fill(self) -> float:
        """The share of `rows x max_length` that holds tokens."""
        return self.manifest["counts"]["tokens"] / (len(self) * self.max_length)

    def check(self, *, max_length: int, tokenizer_hash: str) -> None:
        """Raise InputError unless the shards were made for this length and this tokenizer."""
        if self.max_length != max_length:
            raise InputError(
                f"{self.folder}: packed for --max_length {self.max_length}, training asks for {max_length}; "
                f"pass --max_length {self.max_length} or prepare the shards again"
            )
        if self.manifest["tokenizer_hash"] != tokenizer_hash:
            raise InputError(
                f"{self.folder}: tokenised by another tokenizer ({self.manifest['tokenizer_hash']}, "
                f"--tokenizer_path has {tokenizer_hash}); pass the one it was prepared with or prepare the shards again"
            )

    def _batch(self, shard: int, number: int) -> pa.RecordBatch:
        held = self._batches.get(shard)
        if held is not None and held[0] == number:
            return held[1]
        reader = self._readers.get(shard)
        if reader is None:
            source = pa.memory_map(str(self.folder / self._shards[shard]["file"]))
            reader = self._readers[shard] = pa.ipc.open_file(source)
        batch = reader.get_batch(number)
        self._batches[shard] = (number, batch)
        return batch

    def __getitem__(self, row: int) -> dict[str, Any]:
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        row %= len(self)
        shard = int(np.searchsorted(self._starts, row, side="right")) - 1
        number, within = divmod(row - int(self._starts[shard]), ROWS_PER_BATCH)
        batch = self._batch(shard, number)
        ids, labels, edges = (
            batch.column(name)[within].values.to_numpy(zero_copy_only=True) for name in SCHEMA.names[:3]
        )
        return {
            "input_ids": ids,  # (l)
            "labels": labels,  # (l)
            "lengths": np.diff(edges),  # (docs)
            "example_ids": batch.column("example_ids")[within].as_py(),
        }
