"""Fixtures of the grading tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def benchmark_files() -> Path:
    """The folder of real benchmark files, named by PROMPTCOT_BENCHMARKS."""
    folder = os.environ.get("PROMPTCOT_BENCHMARKS")
    if not folder:
        pytest.skip("PROMPTCOT_BENCHMARKS is not set: no benchmark files to test with")
    return Path(folder)
