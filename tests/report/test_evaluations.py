"""Folders of graded runs that were torn, edited, sampled again or written by others: one line, never a traceback."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.predictions import read_predictions
from promptcot_mamba.grading.summary import summarize
from promptcot_mamba.jsonl import read_jsonl, write_json, write_jsonl
from promptcot_mamba.records import Grade
from promptcot_mamba.report.cost import sampled_hours
from promptcot_mamba.report.evaluations import format_score, load_evaluation
from promptcot_mamba.report.samples import collect_samples, embed_json, render_browser


def graded_folder(folder: Path, **columns: Any) -> Path:
    """Two problems, two runs, as sampling and grading leave them; `columns` go into every sample's row."""
    rows = [
        {"id": f"p{i}", "run": run, "prompt": f"Question {i}?", "completion": f"{i} {run}", **columns}
        for i in range(2)
        for run in range(2)
    ]
    write_jsonl(folder / "math500.jsonl", rows)
    grades = [
        Grade(one.problem_id, one.run, "math500", "strict", one.run == 0, "1", "right", 0.0,
              {"completion_hash": one.completion_hash})
        for one in read_predictions(folder / "math500.jsonl")
    ]  # fmt: skip
    write_jsonl(folder / "math500.grades.jsonl", [grade.to_row() for grade in grades])
    write_json(folder / "math500.metrics.json", {"summaries": [summarize(grades, "MATH-500")]})
    return folder


def test_samples_are_those_that_were_graded(tmp_path: Path):
    evaluation = load_evaluation("m", graded_folder(tmp_path))
    assert len(collect_samples([evaluation], 10)["samples"]) == 4
    rows = read_jsonl(tmp_path / "math500.jsonl")
    rows[2]["completion"] = "7 7"  # as long as before
    write_jsonl(tmp_path / "math500.jsonl", rows)
    message = r"math500.jsonl:3: problem 'p1', run 0: changed since it was graded; grade the file again"
    with pytest.raises(InputError, match=message):
        render_browser([evaluation])


def drop(*keys: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda figures: {key: value for key, value in figures.items() if key not in keys}


@pytest.mark.parametrize(
    "change",
    [
        drop("benchmark"), drop("expected_problems"), drop("rates"), drop("title"), lambda f: f | {"avg_at_n": None},
        lambda f: f | {"problems": 0, "samples": 0, "benchmark": "gsm8k"}, lambda f: f | {"pass_at_k": {}},
        lambda f: f | {"samples_per_problem": 2}, lambda _: None, lambda f: f | {"pass_at_k": {"best": 1.0}},
    ],
)  # fmt: skip
def test_summaries_of_another_shape_are_named(tmp_path: Path, change: Callable[[dict[str, Any]], Any]):
    path = graded_folder(tmp_path) / "math500.metrics.json"
    figures = json.loads(path.read_text())["summaries"][0]
    write_json(path, {"summaries": [change(figures)]})
    with pytest.raises(InputError, match=r"math500\.metrics\.json: .*again"):
        load_evaluation("m", tmp_path)


def test_samples_stopped_when_decided_are_no_figures_and_no_error(tmp_path: Path, caplog):
    path = graded_folder(tmp_path) / "math500.metrics.json"
    figures = json.loads(path.read_text())["summaries"][0]
    write_json(path, {"summaries": [figures | {"spared": 3}]})
    assert load_evaluation("m", tmp_path).figures == {}
    assert "stopped when decided, so that it has no avg@n" in caplog.text
    path.unlink()
    with pytest.raises(InputError, match=r"no \*\.metrics\.json"):
        load_evaluation("m", tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"summaries": null}', '{"summaries": {"a": 1}}', "\xff"])
def test_a_metrics_file_that_is_none_is_named(tmp_path: Path, text: str):
    path = graded_folder(tmp_path) / "math500.metrics.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"math500\.metrics\.json: not a metrics file .*grade math500\.jsonl again"):
        load_evaluation("m", tmp_path)


@pytest.mark.parametrize("column", ["problem_id", "run", "correct", "reason"])
def test_grades_without_a_column_are_named(tmp_path: Path, column: str):
    path = graded_folder(tmp_path) / "math500.grades.jsonl"
    write_jsonl(path, [drop(column)(row) for row in read_jsonl(path)])
    with pytest.raises(InputError, match=rf"math500\.metrics\.json: not a metrics file .*{column}.* again"):
        load_evaluation("m", tmp_path)


def test_hours_without_sessions_are_still_hours(tmp_path: Path):
    write_json(graded_folder(tmp_path) / "math500.run.json", {"device_hours": 1.5})
    assert sampled_hours(load_evaluation("m", tmp_path)) == (1.5, "")


def test_a_sample_without_any_text_of_its_problem_is_shown(tmp_path: Path):
    data = collect_samples([load_evaluation("m", graded_folder(tmp_path, prompt=None, question=[1]))], 10)
    assert [problem["html"] for problem in data["problems"]] == ["", ""]


@pytest.mark.parametrize("tokens", [12.5, "12", None, [3]])
def test_tokens_that_are_no_count_are_left_out(tmp_path: Path, tokens: Any):
    data = collect_samples([load_evaluation("m", graded_folder(tmp_path, completion_tokens=tokens))], 10)
    assert {sample["tokens"] for sample in data["samples"]} == {None}


@pytest.mark.parametrize("tokens", ["NaN", "Infinity"])
def test_tokens_that_are_not_json_do_not_reach_the_page(tmp_path: Path, tokens: str):
    """The page's script would stop at `NaN`."""
    evaluation = load_evaluation("m", graded_folder(tmp_path, completion_tokens=9))
    path = tmp_path / "math500.jsonl"
    path.write_text(re.sub(r'"completion_tokens": ?9', f'"completion_tokens": {tokens}', path.read_text()))
    assert tokens in path.read_text()
    with suppress(InputError):  # refused where the file is read, if not here
        assert f'"tokens":{tokens}' not in render_browser([evaluation]).markup
    with pytest.raises(ValueError, match="not JSON compliant"):
        embed_json({"tokens": float(tokens)})


def test_what_servers_refused_stands_beside_the_score(tmp_path: Path):
    figures = load_evaluation("m", graded_folder(tmp_path)).figures["math500"]
    assert "refused" not in format_score(figures)
    figures["rates"]["other"] = {"refused": 0.25}
    assert format_score(figures).endswith("\n25.0 % refused by the server")
