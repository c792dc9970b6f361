"""scripts.quickstart.eval_checkpoints: figures of each step read off its grades, table and plot written."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptcot_mamba.jsonl import write_jsonl
from promptcot_mamba.quickstart.road import family_file, split_families
from scripts.quickstart.eval_checkpoints import read_scores, write_accuracy


def write_grades(predictions: Path, right: int, runs: int = 1) -> None:
    grades = [
        {"problem_id": f"toy/{idx}", "run": run, "correct": idx < right} for idx in range(4) for run in range(runs)
    ]
    write_jsonl(family_file(predictions, "maths").with_suffix(".grades.jsonl"), grades)


SOURCES = {f"toy/{idx}": "toy" for idx in range(4)}


def test_steps_become_a_table_and_a_plot(tmp_path: Path):
    series = {"toy": []}
    for step, right in ((10, 1), (20, 4)):
        predictions = tmp_path / f"step-{step}.jsonl"
        write_grades(predictions, right)
        series["toy"].append((step, read_scores(predictions, SOURCES)["toy"]))
    table = write_accuracy(tmp_path, series)
    assert [line.split("|")[1:3] for line in table.splitlines()[2:]] == [
        [" 10 ", " 25.0 % [2.8, 71.6] 1/4 "],
        [" 20 ", " 100.0 % [55.5, 100.0] 4/4 "],
    ]
    assert (tmp_path / "accuracy.svg").read_text(encoding="utf-8").startswith("<svg")


def test_several_samples_a_problem_are_clustered(tmp_path: Path):
    write_grades(tmp_path / "step-10.jsonl", right=2, runs=8)
    share = read_scores(tmp_path / "step-10.jsonl", SOURCES)["toy"]
    assert (share.problems, share.samples) == (4, 32)
    assert share.standard_error == pytest.approx((1 / 3) ** 0.5 / 2)  # of four problems, not of 32 samples


def test_families_are_told_apart_by_their_tests(tmp_path: Path):
    rows = [{"idx": 0, "tests": {"fname": "a.json"}}, {"idx": 1}]
    write_jsonl(tmp_path / "p.jsonl", rows)
    assert split_families(tmp_path / "p.jsonl") == ["maths", "code"]
    write_jsonl(tmp_path / "q.jsonl", rows[1:])
    assert split_families(tmp_path / "q.jsonl") == ["maths"]
    assert not family_file(tmp_path / "q.jsonl", "code").exists()
