"""The efficiency bench through real engines, with few and short chains."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_two_lengths_under_one_budget(tmp_path: Path):
    flags = ["--lengths", "1024", "8192", "--max_num_seqs", "12", "--budget_gib", "18", "--output_dir", str(tmp_path)]
    command = [sys.executable, "-m", "scripts.bench.efficiency", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    [comparison] = json.loads((tmp_path / "efficiency.json").read_text())["results"]["comparisons"]
    short, long = comparison["rows"]
    assert short["mamba2_running"] == long["mamba2_running"] == 12
    assert (short["attention_preemptions"], short["attention_running"]) == (0, 12)
    assert long["attention_preemptions"] > 0
    assert long["attention_running"] < 11
