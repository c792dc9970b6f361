"""A disk that takes no more, and files that colleagues can read: one line, nothing half written, a rerun goes on."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from promptcot_mamba.bench_record import write_record
from promptcot_mamba.checkpoint import share_files
from tests.tiny import make_checkpoint

ROOT = Path(__file__).resolve().parents[2]


def run(*command: object, most_bytes: int | None = None, umask: int = 0o022) -> subprocess.CompletedProcess:
    """A program that may write no file longer than `most_bytes`: the kernel's EFBIG, where a full disk says ENOSPC."""

    def limit() -> None:
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    words = [sys.executable, "-m", *map(str, command)]
    return subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, preexec_fn=limit, umask=umask, timeout=300, check=False
    )


def one_line(done: subprocess.CompletedProcess) -> str:
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return line


def test_a_conversion_that_does_not_fit_leaves_nothing_and_a_rerun_writes_it_readable(tmp_path: Path):
    source = make_checkpoint(tmp_path / "source")
    (source / ".lock").touch()
    command = ("scripts.convert_checkpoint", "--input_path", source, "--output_path", tmp_path / "out" / "model")
    assert "File too large" in one_line(run(*command, most_bytes=20_000))
    assert list((tmp_path / "out").iterdir()) == []
    done = run(*command, umask=0o027)
    assert done.returncode == 0, done.stderr
    written = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out" / "model").iterdir()}
    assert written["model.safetensors"] == written["config.json"] == 0o640
    assert "tokenizer.json" in written
    assert ".lock" not in written


def test_a_report_that_does_not_fit_keeps_the_last_one(tmp_path: Path):
    write_record(tmp_path / "records" / "a.json", title="A", config={}, tables=[], results={})
    page = tmp_path / "report.html"
    page.write_text("the last one")
    flags = ("--records", tmp_path / "records", "--results", tmp_path / "RESULTS.md", "--output", page)
    assert "File too large" in one_line(run("scripts.make_report", *flags, most_bytes=1_000))
    assert page.read_text() == "the last one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["records", "report.html"]
    assert run("scripts.make_report", *flags).returncode == 0


@pytest.mark.parametrize(("before", "after"), [(0o600, 0o644), (0o664, 0o664), (0o755, 0o755)])
def test_modes_are_widened_and_never_narrowed(tmp_path: Path, before: int, after: int):
    (tmp_path / "x").touch()
    (tmp_path / "x").chmod(before)
    share_files(tmp_path)
    assert (tmp_path / "x").stat().st_mode & 0o777 == after
