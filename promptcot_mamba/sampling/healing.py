"""Lines of our own files that cannot be read: named, moved aside, and made good from the file beside them."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from promptcot_mamba.jsonl import Row, decode_json, replace_atomically
from promptcot_mamba.log import logger
from promptcot_mamba.run_info import side_path


class Line(NamedTuple):
    """One line of a JSONL file; `row` is None where it cannot be read, and `trouble` says why."""

    number: int
    raw: bytes
    row: Row | None
    trouble: str = ""


def read_lines(path: Path) -> Iterator[Line]:
    """All lines of a file, readable or not."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                yield Line(number, raw, None, "blank")
                continue
            try:
                row = decode_json(raw)
            except (ValueError, RecursionError) as error:  # malformed JSON, not UTF-8, or nested too deeply
                yield Line(number, raw, None, str(error))
                continue
            if isinstance(row, dict):
                yield Line(number, raw, row)
            else:
                yield Line(number, raw, None, f"{type(row).__name__} instead of an object")


def take_out(path: Path, numbers: Collection[int], *, keep: bool = True) -> None:
    """Write a file anew without some of its lines, atomically; with `keep` they go to `X.damaged.jsonl` first."""
    damaged = side_path(path, "damaged.jsonl")
    if keep:
        with damaged.open("ab") as aside:
            aside.writelines(line.raw.rstrip(b"\n") + b"\n" for line in read_lines(path) if line.number in numbers)
    with replace_atomically(path, "wb") as file:
        file.writelines(line.raw for line in read_lines(path) if line.number not in numbers)
    if keep:
        logger.warning("%s: %d unreadable line(s) moved to %s", path, len(numbers), damaged.name)
