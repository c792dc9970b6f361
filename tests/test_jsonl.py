"""JSONL: line numbers in errors, torn tails, full disks, one writer."""

from __future__ import annotations

import json
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
    DurableAppender,
    dump_row,
    iter_jsonl,
    read_jsonl,
    repair_torn_tail,
    replace_atomically,
    write_jsonl,
)


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.booleans())))
def test_a_row_is_one_line_and_reads_back(row):
    line = dump_row(row)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == row


def test_lone_surrogates_survive():
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

    done = subprocess.run([sys.executable, "-c", program, path], preexec_fn=limit, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "27"  # EFBIG stands in for ENOSPC
    assert [row["i"] for row in read_jsonl(path)] == list(range(8))


def test_replacing_is_all_or_nothing(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"a": 1}])
    with pytest.raises(TypeError), replace_atomically(path) as file:
        file.writelines(["half", None])
    assert read_jsonl(path) == [{"a": 1}]
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.jsonl"]
