"""The 7B step's benchmark at tiny shapes: each engine really trains, the tables follow from the rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from promptcot_mamba.cli import parse_args
from promptcot_mamba.errors import InputError
from promptcot_mamba.report.results import load_records
from scripts.bench.step_7b import Arguments, measure_variant
from scripts.bench.step_engines import make_engine, offload_bytes_pinned, plan_offload
from scripts.bench.step_tables import list_tables

ROOT = Path(__file__).resolve().parents[2]
SECONDS = {"lowest_s": 1.0, "highest_s": 3.0, "n": 5}
H200 = 989.4e12


def make_row(variant: str, layers: int, passes: float, update: float | None = None) -> dict:
    row = {
        "variant": variant, "layers": layers, "length": 20_480, "passes": {"median_s": passes} | SECONDS,
        "kept_layers": 3, "peak_bytes": 1e11, "host_bytes": 2e9, "flops_per_token": 44e9, "parameters": layers * 1e8,
        "peak_flops": H200, "loss": 10.0,
    }  # fmt: skip
    return row if update is None else row | {"update": {"median_s": update} | SECONDS}


def test_our_optimizer_on_the_device_trains():
    engine, kept = make_engine("ours", 2, 64, "cpu", pinned=False)
    for group in engine.optimizer.param_groups:
        group["lr"] = 1e-2
    losses = []
    for _ in range(6):
        losses.append(float(engine.micro_batch()))
        engine.update()
    assert losses[-1] < losses[0] - 0.1
    assert kept() == 2


def test_a_measured_variant_has_what_the_tables_need():
    row = {"variant": "ours", "layers": 2, "length": 64} | measure_variant("ours", 2, 64, 5, "cpu", False)
    assert row["passes"]["n"] == row["update"]["n"] == 5
    table = list_tables("step", {"a": row})[0]
    assert [len(line) for line in table.rows] == [len(table.header)]


def test_tables_follow_from_the_rows():
    rows = {
        "a": make_row("ours_passes", 64, 2.0), "b": make_row("recipe_passes", 64, 3.0),
        "c": make_row("ours", 64, 2.2, 0.8), "d": make_row("recipe_offload", 48, 3.0, 6.0),
        "e": make_row("ours", 48, 2.0, 1.0), "f": {"variant": "ours_offload", "layers": 48, "length": 20_480,
                                                   "failed": "not measured: x"},
    }  # fmt: skip
    measured, ratios, derived = list_tables("step", rows)
    assert measured.rows[0][5] == "10,240"
    assert measured.rows[0][6] == f"{10_240 * 44e9 / H200:.1%}"
    assert measured.rows[2][8] == f"{20_480 / 3:,.0f}"
    assert measured.rows[5][3] == "not measured: x"
    assert ratios.rows == [
        ["forward and backward", "64", "1.50x"],
        ["step, ours on the device, theirs on the host", "48", "3.00x"],
    ]
    assert derived.caption.startswith("Derived, not measured")
    assert derived.rows[0][2] == "25.00"  # 8 rows of 3 s and an eighth of 6 s x 64 / 48
    assert derived.rows[1][2] == "16.10"
    rate = 64 * 20_480 / 16.1
    assert derived.rows[1][4] == f"{1.88e6 * 6000 / rate / 86_400:.1f}"


def test_the_host_decides_the_depth_of_offloading():
    assert plan_offload(64, free=300e9) == (64, True)
    assert plan_offload(64, free=145e9) == (64, False)  # 131 GB without pinning, and a margin
    depth, pinned = plan_offload(64, free=128 * 2**30 - 8e9)
    assert depth % 8 == 0
    assert depth < 64
    assert not pinned or offload_bytes_pinned(depth) < 128 * 2**30
    with pytest.raises(InputError, match="offload: 8 layers take"):
        plan_offload(64, free=10e9)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--part", "speed"], "--part speed: must be one of step, lengths"),
        (["--repeats", "3"], "--repeats 3: must be at least 5"),
        (["--length", "3"], "at least 16"),
    ],
)
def test_bad_flags_are_named(flags: list[str], message: str):
    with pytest.raises(InputError, match=message):
        parse_args(Arguments, flags)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["step", "lengths"])
def test_the_rehearsal_runs_deepspeed_too(part: str, tmp_path: Path):
    path = tmp_path / "train.json"
    command = [sys.executable, "-m", "scripts.bench.step_7b", "--dry_run", "True", "--part", part]
    child = subprocess.run(
        [*command, "--record", str(path)], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True,
        text=True, timeout=500, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stdout + child.stderr
    rows = load_records(tmp_path)[0]["results"].values()
    assert not [row for row in rows if "failed" in row]
    if part == "step":
        assert [row["variant"] for row in rows] == [
            "ours_passes", "recipe_passes", "ours", "recipe_offload", "ours_offload"
        ]  # fmt: skip
        assert json.loads(path.read_text())["tables"]
