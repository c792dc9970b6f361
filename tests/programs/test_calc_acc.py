"""`calc_acc_aime.py`, `scripts.calc_acc` and `scripts.bench.grade_pairs` as their users run them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
Row = dict[str, object]
GOLDS = {("aime2024", 0): "33", ("aime2024", 1): "23", ("aime2025", 0): "336^\\circ"}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def answer(box: str) -> str:
    return f"<think>\nlet me see, \\boxed{{1}}\n</think>\nSo it is $\\boxed{{{box}}}$."


def row(source: str, idx: int, **keys: object) -> Row:
    gold = GOLDS[source, idx]
    return {"idx": idx, "prompt": f"problem {idx}", "reference_solution": f"...\n#### {gold}", "source": source, **keys}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def to_file(rows: list[Row], name: str = "predictions.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
        return path

    return to_file


@pytest.fixture
def predictions(write: Callable[..., Path]) -> Path:
    """Two runs of three problems: 3 of 4 right in 2024, 1 of 2 in 2025; one cut off, one hundredfold."""
    return write(
        [
            row("aime2024", 0, run=0, completion=answer("33")),
            row("aime2024", 0, run=1, completion=answer("033")),
            row("aime2024", 1, run=0, completion=answer("2300")),
            row("aime2024", 1, run=1, completion=answer("23.0")),
            row("aime2025", 0, run=0, completion=answer("336")),
            row("aime2025", 0, run=1, completion="<think>\nit is 336, \\boxed{336}", finish_reason="length"),
        ]
    )


def metrics(path: Path) -> dict[str, Row]:
    document = json.loads(path.with_name(f"{path.stem}.metrics.json").read_text(encoding="utf-8"))
    return {figures["title"]: figures for figures in document["summaries"]}


def test_published_command_line(predictions: Path):
    done = run("calc_acc_aime.py", "--input_path", predictions, "--expected_runs", 2)
    assert done.returncode == 0, done.stderr
    assert "AIME 2024" in done.stdout
    assert "AIME 2025" in done.stdout
    figures = metrics(predictions)
    assert figures["AIME 2024"]["avg_at_n"]["mean"] == 0.75
    assert figures["AIME 2024"]["over_runs"]["by_run"] == {"0": 0.5, "1": 1.0}
    assert figures["AIME 2024"]["pass_at_k"] == {"1": 0.75, "2": 1.0}
    assert figures["AIME 2025"]["rates"]["truncated"] == 0.5
    assert figures["AIME 2024"]["by_grader"] == {"strict": 0.75, "paper": 1.0}  # the hundredfold passes there
    grades = [json.loads(line) for line in predictions.with_name("predictions.grades.jsonl").open()]
    assert [grade["reason"] for grade in grades] == ["right", "right", "wrong", "right", "right", "truncated"]
    assert [grade["paper"] for grade in grades] == [True] * 6


def test_pairs_program(write: Callable[..., Path], tmp_path: Path):
    pairs = [
        {"id": "a", "gold": "1/2", "pred": "0.5", "mode": "answer"},
        {"id": "b", "gold": "1/2", "pred": answer("\\frac12"), "mode": "text"},
        {"id": "c", "gold": "1/2", "pred": "<think>\n\\boxed{1/2}", "mode": "text"},
        {"id": "d", "gold": "62.5%", "pred": "0.625", "mode": "answer", "answer_type": "Numerical", "percent": True},
        {"id": "e", "gold": "33", "pred": "3300"},
    ]
    output = tmp_path / "verdicts.jsonl"
    done = run("-m", "scripts.bench.grade_pairs", "--input", write(pairs, "pairs.jsonl"), "--output", output)
    assert done.returncode == 0, done.stderr
    verdicts = [json.loads(line) for line in output.open()]
    assert [(one["id"], one["equal"]) for one in verdicts] == [
        ("a", True),
        ("b", True),
        ("c", False),
        ("d", True),
        ("e", False),
    ]
    assert verdicts[2]["reason"] == "truncated"
    assert all(one["seconds"] < 5 for one in verdicts)
    paper = (
        "-m",
        "scripts.bench.grade_pairs",
        "--input",
        tmp_path / "pairs.jsonl",
        "--output",
        output,
        "--grader",
        "paper",
    )
    assert run(*paper).returncode == 0
    assert [json.loads(line)["equal"] for line in output.open()] == [True] * 5


def test_warnings_name_what_is_missing_repeated_or_unreadable(write: Callable[..., Path]):
    gold = "\\int_0^1 \\begin{cases} x \\end{cases}"
    rows = [row("aime2024", 0, run=0, attempt=a, completion=answer(box)) for a, box in enumerate(("34", "33"))]
    rows.append({"idx": 5, "source": "math", "reference_solution": f"#### {gold}", "completion": answer(gold)})
    path = write(rows)
    done = run("calc_acc_aime.py", "--input_path", path, "--expected_runs", 3, "--strict_runs", "True")
    assert done.returncode == 1
    assert "1 rows repeat a (problem, run)" in done.stderr
    assert "problem aime2024/0 lacks runs 1, 2" in done.stderr
    assert "1 golds cannot be read as mathematics" in done.stderr
    assert metrics(path)["AIME 2024"]["avg_at_n"]["mean"] == 1.0  # the later row counts
    assert metrics(path)["MATH-500"]["avg_at_n"]["mean"] == 1.0  # compared as text


def test_general_door_compares_and_writes_markdown(predictions: Path, write: Callable[..., Path]):
    other = write([row(*key, run=0, completion=answer(gold)) for key, gold in GOLDS.items()], "other.jsonl")
    command = ("-m", "scripts.calc_acc", "--benchmark", "aime24", "--input_path", predictions, "--expected_runs", 2)
    done = run(*command, "--compare", other, "--markdown", "True")
    assert done.returncode == 0, done.stderr
    assert list(metrics(predictions)) == ["AIME 2024"]
    assert "second - first" in done.stdout
    compared = json.loads(predictions.with_name("predictions.compare.json").read_text(encoding="utf-8"))
    assert compared["AIME 2024"]["difference"]["mean"] == 0.25
    assert predictions.with_name("predictions.metrics.md").read_text(encoding="utf-8").startswith("| benchmark |")


def test_bad_input_is_one_line_and_exit_2(write: Callable[..., Path]):
    path = write([row("aime2024", 0, completion=answer("33")), {"idx": 1, "source": "aime2024"}])
    done = run("calc_acc_aime.py", "--input_path", path)
    assert done.returncode == 2
    assert f"error: {path}:2: missing key 'completion'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not path.with_name("predictions.metrics.json").exists()


def test_general_door_grades_code_in_the_sandbox(write: Callable[..., Path]):
    problem = {
        "task_id": "HumanEval/0",
        "prompt": "def double(x):\n",
        "question": "def double(x):\n",
        "entry_point": "double",
        "canonical_solution": "    return 2 * x\n",
        "test": "def check(candidate):\n    assert candidate(3) == 6\n",
        "source": "humaneval",
    }
    programs = ("def double(x):\n    return x + x", "def double(x):\n    return x")
    thoughts = (f"<think>\nhm\n</think>\n```python\n{program}\n```" for program in programs)
    path = write([{**problem, "run": i, "completion": text} for i, text in enumerate(thoughts)])
    done = run("-m", "scripts.calc_acc", "--benchmark", "humaneval", "--input_path", path, "--expected_runs", 2)
    assert done.returncode == 0, done.stderr
    assert metrics(path)["HumanEval"]["over_runs"]["by_run"] == {"0": 1.0, "1": 0.0}
    refused = run("-m", "scripts.calc_acc", "--benchmark", "humaneval", "--input_path", path, "--grader", "paper")
    assert refused.returncode == 2
    assert "--grader is for maths" in refused.stderr


def test_a_folder_of_predictions_is_graded_file_by_file(write: Callable[..., Path], tmp_path: Path):
    write([row(*key, run=0, completion=answer(gold)) for key, gold in GOLDS.items()], "aime.jsonl")
    right = {"idx": 9, "source": "hmmt_feb_2025", "reference_solution": "#### \\frac{1}{576}"}
    write([{**right, "run": 0, "completion": answer("1/576")}], "hmmt25.jsonl")
    done = run("-m", "scripts.calc_acc", "--benchmark", "paper", "--input_path", tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(metrics(tmp_path / "aime.jsonl")) == {"AIME 2024", "AIME 2025"}
    assert not (tmp_path / "hmmt25.metrics.json").exists()
    done = run("-m", "scripts.calc_acc", "--benchmark", "hmmt25", "aime", "--input_path", tmp_path, "--sample_tests", 1)
    assert done.returncode == 0, done.stderr
    assert metrics(tmp_path / "hmmt25.jsonl")["HMMT February 2025"]["avg_at_n"]["mean"] == 1.0
    done = run("-m", "scripts.calc_acc", "--benchmark", "hmmt25", "gsm8k", "--input_path", tmp_path)
    assert done.returncode == 2
    assert "no gsm8k.jsonl to grade" in done.stderr
    done = run("-m", "scripts.calc_acc", "--benchmark", "hmmt25", "aime", "--input_path", tmp_path / "aime.jsonl")
    assert done.returncode == 2
    assert "several need a folder" in done.stderr
