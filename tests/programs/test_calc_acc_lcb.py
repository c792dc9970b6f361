"""calc_acc_lcb.py as users run it: the published line, bad input, and kernels that allow less."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.grading.lcb_files import make_folder, read, write

ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, *flags: str, blocked: str | None = None) -> subprocess.CompletedProcess:
    """Run the program on a folder's predictions, on a kernel that refuses some things."""
    before = [sys.executable, "tests/grading/blocked.py", blocked] if blocked else []
    command = [*before, sys.executable, "calc_acc_lcb.py", "--input_path", str(folder / "p.jsonl"), *flags]
    command += ["--cache_path", str(folder / "c.jsonl"), "--tests_dir", str(folder / "tests")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)


def test_the_published_line(tmp_path):
    folder = make_folder(tmp_path)
    done = run(folder, "--expected_runs", "3", "--strict_runs", "True")
    assert done.returncode == 1, done.stderr
    assert "problem q0 lacks runs 2" in done.stderr
    assert "50.0" in done.stdout
    rows = {(row["question_id"], row["run"]): row for row in read(folder / "c.jsonl")}
    assert {name: row["reason"] for name, row in rows.items()} == {
        ("q0", 0): "right", ("q0", 1): "wrong_answer", ("q1", 0): "right", ("q1", 1): "wrong_answer",
    }  # fmt: skip
    assert all(row["sandbox"].endswith("landlock+seccomp+rlimits") and row["key"] for row in rows.values())
    assert rows["q0", 1]["tests"] == ["right", "wrong_answer"]
    grades = read(folder / "p.grades.jsonl")
    assert [(grade["problem_id"], grade["run"], grade["correct"]) for grade in grades] == [
        ("q0", 0, True), ("q0", 1, False), ("q1", 0, True), ("q1", 1, False),
    ]  # fmt: skip
    metrics = json.loads((folder / "p.metrics.json").read_text())
    assert metrics["summaries"][0]["avg_at_n"]["mean"] == 0.5


def test_bad_input_is_one_clear_line(tmp_path):
    folder = make_folder(tmp_path)
    rows = read(folder / "p.jsonl")
    rows[2]["tests"]["md5"] = "0" * 32
    write(folder, rows)
    done = run(folder)
    assert done.returncode == 2
    assert "q1.json: md5" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "c.jsonl").exists()


def test_an_ordinary_container_reaches_the_second_level(tmp_path):
    folder = make_folder(tmp_path)
    done = run(folder, blocked="unshare")
    assert done.returncode == 0, done.stderr
    assert {row["sandbox"] for row in read(folder / "c.jsonl")} == {"landlock+seccomp+rlimits"}


def test_without_landlock_grading_is_refused(tmp_path):
    folder = make_folder(tmp_path)
    done = run(folder, blocked="unshare,landlock")
    assert done.returncode == 2
    assert "--unsafe" in done.stderr
    assert not (folder / "c.jsonl").exists()
