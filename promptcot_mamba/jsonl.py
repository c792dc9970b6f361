"""JSON Lines on disk: read with line numbers, append durably, replace atomically, one writer at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import socket
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, AnyStr, NamedTuple

import msgspec

from promptcot_mamba.errors import InputError
from promptcot_mamba.log import logger

Row = dict[str, Any]
# What flock says where a file system has none: Lustre without -o flock, NFS without lockd, some FUSE.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
_dump_short = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode  # `json.dumps` makes one each time
LONG_TEXT = 2048  # characters of a text that msgspec writes sooner than json, its place in the line included


def decode_json(data: AnyStr, strict: Callable[[AnyStr], Any] = json.loads) -> Any:
    """What `json.loads` makes of JSON, in a fifth of its time. What is none (or nearly: NaN, lone surrogates, other
    encodings) is handed to `strict`, which reads it or raises."""
    try:
        return msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return strict(data)


def dump_json(value: Any) -> bytes:
    """A value as JSON without blanks, in UTF-8; NaN is null there, and a lone surrogate is escaped."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def iter_jsonl(path: str | Path) -> Iterator[tuple[int, Row]]:
    """Yield `(line_number, row)` from a file, counting lines from 1 and skipping blank ones.

    NaN and Infinity, which pandas and json.dumps write and JSON has not, are read as null; the first is named.
    Raises InputError, naming file and line, if a line is not UTF-8 JSON or not an object.
    """
    path = Path(path)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, expected a JSONL file") from None
    odd: list[str] = []
    decoder = json.JSONDecoder(parse_constant=odd.append, parse_float=_finite)  # `append` returns None
    with file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            named = bool(odd)
            try:
                row = decode_json(line.decode("utf-8-sig", errors="surrogatepass"), decoder.decode)
            except UnicodeDecodeError as error:
                raise InputError(f"{path}:{number}: not UTF-8 ({error.reason})") from None
            except RecursionError:
                raise InputError(f"{path}:{number}: nested too deeply to be a row") from None
            except ValueError as error:
                raise InputError(f"{path}:{number}: malformed JSON ({getattr(error, 'msg', error)})") from None
            if odd and not named:
                logger.warning("%s:%d: %s is not JSON; it is read as null, here and below", path, number, odd[0])
            if not isinstance(row, dict):
                raise InputError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
            yield number, row


class Line(NamedTuple):
    """One line of a JSONL file; `row` is None where it cannot be read, and `trouble` says why."""

    number: int
    raw: bytes
    row: Row | None
    trouble: str = ""


def read_lines(path: Path) -> Iterator[Line]:
    """All lines of a file of our own, readable or not; of a file that is not there none."""
    with path.open("rb") if path.exists() else contextlib.nullcontext(()) as file:
        for number, raw in enumerate(file, start=1):
            row, trouble = None, ""
            try:
                row = decode_json(raw, _decode_utf8)
            except (ValueError, RecursionError) as error:  # malformed JSON, not UTF-8, or nested too deeply
                trouble = "NUL bytes, as a power loss leaves them" if b"\0" in raw else str(error)
            if not raw.strip():
                trouble = "blank"
            elif not trouble and not isinstance(row, dict):
                row, trouble = None, f"{type(row).__name__} instead of an object"
            yield Line(number, raw, row, trouble)


def _decode_utf8(data: bytes) -> Any:
    """`json.loads` itself takes bytes with NULs for UTF-32."""
    return json.loads(data.decode("utf-8-sig", "surrogatepass"))


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):  # it would be written as Infinity
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def read_jsonl(path: str | Path) -> list[Row]:
    """Read a whole file; raises InputError if it holds no rows (and as `iter_jsonl` does)."""
    rows = [row for _, row in iter_jsonl(path)]
    if not rows:
        raise InputError(f"{path}: the file is empty, expected one JSON object a line")
    return rows


def dump_row(row: Row) -> bytes:
    """One row as a UTF-8 line, as `json.dumps` writes it; its long texts by msgspec, to the same bytes in a sixth of
    the time.

    Lone surrogates, which a model's bytes can decode to, are escaped rather than refused.
    """
    try:
        if any(type(value) is str and len(value) >= LONG_TEXT for value in row.values()):
            return b"{" + b", ".join(_dump_fields(row)) + b"}\n"
        return _dump_short(row).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(row, ensure_ascii=True, allow_nan=False).encode() + b"\n"


def _dump_fields(row: Row) -> Iterator[bytes]:
    short: Row = {}
    for name, value in row.items():
        if type(value) is not str or len(value) < LONG_TEXT:
            short[name] = value
            continue
        if short:
            yield _dump_short(short)[1:-1].encode()
            short = {}
        yield json.dumps({name: ""}, ensure_ascii=False)[1:-3].encode() + msgspec.json.encode(value)
    if short:
        yield _dump_short(short)[1:-1].encode()


def join_halves(text: str) -> str:
    """A text as it is read back from JSON: two halves of a character beside one another (UTF-16 surrogates, which some
    servers stream in two events) are that character; what stands alone stays."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def checksum(text: str) -> int:
    """CRC-32 of a text's UTF-8, halves of characters included."""
    return zlib.crc32(join_halves(text).encode("utf-8", "surrogatepass"))


def repair_torn_tail(path: str | Path, keep: Path | None = None) -> int:
    """Cut an unfinished last line that a killed writer left; return the number of bytes removed.

    With `keep` it is appended to that file first, and said with its number, for it may be no writer of ours that tore
    it. A last row that is whole but for its newline, as editors and `head -c` leave it, is given one.
    """
    path = Path(path)
    if not path.exists():
        return 0
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        end = size
        while end > 0:  # walk back block by block to the last newline: a torn line may be long
            start = max(0, end - 65536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end == size:
            return 0
        file.seek(end)
        torn = file.read()
        if _is_row(torn):
            file.write(b"\n")
            return 0
        if keep is not None:
            with keep.open("ab") as aside:
                aside.write(torn + b"\n")
            file.seek(0)
            number = 1 + sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
            logger.warning("%s:%d: unreadable (torn off); moved to %s", path, number, keep.name)
        file.truncate(end)
        os.fsync(file.fileno())
    if keep is None:
        logger.info("%s: removed a torn last line (%d bytes)", path, size - end)
    return size - end


def _is_row(line: bytes) -> bool:
    try:
        return isinstance(decode_json(line), dict)
    except (ValueError, RecursionError):
        return False


def _lock(file: IO[bytes], path: Path) -> None:
    """Lock an open file against other processes; raises InputError, the file closed, where that cannot be."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except BlockingIOError:
        trouble = "another process is writing this file; wait for it or stop it"
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        mount = next(folder for folder in path.absolute().parents if folder.is_mount())
        trouble = (
            f"cannot be locked against a second writer ({error.strerror}); mount {mount} with -o flock (Lustre) or "
            "-o local_lock=flock (NFS), or write to a local disk"
        )
    file.close()
    raise InputError(f"{path}: {trouble}")


class DurableAppender(contextlib.AbstractContextManager["DurableAppender"]):
    """Append rows to a file: each flushed to the kernel at once, synced to disk at least every `sync_seconds`.

    A killed process loses nothing it appended; a machine that loses power loses at most `sync_seconds`.
    The file is locked against a second writer for as long as it is open; call `sync_if_due` on idle ticks.

    What a torn last line held goes to `torn_to`, where there is one.

    Raises InputError if another process holds the file, or it cannot be locked or written.
    """

    def __init__(self, path: str | Path, sync_seconds: float = 1.0, *, torn_to: Path | None = None):
        self.path = Path(path)
        self.sync_seconds = sync_seconds
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab", buffering=0)  # one write a row, nothing left to flush
        except OSError as error:
            raise InputError(f"{path}: cannot write here ({error.strerror})") from None
        _lock(self._file, self.path)
        repair_torn_tail(self.path, torn_to)
        self._end, self._is_touched = self._file.seek(0, os.SEEK_END), False
        self._dirty = False
        self._synced = time.monotonic()

    def append(self, row: Row) -> int:
        """Append one row and return the offset of its line; on a full disk the torn line is cut, OSError travels."""
        return self.append_lines(dump_row(row))

    def append_lines(self, lines: bytes) -> int:
        """`append`, of rows that are dumped already: all of them or none."""
        start = self._file.seek(0, os.SEEK_END)
        rest = memoryview(lines)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._file.truncate(start)
            error.filename = str(self.path)  # `write` knows a number only
            raise
        self._is_touched |= start != self._end
        self._end = start + len(lines)
        self._dirty = True
        self.sync_if_due()
        return start

    def is_untouched(self) -> bool:
        """Whether the path holds what was appended: nobody has cut the file or put another in its place.

        By sizes alone: some file systems give a file that is open another inode than its path.
        """
        sizes = self._file.seek(0, os.SEEK_END), self.path.stat().st_size if self.path.exists() else None
        return sizes == (self._end, self._end) and not self._is_touched

    def sync_if_due(self) -> None:
        """Sync if the last sync is `sync_seconds` ago; to be called on idle ticks."""
        if self._dirty and time.monotonic() - self._synced >= self.sync_seconds:
            self.sync()

    def fileno(self) -> int:
        return self._file.fileno()

    def sync(self) -> None:
        """Force what was appended to disk."""
        if self._dirty:
            os.fsync(self._file.fileno())
            self._dirty = False
        self._synced = time.monotonic()

    def close(self) -> None:
        if not self._file.closed:
            self.sync()
            self._file.close()

    def __exit__(self, *exc: object) -> None:
        self.close()


@contextlib.contextmanager
def replace_atomically(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary neighbour for writing and move it over `path` once the block ends well.

    A link stays, and what it leads to is replaced. On any error `path` is left as it was and the temporary file is
    removed.
    """
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = temporary.open(mode, encoding=None if "b" in mode else "utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot write here ({error.strerror})") from None
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a write says only that it failed
        raise
    finally:
        temporary.unlink(missing_ok=True)


def hash_file(path: Path) -> str:
    """sha256 of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_jsonl(path: str | Path, rows: Iterable[Row]) -> int:
    """Replace a file by these rows, atomically; return how many there were."""
    count = 0
    with replace_atomically(path, "wb") as file:
        for row in rows:
            file.write(dump_row(row))
            count += 1
    return count


def write_json(path: str | Path, value: Any) -> None:
    """Replace a file by one JSON document, indented, atomically."""
    with replace_atomically(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=2)
        file.write("\n")
