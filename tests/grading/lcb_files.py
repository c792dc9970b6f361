"""Prediction and tests files in LiveCodeBench's published layout, and the benchmark files, for tests."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from pathlib import Path

import pytest

RIGHT = "print(sum(map(int, input().split())))"
SOLUTION = "class Solution:\n    def add(self, a: List[int], b: int) -> int:\n        return sum(a) + b"
STATEMENT = "Add.\r\n\r\nSample Input 1\r\n\r\n1 2\r\n\r\nSample Output 1\r\n\r\n3\r\n\r\nBecause 1 + 2 = 3.\r\n"


def completion(code: str) -> str:
    return f"<think>\nhm\n</think>\n```python\n{code}\n```"


def make_folder(tmp_path: Path) -> Path:
    """Two problems with tests, two runs each: one right and one wrong program."""
    (tmp_path / "tests").mkdir()
    bodies = {
        "q0": {"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"], "fn_name": None},
        "q1": {"inputs": ["[1, 2]\n3", "[]\n4"], "outputs": ["6", "4"], "fn_name": "add"},
    }
    rows = []
    for name, programs in (("q0", (RIGHT, "print(3)")), ("q1", (SOLUTION, "def add(a, b):\n    return 6"))):
        parsed = {"input_output": json.dumps(bodies[name])}
        (tmp_path / "tests" / f"{name}.json").write_text(json.dumps(parsed))
        named = {"fname": f"{name}.json", "md5": hashlib.md5(json.dumps(parsed).encode()).hexdigest()}
        rows += [{"question_id": name, "tests": named, "completion": completion(code)} for code in programs]
    write(tmp_path, rows)
    return tmp_path


def write(folder: Path, rows: list[dict]) -> None:
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def flags(folder: Path) -> tuple[str, ...]:
    return ("--cache_path", str(folder / "c.jsonl"), "--tests_dir", str(folder / "tests"))


def read_benchmark(name: str) -> list[dict]:
    """Rows of a benchmark file by its name; the test is skipped where the files are not at hand."""
    folder = os.environ.get("PROMPTCOT_BENCHMARKS")
    if not folder:
        pytest.skip("PROMPTCOT_BENCHMARKS is not set: no benchmark files")
    path = Path(folder) / name
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in text.splitlines()]
