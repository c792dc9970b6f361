"""Which of a machine's devices the training roads take, with DeepSpeed's launcher replaced by an echo."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("given", "launcher"),
    [
        ({}, "deepspeed --num_gpus=8 train.py"),
        ({"NUM_GPUS": "2"}, "deepspeed --num_gpus=2 train.py"),
        (
            {"CUDA_VISIBLE_DEVICES": "4,5"},
            "deepspeed train.py",
        ),  # which takes 4 and 5; with --num_gpus=2 it takes 0 and 1
        ({"CUDA_VISIBLE_DEVICES": "4,5", "NUM_GPUS": "2"}, "deepspeed train.py"),
        ({"CUDA_VISIBLE_DEVICES": "4,5", "LAUNCHER": "deepspeed --flag"}, "deepspeed --flag train.py"),
    ],
)
def test_both_phases_start_on_the_devices_that_are_named(tmp_path: Path, given: dict[str, str], launcher: str):
    done = two_phases(tmp_path, given)
    assert done.returncode == 0, done.stderr
    starts = [line for line in done.stdout.splitlines() if line.startswith("deepspeed")]
    assert [line.startswith(f"{launcher} --config") for line in starts] == [True, True]


def test_a_count_that_disagrees_is_refused(tmp_path: Path):
    done = two_phases(tmp_path, {"CUDA_VISIBLE_DEVICES": "4,5", "NUM_GPUS": "8"})
    assert done.returncode == 2
    assert done.stderr.strip() == "error: NUM_GPUS=8, but CUDA_VISIBLE_DEVICES=4,5 names 2; leave one out"
    assert not done.stdout


@pytest.mark.parametrize("name", ["MODEL", "PHASE1_DATA", "PHASE2_DATA", "OUTPUT"])
def test_what_is_not_set_is_named(tmp_path: Path, name: str):
    done = two_phases(tmp_path, {name: ""})
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: set {name} to the ")
    assert not done.stdout


def two_phases(folder: Path, given: dict[str, str]) -> subprocess.CompletedProcess:
    """scripts/sft_two_phase.sh with these variables."""
    (folder / "deepspeed").write_text('#!/bin/sh\necho deepspeed "$@"\n')
    (folder / "deepspeed").chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if name not in ("CUDA_VISIBLE_DEVICES", "NUM_GPUS")}
    named = {"MODEL": "m", "PHASE1_DATA": "a", "PHASE2_DATA": "b", "OUTPUT": "o"}
    environment = kept | named | {"PATH": f"{folder}:{os.environ['PATH']}"} | given
    command = ["bash", str(ROOT / "scripts/sft_two_phase.sh")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
