"""The device proof rehearsed on the CPU: parts measured at tiny shapes, resumed, and refused without a device."""

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
from promptcot_mamba.report.results import load_records
from scripts.bench.device_common import PartRecord
from scripts.bench.kernel_cases import count_flops
from scripts.bench.kernels import BenchArguments

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
ROOT = Path(__file__).resolve().parents[2]


def run(*command: str, **environment: str) -> subprocess.CompletedProcess:
    environment = (
        os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHON": sys.executable} | environment
    )
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)


def bench(*flags: str) -> subprocess.CompletedProcess:
    return run(sys.executable, "-m", "scripts.bench.kernels", "--dry_run", "True", *flags)


def test_speed_is_recorded_for_the_report_and_resumed(tmp_path: Path):
    path = tmp_path / "cpu-speed.json"
    flags = ("--part", "speed", "--ops", "gated_rms_norm", "--repeats", "5", "--record", str(path))
    child = bench(*flags)
    assert child.returncode == 0, child.stdout + child.stderr
    record = load_records(tmp_path)[0]
    row = record["results"]["gated_rms_norm/20"]
    assert row["moved_bytes"]["forward_backward"] > row["moved_bytes"]["forward"] > 0
    assert row["upstream"]["failed"] == "not measured: ModuleNotFoundError: No module named 'mamba_ssm'"
    assert row["plain"]["forward"]["median_ms"] > 0
    ceilings, timed = record["tables"]
    assert [line[2] for line in timed["rows"]] == ["forward", "backward", "forward + backward"]
    assert {len(line) for line in timed["rows"]} == {len(timed["header"])}
    copy = record["results"]["ceilings"]["copy_terabytes_per_second"]
    assert ceilings["rows"][0][1] == f"{copy:.2f}"

    row["ours"]["forward"]["median_ms"] = 123.456  # a resumed run keeps what is there
    path.write_text(json.dumps(json.loads(path.read_text()) | {"results": record["results"]}))
    again = bench(*flags)
    assert again.returncode == 0, again.stderr
    assert "forward 123.456 ms" in again.stdout


def test_a_row_outside_its_floor_fails_the_run(tmp_path: Path):
    path = tmp_path / "correctness.json"
    assert bench("--ops", "gated_rms_norm", "--record", str(path)).returncode == 0
    record = json.loads(path.read_text())
    assert record["tables"][0]["rows"][0][-1] == "yes"
    record["results"]["gated_rms_norm/float32/unpacked"] |= {"errors": {"dx": 0.5}, "passed": False}
    path.write_text(json.dumps(record))
    child = bench("--ops", "gated_rms_norm", "--record", str(path))
    assert child.returncode == 1
    assert "outside its floor: gated_rms_norm/float32/unpacked" in child.stdout


def open_record(path: Path, **changes) -> PartRecord:
    settings = {"title": "t", "config": {}, "path": str(path), "dry_run": True, "overwrite": False}
    return PartRecord("speed", **(settings | changes))


def test_a_record_of_other_versions_is_not_continued(tmp_path: Path):
    path = tmp_path / "r.json"
    open_record(path).measure("a", lambda: {"failed": "not measured: x"}, lambda rows: [])
    assert open_record(path).measure("a", lambda: {"x": 1.0}, lambda rows: []) == {"x": 1.0}  # failures are tried again
    assert open_record(path).measure("a", lambda: {"x": 2.0}, lambda rows: []) == {"x": 1.0}
    assert open_record(path, overwrite=True).rows == {}
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"versions": {"torch": "1.0"}}))
    with pytest.raises(InputError, match=r"was measured with another versions .*--overwrite True"):
        open_record(path)


def test_a_rehearsal_leaves_no_record():
    assert PartRecord("speed", title="t", config={}, path=None, dry_run=True, overwrite=False).path is None


def test_flops_are_those_of_the_shapes():
    shape = {"h": 128, "p": 64, "g": 8, "n": 128, "d_model": 4096, "v": 32768}
    found = count_flops("ssd", 1, shape)
    assert found["forward"] == pytest.approx(6.6e6, rel=0.02)
    assert found["forward_backward"] == 3 * found["forward"]
    assert count_flops("linear_cross_entropy", 10, shape)["forward"] == 2 * 10 * 4096 * 32768
    assert count_flops("causal_conv1d", 10, shape) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_without_a_device_it_says_so():
    child = run(sys.executable, "-m", "scripts.bench.kernels", "--part", "speed")
    assert child.returncode == 2
    assert child.stderr.strip().splitlines()[-1].startswith("error: no CUDA device")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--part", "fast"], "--part fast: must be one of correctness"),
        (["--ops", "softmax"], "--ops softmax: must be one of ssd"),
        (["--repeats", "3"], "--repeats 3: must be at least 5"),
    ],
)
def test_bad_flags_are_named(flags: list[str], message: str):
    with pytest.raises(InputError, match=message):
        parse_args(BenchArguments, flags)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["step", "sanitizer", "profile"])
def test_the_other_parts_run(part: str, tmp_path: Path):
    path = tmp_path / f"{part}.json"
    child = bench("--part", part, "--record", str(path), "--ops", "gated_rms_norm", "causal_conv1d")
    assert child.returncode == 0, child.stdout + child.stderr
    record = load_records(tmp_path)[0]
    assert record["results"]
    assert all(len(row) == len(table["header"]) for table in record["tables"] for row in table["rows"])
