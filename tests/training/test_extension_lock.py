"""torch waits for a lock without end: an abandoned one is removed, a young one told of, one that is held is left."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest

from promptcot_mamba.training import extension_lock
from promptcot_mamba.training.extension_lock import NOBODYS_AFTER, built_for, is_held, wait_for_builds

OFFLOAD = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}


@pytest.fixture
def lock(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    file = tmp_path / "cpu_adam" / "lock"
    file.parent.mkdir()
    return file


@pytest.fixture
def said(monkeypatch) -> list[str]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    monkeypatch.setattr(extension_lock.logger, "handlers", [handler])
    return lines


def test_what_is_compiled_for_a_config():
    assert built_for({"zero_optimization": {"stage": 3}}) == set()
    assert built_for(OFFLOAD) == {"cpu_adam"}
    swapped = {"offload_optimizer": {"device": "nvme"}, "offload_param": {"device": "cpu"}}
    assert built_for({"zero_optimization": {"stage": 3, **swapped}}) == {"cpu_adam", "async_io"}


def test_an_old_lock_is_removed(lock: Path, said: list[str]):
    lock.touch()
    os.utime(lock, (0, time.time() - NOBODYS_AFTER - 60))
    wait_for_builds({"zero_optimization": {"stage": 2}})  # nothing is compiled: nobody waits for it
    assert lock.exists()
    wait_for_builds(OFFLOAD)
    assert not lock.exists()
    assert said == [f"{lock}: removed; a build that was killed left it"]


def test_a_young_lock_is_told_of_until_it_is_gone(lock: Path, said: list[str], monkeypatch):
    lock.touch()
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:  # the other machine has built
            lock.unlink()

    monkeypatch.setattr(extension_lock.time, "sleep", sleep)
    wait_for_builds(OFFLOAD)
    assert len(slept) == 3
    assert len(said) == 1
    assert said[0].startswith(f"waiting for {lock}: no process here holds it. If no other machine is compiling, remove")


def test_a_lock_that_a_build_holds_is_left(lock: Path, said: list[str]):
    descriptor = os.open(lock, os.O_CREAT | os.O_EXCL)  # as torch takes it
    os.utime(lock, (0, time.time() - NOBODYS_AFTER - 60))
    try:
        assert is_held(lock)
        wait_for_builds(OFFLOAD)
        assert lock.exists()
    finally:
        os.close(descriptor)
    assert not is_held(lock)
    assert said == []
