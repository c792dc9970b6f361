"""Raw row files in chunks: byte ranges of JSONL, row groups of Parquet, Arrow files; no file is ever held whole.

Chunks depend on the files alone, so any number of workers sees the same ones.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row

CHUNK_BYTES = 32 << 20
BATCH_ROWS = 64  # rows of Parquet and Arrow turned into Python values at a time
READ_BUFFER = 1 << 20
JSONL_SUFFIXES = (".jsonl", ".json", ".ndjson")
SUFFIXES = (*JSONL_SUFFIXES, ".jsonl.gz", ".json.gz", ".parquet", ".arrow")


@dataclass(frozen=True)
class Chunk:
    """A part of one file: bytes [start, stop) of JSONL, row groups of Parquet, record batches of Arrow.

    `stop` None is the end of the file.
    """

    path: Path
    start: int = 0
    stop: int | None = None


def whole_file(path: Path) -> Chunk:
    return Chunk(path)


def kind_of(path: Path) -> str:
    """`jsonl`, `jsonl.gz`, `parquet` or `arrow`; raises InputError for other names."""
    name = path.name
    if name.endswith((".jsonl.gz", ".json.gz")):
        return "jsonl.gz"
    if name.endswith(JSONL_SUFFIXES):
        return "jsonl"
    if name.endswith((".parquet", ".arrow")):
        return path.suffix[1:]
    raise InputError(f"{path}: unknown format; expected a name ending in {', '.join(SUFFIXES)}")


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file for streaming; raises InputError if it is truncated or not Parquet."""
    try:
        return pq.ParquetFile(path, buffer_size=READ_BUFFER, pre_buffer=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file, download it again ({_first_line(error)})") from None


def _open_arrow(path: Path) -> pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader:
    """Arrow on disk comes as a file or as a stream (what the `datasets` library writes)."""
    source = pa.memory_map(str(path))
    try:
        return pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
    try:
        return pa.ipc.open_stream(source)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a readable Arrow file, download it again ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def plan_chunks(path: Path, chunk_bytes: int = CHUNK_BYTES) -> list[Chunk]:
    """Cut a file into chunks of about `chunk_bytes` of uncompressed data; raises InputError if empty or corrupt."""
    kind = kind_of(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    if size == 0:
        raise InputError(f"{path}: the file is empty")
    if kind == "jsonl":
        edges = [*range(0, size, chunk_bytes), size]
        return [Chunk(path, start, stop) for start, stop in pairwise(edges)]
    if kind == "parquet":
        with open_parquet(path) as file:
            sizes = [file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups)]
        chunks, start, held = [], 0, 0
        for group, group_size in enumerate(sizes):
            held += group_size
            if held >= chunk_bytes or group == len(sizes) - 1:
                chunks.append(Chunk(path, start, group + 1))
                start, held = group + 1, 0
        return chunks
    return [Chunk(path)]


def read_columns(path: Path) -> list[str]:
    """The columns of a file: its schema's, or the keys of its first JSONL row."""
    kind = kind_of(path)
    if kind == "parquet":
        with open_parquet(path) as file:
            return file.schema_arrow.names
    if kind == "arrow":
        return _open_arrow(path).schema.names
    first = next(iter_rows(Chunk(path)), None)
    if first is None:
        raise InputError(f"{path}: the file holds no rows")
    return list(first[1])


def _line_number(path: Path, offset: int) -> int:
    """Lines are counted only where one has to be named."""
    lines, left = 1, offset
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(left, READ_BUFFER))):
            lines += block.count(b"\n")
            left -= len(block)
    return lines


def parse_line(line: bytes, where: str) -> Row:
    """One JSONL line; raises InputError if it is not UTF-8, not JSON or not an object."""
    try:
        row = json.loads(line)
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 ({error.reason}); convert the file with iconv") from None
    except json.JSONDecodeError as error:
        torn = "" if line.endswith(b"\n") else "; the file ends in the middle of a line, download it again"
        raise InputError(f"{where}: malformed JSON ({error.msg}){torn}") from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected a JSON object, found {type(row).__name__}")
    return row


def _report(error: InputError, on_bad_line: Callable[[InputError], None] | None) -> None:
    if on_bad_line is None:
        raise error
    on_bad_line(error)


def _iter_jsonl(chunk: Chunk, on_bad_line: Callable[[InputError], None] | None) -> Iterator[tuple[str, Row]]:
    """The lines that begin inside the chunk."""
    with chunk.path.open("rb", buffering=READ_BUFFER) as file:
        offset = chunk.start
        if chunk.start:
            file.seek(chunk.start - 1)
            offset += len(file.readline()) - 1  # the line a neighbour began
        while chunk.stop is None or offset < chunk.stop:
            line = file.readline()
            if not line:
                return
            if line.strip():
                where = f"{chunk.path}@{offset}"
                try:
                    row = parse_line(line, where)
                except InputError as error:
                    place = f"{chunk.path}:{_line_number(chunk.path, offset)}"
                    _report(InputError(str(error).replace(where, place, 1)), on_bad_line)
                else:
                    yield where, row
            offset += len(line)


def _iter_gzip(chunk: Chunk, on_bad_line: Callable[[InputError], None] | None) -> Iterator[tuple[str, Row]]:
    try:
        with gzip.open(chunk.path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = parse_line(line, f"{chunk.path}:{number}")
                except InputError as error:
                    _report(error, on_bad_line)
                else:
                    yield f"{chunk.path}:{number}", row
    except (EOFError, OSError) as error:
        raise InputError(f"{chunk.path}: not a readable gzip file, download it again ({_first_line(error)})") from None


def _iter_batches(chunk: Chunk, batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[str, Row]]:
    number = 0
    first = f"row group {chunk.start}, row" if kind_of(chunk.path) == "parquet" else "row"
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{chunk.path}: corrupt, download it again ({_first_line(error)})") from None
        if batch is None:
            return
        for start in range(0, batch.num_rows, BATCH_ROWS):
            try:
                rows = batch.slice(start, BATCH_ROWS).to_pylist()
            except UnicodeDecodeError as error:
                raise InputError(f"{chunk.path}: {first} {number + 1} or after: not UTF-8 ({error.reason})") from None
            for row in rows:
                number += 1
                yield f"{chunk.path}: {first} {number}", row


def iter_rows(
    chunk: Chunk, columns: Sequence[str] | None = None, on_bad_line: Callable[[InputError], None] | None = None
) -> Iterator[tuple[str, Row]]:
    """Yield `(where, row)` for the rows of a chunk; of Parquet and Arrow only `columns`, those of them there are.

    Raises InputError, naming file and place, for whatever cannot be read; a JSONL line that cannot is handed to
    `on_bad_line` instead, where that is given.
    """
    kind = kind_of(chunk.path)
    if kind == "jsonl":
        yield from _iter_jsonl(chunk, on_bad_line)
    elif kind == "jsonl.gz":
        yield from _iter_gzip(chunk, on_bad_line)
    elif kind == "parquet":
        with open_parquet(chunk.path) as file:
            names = [name for name in file.schema_arrow.names if columns is None or name in columns]
            stop = file.num_row_groups if chunk.stop is None else chunk.stop
            groups = list(range(chunk.start, stop))
            batches = file.iter_batches(batch_size=BATCH_ROWS, row_groups=groups, columns=names, use_threads=False)
            yield from _iter_batches(chunk, iter(batches))
    else:
        reader = _open_arrow(chunk.path)
        names = [name for name in reader.schema.names if columns is None or name in columns]
        if isinstance(reader, pa.ipc.RecordBatchFileReader):
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            batches = iter(reader)
        yield from _iter_batches(chunk, (batch.select(names) for batch in batches))
