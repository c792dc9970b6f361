"""Adapters against full fine-tuning: what is compared, and what is missing before anything is trained."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from promptcot_mamba.errors import InputError
from scripts.quickstart import adapters
from tests.programs.train_helpers import ROOT


def test_both_families_are_compared_by_their_counts():
    full = {"maths": {"a": True, "b": True, "c": False, "d": True}, "code": {"e": False, "f": True}}
    merged = {"maths": {"a": True, "b": False, "c": False, "d": True}, "code": {"e": True, "f": True}}
    table = adapters.compare(full, merged)
    maths, code = table.rows
    assert maths[0] == "maths, composed"
    assert maths[1].startswith("75.0 %")
    assert maths[1].endswith("3/4")
    assert maths[2].endswith("2/4")
    assert maths[3].startswith("-25.0 [")
    assert code[3].startswith("+50.0 [")


def test_an_unfinished_quickstart_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["adapters", "--quickstart", str(tmp_path)])
    with pytest.raises(InputError, match=r"holds no sampled phase 2; run scripts/quickstart\.sh first"):
        adapters.main()
    assert list(tmp_path.iterdir()) == []


def test_only_what_is_trained_differs_from_phase_2():
    """Or the comparison would be of schedules; the number of steps is told beside it."""
    phase2, ours = (
        yaml.safe_load((ROOT / f"configs/quickstart/{name}.yaml").read_text()) for name in ("phase2", "adapters")
    )
    differing = {name for name in phase2.keys() | ours.keys() if phase2.get(name) != ours.get(name)}
    assert differing == {"lora_rank", "lora_target", "learning_rate", "max_steps", "save_steps", "save_total_limit"}
