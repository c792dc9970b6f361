"""The doctor on the machine that runs the tests: its kernels, its collectives, its verdict."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

from promptcot_mamba.doctor import collectives, kernels
from promptcot_mamba.doctor.finding import FAULT, OK

ROOT = Path(__file__).resolve().parents[2]


def test_every_op_agrees_here_and_a_wrong_one_is_found():
    assert {finding.status for finding in kernels.check_kernels()} == {OK}
    op, inputs = kernels.draw_cases()["gated_rms_norm"]

    def wrong(*, backend: str | None, **leaves: torch.Tensor) -> torch.Tensor:
        result = op(**leaves, backend=backend)
        return result if backend == "reference" else result * 1.1

    finding = kernels.check_op("gated_rms_norm", (wrong, inputs), "cpu")
    assert finding.status == FAULT
    assert "do not train here" in finding.mend

    def broken(*, backend: str | None, **leaves: torch.Tensor) -> torch.Tensor:
        if backend != "reference":
            raise RuntimeError("out of resource: shared memory, Required: 134144\nmore")
        return op(**leaves, backend=backend)

    finding = kernels.check_op("gated_rms_norm", (broken, inputs), "cpu")
    assert finding.status == FAULT
    assert "out of resource: shared memory, Required: 134144" in finding.found


def test_processes_reduce():
    finding = collectives.check_all_reduce(2, "gloo")
    assert finding.status == OK
    assert "2 processes" in finding.found


def test_the_program_ends_with_its_verdict(tmp_path: Path):
    command = [sys.executable, "-m", "scripts.doctor", "--quick", "True", "--json", str(tmp_path / "found.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    rows = json.loads((tmp_path / "found.json").read_text())
    faults = [row for row in rows if row["status"] == FAULT]
    assert done.returncode == (1 if faults else 0), done.stdout
    assert ("not ready" in done.stdout) == bool(faults)
    assert {"driver", "packages", "vllm", "g++", "disk"} <= {row["name"] for row in rows}
