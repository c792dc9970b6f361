"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from promptcot_mamba.errors import InputError
from promptcot_mamba.new_folder import STALE_SECONDS, new_folder


def test_whole_or_not_at_all(tmp_path: Path):
    target = tmp_path / "deep" / "target"

    def fail() -> None:
        with new_folder(target) as writing:
            (writing / "half").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not list((tmp_path / "deep").iterdir())
    with new_folder(target) as writing:
        (writing / "whole").touch()
        assert not target.exists()
    assert [file.name for file in target.iterdir()] == ["whole"]


def test_another_writers_folder_stays(tmp_path: Path):
    target = tmp_path / "target"
    with new_folder(target) as first, new_folder(target) as second:  # one process, as in a container: other names
        assert first != second
        (first / "first").touch()
        (second / "second").touch()
    assert [file.name for file in target.iterdir()] == ["second"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["target"]


def test_what_a_killed_writer_left_goes_after_an_hour(tmp_path: Path):
    old, young = tmp_path / ".target.1.tmp", tmp_path / ".target.2.tmp"
    for left in (old, young):
        left.mkdir()
        (left / "part").touch()
    past = old.stat().st_mtime - STALE_SECONDS - 60
    for entry in (old / "part", old):
        os.utime(entry, (past, past))
    with new_folder(tmp_path / "target"):
        assert not old.exists()
        assert young.exists()


def test_a_place_where_nothing_can_be_written(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: cannot write here"), new_folder(tmp_path / "file" / "target"):
        pass
