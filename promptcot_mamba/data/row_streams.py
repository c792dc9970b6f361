"""Rows out of bytes: JSON lines, compressed files, and JSON arrays taken apart without holding them."""

import codecs
import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row

READ_BUFFER = 1 << 20
ARRAY_START = b"\xef\xbb\xbf \t\r\n"  # what may stand before the bracket


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def parse_line(line: bytes, where: str) -> Row:
    """One JSONL line; raises InputError if it is not UTF-8, not JSON or not an object."""
    try:
        row = json.loads(line.decode("utf-8-sig"))  # of bytes json would take UTF-16, too, whose lines are cut wrongly
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 ({error.reason}); convert the file with iconv") from None
    except json.JSONDecodeError as error:
        torn = "" if line.endswith(b"\n") else "; the file ends in the middle of a line, download it again"
        if line.strip() == b"{":
            torn = "; one object over several lines: write one object a line, or an array of them"
        raise InputError(f"{where}: malformed JSON ({error.msg}){torn}") from None
    except RecursionError:
        raise InputError(f"{where}: nested too deeply to be a row") from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected a JSON object, found {type(row).__name__}")
    return row


def report(error: InputError, on_bad_line: Callable[[InputError], None] | None) -> None:
    if on_bad_line is None:
        raise error
    on_bad_line(error)


def parse(line: bytes, where: str, on_bad_line: Callable[[InputError], None] | None) -> Iterator[tuple[str, Row]]:
    if not line.strip():
        return
    try:
        yield where, parse_line(line, where)
    except InputError as error:
        report(error, on_bad_line)


def open_stream(path: Path) -> IO[bytes]:
    """A file's bytes, decompressed."""
    if path.name.endswith(".gz"):
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.name.endswith(".zst"):
        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"), READ_BUFFER)
    return path.open("rb", buffering=READ_BUFFER)


def is_packed_array(path: Path) -> bool:
    try:
        with open_stream(path) as stream:
            return stream.read(READ_BUFFER).lstrip(ARRAY_START).startswith(b"[")
    except (EOFError, OSError) as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: Exception) -> InputError:
    kind = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix, path.suffix[1:])
    return InputError(f"{path}: not a readable {kind} file, download it again ({first_line(error)})")


def iter_array(path: Path, stream: IO[bytes]) -> Iterator[tuple[str, Row]]:
    """The objects of one JSON array, without holding the file: each is decoded as soon as it is whole."""
    reader, decoder = codecs.getreader("utf-8-sig")(stream), json.JSONDecoder()
    text, at, number, begun, ended = "", 0, 0, False, False
    while True:
        while at < len(text) and (text[at].isspace() or text[at] == "," or (text[at] == "[" and not begun)):
            begun = begun or text[at] == "["
            at += 1
        if at < len(text) and text[at] == "]":
            return
        try:
            if at == len(text):
                raise json.JSONDecodeError("the array does not end", text, at)
            row, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            if ended:
                where = f"{path}: item {number + 1}"
                raise InputError(f"{where}: malformed JSON ({error.msg}); download the file again") from None
            try:
                more = reader.read(max(READ_BUFFER, len(text) - at))
            except UnicodeDecodeError as bad:
                raise InputError(f"{path}: not UTF-8 ({bad.reason}); convert the file with iconv") from None
            text, at, ended = text[at:] + more, 0, not more
            continue
        number += 1
        if not isinstance(row, dict):
            raise InputError(f"{path}: item {number}: expected a JSON object, found {type(row).__name__}")
        yield f"{path}: item {number}", row
