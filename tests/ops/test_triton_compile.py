"""The Triton kernels as machine code, compiled without a GPU: no spills, and no more shared memory than there is."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
ROOT = Path(__file__).resolve().parents[2]


def report(*flags: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "scripts.bench.compile_report", *flags]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)


def test_every_kernel_compiles_without_spills_on_every_architecture(tmp_path: Path):
    """At the 7B model's sizes. sm_80 runs sm_86's tiles with more shared memory, sm_89 the same machine code."""
    record = tmp_path / "compile.json"
    archs = ["86", "90", "100", "120"]
    child = report("--record", str(record), "--sizes", "64x128", "--archs", *archs, "--dtypes", "bf16")
    assert child.returncode == 0, child.stdout + child.stderr
    table = json.loads(record.read_text())["tables"][0]
    rows = [dict(zip(table["header"], row, strict=True)) for row in table["rows"]]
    assert {row["arch"] for row in rows} == {"sm_86", "sm_90", "sm_100", "sm_120"}
    assert all(row["stack B"] == "0" for row in rows), rows
    dots = {"state_walk", "chunk_scan", "chunk_gradients"}
    hopper = {row["kernel"]: row["matrix unit"] for row in rows if row["arch"] == "sm_90"}
    assert {kernel for kernel, unit in hopper.items() if unit == "wgmma"} == dots, hopper


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--archs", "75"], "--archs 75: must be one of 80, 86, 89, 90, 100, 120"),
        (["--sizes", "64x96"], "--sizes 64x96: must be one of 64x128, 64x64"),
        (["--kernels", "no_such"], "--kernels no_such: must be one of chunk_gradients"),
    ],
)
def test_bad_flags_are_named(flags: list[str], message: str):
    child = report("--record", "", *flags)
    assert child.returncode == 2
    assert message in child.stderr
    assert len(child.stderr.strip().splitlines()) == 1
