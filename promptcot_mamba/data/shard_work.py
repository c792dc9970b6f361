"""Second pass, one shard at a time and in any process: the rows the selection gave it -> one packed Arrow file."""

import json
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from promptcot_mamba.data.chunk_work import chunk_path
from promptcot_mamba.data.pack import pack_lengths
from promptcot_mamba.data.selection import RowTable, Selection
from promptcot_mamba.data.shards import Document, shard_name, write_shard
from promptcot_mamba.jsonl import replace_atomically, write_json
from promptcot_mamba.records import derive_seed

PLAN_FILE = "plan.arrow"
PLAN_COLUMNS = ("chunk", "offset", "length", "prompt_length", "id", "id_rest", "origin", "licence")


@dataclass(frozen=True)
class ShardContext:
    """What every shard is made from; `state` holds one small file a finished shard."""

    chunks: Path
    plan: Path
    output: Path
    state: Path
    edges: tuple[int, ...]
    dtype: str
    max_length: int
    seed: int
    origins: tuple[str, ...]
    licences: tuple[str, ...]
    ordered: bool = False  # whether the shard's documents come in an order to keep


def write_plan(path: Path, table: RowTable, selection: Selection) -> None:
    """The selected rows in final order, as columns that every worker maps."""
    columns = {name: pa.array(getattr(table, name)[selection.rows]) for name in PLAN_COLUMNS}
    batch = pa.record_batch(list(columns.values()), names=list(columns))
    with replace_atomically(path, "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def _read_tokens(context: ShardContext, chunk: np.ndarray, offset: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The documents' tokens end to end, each file read once from front to back."""
    item = np.dtype(context.dtype).itemsize
    starts = np.cumsum(length, dtype=np.int64) - length
    tokens = np.empty(int(length.sum()), dtype=context.dtype)
    view = tokens.data.cast("B")
    for number, documents in groupby(np.lexsort((offset, chunk)).tolist(), chunk.tolist().__getitem__):
        with chunk_path(context.chunks, number, "tokens").open("rb", buffering=0) as file:
            for document in documents:
                begin = int(starts[document]) * item
                size = int(length[document]) * item
                file.seek(int(offset[document]) * item)
                if file.readinto(view[begin : begin + size]) != size:
                    raise RuntimeError(f"{file.name}: shorter than its rows say; delete it and run again")
    return tokens


def make_shard(context: ShardContext, number: int) -> dict[str, Any]:
    """Write one shard unless it is there; return its line of the index."""
    state = context.state / f"{number:05d}.json"
    path = context.output / shard_name(number)
    if state.exists() and path.exists():
        return json.loads(state.read_text(encoding="utf-8"))
    start, stop = context.edges[number], context.edges[number + 1]
    with pa.memory_map(str(context.plan)) as source:
        plan = pa.ipc.open_file(source).read_all().slice(start, stop - start)
        columns = (plan[name].to_numpy() for name in PLAN_COLUMNS)
        chunk, offset, length, prompt_length, first, rest, origin, licence = columns
        tokens = _read_tokens(context, chunk, offset, length)
        starts = np.cumsum(length, dtype=np.int64) - length

        def read_document(document: int) -> Document:
            begin = starts[document]
            return Document(
                tokens[begin : begin + length[document]], int(prompt_length[document]),
                f"{first[document]:016x}{rest[document]:016x}",
                context.origins[origin[document]], context.licences[licence[document]],
            )  # fmt: skip

        rows = pack_lengths(length, context.max_length, derive_seed(context.seed, "pack", number))
        # Packing leaves full rows of long documents first: their order must not be the order of training.
        order = np.random.default_rng(derive_seed(context.seed, "rows", number)).permutation(len(rows))
        if context.ordered:
            order = np.argsort([np.mean(length[row]) for row in rows], kind="stable")
        digest = write_shard(path, [rows[row] for row in order], read_document)
        line = {
            "file": path.name, "rows": len(rows), "documents": len(length), "tokens": int(length.sum()),
            "labels": int((length - prompt_length).sum()), "bytes": path.stat().st_size, "sha256": digest,
        }  # fmt: skip
    write_json(state, line)
    return line
