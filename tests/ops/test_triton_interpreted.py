"""The Triton kernels against the fp64 definitions, every output and gradient, run by Triton's interpreter."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ops.comparison import FLOOR
from tests.ops.triton_cases import CASES

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def interpreted(op: str) -> tuple[dict[str, dict], str]:
    """The result of every case of one op that the child process came to, and its stderr."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "tests.ops.triton_cases", op]
    child = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)
    return {row["case"]: row for row in map(json.loads, child.stdout.splitlines())}, child.stderr


@pytest.mark.parametrize(("op", "case"), [(op, case) for op in CASES for case in CASES[op]])
def test_outputs_and_gradients_equal_the_definition(op: str, case: str):
    results, stderr = interpreted(op)
    assert case in results, stderr
    errors = results[case]["errors"]
    assert all(error < FLOOR for error in errors.values()), errors


# Forward and backward: the SSD itself at most 2 and 6, everything else one each way.
LAUNCHES = {"ssd": (2, 6), "causal_conv1d": (1, 1), "gated_rms_norm": (1, 1)}


@pytest.mark.parametrize("op", LAUNCHES)
def test_launches_are_few_and_nothing_computes_beside_them(op: str):
    results, stderr = interpreted(op)
    assert results.keys() == CASES[op].keys(), stderr
    for case, result in results.items():
        forward, backward = result["launches"]
        most_forward, most_backward = LAUNCHES[op]
        assert 1 <= len(forward) <= most_forward, (case, forward)
        assert 1 <= len(backward) <= most_backward, (case, backward)
        assert result["computed"] == [[], []], case


def test_a_mixer_runs_its_forward_twice_and_no_more():
    """Once forward; once again in the backward, be it the mixer's own doing or the layer's."""
    results, stderr = interpreted("fused_mixer")
    assert "recomputed as a whole" in results, stderr
    for case, result in results.items():
        assert [side.count("chunk_scan") for side in result["launches"]] == [1, 1], (case, result["launches"])


def test_a_slice_s_mixer_runs_its_forward_twice_and_no_more():
    results, stderr = interpreted("sliced_mixer")
    assert "recomputed as a whole" in results, stderr
    for case, result in results.items():
        assert result["launches"].count("chunk_scan") == 2 * result["slices"], (case, result["launches"])
