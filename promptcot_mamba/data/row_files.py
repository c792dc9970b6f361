"""Raw row files in chunks: byte ranges of JSONL, row groups of Parquet, batches of Arrow; no file is ever held whole.

Chunks depend on the files alone, so any number of workers sees the same ones. What cannot be entered in the middle
(compressed JSONL, a JSON document, a table) is read from front to back, or unpacked to JSONL first (`unpack`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from promptcot_mamba.data.row_streams import (
    READ_BUFFER,
    UNPACKING,
    find_document,
    first_line,
    is_pointer,
    iter_document,
    iter_table,
    open_stream,
    parse,
    unreadable,
)
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row, dump_row, replace_atomically

CHUNK_BYTES = 32 << 20
PIECE_BYTES = 128 << 20  # a larger row group is cut; every piece decodes what stands before it...
MAX_PIECES = 16  # ...so there are only so many
BATCH_ROWS = 64  # rows of Parquet and Arrow turned into Python values at a time
JSONL_SUFFIXES = (".jsonl", ".json", ".ndjson")
PACKED_SUFFIXES = tuple(f"{suffix}{packing}" for suffix in JSONL_SUFFIXES for packing in (".gz", ".zst"))
TABLE_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
SUFFIXES = (*JSONL_SUFFIXES, *PACKED_SUFFIXES, ".parquet", ".arrow", *TABLE_SUFFIXES)
STREAMED = ("packed", "document", "table")  # kinds that have no middle to enter at


@dataclass(frozen=True)
class Chunk:
    """A part of one file: bytes [start, stop) of JSONL, row groups of Parquet, record batches of Arrow.

    `stop` None is the end of the file. `lines` are those that end before `start`; `rows` [first, last) is a part of a
    single row group; `name` is the file that a reader is told of.
    """

    path: Path
    start: int = 0
    stop: int | None = None
    lines: int = 0
    rows: tuple[int, int] | None = None
    name: str | None = None

    @property
    def shown(self) -> str:
        return self.name or str(self.path)


def kind_of(path: Path) -> str:
    """`jsonl`, `packed`, `document`, `table`, `parquet` or `arrow`; raises InputError for other names.

    A file named as JSON is a document (an array, or an object around one) if it begins as one, else JSON Lines.
    """
    name = path.name
    if is_pointer(path):
        raise InputError(
            f"{path}: a Git LFS pointer, not the data; fetch it with `git lfs pull`, or download it from the hub"
        )
    if name.endswith(PACKED_SUFFIXES):
        return "packed"
    if name.endswith(TABLE_SUFFIXES):
        return "table"
    if name.endswith(JSONL_SUFFIXES):
        return "jsonl" if not path.is_file() or find_document(path) is None else "document"
    if name.endswith((".parquet", ".arrow")):
        return path.suffix[1:]
    raise InputError(f"{path}: unknown format; expected a name ending in {', '.join(SUFFIXES)}")


def saved_files(folder: Path) -> list[Path] | None:
    """The Arrow files of a folder that `datasets` saved, in the order of its rows; None for any other folder.

    Raises InputError for several splits, of which none is called train, and for a folder that cannot be opened.
    """
    if not any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return None
    from datasets import DatasetDict, load_from_disk

    try:
        found = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, pa.ArrowInvalid) as error:
        raise InputError(f"{folder}: not a readable save_to_disk folder ({str(error).splitlines()[0]})") from None
    if isinstance(found, DatasetDict):
        if "train" not in found and len(found) != 1:
            raise InputError(f"{folder}: has the splits {', '.join(found)}; name one of their folders")
        found = found["train"] if "train" in found else next(iter(found.values()))
    return [Path(file["filename"]) for file in found.cache_files]


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file for streaming; raises InputError if it is truncated or not Parquet."""
    try:
        return pq.ParquetFile(path, buffer_size=READ_BUFFER, pre_buffer=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file, download it again ({first_line(error)})") from None


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
        raise InputError(f"{path}: not a readable Arrow file, download it again ({first_line(error)})") from None


def _plan_lines(path: Path, size: int, chunk_bytes: int) -> list[Chunk]:
    """Byte ranges of JSONL, with the lines before each, so that every row can be named by its line."""
    chunks, lines = [], 0
    with path.open("rb", buffering=0) as file:
        for start, stop in pairwise([*range(0, size, chunk_bytes), size]):
            chunks.append(Chunk(path, start, stop, lines))
            left = stop - 1 - file.tell()  # up to the byte before the next chunk, whose line this chunk ends
            while left > 0 and (block := file.read(min(left, READ_BUFFER))):
                lines += block.count(b"\n")
                left -= len(block)
    return chunks


def _plan_parts(path: Path, sizes: Sequence[int], chunk_bytes: int) -> list[Chunk]:
    """Runs of row groups or record batches of about `chunk_bytes`."""
    chunks, start, held = [], 0, 0
    for part, size in enumerate(sizes):
        held += size
        if held >= chunk_bytes or part == len(sizes) - 1:
            chunks.append(Chunk(path, start, part + 1))
            start, held = part + 1, 0
    return chunks


def _cut_groups(chunks: list[Chunk], sizes: Sequence[int], rows: Sequence[int]) -> list[Chunk]:
    """Chunks of one row group larger than PIECE_BYTES in pieces, so that a killed run loses a piece at most."""
    cut = []
    for chunk in chunks:
        pieces = min(MAX_PIECES, max(1, sizes[chunk.start] // PIECE_BYTES)) if chunk.stop == chunk.start + 1 else 1
        count = rows[chunk.start]
        edges = [count * piece // pieces for piece in range(pieces + 1)]
        cut += [chunk] if pieces == 1 else [replace(chunk, rows=edge) for edge in pairwise(edges)]
    return cut


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
        return _plan_lines(path, size, chunk_bytes)
    if kind == "parquet":
        with open_parquet(path) as file:
            groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
        sizes = [group.total_byte_size for group in groups]
        return _cut_groups(_plan_parts(path, sizes, chunk_bytes), sizes, [group.num_rows for group in groups])
    if kind == "arrow":
        return _plan_parts(path, [batch.nbytes for batch in _arrow_batches(_open_arrow(path))], chunk_bytes)
    return [Chunk(path)]


def unpack(path: Path, target: Path) -> None:
    """Write a compressed file, a JSON document or a table as JSONL, row n of it as line n, unless that is there."""
    if target.exists():
        return
    with replace_atomically(target, "wb") as file:
        if kind_of(path) in ("document", "table") or find_document(path) is not None:
            for _, row in iter_rows(Chunk(path)):
                file.write(dump_row(row))
            return
        try:
            with open_stream(path) as stream:
                while block := stream.read(READ_BUFFER):
                    file.write(block)
        except UNPACKING as error:
            raise unreadable(path, error) from None


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


def _iter_jsonl(chunk: Chunk, on_bad_line: Callable[[InputError], None] | None) -> Iterator[tuple[str, Row]]:
    """The lines that begin inside the chunk."""
    with chunk.path.open("rb", buffering=READ_BUFFER) as file:
        offset, number = chunk.start, chunk.lines
        if chunk.start:
            file.seek(chunk.start - 1)
            offset += len(file.readline()) - 1  # the line a neighbour began
            number += 1
        while chunk.stop is None or offset < chunk.stop:
            line = file.readline()
            if not line:
                return
            number += 1
            offset += len(line)
            yield from parse(line, f"{chunk.shown}:{number}", on_bad_line)


def _iter_stream(
    chunk: Chunk, kind: str, on_bad_line: Callable[[InputError], None] | None
) -> Iterator[tuple[str, Row]]:
    """Rows of a file that can only be read from its front: compressed lines, a JSON document or a table."""
    begin = None if kind == "table" else find_document(chunk.path)
    try:
        with open_stream(chunk.path) as stream:
            if kind == "table":
                yield from iter_table(chunk.path, stream)
                return
            if begin is not None:
                yield from iter_document(chunk.path, stream, begin)
                return
            for number, line in enumerate(stream, start=1):
                yield from parse(line, f"{chunk.path}:{number}", on_bad_line)
    except UNPACKING as error:
        raise unreadable(chunk.path, error) from None


def _arrow_batches(reader: pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        return (reader.get_batch(index) for index in range(reader.num_record_batches))
    return iter(reader)


def _iter_batches(chunk: Chunk, batches: Iterator[pa.RecordBatch], unit: str) -> Iterator[tuple[str, Row]]:
    """Rows of record batches; of a cut row group those of the piece."""
    number = 0
    first = f"{unit} {chunk.start}, row"
    skip, stop = chunk.rows or (0, None)
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{chunk.path}: corrupt, download it again ({first_line(error)})") from None
        if batch is None:
            return
        if number + batch.num_rows <= skip:
            number += batch.num_rows
            continue
        for start in range(0, batch.num_rows, BATCH_ROWS):
            try:
                rows = batch.slice(start, BATCH_ROWS).to_pylist()
            except UnicodeDecodeError as error:
                raise InputError(f"{chunk.path}: {first} {number + 1} or after: not UTF-8 ({error.reason})") from None
            for row in rows:
                number += 1
                if stop is not None and number > stop:
                    return
                if number > skip:
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
    elif kind in STREAMED:
        yield from _iter_stream(chunk, kind, on_bad_line)
    elif kind == "parquet":
        with open_parquet(chunk.path) as file:
            names = [name for name in file.schema_arrow.names if columns is None or name in columns]
            stop = file.num_row_groups if chunk.stop is None else chunk.stop
            groups = list(range(chunk.start, stop))
            batches = file.iter_batches(batch_size=BATCH_ROWS, row_groups=groups, columns=names, use_threads=False)
            yield from _iter_batches(chunk, iter(batches), "row group")
    else:
        reader = _open_arrow(chunk.path)
        names = [name for name in reader.schema.names if columns is None or name in columns]
        batches = islice(_arrow_batches(reader), chunk.start, chunk.stop)
        yield from _iter_batches(chunk, (batch.select(names) for batch in batches), "batch")
