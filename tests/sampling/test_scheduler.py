"""The scheduler against a scripted back end: what is sampled, with which seeds, in how many engine steps."""

from __future__ import annotations

from pathlib import Path

from promptcot_mamba.jsonl import read_jsonl
from promptcot_mamba.records import Problem, derive_seed
from promptcot_mamba.run_info import side_path
from promptcot_mamba.sampling.ledger import Ledger
from promptcot_mamba.sampling.prompts import PromptBook
from promptcot_mamba.sampling.scheduler import Scheduler
from tests.sampling.scripted import ScriptedBackend


def make_problems(count: int) -> list[Problem]:
    rows = [{"idx": i, "source": "s", "prompt": f"Problem {i}.\n<think>\n"} for i in range(count)]
    return [Problem(f"s/{i}", row["prompt"], row) for i, row in enumerate(rows)]


def sample_all(output: Path, problems: list[Problem], n: int, retries: int, backend: ScriptedBackend, **ledger) -> None:
    with Ledger(output, problems, n, retries, **ledger) as files:
        files.resume()
        prompts = PromptBook(problems, None)
        Scheduler(files, backend, prompts, base_seed=7, max_len=4096, context=8192).run()
        files.finish()


def test_rows_are_published_rows_in_order(tmp_path: Path):
    problems = make_problems(5)
    sample_all(tmp_path / "x.jsonl", problems, 3, 1, ScriptedBackend(4))
    rows = read_jsonl(tmp_path / "x.jsonl")
    assert [(row["run"], row["idx"]) for row in rows] == [(run, i) for run in range(3) for i in range(5)]
    for row in rows:
        assert row["prompt"] == problems[row["idx"]].prompt
        assert row["seed"] == derive_seed(7, f"s/{row['idx']}", row["run"], 0)
        assert row["completion"].startswith("<think>\n")
        assert row["format_valid"] == ("</think>" in row["completion"])


def test_an_invalid_attempt_is_retried_with_its_own_seed_and_kept(tmp_path: Path):
    sample_all(tmp_path / "x.jsonl", make_problems(40), 2, 3, ScriptedBackend(4))
    rows = read_jsonl(tmp_path / "x.jsonl")
    attempts = read_jsonl(side_path(tmp_path / "x.jsonl", "attempts.jsonl"))
    assert len(rows) == 80
    assert {row["attempt"] for row in rows} > {0, 1}
    for row in rows:
        tries = [a for a in attempts if (a["problem_id"], a["run"]) == (f"s/{row['idx']}", row["run"])]
        assert [a["attempt"] for a in tries] == list(range(row["attempt"] + 1))
        assert len({a["seed"] for a in tries}) == len(tries)
        assert not any(a["format_valid"] for a in tries[:-1])
        assert row["format_valid"] or row["attempt"] == 2
