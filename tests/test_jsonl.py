"""JSONL: line numbers in errors, torn tails, full disks, one writer."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import (
    LONG_TEXT,
    DurableAppender,
    decode_json,
    dump_json,
    dump_row,
    iter_jsonl,
    read_jsonl,
    repair_torn_tail,
    replace_atomically,
    write_jsonl,
)
from tests import small_disk


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.booleans())))
def test_a_row_is_one_line_and_reads_back(row):
    line = dump_row(row)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == row


TEXT = st.text(st.characters(codec=None))  # lone surrogates too
FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(st.dictionaries(st.text(), TEXT | st.integers() | FINITE, max_size=4), st.sets(st.integers(0, 4)))
def test_long_texts_are_written_as_the_slow_definition_writes_them(row, longer):
    """Which is json's own; a text is long from LONG_TEXT on, wherever in the row it stands."""
    row = {
        name: value * LONG_TEXT if isinstance(value, str) and place in longer else value
        for place, (name, value) in enumerate(row.items())
    }
    text = json.dumps(row, ensure_ascii=False)
    has_surrogates = any("\ud800" <= letter <= "\udfff" for letter in text)
    assert dump_row(row) == (json.dumps(row) if has_surrogates else text).encode() + b"\n"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"bytes", {1, 2}])
def test_what_json_has_not_is_not_written_beside_long_texts_either(value):
    with pytest.raises((ValueError, TypeError)):
        dump_row({"completion": "x" * LONG_TEXT, "value": value})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(JSON, st.booleans(), st.integers(0, 40), st.binary(max_size=2))
def test_json_is_read_as_by_its_slow_definition(value, is_ascii, cut, junk):
    """Whole, torn, and with bytes of something else in it."""
    text = json.dumps(value, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
    for data in (text, text[:cut], text[:cut] + junk + text[cut:]):
        assert read_or_refuse(decode_json, data) == read_or_refuse(json.loads, data)


def read_or_refuse(read, data: bytes) -> str:
    try:
        return repr(read(data))  # NaN is not equal to itself
    except ValueError:
        return "refused"


@given(JSON)
def test_compact_json_holds_the_same(value):
    assert json.loads(dump_json(value)) == json.loads(json.dumps(value), parse_constant=lambda _: None)


def test_lone_surrogates_survive():
    assert json.loads(dump_json(["\ud800"])) == ["\ud800"]
    assert json.loads(dump_row({"completion": "\ud800"})) == {"completion": "\ud800"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": \n', ":2: malformed JSON"),
        (b"\n[1]\n", ":2: expected a JSON object, found list"),
        (b'{"a": "\xff"}\n', ":1: not UTF-8"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(iter_jsonl(path))


def test_what_json_has_not_is_null_and_named_once(tmp_path: Path, caplog):
    """pandas and json.dumps write NaN for a rating that is not there, as `data/` reads it."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1.5}\n{"a": NaN, "b": [-Infinity]}\n{"a": Infinity}\n')
    assert read_jsonl(path) == [{"a": 1.5}, {"a": None, "b": [None]}, {"a": None}]
    assert [record.message for record in caplog.records] == [
        f"{path}:2: NaN is not JSON; it is read as null, here and below"
    ]
    assert list(map(json.loads, map(dump_row, read_jsonl(path))))  # whatever was read can be written


@pytest.mark.parametrize("number", ["1e999", "-1E+400", f"1{'0' * 400}.5", "9" * 5000])
def test_a_number_beyond_all_bounds_is_named(tmp_path: Path, number: str):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"a": 1e3}}\n{{"a": {number}}}\n')
    with pytest.raises(InputError, match=r"rows\.jsonl:2: malformed JSON \(.*(too large a number|limit)"):
        read_jsonl(path)


def test_missing_and_empty_files(tmp_path: Path):
    with pytest.raises(InputError, match="no such file"):
        read_jsonl(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InputError, match="empty"):
        read_jsonl(tmp_path / "empty.jsonl")


@pytest.mark.parametrize("torn", [b'{"b": "' + b"x" * 10, b"y" * 200_000, b""])
def test_a_torn_tail_is_cut(tmp_path: Path, torn: bytes):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + torn)
    assert repair_torn_tail(path) == len(torn)
    assert path.read_bytes() == b'{"a": 1}\n'


def test_a_file_that_is_one_torn_line_becomes_empty(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a"')
    assert repair_torn_tail(path) == 4
    assert path.read_bytes() == b""


@pytest.mark.parametrize("row", [b'{"b": "whole"}', b'{"b": "\xc3\xa9 }{"}', b'{"b": 2}  '])
def test_a_whole_last_row_is_given_its_newline(tmp_path: Path, row: bytes):
    """Editors, `head -c` and `printf` leave none."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + row)
    with DurableAppender(path) as file:
        file.append({"c": 3})
    assert path.read_bytes() == b'{"a": 1}\n' + row + b'\n{"c": 3}\n'


@pytest.mark.parametrize("torn", [b"3", b"[1]", b'"{}"', b'{"a": 1}}', b'{"a": 1'])
def test_what_is_no_row_is_torn(tmp_path: Path, torn: bytes):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(torn)
    assert repair_torn_tail(path) == len(torn)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tmp_path: Path, number: int, monkeypatch):
    """Lustre mounted without -o flock, NFS without lockd."""

    def flock(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    mount = next(folder for folder in tmp_path.parents if folder.is_mount())
    with pytest.raises(InputError, match=rf"rows\.jsonl: cannot be locked .*; mount {mount} with -o flock") as caught:
        DurableAppender(tmp_path / "rows.jsonl")
    assert os.strerror(number) in str(caught.value)


def test_appending_resumes_after_a_torn_line(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2')
    with DurableAppender(path) as file:
        file.append({"a": 2})
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}]


def test_a_second_writer_is_refused(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    with DurableAppender(path), pytest.raises(InputError, match="another process"):
        DurableAppender(path)


def test_a_full_disk_leaves_whole_lines(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    program = (
        "import sys; from promptcot_mamba.jsonl import DurableAppender\n"
        "file = DurableAppender(sys.argv[1])\n"
        "try:\n"
        "    for i in range(100): file.append({'i': i, 'text': 'x' * 100})\n"
        "except OSError as error: print(error.errno)\n"
        "file.close()\n"
    )

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    done = subprocess.run(
        [sys.executable, "-c", program, path], preexec_fn=limit, capture_output=True, text=True,
        env=small_disk.ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "27"  # EFBIG stands in for ENOSPC
    assert [row["i"] for row in read_jsonl(path)] == list(range(8))


def test_what_a_link_leads_to_is_replaced(tmp_path: Path):
    """Outputs on a big disk, and links to them."""
    for target in (tmp_path / "big" / "rows.jsonl", tmp_path / "new.jsonl"):
        link = tmp_path / f"to-{target.name}"
        link.symlink_to(target)
        target.parent.mkdir(exist_ok=True)
        write_jsonl(link, [{"a": 1}])
        write_jsonl(link, [{"a": 2}])
        assert link.is_symlink()
        assert read_jsonl(target) == [{"a": 2}]
        assert sorted(target.parent.glob(".*")) == []


def test_replacing_is_all_or_nothing(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"a": 1}])
    with pytest.raises(TypeError), replace_atomically(path) as file:
        file.writelines(["half", None])
    assert read_jsonl(path) == [{"a": 1}]
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.jsonl"]
