"""What tests of code grading share: a sandbox for all of them, and the benchmark files."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from promptcot_mamba.grading.code_sandbox import Sandbox


@pytest.fixture(scope="session")
def sandbox():
    """The strongest sandbox that can be made here."""
    with Sandbox() as made:
        yield made


@pytest.fixture(scope="session")
def benchmark_rows():
    """Rows of a benchmark file by its name; the test is skipped where the files are not at hand."""

    def read(name: str) -> list[dict]:
        folder = os.environ.get("PROMPTCOT_BENCHMARKS")
        if not folder:
            pytest.skip("PROMPTCOT_BENCHMARKS is not set: no benchmark files")
        path = Path(folder) / name
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return [json.loads(line) for line in text.splitlines()]

    return read
