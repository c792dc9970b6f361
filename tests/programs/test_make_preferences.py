"""`scripts.make_preferences` on what the graders really write: maths, programs, majorities, files that do not fit."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from promptcot_mamba.chat_format import join
from promptcot_mamba.data.preferences import iter_preferences
from promptcot_mamba.data.rows import iter_examples
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import read_jsonl, write_jsonl
from scripts import make_preferences

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n"
GOLDS = {0: "33", 1: "23", 2: "7", 3: "5"}
# What four runs of a problem answer: right and wrong, all right, none, one of them cut short.
BOXES = {0: ["33", "033", "32", "33.0"], 1: ["23", "23", "23", "23"], 2: ["8", "9", "8", None], 3: ["5", "6", "6", ""]}
SOLVED = "<think>\nRead and add.\n</think>\n```python\na, b = map(int, input().split())\nprint(a + b)\n```"
FAILED = SOLVED.replace("a + b)", "a - b)")
TESTS = [{"input": "1 2\n", "output": "3\n"}, {"input": "5 5\n", "output": "10\n"}]


def chain(problem: int, run: int, box: str | None) -> str:
    thought = f"<think>\nproblem {problem}, run {run}: let me see"
    return thought if box is None else f"{thought}\n</think>\nSo it is $\\boxed{{{box}}}$."


def maths_rows() -> list[dict]:
    return [
        {
            "idx": problem, "source": "aime2024", "prompt": PROMPT.format(f"problem {problem}"), "run": run,
            "reference_solution": f"...\n#### {GOLDS[problem]}", "completion": chain(problem, run, box or None),
            "finish_reason": "stop" if box else "length", "format_valid": bool(box), "completion_tokens": 20 + run,
            "thinking": "think",
        }
        for problem, boxes in BOXES.items()
        for run, box in enumerate(boxes)
    ]  # fmt: skip


def code_rows() -> list[dict]:
    return [
        {
            "question_id": "sum", "source": "made_code", "prompt": PROMPT.format("Add two numbers."), "run": run,
            "tests": TESTS, "completion": text, "finish_reason": "stop", "format_valid": True, "thinking": "think",
        }
        for run, text in enumerate([SOLVED, FAILED, SOLVED])
    ]  # fmt: skip


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with maths.jsonl and code.jsonl, graded by the programs."""
    folder = tmp_path_factory.mktemp("graded")
    write_jsonl(folder / "maths.jsonl", maths_rows())
    write_jsonl(folder / "code.jsonl", code_rows())
    maths = run("calc_acc_aime.py", "--input_path", folder / "maths.jsonl", "--expected_runs", 4)
    assert maths.returncode == 0, maths.stderr
    code = run("calc_acc_lcb.py", "--input_path", folder / "code.jsonl", "--cache_path", folder / "verdicts.jsonl")
    assert code.returncode == 0, code.stderr
    return folder


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch):
    def call(**flags: object) -> None:
        words = []
        for name, value in flags.items():
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
        monkeypatch.setattr(sys, "argv", ["make_preferences", *words])
        make_preferences.main()

    return call


def copy_of(graded: Path, folder: Path) -> Path:
    for name in ("maths.jsonl", "maths.grades.jsonl"):
        (folder / name).write_bytes((graded / name).read_bytes())
    return folder / "maths.jsonl"


def test_pairs_and_right_answers_of_maths_and_code(graded: Path, tmp_path: Path, make, capsys):
    inputs = [graded / "maths.jsonl", graded / "code.jsonl"]
    make(input_path=inputs, output_path=tmp_path / "pairs.jsonl", sft_path=tmp_path / "right.jsonl", answers=2)
    pairs = {row["problem_id"]: row for row in read_jsonl(tmp_path / "pairs.jsonl")}
    assert set(pairs) == {"aime2024/0", "aime2024/3", "sum"}
    assert pairs["aime2024/0"]["rejected"] == chain(0, 2, "32")
    assert pairs["aime2024/0"]["chosen_run"] in (0, 1, 3)
    assert pairs["aime2024/0"]["pass_rate"] == 0.75
    assert pairs["aime2024/3"]["chosen"] == chain(3, 0, "5")
    assert (pairs["sum"]["chosen"], pairs["sum"]["rejected"]) == (SOLVED, FAILED)
    right = Counter(row["problem_id"] for row in read_jsonl(tmp_path / "right.jsonl"))
    assert right == {"aime2024/0": 2, "aime2024/1": 2, "aime2024/3": 1, "sum": 1}

    told = json.loads((tmp_path / "pairs.run.json").read_text())
    assert told["problems"] == {"with a pair": 3, "no usable wrong answer": 1, "no usable right answer": 1}
    assert sum(told["samples"].values()) == 4 * 4 + 3
    assert told["samples"]["cut short"] == 2
    assert told["samples"]["repeats another"] == 1  # the program, written twice
    assert told["rows"] == 3
    digest = hashlib.blake2b((graded / "maths.grades.jsonl").read_bytes(), digest_size=10).hexdigest()
    assert told["inputs"][str(graded / "maths.grades.jsonl")] == digest
    left_out = {row["problem_id"]: row["reason"] for row in read_jsonl(tmp_path / "pairs.left_out.jsonl")}
    assert left_out == {"aime2024/1": "no usable wrong answer", "aime2024/2": "no usable right answer"}
    assert "3 with a pair" in capsys.readouterr().out


def test_train_reads_both_files(graded: Path, tmp_path: Path, make):
    make(input_path=[graded / "maths.jsonl"], output_path=tmp_path / "pairs.jsonl", sft_path=tmp_path / "right.jsonl")
    sides = list(iter_preferences([tmp_path / "pairs.jsonl"]))
    assert {one.id.rpartition("/")[2] for one in sides} == {"chosen", "rejected"}
    answers = list(iter_examples([tmp_path / "right.jsonl"]))
    assert len(sides) == 4
    assert len(answers) == 3
    for one in (*sides, *answers):
        prompt = "".join(getattr(part, "text", part) for part in one.prompt)
        assert "".join(join(prompt, one.completion)).count("<think>") == 1  # as encode.py joins them


def test_the_same_command_writes_the_same_bytes(graded: Path, tmp_path: Path, make):
    files = []
    for name in ("one", "two"):
        make(input_path=[graded / "maths.jsonl"], output_path=tmp_path / name / "pairs.jsonl", pairs=3, seed=5)
        files.append((tmp_path / name / "pairs.jsonl").read_bytes())
    assert files[0] == files[1]
    assert files[0].count(b"\n") == 3 + 2


def test_a_majority_needs_no_gold(tmp_path: Path, make):
    rows = [{name: value for name, value in row.items() if name != "reference_solution"} for row in maths_rows()]
    write_jsonl(tmp_path / "maths.jsonl", rows)
    make(input_path=[tmp_path / "maths.jsonl"], output_path=tmp_path / "pairs.jsonl", by="majority")
    pairs = {row["problem_id"]: row for row in read_jsonl(tmp_path / "pairs.jsonl")}
    # Three of four say 33. Of problem 2 half say 8, and of problem 3 half say 6, which gold would call wrong.
    assert set(pairs) == {"aime2024/0", "aime2024/2", "aime2024/3"}
    assert pairs["aime2024/0"]["rejected"] == chain(0, 2, "32")
    assert pairs["aime2024/3"]["rejected"] == chain(3, 0, "5")
    make(input_path=[tmp_path / "maths.jsonl"], output_path=tmp_path / "strict.jsonl", by="majority", threshold=0.6)
    assert {row["problem_id"] for row in read_jsonl(tmp_path / "strict.jsonl")} == {"aime2024/0"}
    told = json.loads((tmp_path / "strict.run.json").read_text())
    assert told["problems"] == {"with a pair": 1, "no usable wrong answer": 1, "no majority": 2}


def test_a_tie_is_no_majority(tmp_path: Path, make):
    rows = [row for row in maths_rows() if row["idx"] == 0]
    for row, box in zip(rows, ("1", "1", "2", "2"), strict=True):
        row["completion"] = chain(0, row["run"], box)
    write_jsonl(tmp_path / "maths.jsonl", rows)
    with pytest.raises(InputError, match=r"pairs\.jsonl: no pair is possible; problems: 1 no majority"):
        make(input_path=[tmp_path / "maths.jsonl"], output_path=tmp_path / "pairs.jsonl", by="majority")
    assert not (tmp_path / "pairs.jsonl").exists()


def test_rows_of_all_samples_of_a_problem_are_read_too(graded: Path, tmp_path: Path, make):
    """`infer_longcot.py --format grouped`."""
    names = {"completion": "completions", "finish_reason": "finish_reasons", "format_valid": "format_valids"}
    names |= {"completion_tokens": "completion_tokenss", "thinking": "thinkings"}
    groups: dict[int, dict] = {}
    for row in maths_rows():
        group = groups.setdefault(row["idx"], {k: v for k, v in row.items() if k not in names and k != "run"})
        for name, plural in names.items():
            group.setdefault(plural, []).append(row[name])
    write_jsonl(tmp_path / "maths.jsonl", groups.values())
    (tmp_path / "maths.grades.jsonl").write_bytes((graded / "maths.grades.jsonl").read_bytes())
    for path, name in ((graded, "one"), (tmp_path, "two")):
        make(input_path=[path / "maths.jsonl"], output_path=tmp_path / f"{name}.jsonl")
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


def test_grades_of_another_models_answers_are_refused(graded: Path, tmp_path: Path, make):
    path = copy_of(graded, tmp_path)
    rows = read_jsonl(path)
    rows[5]["completion"] = rows[5]["completion"].replace("let me see", "let us see")  # of the same length
    write_jsonl(path, rows)
    words = r"maths\.grades\.jsonl:6: grades another completion of problem 'aime2024/1', run 1, than .*maths\.jsonl:6"
    with pytest.raises(InputError, match=words):
        make(input_path=[path], output_path=tmp_path / "pairs.jsonl")
    assert not list(tmp_path.glob("pairs*"))


def test_grades_older_than_their_hash_are_told_by_length(graded: Path, tmp_path: Path, make):
    path = copy_of(graded, tmp_path)
    grades = [
        {k: v for k, v in row.items() if k != "completion_hash"} for row in read_jsonl(graded / "maths.grades.jsonl")
    ]
    write_jsonl(tmp_path / "maths.grades.jsonl", grades)
    make(input_path=[path], output_path=tmp_path / "pairs.jsonl")
    rows = read_jsonl(path)
    rows[0]["completion"] += "!"
    write_jsonl(path, rows)
    with pytest.raises(InputError, match=r"grades\.jsonl:1: grades another completion"):
        make(input_path=[path], output_path=tmp_path / "pairs.jsonl")


def test_grades_of_other_problems_are_refused(graded: Path, tmp_path: Path, make):
    path = copy_of(graded, tmp_path)
    write_jsonl(path, read_jsonl(path)[4:])
    with pytest.raises(
        InputError, match=r"grades\.jsonl:1: grades problem 'aime2024/0', run 0, which .* does not hold"
    ):
        make(input_path=[path], output_path=tmp_path / "pairs.jsonl")


def test_a_missing_grade_is_named_or_its_problem_left_out(graded: Path, tmp_path: Path, make):
    path = copy_of(graded, tmp_path)
    write_jsonl(tmp_path / "maths.grades.jsonl", read_jsonl(tmp_path / "maths.grades.jsonl")[:-1])
    with pytest.raises(InputError, match=r"maths\.jsonl:16: .* has no grade of problem 'aime2024/3', run 3; grade it"):
        make(input_path=[path], output_path=tmp_path / "pairs.jsonl")
    make(input_path=[path], output_path=tmp_path / "pairs.jsonl", skip_ungraded=True)
    assert {row["problem_id"] for row in read_jsonl(tmp_path / "pairs.jsonl")} == {"aime2024/0"}
    assert json.loads((tmp_path / "pairs.run.json").read_text())["problems"]["no grade"] == 1


def test_files_that_number_their_problems_alike(tmp_path: Path, make):
    for name in ("geometry", "algebra"):
        said = [rf"<think>\n{name}\n</think>\n\n\boxed{{{run}}}" for run in range(2)]
        rows = [{"id": 1, "run": run, "prompt": f"Some {name}?", "completion": said[run]} for run in range(2)]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
        grades = [{"problem_id": "1", "run": run, "correct": run == 0} for run in range(2)]
        write_jsonl(tmp_path / f"{name}.grades.jsonl", grades)
    make(input_path=[tmp_path / "geometry.jsonl", tmp_path / "algebra.jsonl"], output_path=tmp_path / "pairs.jsonl")
    pairs = {row["problem_id"]: row["prompt"] for row in read_jsonl(tmp_path / "pairs.jsonl")}
    assert pairs == {"1": "Some geometry?", "algebra/1": "Some algebra?"}


def test_no_pair_at_all_says_why(graded: Path, tmp_path: Path, make):
    words = r"no pair is possible; problems: 3 too easy, 1 too hard; samples: 11 too easy, .*2 cut short"
    with pytest.raises(InputError, match=words):
        make(
            input_path=[graded / "maths.jsonl"],
            output_path=tmp_path / "pairs.jsonl",
            min_pass_rate=0.1,
            max_pass_rate=0.2,
        )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"output_path": None}, "--output_path or --sft_path: at least one"),
        ({"sft_path": "pairs.jsonl"}, "--sft_path .*: that is --output_path"),
        ({"min_pass_rate": 0.9, "max_pass_rate": 0.1}, "--min_pass_rate 0.9: is above --max_pass_rate 0.1"),
        ({"by": "luck"}, "--by"),
        ({"output_path": "maths.jsonl"}, "--input_path .*: would be overwritten"),
        ({"input_path": ["maths.jsonl", "maths.jsonl"]}, "problem 'aime2024/0' is in an earlier --input_path too"),
        ({"grades_path": ["maths.jsonl", "maths.jsonl"]}, "--grades_path: 2 files for 1 of --input_path"),
        ({"grades_path": ["maths.jsonl"]}, r"maths\.jsonl:1: no grade: expected problem_id, run and correct"),
        ({"grades_path": ["maths.jsonl"], "by": "majority"}, "--grades_path: a majority needs no grades"),
        ({"input_path": ["ungraded.jsonl"]}, r"ungraded\.grades\.jsonl: no such file; grade .*--by majority"),
    ],
)
def test_flags_that_cannot_be_meant(graded: Path, tmp_path: Path, make, flags: dict, words: str):
    path = copy_of(graded, tmp_path)
    (tmp_path / "ungraded.jsonl").write_bytes(path.read_bytes())
    paths = {"input_path": ["maths.jsonl"], "output_path": "pairs.jsonl", **flags}
    for name in ("input_path", "grades_path"):
        if name in paths:
            paths[name] = [tmp_path / one for one in paths[name]]
    for name in ("output_path", "sft_path"):
        if paths.get(name):
            paths[name] = tmp_path / paths[name]
    with pytest.raises(InputError, match=words):
        make(**{name: value for name, value in paths.items() if value is not None})
    assert not (tmp_path / "pairs.jsonl").exists()


def test_as_a_program(graded: Path, tmp_path: Path):
    done = run(
        "-m", "scripts.make_preferences", "--input_path", graded / "code.jsonl", "--output_path", tmp_path / "p.jsonl"
    )
    assert done.returncode == 0, done.stderr
    assert "p.jsonl: 1 rows" in done.stdout
    wrong = run(
        *(
            "-m",
            "scripts.make_preferences",
            "--input_path",
            graded / "code.jsonl",
            "--output_path",
            tmp_path / "q.jsonl",
        ),
        *("--grades_path", graded / "maths.grades.jsonl"),
    )
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1
