"""The whole road with a few steps and problems: every program, the report, and a rerun that keeps it all."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY_DATA = """seed: 1
phase1: {quickstart_single: 60, quickstart_code_single: 20}
phase2: {quickstart_single: 20, quickstart_composed: 40, quickstart_code_composed: 20}
control: {quickstart_single: 60, quickstart_code_single: 20}
test: {quickstart_single: 4, quickstart_composed: 4, quickstart_unseen: 4, quickstart_code_single: 2, quickstart_code_composed: 2, quickstart_code_unseen: 2}
"""  # noqa: E501


def run_road(recipes: Path, output: Path) -> str:
    command = [sys.executable, "-m", "scripts.quickstart.run", "--recipes", str(recipes), "--output_dir", str(output)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


@pytest.mark.slow
def test_the_road_leads_to_a_report_and_a_rerun_keeps_it(tmp_path: Path):
    recipes, output = tmp_path / "recipes", tmp_path / "out"
    shutil.copytree(ROOT / "configs/quickstart", recipes)
    (recipes / "data.yaml").write_text(TINY_DATA, encoding="utf-8")
    for name in ("phase1.yaml", "phase2.yaml"):
        text = (recipes / name).read_text(encoding="utf-8")
        for name_of_steps, steps in (("max", 3), ("save", 2), ("logging", 1), ("warmup", 1)):
            text = re.sub(rf"{name_of_steps}_steps: \d+", f"{name_of_steps}_steps: {steps}", text)
        (recipes / name).write_text(text, encoding="utf-8")
    sampling = (recipes / "sampling.yaml").read_text(encoding="utf-8")
    (recipes / "sampling.yaml").write_text(re.sub(r"max_len: \d+", "max_len: 24", sampling), encoding="utf-8")
    first = run_road(recipes, output)
    assert "| maths, composed |" in first
    for name in ("report.md", "report.html", "solved.svg", "loss.svg"):
        assert (output / name).stat().st_size > 1000
    weights = (output / "phase2" / "model.safetensors").read_bytes()
    again = run_road(recipes, output)
    assert again.count("done before") == 13
    assert weights == (output / "phase2" / "model.safetensors").read_bytes()
