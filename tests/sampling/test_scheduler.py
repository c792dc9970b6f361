"""The scheduler against a scripted back end: what is sampled, with which seeds, in how many engine steps."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

from promptcot_mamba.jsonl import read_jsonl
from promptcot_mamba.records import Problem, Sample, derive_seed
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


def test_the_window_bounds_what_is_in_flight(tmp_path: Path):
    backend = ScriptedBackend(4)
    sample_all(tmp_path / "x.jsonl", make_problems(30), 4, 1, backend)
    assert backend.most_in_flight <= backend.window
    assert backend.submitted == 120


def test_an_attempt_moved_between_servers_counts_once(tmp_path: Path):
    """A second answer to a settled request changes nothing on disk."""
    problems = make_problems(1)
    with Ledger(tmp_path / "x.jsonl", problems, 1, 1) as ledger:
        ledger.resume()
        sample = Sample("s/0", 0, 0, 5, "<think>a</think>b", "stop", 3, 2, 0.1, True)
        assert ledger.append(0, sample)
        assert ledger.append(0, replace(sample, completion="again"))
    assert [row["completion"] for row in read_jsonl(tmp_path / "x.jsonl")] == ["<think>a</think>b"]


def test_a_finished_sample_is_on_disk_before_the_next_poll(tmp_path: Path):
    output = tmp_path / "x.jsonl"

    class Watching(ScriptedBackend):
        finished = 0

        def poll(self, timeout: float):
            assert len(output.read_bytes().splitlines()) == self.finished
            done = super().poll(timeout)
            self.finished += len(done)
            return done

    sample_all(output, make_problems(10), 4, 1, Watching(4))


def test_memory_is_eight_bytes_a_planned_sample_and_flat_after(tmp_path: Path):
    """A million planned samples; the run is stopped after 3,000, by when anything that grew would have shown."""
    problems, n = make_problems(100), 10_000
    backend, marks = ScriptedBackend(64), []
    tracemalloc.start()

    def should_stop() -> bool:
        if backend.submitted >= 1000 * (len(marks) + 1):
            marks.append(tracemalloc.get_traced_memory()[0])
        return len(marks) == 3

    with Ledger(tmp_path / "x.jsonl", problems, n, 1) as ledger:
        planned = tracemalloc.get_traced_memory()[0]
        ledger.resume()
        prompts = PromptBook(problems, None)
        scheduler = Scheduler(
            ledger, backend, prompts, base_seed=7, max_len=4096, context=8192, should_stop=should_stop
        )
        assert not scheduler.run()
    tracemalloc.stop()
    assert planned < 8.5 * len(problems) * n
    assert ledger.settled > 2500
    assert marks[2] - marks[0] < 30_000  # bytes, over 2,000 samples
