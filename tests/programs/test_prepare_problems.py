"""`python -m scripts.prepare_problems`, on small copies in the publishers' own layouts and on the shared files."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pickle
import subprocess
import sys
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptcot_mamba.benchmarks import BENCHMARKS, fetched
from promptcot_mamba.chat_format import render_prompt
from promptcot_mamba.jsonl import read_jsonl, write_jsonl
from promptcot_mamba.records import iter_problems

ROOT = Path(__file__).resolve().parents[2]


def run(*flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "scripts.prepare_problems", *map(str, flags)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def pack(value: object) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A folder in the hub's layout, with whole-sized AIME and a LiveCodeBench of 279 problems in the window."""
    folder = tmp_path_factory.mktemp("hub")
    write_jsonl(
        folder / "Maxwell-Jia/AIME_2024/aime_2024_problems.jsonl",
        ({"ID": f"2024-II-{n}", "Problem": f"Problem {n}?", "Solution": "So.", "Answer": n} for n in range(30)),
    )
    for part, numbers in (("I", range(15)), ("II", range(15, 30))):
        rows = ({"question": f"Question {n}?", "answer": str(n)} for n in numbers)
        write_jsonl(folder / f"opencompass/AIME2025/aime2025-{part}.jsonl", rows)
    rows = [{"question": f"Word problem {n}", "answer": f"so\n#### {n}"} for n in range(1319)]
    gsm8k = folder / "openai/gsm8k/main/test-00000-of-00001.parquet"
    gsm8k.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), gsm8k)
    number = 0
    for part, (old, new) in zip(("", "2", "3", "4", "5"), ((3, 0), (1, 0), (1, 0), (0, 100), (1, 179)), strict=True):
        lines = []
        for index in range(old + new):
            tests = [{"input": f"{number}\n", "output": f"{number + 1}\n", "testtype": "stdin"}]
            functional = number % 3 == 0
            lines.append({
                "question_title": "t", "question_content": f"Add one to {number}.", "platform": "atcoder",
                "question_id": f"abc{number}", "contest_id": "abc", "difficulty": "easy",
                "contest_date": "2024-01-01T00:00:00" if index < old else "2024-09-01T00:00:00",
                "starter_code": "class Solution:\n    def f(self) -> int:\n        " if functional else "",
                "public_test_cases": json.dumps(tests), "private_test_cases": pack(json.dumps(tests * 2)),
                "metadata": json.dumps({"func_name": "f"} if functional else {}),
            })  # fmt: skip
            number += 1
        write_jsonl(folder / f"livecodebench/code_generation_lite/test{part}.jsonl", lines)
    return folder


def test_publishers_layouts_become_problem_files_with_tests_and_manifest(published, tmp_path):
    done = run("--benchmark", "aime24,aime25,gsm8k,livecodebench", "--source_dir", published, "--output_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    aime = read_jsonl(tmp_path / "aime_test.jsonl")
    assert [row["idx"] for row in aime] == list(range(60))
    assert [row["source"] for row in aime] == ["aime2024"] * 30 + ["aime2025"] * 30
    assert aime[31]["reference_solution"] == "\\boxed{1}\n#### 1"
    code = read_jsonl(tmp_path / "livecodebench_test.jsonl")
    assert len(code) == 279
    assert code[0]["global_id"] == 5  # five problems before the window come first
    for row in code[::40]:
        path = tmp_path / "livecodebench_v5_tests" / row["tests"]["fname"]
        content = json.loads(path.read_text())
        assert hashlib.md5(json.dumps(content).encode()).hexdigest() == row["tests"]["md5"]
        assert len(json.loads(content["input_output"])["inputs"]) == 3
    manifest = json.loads((tmp_path / "problems.manifest.json").read_text())
    assert {name: line["problems"] for name, line in manifest.items()} == {
        "aime24": 30, "aime25": 30, "gsm8k": 1319, "livecodebench": 279,
    }  # fmt: skip
    for line in manifest.values():
        assert line["licence"]
        assert line["sha256"] == hashlib.sha256((tmp_path / line["file"]).read_bytes()).hexdigest()
    before = (tmp_path / "aime_test.jsonl").read_bytes()
    assert run("--benchmark", "aime25", "--source_dir", published, "--output_dir", tmp_path).returncode == 0
    assert (tmp_path / "aime_test.jsonl").read_bytes() == before


def test_lines_of_files_that_are_gone_leave_the_manifest(published, tmp_path):
    flags = ("--source_dir", published, "--output_dir", tmp_path)
    assert run("--benchmark", "aime24,aime25,gsm8k", *flags).returncode == 0
    (tmp_path / "gsm8k_test.jsonl").unlink()
    (tmp_path / "aime_test.jsonl").unlink()
    done = run("--benchmark", "aime24", *flags)  # AIME 2025's rows went with the file that it shares
    assert done.returncode == 0, done.stderr
    assert "aime25, gsm8k" in done.stderr
    manifest = json.loads((tmp_path / "problems.manifest.json").read_text())
    assert list(manifest) == ["aime24"]
    assert manifest["aime24"]["sha256"] == hashlib.sha256((tmp_path / "aime_test.jsonl").read_bytes()).hexdigest()


def test_contests_of_matharena_come_from_one_parquet_file_each(tmp_path):
    """Columns and types as on the hub: HMMT's answers are LaTeX texts, AIME's integers."""
    answers = {"hmmt_feb_2025": r"\frac{1}{576}", "aime_2026": 277}
    for repo, answer in answers.items():
        rows = [
            {"problem_idx": n, "problem": f"Problem {n} of ${n}$?", "answer": answer, "problem_type": ["Algebra"]}
            for n in range(1, 31)
        ]
        file = tmp_path / f"hub/MathArena/{repo}/data/train-00000-of-00001.parquet"
        file.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), file)
    done = run("--benchmark", "hmmt25,aime26", "--source_dir", tmp_path / "hub", "--output_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    for name, source, gold in (("hmmt25", "hmmt_feb_2025", r"\frac{1}{576}"), ("aime26", "aime2026", "277")):
        problems = list(iter_problems(tmp_path / f"{name}_test.jsonl"))
        assert [problem.id for problem in problems] == [f"{source}/{n}" for n in range(1, 31)]
        assert problems[4].question == "Problem 5 of $5$?"
        assert BENCHMARKS[name].read_gold(problems[0].fields).answer == gold


def test_shared_files_are_accepted_as_sources(tmp_path):
    if "PROMPTCOT_BENCHMARKS" not in os.environ:
        pytest.skip("PROMPTCOT_BENCHMARKS is not set: no published problem files")
    shared = Path(os.environ["PROMPTCOT_BENCHMARKS"])
    done = run("--source_dir", shared, "--output_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    for left_out in fetched(published=False):  # `all` does not insist on them
        assert f"{left_out} is left out" in done.stderr
        assert not (tmp_path / BENCHMARKS[left_out].problem_file).exists()
    for name in ("aime_test.jsonl", "livecodebench_test.jsonl"):
        for made, released in zip(read_jsonl(tmp_path / name), read_jsonl(shared / name), strict=True):
            assert made == {**released, "question": made["question"], "instruction": made["instruction"]}
    for benchmark in map(BENCHMARKS.__getitem__, fetched(published=True)):
        problems = list(iter_problems(tmp_path / benchmark.problem_file))
        own = [problem for problem in problems if problem.source in (None, *benchmark.sources)]
        expected = 675 if benchmark.name == "olympiadbench" else benchmark.expected_problems
        assert len(own) == expected, benchmark.name
        for problem in own:
            assert problem.prompt == render_prompt(problem.question, problem.fields["instruction"])
            assert ("boxed" in problem.fields["instruction"]) == (benchmark.kind == "math")
        if benchmark.read_gold:
            assert all(benchmark.read_gold(problem.fields).answer for problem in own)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--benchmark", "aime24"], "download *.jsonl of https://huggingface.co/datasets/Maxwell-Jia/AIME_2024"),
        (["--benchmark", "aime23"], "unknown benchmark 'aime23'"),
        (["--benchmark", "hmmt25"], "download data/train-*.parquet of https://huggingface.co/datasets/MathArena/hmmt"),
        (["--benchmark", "quickstart_single"], "python -m scripts.quickstart.make_data writes it"),
        (["--benchmark", "gsm8k"], "put gsm8k.jsonl"),
    ],
)
def test_missing_files_and_names_are_explained(flags, message, tmp_path):
    done = run(*flags, "--source_dir", tmp_path, "--output_dir", tmp_path / "out")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("number", "said"), [(7, "id 'aime2026/7' 30 times"), (None, "a problem without an id")])
def test_problems_that_cannot_be_told_apart_are_not_written(tmp_path, number, said):
    rows = ({"problem_idx": number, "problem": f"Problem {n}?", "answer": n} for n in range(30))
    write_jsonl(tmp_path / "aime_2026.jsonl", rows)
    done = run("--benchmark", "aime26", "--source_dir", tmp_path, "--output_dir", tmp_path / "out")
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "out/aime26_test.jsonl").exists()


def test_a_wrong_count_and_a_changed_schema_are_refused(tmp_path):
    write_jsonl(
        tmp_path / "gsm8k.jsonl", [{"idx": 0, "prompt": "q", "reference_solution": "#### 1", "source": "gsm8k"}]
    )
    done = run("--benchmark", "gsm8k", "--source_dir", tmp_path, "--output_dir", tmp_path / "out")
    assert done.returncode == 2
    assert "1 problems" in done.stderr
    assert "expected 1319" in done.stderr
    assert not (tmp_path / "out/gsm8k_test.jsonl").exists()
    write_jsonl(tmp_path / "gsm8k.jsonl", [{"idx": 0, "query": "q"}])
    done = run("--benchmark", "gsm8k", "--source_dir", tmp_path, "--output_dir", tmp_path / "out")
    assert done.returncode == 2
    assert "missing column prompt, reference_solution, source; found idx, query" in done.stderr
