"""What the grading tests share: the real benchmark files, and one sandbox for all tests of programs."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from promptcot_mamba.grading.sandbox.sandbox import Sandbox


@pytest.fixture(scope="session")
def benchmark_files() -> Path:
    """The folder of real benchmark files, named by PROMPTCOT_BENCHMARKS."""
    folder = os.environ.get("PROMPTCOT_BENCHMARKS")
    if not folder:
        pytest.skip("PROMPTCOT_BENCHMARKS is not set: no benchmark files to test with")
    return Path(folder)


@pytest.fixture(scope="session")
def benchmark_rows(benchmark_files: Path):
    """Rows of a benchmark file by its name."""

    def read(name: str) -> list[dict]:
        data = (benchmark_files / name).read_bytes()
        text = gzip.decompress(data) if name.endswith(".gz") else data
        return [json.loads(line) for line in text.splitlines()]

    return read


@pytest.fixture(scope="session")
def sandbox():
    """The strongest sandbox that can be made here."""
    with Sandbox() as made:
        yield made
