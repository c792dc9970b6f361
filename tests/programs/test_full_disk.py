"""A disk that takes no more, and files that colleagues can read: one line, nothing half written, a rerun goes on."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from promptcot_mamba.bench_record import write_record
from promptcot_mamba.checkpoint import share_files
from promptcot_mamba.jsonl import write_jsonl
from tests import small_disk
from tests.programs.train_helpers import flags_for, make_work, run_train
from tests.tiny import make_checkpoint, make_tokenizer

ROOT = Path(__file__).resolve().parents[2]


def run(*command: object, most_bytes: int | None = None, umask: int = 0o022) -> subprocess.CompletedProcess:
    """A program that may write no file longer than `most_bytes`: the kernel's EFBIG, where a full disk says ENOSPC."""

    def limit() -> None:
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    words = [sys.executable, "-m", *map(str, command)]
    return subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, preexec_fn=limit, umask=umask, timeout=300, check=False,
        env=small_disk.ENVIRONMENT,
    )  # fmt: skip


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


@pytest.mark.parametrize(
    "written",
    ["optimizer", pytest.param("checkpoint", marks=pytest.mark.slow), pytest.param("export", marks=pytest.mark.slow)],
)
def test_training_that_does_not_fit_leaves_nothing_torn_and_a_rerun_goes_on(tmp_path: Path, written: str):
    """Weights of 0.4 MB, an optimizer of twice that; what was saved before the disk was full is kept."""
    work = make_work(tmp_path)
    weights = (work / "model" / "model.safetensors").stat().st_size
    most = {"checkpoint": weights // 2, "optimizer": weights * 3 // 2, "export": weights // 2}[written]
    flags = flags_for(work, "out", save_steps=4)
    output = work / "out"
    if written == "export":
        assert run_train(flags).returncode == 0
        for file in (*output.glob("*.safetensors"), output / "config.json"):
            file.unlink()
        run_file = output / "run.json"
        run_file.write_text(json.dumps(json.loads(run_file.read_text()) | {"finished": None}))
    said = one_line(run_train(flags, most_bytes=most))
    assert "File too large" in said or "No space left" in said  # torch.save tells no reason
    assert not list(output.glob("*.safetensors"))
    assert not list(output.glob(".writing*"))
    assert sorted(path.name for path in output.glob("checkpoint-*")) == (
        ["checkpoint-4", "checkpoint-7"] if written == "export" else []
    )
    done = run_train(flags)
    assert done.returncode == 0, done.stderr
    assert (output / "model.safetensors").stat().st_size == weights


def test_a_report_that_does_not_fit_keeps_the_last_one(tmp_path: Path):
    write_record(tmp_path / "records" / "a.json", title="A", config={}, tables=[], results={})
    page = tmp_path / "report.html"
    page.write_text("the last one")
    flags = ("--records", tmp_path / "records", "--results", tmp_path / "RESULTS.md", "--output", page)
    assert "File too large" in one_line(run("scripts.make_report", *flags, most_bytes=1_000))
    assert page.read_text() == "the last one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["records", "report.html"]
    assert run("scripts.make_report", *flags).returncode == 0


def test_problems_that_do_not_fit_keep_the_last_file_and_a_rerun_writes_them(tmp_path: Path):
    hub = tmp_path / "hub"
    rows = [{"ID": f"2024-II-{n}", "Problem": f"{n}? {'x' * 300}", "Solution": "So.", "Answer": n} for n in range(30)]
    write_jsonl(hub / "Maxwell-Jia/AIME_2024/aime_2024_problems.jsonl", rows)
    flags = ("--benchmark", "aime24", "--source_dir", hub, "--output_dir", tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "aime_test.jsonl").write_text("")
    line = one_line(run("scripts.prepare_problems", *flags, most_bytes=5_000))
    assert "aime_test.jsonl: File too large" in line
    assert [(path.name, path.stat().st_size) for path in (tmp_path / "out").iterdir()] == [("aime_test.jsonl", 0)]
    assert run("scripts.prepare_problems", *flags).returncode == 0


@pytest.mark.parametrize("most_bytes", [1_000, 8_000, 30_000])
def test_a_preparation_that_does_not_fit_declares_nothing_and_a_rerun_goes_on(tmp_path: Path, most_bytes: int):
    make_tokenizer().save_pretrained(tmp_path / "tokenizer")
    thought = "<think>\n{}\n</think>\nIt is \\boxed{{{}}}."
    rows = [{"prompt": f"Find {n}.", "completion": thought.format(f"so {n} " * 40, n)} for n in range(200)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    sources = json.dumps({"a": {"adapter": "generic", "path": str(tmp_path / "rows.jsonl")}})
    flags = (
        *("--sources", sources, "--tokenizer_path", tmp_path / "tokenizer", "--output_dir", tmp_path / "out"),
        *("--benchmarks", "none", "--max_length", 512, "--near_duplicate_threshold", 0, "--workers", 1),
    )
    line = one_line(run("scripts.prepare_sft_data", *flags, most_bytes=most_bytes))
    assert "File too large" in line or "the disk is full" in line
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".work"]
    assert run("scripts.prepare_sft_data", *flags).returncode == 0
    assert (tmp_path / "out" / "manifest.json").is_file()


@pytest.mark.parametrize(("before", "after"), [(0o600, 0o644), (0o664, 0o664), (0o755, 0o755)])
def test_modes_are_widened_and_never_narrowed(tmp_path: Path, before: int, after: int):
    (tmp_path / "x").touch()
    (tmp_path / "x").chmod(before)
    share_files(tmp_path)
    assert (tmp_path / "x").stat().st_mode & 0o777 == after
