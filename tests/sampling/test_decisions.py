"""--stop_when_decided: a problem's remaining samples are spared once no outcome of them can change its majority."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from pathlib import Path

import pytest

import infer_longcot
from promptcot_mamba.benchmarks import BENCHMARKS
from promptcot_mamba.benchmarks.score_file import compare_files, score_math_file, write_scores
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import read_jsonl, write_jsonl
from promptcot_mamba.records import Problem, Sample
from promptcot_mamba.report.evaluations import load_evaluation
from promptcot_mamba.run_info import side_path
from promptcot_mamba.sampling.backend import Request
from promptcot_mamba.sampling.decisions import Ballot, Decisions
from tests.sampling.scripted import ScriptedBackend

N = 16
ANSWERS = ("4", "4.0", "5", "6", None)  # the first two are one vote
WEIGHTS = (0.45, 0.1, 0.25, 0.1, 0.1)


def write_answer(request: Request) -> tuple[str, str, int]:
    """A chain that ends in one of ANSWERS, by its seed: the longer the rarer."""
    numbers = random.Random(request.seed)
    answer = numbers.choices(ANSWERS, WEIGHTS)[0]
    text = "so\n</think>\nIt is " + (f"\\boxed{{{answer}}}." if answer else "unknown.")
    return text, "stop", 1 + int(numbers.expovariate(1 / 50))


def problems(count: int) -> list[dict]:
    return [
        {"id": f"p{i}", "source": "gsm8k", "prompt": f"{i}: 2 + 2?\n<think>\n", "solution": "#### 4"}
        for i in range(count)
    ]


@pytest.fixture
def flags(checkpoint: Path, tmp_path: Path):
    write_jsonl(tmp_path / "problems.jsonl", problems(12))

    def make(output: Path, **changed: object) -> list[str]:
        values = {"data_path": tmp_path / "problems.jsonl", "output_path": output, "model_path": checkpoint, "n": N,
                  "stop_when_decided": True}  # fmt: skip
        return [f"--{name}={value}" for name, value in (values | changed).items()]

    return make


def sample(flags: list[str], backend: ScriptedBackend | None = None) -> ScriptedBackend:
    backend = backend or ScriptedBackend(8, write=write_answer)
    assert infer_longcot.main(flags, make_backend=lambda plan: backend) == 0
    return backend


def winners(path: Path) -> dict[str, set[str]]:
    """Each problem's answers with the most votes, from a grading of the file."""
    votes: dict[str, Counter] = {}
    for grade in score_math_file(path, None, "strict", None).grades:
        votes.setdefault(grade.problem_id, Counter())[grade.extra["vote"]] += 1
    for each in votes.values():
        each.pop(None, None)
    return {name: {vote for vote in each if each[vote] == max(each.values())} for name, each in votes.items()}


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_decided_means_that_no_outcome_changes_the_majority(n: int):
    """Against the definition: every way in which the missing samples may vote, a new answer and none included."""
    for cast in range(n + 1):
        for said in itertools.product(["a", "b", "c", None], repeat=cast):
            ballot = Ballot(BENCHMARKS["gsm8k"], None, cast=cast)
            ballot.votes.update(vote for vote in said if vote is not None)
            outcomes = set()
            for rest in itertools.product(["a", "b", "c", "new", None], repeat=n - cast):
                votes = Counter(vote for vote in (*said, *rest) if vote is not None)
                most = max(votes.values(), default=0)
                outcomes.add(frozenset(vote for vote, count in votes.items() if count == most))
            certain = len(outcomes) == 1 and len(next(iter(outcomes))) == 1
            assert ballot.is_decided(n) == certain, (said, outcomes)


def test_the_spared_run_has_the_majorities_of_the_whole_one(flags, tmp_path: Path, capsys):
    whole, spared = tmp_path / "whole.jsonl", tmp_path / "spared.jsonl"
    everything = sample(flags(whole, stop_when_decided=False))
    less = sample(flags(spared))
    assert "samples were not made" in capsys.readouterr().out
    rows = {(row["id"], row["run"]): row["completion"] for row in read_jsonl(whole)}
    kept = {(row["id"], row["run"]): row["completion"] for row in read_jsonl(spared)}
    assert kept.items() <= rows.items()
    assert len(kept) < len(rows) == 12 * N
    assert less.generated_tokens < everything.generated_tokens
    assert winners(spared) == winners(whole)
    run = json.loads(side_path(spared, "run.json").read_text())
    assert (run["complete"], run["spared"]) == (True, len(rows) - len(kept))
    assert not side_path(spared, "partial.jsonl").exists()

    again = sample(flags(spared), ScriptedBackend(8, write=write_answer))
    assert again.submitted == 0  # a complete run is complete
    sample(flags(spared, stop_when_decided=False))  # and may be made whole
    assert {(row["id"], row["run"]): row["completion"] for row in read_jsonl(spared)} == rows


def test_interrupted_runs_decide_the_same(flags, tmp_path: Path):
    whole, stopped = tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"
    sample(flags(whole, stop_when_decided=False))

    class Dies(ScriptedBackend):
        def poll(self, timeout: float):
            if self.submitted > 30:
                raise KeyboardInterrupt
            return super().poll(timeout)

    runs = 0
    while not side_path(stopped, "run.json").exists() or not json.loads(
        side_path(stopped, "run.json").read_text()
    )["complete"]:  # fmt: skip
        runs += 1
        try:
            infer_longcot.main(flags(stopped), make_backend=lambda plan: Dies(8, write=write_answer))
        except KeyboardInterrupt:
            continue
    assert runs > 2
    assert winners(stopped) == winners(whole)


def test_a_grouped_file_holds_the_samples_that_were_made(flags, tmp_path: Path):
    output = tmp_path / "x.jsonl"
    sample(flags(output, format="grouped"))
    counts = [len(row["completions"]) for row in read_jsonl(output)]
    assert min(counts) < N
    assert sum(counts) + json.loads(side_path(output, "run.json").read_text())["spared"] == 12 * N


def test_no_average_is_shown_of_samples_that_were_chosen(flags, tmp_path: Path, caplog, capsys):
    output = tmp_path / "x.jsonl"
    sample(flags(output))
    scored = score_math_file(output, None, "strict", None)
    assert "lacks runs" not in caplog.text
    [figures] = write_scores(scored, {}, markdown=True)
    text = side_path(output, "metrics.md").read_text()
    right = sum(("right" in votes) / len(votes) for votes in winners(output).values()) / 12
    assert f"majority {100 * right:.1f} of the problems" in text
    assert "graders" not in text
    assert "pass@k" not in text
    assert figures["spared"] == scored.spared > 0
    assert text.splitlines()[2].split("|")[3:6] == [" - ", " - ", " - "]
    evaluation = load_evaluation("m", tmp_path)
    assert evaluation.spared
    assert not evaluation.figures
    whole = tmp_path / "whole.jsonl"
    sample(flags(whole, stop_when_decided=False))
    for pair in ((scored, other := score_math_file(whole, None, "strict", None)), (other, scored)):
        with pytest.raises(InputError, match=r"--compare: .*x\.jsonl was sampled with --stop_when_decided"):
            compare_files(*pair)


@pytest.mark.parametrize("stopped", [True, False])
def test_a_run_that_goes_on_stays_a_choice_until_all_is_made(flags, tmp_path: Path, stopped: bool, caplog):
    """More samples are asked for, or the rest of them, and the server is away, or a kill comes within a minute."""
    output, path = tmp_path / "x.jsonl", tmp_path / "x.run.json"
    sample(flags(output))

    class Away(ScriptedBackend):
        def poll(self, timeout: float):
            raise MemoryError

    with pytest.raises(MemoryError):
        infer_longcot.main(flags(output, n=N + 8, stop_when_decided=stopped), make_backend=lambda plan: Away(8))
    assert score_math_file(output, None, "strict", N).spared > 0
    info = json.loads(path.read_text())
    if stopped:  # an older version, that knew the flag and had not noted yet what it spared
        path.write_text(json.dumps({key: value for key, value in info.items() if key != "stopped"} | {"spared": 0}))
        assert score_math_file(output, None, "strict", N).spared > 0
        assert "lacks runs" in caplog.text
    sample(flags(output, n=N + 8, stop_when_decided=False))
    assert score_math_file(output, None, "strict", None).spared == 0


def test_code_is_never_stopped_and_problems_without_an_answer_vote(caplog):
    code = Problem("c", "def f():", {"id": "c", "source": "humaneval", "entry_point": "f", "prompt": "def f():"})
    free = Problem("f", "2 + 2?", {"id": "f", "prompt": "2 + 2?"})
    decisions = Decisions([code, free], n=3)
    assert "1 problem(s) are no final-answer maths" in caplog.text
    for run, answer in enumerate(("4", "4.0")):
        for problem in (code, free):
            text = f"<think>\nso\n</think>\n\\boxed{{{answer}}}"
            decisions.add(Sample(problem.id, run, 0, 1, text, "stop", 1, 1, 0.0, True, thinking="think"), problem)
    assert decisions.decided == {"f"}


def test_votes_equal_in_value_count_together_and_a_cut_thought_casts_none():
    problem = Problem("p", "q", {"id": "p", "source": "gsm8k", "solution": "#### 4"})
    decisions = Decisions([problem], n=5)
    texts = ["<think>\n\\boxed{5}", "<think>\na\n</think>\n\\boxed{\\frac{8}{2}}", "<think>\na\n</think>\n\\boxed{4}",
             "<think>\na\n</think>\n\\boxed{4.0}"]  # fmt: skip
    for run, text in enumerate(texts):
        assert not decisions.decided
        reason = "stop" if "</think>" in text else "length"
        decisions.add(Sample("p", run, 0, 1, text, reason, 1, 1, 0.0, True, thinking="think"), problem)
    assert decisions.decided == {"p"}
