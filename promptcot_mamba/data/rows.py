"""Training rows on disk -> examples: `prompt`, `completion` in JSONL or Parquet, as files, folders or globs."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row, iter_jsonl
from promptcot_mamba.records import problem_id

JSONL_SUFFIXES = (".jsonl", ".json", ".ndjson")
PARQUET_SUFFIXES = (".parquet",)
ROW_SUFFIXES = JSONL_SUFFIXES + PARQUET_SUFFIXES
PARQUET_BATCH_ROWS = 1024
HASH_BLOCK = 1 << 22  # bytes


@dataclass(frozen=True)
class Example:
    """One supervised example as read: the text before the loss, the text under it, and where it came from."""

    id: str
    source: str
    prompt: str
    completion: str


def find_row_files(data_path: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files that a `--data_path` names, in sorted order: a file, a folder's row files, a glob, or several of these.

    Raises InputError if a path names nothing, or a file of another format.
    """
    if not isinstance(data_path, (str, Path)):
        return [file for part in data_path for file in find_row_files(part)]
    path = Path(data_path)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in ROW_SUFFIXES and file.is_file())
        # Side files of a prepared folder (X.run.json) are not rows.
        files = [file for file in files if not file.name.endswith(".run.json")]
        if not files:
            raise InputError(f"--data_path {data_path}: no {', '.join(ROW_SUFFIXES)} file in this folder")
        return files
    names = [path] if path.is_file() else glob.glob(str(data_path), recursive=True)  # noqa: PTH207 (may be absolute)
    files = sorted(Path(name) for name in names)
    if not files:
        raise InputError(f"--data_path {data_path}: no such file, folder or glob")
    for file in files:
        if file.suffix not in ROW_SUFFIXES:
            raise InputError(f"{file}: unknown format; expected one of {', '.join(ROW_SUFFIXES)}")
    return files


def hash_files(files: Sequence[Path]) -> str:
    """A hash of the files' contents, in order; their names and places do not matter."""
    whole = hashlib.blake2b(digest_size=16)
    for file in files:
        one = hashlib.blake2b(digest_size=16)
        with file.open("rb") as stream:
            while block := stream.read(HASH_BLOCK):
                one.update(block)
        whole.update(one.digest())
    return whole.hexdigest()


def _iter_parquet(path: Path) -> Iterator[tuple[int, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from None
    with file:
        number = 0
        for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield number, row


def iter_examples(files: Sequence[Path]) -> Iterator[Example]:
    """Read examples one by one, file after file.

    An example's id is its row's own (`id`, `question_id`...), else `file name:row number`; its source is the row's
    `source`, else the file's stem.

    Raises InputError naming file and row (line of a JSONL file) if `prompt` or `completion` is missing or empty, and
    naming the file if it holds no row.
    """
    for file in files:
        number = 0
        rows = _iter_parquet(file) if file.suffix in PARQUET_SUFFIXES else iter_jsonl(file)
        for number, row in rows:
            where = f"{file}:{number}"
            for key in ("prompt", "completion"):
                if key not in row:
                    raise InputError(f"{where}: missing key {key!r}; found {', '.join(row) or 'nothing'}")
                if not isinstance(row[key], str) or not row[key].strip():
                    raise InputError(f"{where}: {key!r} must be a non-empty text")
            yield Example(
                id=problem_id(row) or f"{file.name}:{number}",
                source=str(row.get("source") or file.stem),
                prompt=row["prompt"],
                completion=row["completion"],
            )
        if number == 0:
            raise InputError(f"{file}: the file is empty, expected rows with 'prompt' and 'completion'")
