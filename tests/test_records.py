"""Problems, samples and seeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from promptcot_mamba.errors import InputError
from promptcot_mamba.records import Problem, Sample, derive_seed, iter_problems
from promptcot_mamba.run_info import describe_run, side_path


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_ids_come_from_the_row(tmp_path: Path):
    rows = [
        {"idx": 0, "prompt": "p", "source": "aime2024"},
        {"idx": 0, "prompt": "p", "source": "aime2025"},
        {"question_id": "abc365_b", "prompt": "p"},
        {"id": "x", "question": "q"},
    ]
    problems = list(iter_problems(write(tmp_path / "p.jsonl", *rows)))
    assert [problem.id for problem in problems] == ["aime2024/0", "aime2025/0", "abc365_b", "x"]
    assert problems[3].question == "q"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "p"}], ":1: no id"),
        ([{"id": 1}], ":1: missing key 'prompt'"),
        ([{"id": 1, "prompt": " "}], ":1: 'prompt' must be"),
        ([{"id": 1, "prompt": "p"}, {"id": 1, "prompt": "p"}], ":2: id '1' was already used on line 1"),
    ],
)
def test_bad_problems_are_named(tmp_path: Path, rows, message):
    with pytest.raises(InputError, match=message):
        list(iter_problems(write(tmp_path / "p.jsonl", *rows)))


def test_a_sample_row_keeps_the_problems_keys():
    problem = Problem("a", "p", {"idx": 0, "prompt": "p", "extra": [1]})
    sample = Sample("a", 0, 0, 1, "<think>\nx", "stop", 1, 2, 0.1, False)
    row = sample.to_row(problem)
    assert list(row)[:3] == ["idx", "prompt", "extra"]
    assert row["completion"] == "<think>\nx"
    assert "problem_id" not in row


def test_seeds_have_addresses():
    seeds = {derive_seed(0, f"p{i}", run, 0) for i in range(60) for run in range(16)}
    assert len(seeds) == 960
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert derive_seed(0, "p", 1) == derive_seed(0, "p", 1) != derive_seed(1, "p", 1)
    assert derive_seed(0, "a", "b") != derive_seed(0, "ab")


def test_provenance():
    assert side_path("out/X.jsonl", "run.json") == Path("out/X.run.json")
    info = describe_run({"n": 1})
    assert info["config"] == {"n": 1}
    assert info["versions"]["torch"]
