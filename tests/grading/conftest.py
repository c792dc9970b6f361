"""What tests of code grading share: a sandbox for all of them, and the benchmark files."""

from __future__ import annotations

import pytest

from promptcot_mamba.grading.code_sandbox import Sandbox
from tests.grading.lcb_files import read_benchmark


@pytest.fixture(scope="session")
def sandbox():
    """The strongest sandbox that can be made here."""
    with Sandbox() as made:
        yield made


@pytest.fixture(scope="session")
def benchmark_rows():
    return read_benchmark
