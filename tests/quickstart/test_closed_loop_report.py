"""The closed loop's figures, from files whose truth is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptcot_mamba.bench_record import render_record_table
from promptcot_mamba.jsonl import write_jsonl
from promptcot_mamba.quickstart.closed_loop_report import (
    make_tables,
    measure_majorities,
    read_results,
    right_chains,
    write_report,
)
from promptcot_mamba.run_info import write_run_info

PROBLEMS = {f"Let A be {n} plus 2. Let B be A minus 1. Find B.": n + 1 for n in range(10, 14)}


def make_chains(answers: dict[str, list[int | None]]) -> list[dict]:
    """Chains as sampling writes them; None is one that did not finish."""
    return [
        {
            "id": question,
            "run": run,
            "question": question,
            "prompt": question,
            "completion": "<think>\nso" if answer is None else f"<think>\nso\n</think>\nIt is \\boxed{{{answer}}}.",
            "finish_reason": "length" if answer is None else "stop",
            "format_valid": answer is not None,
            "completion_tokens": 9,
            "domain": "math",
        }
        for question, runs in answers.items()
        for run, answer in enumerate(runs)
    ]


@pytest.fixture
def chains() -> list[dict]:
    """Four problems of four chains: all right, three right, three alike and wrong, no two alike."""
    first, second, third, fourth = PROBLEMS
    return make_chains(
        {first: [11, 11, 11, 11], second: [12, 12, 0, 12], third: [99, 99, None, 99], fourth: [1, 2, 3, 14]}
    )


def test_chains_are_judged_by_the_solver(chains: list[dict]):
    right = [right_chains(chains[start : start + 4]) for start in range(0, 16, 4)]
    assert right == [[True] * 4, [True, True, False, True], [False] * 4, [False, False, False, True]]


def test_majorities_at_every_threshold(chains: list[dict]):
    found = measure_majorities(chains, 0.7)
    counted = [(one.threshold, one.chosen, one.kept, one.right, one.problems) for one in found]
    assert counted == [
        (0.5, False, 3, 2, 4),
        (0.7, True, 3, 2, 4),
        (0.75, False, 3, 2, 4),
        (1.0, False, 1, 1, 4),
    ]
    assert [one.chosen for one in measure_majorities(chains, 0.75)] == [False, True, False]


@pytest.fixture
def work(tmp_path: Path, chains: list[dict]) -> Path:
    """A finished loop's synthesis folder: six problems written, five approved, one a duplicate."""
    folder = tmp_path / "synthesis"
    rows = [
        {"key": question, "concepts": ["addition"], "text": f"<problem>{question}</problem>"} for question in PROBLEMS
    ]
    flaws = [None] * 5 + ["format"]
    write_jsonl(folder / "judgements.jsonl", [{"key": str(i), "flaw": flaw} for i, flaw in enumerate(flaws)])
    write_jsonl(folder / "kept_problems.jsonl", rows)
    write_jsonl(folder / "chains.jsonl", chains)
    write_run_info(folder / "concept_sets.jsonl", {}, rows=4, unlike_the_seeds=3)
    write_run_info(folder / "problems.jsonl", {}, rows=6, tasks=8)
    write_run_info(folder / "kept_problems.jsonl", {}, rows=4, duplicate=1, benchmark=0)
    return folder


def make_verdicts(solved: dict[str, list[int]]) -> dict:
    """[arm][seed][problem] for ten problems, of which the first so many are right."""
    names = [f"quickstart_{'composed' if i % 2 else 'unseen'}/{i}" for i in range(10)]
    return {
        arm: {seed: {name: i < count for i, name in enumerate(names)} for seed, count in enumerate(counts)}
        for arm, counts in solved.items()
    }


def test_figures_tables_and_pages(work: Path, tmp_path: Path):
    verdicts = make_verdicts({"without": [2, 4, 3], "with": [5, 6, 7], "teacher": [8]})
    results = read_results(work, verdicts, {"train": 3.0, "sample": 4.4}, threshold=0.75)
    assert results.funnel == [
        ("concept sets", 4),
        ("– not among the seeds'", 3),
        ("problems asked for", 8),
        ("in the markup", 6),
        ("perfect by the exact solver", 5),
        ("different", 4),
        ("not of the benchmark", 4),
        ("solved by a majority", 3),
    ]
    figures = results.figures()
    assert figures["single_chain"]["mean"] == pytest.approx(8 / 16)
    by_seed = {"without": {0: 0.2, 1: 0.4, 2: 0.3}, "with": {0: 0.5, 1: 0.6, 2: 0.7}, "teacher": {0: 0.8}}
    assert figures["accuracy_by_seed"] == by_seed
    assert figures["difference_over_seeds"]["mean"] == pytest.approx(0.3)
    difference = figures["comparison"]["composed"]["difference"]
    assert (difference["problems"], difference["samples"]) == (10, 60)
    assert difference["mean"] == pytest.approx(0.3)
    assert figures["comparison"]["– with a pair never shown"]["difference"]["problems"] == 5

    tables = make_tables(results)
    text = "\n".join(map(render_record_table, tables))
    for cell in ("+30.0", "75.0 % agree (trained on)", "3 of 4 problems", "66.7 %", "the problem cannot be read", "7"):
        assert cell in text
    write_report(tmp_path, tables, results)
    assert "4 of 4 chains right" in (tmp_path / "report.md").read_text(encoding="utf-8")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "aim 95 %: missed" in page
    assert "&lt;problem&gt;" in page
