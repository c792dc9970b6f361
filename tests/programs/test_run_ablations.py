"""Two arms through the real programs, with a few steps and problems: a table comes out, and a rerun keeps it all."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """seeds: [1]
phase1_steps: 2
phase2_steps: 2
test: {quickstart_composed: 3, quickstart_code_unseen: 2}
arms:
  full curriculum:
    phase1: {quickstart_single: 30, quickstart_code_single: 10}
    phase2: {quickstart_composed: 30, quickstart_code_composed: 10}
  without synthesized problems:
    phase1: {quickstart_single: 30, quickstart_code_single: 10}
    phase2: {quickstart_single: 30, quickstart_code_single: 10}
"""


@pytest.mark.slow
def test_two_arms_from_exercises_to_the_table(tmp_path: Path):
    recipes, output = tmp_path / "recipes", tmp_path / "out"
    shutil.copytree(ROOT / "configs/quickstart", recipes)
    sampling = (recipes / "sampling.yaml").read_text(encoding="utf-8")
    (recipes / "sampling.yaml").write_text(re.sub(r"max_len: \d+", "max_len: 24", sampling), encoding="utf-8")
    (tmp_path / "arms.yaml").write_text(RECIPE, encoding="utf-8")
    command = [sys.executable, "-m", "scripts.quickstart.run_ablations", "--config", str(tmp_path / "arms.yaml")]
    command += ["--recipes", str(recipes), "--output_dir", str(output)]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    logs = "".join(log.read_text() for log in sorted(output.rglob("logs/*.log")))
    assert first.returncode == 0, first.stdout + first.stderr + logs[-3000:]
    assert re.search(r"\| without synthesized problems \| 0\.0 \[0\.0, \d+\.\d] \(0\) ", first.stdout)
    assert len(list(output.glob("seed_1/phase1/*/model.safetensors"))) == 1
    record = json.loads((output / "ablations.json").read_text())
    assert record["results"]["by_seed"]["full curriculum"]["maths"] == [0.0]
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert again.stdout.count("done before") == 1 + 1 + 2 * 4
    tables = [[line for line in run.stdout.splitlines() if line.startswith("|")] for run in (first, again)]
    assert tables[0] == tables[1]
