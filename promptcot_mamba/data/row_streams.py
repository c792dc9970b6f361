"""Rows out of bytes: JSON lines, compressed files, and JSON arrays taken apart without holding them."""

import codecs
import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row

READ_BUFFER = 1 << 20
ARRAY_START = b"\xef\xbb\xbf \t\r\n"  # what may stand before the bracket
UNPACKING = (EOFError, OSError, zlib.error)  # what a damaged compressed file raises
# Keys under which an object holds all rows: of APIs, of a training split, LMFlow's, the hub viewer's.
WRAPPERS = ("data", "train", "instances", "rows")
POINTER, POINTER_BYTES = b"version https://git-lfs.github.com/spec/", 1024
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)  # NaN, Infinity: what pandas writes where nothing is
_BLANK, _OBJECTS = re.compile(r"[\s,:]*"), re.compile(r"\[\s*\{")


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def parse_line(line: bytes, where: str) -> Row:
    """One JSONL line; raises InputError if it is not UTF-8, not JSON or not an object."""
    try:
        row = _DECODER.decode(
            line.decode("utf-8-sig")
        )  # of bytes json would take UTF-16, too, whose lines are cut wrongly
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


def is_pointer(path: Path) -> bool:
    """Whether a file is what a clone without Git LFS holds in the place of a large one."""
    if not path.is_file() or path.stat().st_size > POINTER_BYTES:
        return False
    with path.open("rb") as file:
        return file.read(len(POINTER)) == POINTER


def open_stream(path: Path) -> IO[bytes]:
    """A file's bytes, decompressed."""
    if path.name.endswith(".gz"):
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.name.endswith(".zst"):
        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"), READ_BUFFER)
    return path.open("rb", buffering=READ_BUFFER)


def find_document(path: Path) -> int | None:
    """Where the rows of a JSON document begin, in bytes, None for a file of one object a line.

    A document is an array, an object that holds one under a key of WRAPPERS, or objects over several lines each.
    """
    try:
        with open_stream(path) as stream:
            head = stream.read(READ_BUFFER)
    except UNPACKING as error:
        raise unreadable(path, error) from None
    text = head.lstrip(ARRAY_START)
    begin = len(head) - len(text)
    first, _, rest = text.partition(b"\n")
    if not text.startswith((b"[", b"{")) or (rest.strip() and _is_json(first)):
        return None
    if text.startswith(b"["):
        return begin
    array = _find_wrapped(text.decode("utf-8", "replace"))
    if array is not None:
        return begin + array
    return begin if first.strip() == b"{" else None


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _find_wrapped(text: str) -> int | None:
    """Where the array of objects under a key of WRAPPERS begins, in bytes; what stands before it is read over."""
    decoder, at = json.JSONDecoder(), 1
    try:
        while True:
            key, at = decoder.raw_decode(text, _BLANK.match(text, at).end())  # type: ignore[union-attr]
            at = _BLANK.match(text, at).end()  # type: ignore[union-attr]
            if key in WRAPPERS and _OBJECTS.match(text, at):
                return len(text[:at].encode())
            _, at = decoder.raw_decode(text, at)
    except (json.JSONDecodeError, RecursionError):
        return None  # no such key, as far as one sees


def unreadable(path: Path, error: Exception) -> InputError:
    kind = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix, path.suffix[1:])
    return InputError(f"{path}: not a readable {kind} file, download it again ({first_line(error)})")


def iter_document(path: Path, stream: IO[bytes], begin: int) -> Iterator[tuple[str, Row]]:
    """The objects of a JSON document from `begin` on, without holding the file: each is decoded once it is whole."""
    stream.read(begin)
    reader, decoder = codecs.getreader("utf-8")(stream), _DECODER
    text, at, number, begun, ended = "", 0, 0, False, False
    while True:
        while at < len(text) and (text[at].isspace() or text[at] == "," or (text[at] == "[" and not begun)):
            begun = begun or text[at] == "["
            at += 1
        if at < len(text) and text[at] == "]":
            return
        try:
            if at == len(text):
                if ended and number and not begun:
                    return  # objects one after the other
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
        yield f"{path}: item {number}", row["row"] if row.keys() >= {"row_idx", "row"} else row  # the hub's viewer


def iter_table(path: Path, stream: IO[bytes]) -> Iterator[tuple[str, Row]]:
    """The rows of a file of values separated by commas, tabs or semicolons, under the names of its first line.

    Raises InputError for text that is not UTF-8, cells without a name, and a quotation that does not end.
    """
    csv.field_size_limit(sys.maxsize)  # 128 KiB: shorter than a chain of thought
    with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
        place = str(path)
        try:
            names = text.readline()
            separator = "\t" if ".tsv" in path.suffixes else ";" if ";" in names and "," not in names else ","
            header = next(csv.reader([names], delimiter=separator), [])
            reader = csv.reader(text, delimiter=separator, strict=True)
            place = f"{path}:{reader.line_num + 2}"
            for cells in reader:
                if len(cells) > len(header):
                    raise InputError(f"{place}: {len(cells)} cells, but the first line names {len(header)} columns")
                if cells:
                    yield place, dict(zip(header, cells, strict=False))
                place = f"{path}:{reader.line_num + 2}"
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 ({error.reason}); convert the file with iconv") from None
        except csv.Error as error:
            raise InputError(f"{place}: not a readable table ({error}); download the file again") from None
