"""Speed may change, losses may not: both phases' first steps equal the stored curves on any CPU.

A failing test after a change that is meant to change losses: `python -m tests.goldens.record --renew`, and say why.
"""

from __future__ import annotations

import json

import pytest

from tests.goldens.record import CURVES, STEPS, train_curves


def test_loss_curves_are_the_stored_ones(tmp_path):
    stored, curves = json.loads(CURVES.read_text(encoding="utf-8")), train_curves(tmp_path)
    assert curves.keys() == stored.keys() == {"phase1", "phase2"}
    for phase, curve in curves.items():
        assert len(curve) == STEPS
        assert curve == pytest.approx(stored[phase], rel=1e-4), phase
        assert curve[-1] < curve[0], f"{phase} learned nothing: its curve would pin nothing"
