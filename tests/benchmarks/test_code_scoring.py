"""Scoring files of programs: the cache, samples of statements, HumanEval rows, bad rows."""

from __future__ import annotations

import json
from array import array
from pathlib import Path

import pytest

from promptcot_mamba.benchmarks import get_benchmark
from promptcot_mamba.benchmarks.code_scoring import TESTS_ENV, CodeOptions, run_code
from promptcot_mamba.cli import parse_args
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.code.grading import SandboxPool
from promptcot_mamba.grading.code.tests import GRADER_VERSION
from promptcot_mamba.token_scores import TokenScores
from tests.grading.lcb_files import RIGHT, STATEMENT, completion, make_folder, read, read_benchmark, write


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path)


@pytest.fixture
def graded(monkeypatch):
    """How many programs were run, not taken from the cache."""
    seen = []
    run = SandboxPool.run

    def counting(pool, grade):
        seen.append(grade)
        return run(pool, grade)

    monkeypatch.setattr(SandboxPool, "run", counting)
    return seen


def score(folder: Path, benchmark: str = "livecodebench", **options) -> int:
    chosen = {"cache_path": str(folder / "c.jsonl"), "tests_dir": str(folder / "tests"), "workers": 1, **options}
    return run_code(str(folder / "p.jsonl"), get_benchmark(benchmark), CodeOptions(**chosen))


def reasons(folder: Path) -> list[str]:
    return [grade["reason"] for grade in read(folder / "p.grades.jsonl")]


def test_verdicts_are_reused_appended_and_never_deleted(folder, graded):
    score(folder)
    assert len(graded) == 4
    before, first = (folder / "c.jsonl").read_bytes(), reasons(folder)
    score(folder)
    assert len(graded) == 4
    assert (folder / "c.jsonl").read_bytes() == before
    assert reasons(folder) == first

    with (folder / "c.jsonl").open("ab") as file:
        file.write(b'{"key": 3}\nnot json\n\xff\n')
    rows = read(folder / "p.jsonl")
    rows[1]["completion"] = completion(RIGHT + "  # another")
    write(folder, rows)
    score(folder)
    assert len(graded) == 5
    assert (folder / "c.jsonl").read_bytes().startswith(before)
    assert reasons(folder) == ["right", "right", "right", "wrong_answer"]

    score(folder, time_limit=7)
    assert len(graded) == 9


def test_a_time_out_of_what_had_seconds_left_is_no_verdict_for_good(folder, graded):
    row = read(folder / "p.jsonl")[0]
    sleeper, looper = completion("import time\ntime.sleep(60)"), completion("while True: pass")
    write(folder, [{**row, "completion": text} for text in (sleeper, sleeper, looper)])
    score(folder, time_limit=1, wall_limit=0.3)
    assert reasons(folder) == ["timeout"] * 3
    assert [row["run"] for row in read(folder / "c.jsonl")] == [2]
    assert len(graded) == 2  # the same program once
    score(folder, time_limit=1, wall_limit=0.3)
    assert len(graded) == 3
    assert [row["reason"] for row in read(folder / "p.grades.jsonl")] == ["timeout"] * 3


def test_how_sure_the_model_was_stands_in_the_grades(folder):
    row = read(folder / "p.jsonl")[0]
    scores = TokenScores(array("f", [-1.0, -3.0]), array("f", [0.5, 0.5]))
    saved = {"problem_id": row["question_id"], "run": 0, "attempt": 0, **scores.pack()}
    (folder / "p.logprobs.jsonl").write_text(json.dumps(saved) + "\n")
    score(folder)
    first, *others = read(folder / "p.grades.jsonl")
    assert (first["mean_logprob"], first["mean_entropy"]) == (-2.0, 0.5)
    assert not any("mean_logprob" in grade for grade in others)


def test_what_a_server_refused_is_no_missing_program(folder):
    row = read(folder / "p.jsonl")[0]
    texts = ("", "<think>\n", "I can't help with that.", RIGHT)
    rows = [{**row, "completion": completion(text) if text == RIGHT else text} for text in texts]
    write(folder, [{**one, "finish_reason": "refused", "format_valid": False} for one in rows])
    score(folder)
    assert reasons(folder) == ["refused"] * 3 + ["right"]


def test_an_example_behind_the_program_is_passed_over(folder):
    examples = ("print(sum(map(int, '1 2'.split())))", "s = Solution()\nprint(s.add([1, 2], 3))")
    rows = read(folder / "p.jsonl")[::2]
    for row, example in zip(rows, examples, strict=True):
        row["completion"] += f"\nFor example:\n```python\n{example}\n```"
    write(folder, rows)
    score(folder)
    assert reasons(folder) == ["right", "right"]


def test_a_grade_s_grader_is_the_kind_of_its_tests(folder):
    score(folder)
    assert {row["grader"] for row in read(folder / "p.grades.jsonl")} == {"livecodebench"}


def test_a_failed_test_is_shown(folder):
    row = read(folder / "p.jsonl")[0]
    texts = ("print('x' * 1000)", "1 / 0", RIGHT)
    write(folder, [{**row, "completion": completion(text)} for text in texts])
    score(folder)
    grades = read(folder / "p.grades.jsonl")
    assert grades[0]["failed"] == {"test": 0, "input": "1 2\n", "expected": "3\n", "got": "x" * 200}
    assert grades[1]["failed"] == {"test": 0, "input": "1 2\n", "expected": "3\n", "got": ""}
    assert grades[1]["details"] == {"0": "ZeroDivisionError: division by zero"}
    assert grades[2]["failed"] is None


def test_verdicts_of_another_version_are_left_and_counted(folder, graded, caplog):
    score(folder)
    rows = read(folder / "c.jsonl")
    old = [{name: value for name, value in row.items() if name != "grader_version"} for row in rows[:3]]
    (folder / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (*old, rows[3])))
    with caplog.at_level("WARNING", logger="promptcot_mamba"):
        score(folder)
    assert len(graded) == 7
    assert f"3 verdicts of grader code-1, not {GRADER_VERSION}, are left unused" in caplog.text
    assert read(folder / "c.jsonl")[:3] == old
    assert json.loads((folder / "p.metrics.json").read_text())["grader_version"] == GRADER_VERSION
    assert {row["grader_version"] for row in read(folder / "p.grades.jsonl")} == {GRADER_VERSION}


def test_a_stopped_job_resumes(folder, graded):
    score(folder)
    lines = (folder / "c.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "c.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:20])
    score(folder)
    assert len(graded) == 6
    assert len(read(folder / "c.jsonl")) == 4


def test_levels_do_not_share_verdicts(folder, graded):
    score(folder, sandbox="landlock")
    score(folder, sandbox="landlock")
    assert len(graded) == 4
    score(folder, sandbox="unsafe", unsafe=True)
    assert len(graded) == 8
    assert reasons(folder) == ["right", "wrong_answer", "right", "wrong_answer"]


def test_tests_folder_from_the_environment(folder, monkeypatch):
    monkeypatch.setenv(TESTS_ENV, str(folder / "tests"))
    assert score(folder, tests_dir=None) == 0


def test_samples_of_statements_are_a_table_of_their_own(folder, capsys):
    named = {"fname": "none.json", "md5": "x"}
    texts = (completion(RIGHT), completion("print(4)"))
    extra = [{"question_id": "q2", "prompt": STATEMENT, "tests": named, "completion": text} for text in texts]
    write(folder, read(folder / "p.jsonl") + extra)
    with pytest.raises(InputError, match="--sample_tests"):
        score(folder)
    score(folder, sample_tests=True)
    metrics = json.loads((folder / "p.metrics.json").read_text())
    found = [(figures["benchmark"], figures["problems"], figures["samples"]) for figures in metrics["summaries"]]
    assert found == [("livecodebench", 2, 4), ("livecodebench-samples", 1, 2)]
    assert "livecodebench-samples" in capsys.readouterr().out


def test_unfinished_and_empty_answers_are_told_apart(folder):
    row = read(folder / "p.jsonl")[0]
    texts = ["<think>\nstill", "<think>\nx</think>\nnothing", completion(RIGHT)]
    write(folder, [{**row, "completion": text} for text in texts])
    score(folder)
    assert reasons(folder) == ["truncated", "no_code", "right"]


def test_a_list_of_completions_is_as_many_runs(folder):
    row = read(folder / "p.jsonl")[0]
    del row["completion"]
    write(folder, [{**row, "completions": [completion(RIGHT), completion("print(3)")]}])
    score(folder)
    assert reasons(folder) == ["right", "wrong_answer"]


def test_tests_in_the_row(folder):
    tests = [{"input": "1 2\n", "output": "3\n"}]
    row = {"idx": 0, "source": "quickstart_code", "tests": tests, "prompt": "Add."}
    write(folder, [{**row, "completion": completion(RIGHT)}, {**row, "completion": completion("print(4)")}])
    score(folder, tests_dir=None)
    assert reasons(folder) == ["right", "wrong_answer"]
    assert read(folder / "p.grades.jsonl")[0]["benchmark"] == "quickstart_code"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.pop("completion"), r"p\.jsonl:3: missing key 'completion'"),
        (lambda row: row.pop("tests"), r"p\.jsonl:3: missing key 'tests'"),
        (lambda row: row["tests"].update(fname="gone.json"), "no such tests file"),
        (lambda row: row["tests"].update(md5="0" * 32), "md5"),
        (lambda row: row.update(source="aime2024"), "is maths"),
        (lambda row: row.update(source="elsewhere"), "unknown source 'elsewhere'; known: .*livecodebench"),
    ],
)
def test_bad_rows_are_named(folder, change, message):
    rows = read(folder / "p.jsonl")
    change(rows[2])
    for row in rows[3:]:
        row["question_id"] = "q2"
    write(folder, rows)
    with pytest.raises(InputError, match=message):
        score(folder)
    assert not (folder / "c.jsonl").exists()


@pytest.mark.parametrize("flag", ["--time_limit=0", "--wall_limit=0", "--workers=0", "--memory_mb=1"])
def test_limits_that_nothing_could_meet_are_refused(flag):
    with pytest.raises(InputError, match=flag.split("=")[0]):
        parse_args(CodeOptions, [flag])


def test_an_unknown_sandbox_is_refused(folder):
    with pytest.raises(InputError):
        score(folder, sandbox="strong")


def test_tests_that_programs_could_read_are_refused(folder, monkeypatch):
    monkeypatch.setattr("promptcot_mamba.grading.sandbox.sandbox.readable_paths", lambda: [(str(folder), "code")])
    with pytest.raises(InputError, match="graded programs can read"):
        score(folder)


def test_humaneval_rows(folder):
    raw = read_benchmark("HumanEval.jsonl.gz")[0]
    row = {**raw, "question": raw["prompt"], "prompt": "chat", "source": "humaneval"}
    right = completion(raw["prompt"] + raw["canonical_solution"])
    write(folder, [{**row, "completion": text} for text in (right, completion("def has_close_elements(a, b): 0"))])
    score(folder, "humaneval")
    assert reasons(folder) == ["right", "wrong_answer"]


def test_humanevalplus_rows(folder):
    raw = read_benchmark("HumanEvalPlus.jsonl.gz")[2]
    row = {**raw, "question": raw["prompt"], "prompt": "chat", "plus_input": raw["plus_input"][:3]}
    right = completion("def truncate_number(number):\n    return number % 1 + 1e-9")
    write(folder, [{**row, "completion": text} for text in (right, completion("def truncate_number(n): return 0.5"))])
    score(folder, "humanevalplus")
    assert reasons(folder) == ["right", "wrong_answer"]
