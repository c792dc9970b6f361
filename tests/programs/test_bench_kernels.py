"""The device proof rehearsed on the CPU: every row measured at a tiny shape, resumed, and refused without a device."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from promptcot_mamba.cli import parse_args
from promptcot_mamba.errors import InputError
from scripts.bench_kernels import BenchArguments

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
ROOT = Path(__file__).resolve().parents[2]


def run(*command: str, **environment: str) -> subprocess.CompletedProcess:
    environment = (
        os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHON": sys.executable} | environment
    )
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)


def bench(*flags: str) -> subprocess.CompletedProcess:
    return run(sys.executable, "-m", "scripts.bench_kernels", *flags)


def test_dry_run_measures_every_row_and_resumes(tmp_path: Path):
    record = tmp_path / "record.json"
    flags = ("--dry_run", "True", "--repeats", "5", "--record", str(record), "--ops", "causal_conv1d", "gated_rms_norm")
    child = bench(*flags)
    assert child.returncode == 0, child.stdout + child.stderr
    rows = json.loads(record.read_text())["rows"]
    assert {key.split("/")[0] for key in rows} == {"ceilings", "correctness", "speed"}
    assert all(row["passed"] for key, row in rows.items() if key.startswith("correctness"))
    conv = rows["speed/causal_conv1d/20"]
    assert conv["moved_bytes"]["forward_backward"] > conv["moved_bytes"]["forward"] > 0
    assert conv["causal_conv1d"].startswith("not measured: InputError: causal_conv1d: backend 'causal_conv1d' needs")
    assert conv["shifted"]["forward"]["times_ours"] > 0

    rows["speed/causal_conv1d/20"]["ours"]["forward"]["median_ms"] = 123.456  # a resumed run keeps what is there
    record.write_text(json.dumps({"rows": rows}))
    again = bench(*flags)
    assert again.returncode == 0, again.stderr
    assert "forward 123.456 ms" in again.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_without_a_device_it_says_so():
    child = bench("--part", "speed")
    assert child.returncode == 2
    assert child.stderr.strip().splitlines()[-1].startswith("error: no CUDA device")


def test_a_row_outside_its_floor_fails_the_run(tmp_path: Path):
    record = tmp_path / "record.json"
    row = {"errors": {"dx": 0.5}, "plain_torch_errors": {"dx": 1e-7}, "floor": 5e-5, "passed": False}
    rows = {f"correctness/gated_rms_norm/float32/{name}": row for name in ("packed", "unpacked")}
    record.write_text(json.dumps({"rows": rows | {"ceilings": {}}}))
    flags = ("--dry_run", "True", "--part", "correctness", "--ops", "gated_rms_norm", "--record", str(record))
    child = bench(*flags)
    assert child.returncode == 1
    assert "outside its floor: correctness/gated_rms_norm/float32/packed" in child.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--part", "fast"], "--part: expected correctness, speed or all"),
        (["--ops", "softmax"], "--ops: 'softmax' is not one of ssd"),
        (["--repeats", "3"], "--repeats: at least 5"),
    ],
)
def test_bad_flags_are_named(flags: list[str], message: str):
    with pytest.raises(InputError, match=message):
        parse_args(BenchArguments, flags)


def test_the_shell_road_knows_its_parts():
    child = run("bash", "scripts/gpu_proof.sh", "no_such_part", DRY_RUN="1")
    assert child.returncode == 2
    assert "unknown part 'no_such_part'" in child.stderr
