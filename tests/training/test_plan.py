"""The plan: what fits, how fast, how long; and what it refuses."""

from __future__ import annotations

import pytest

from promptcot_mamba.cli import parse_args
from promptcot_mamba.errors import InputError
from promptcot_mamba.training.arguments import DataArguments, SftArguments
from promptcot_mamba.training.plan import PlanArguments, render_plan


def plan(*flags: str) -> str:
    return render_plan(*parse_args([SftArguments, DataArguments, PlanArguments], ["--plan", *flags]))


def section(text: str, title: str) -> str:
    return next(part for part in text.split("\n\n") if part.startswith(title))


def test_both_machines_and_phases():
    text = plan()
    eight, one = section(text, "8 x H100 (80 GB)"), section(text, "1 x H200 (141 GB)")
    assert "ZeRO-2, checkpointing: at most" in eight
    assert "ZeRO-2, checkpointing" in one
    assert next(line for line in one.splitlines() if "ZeRO-2, checkpointing" in line).endswith("does not fit")
    assert "host memory" in one
    assert eight.count("days an epoch") == one.count("days an epoch") == 2


def test_assumptions_scale_the_days():
    short, long = plan("--plan_tokens_per_example", "1000"), plan("--plan_tokens_per_example", "2000")
    assert "phase 1: 1.88 G tokens" in short
    assert "phase 1: 3.76 G tokens" in long


def test_nothing_fits():
    assert "nothing fits" in plan("--max_length", "2000000", "--plan_machines", "1xA100")


@pytest.mark.parametrize("machine", ["H100", "0xH100", "8xTPU", "8 x H100"])
def test_unknown_machines(machine: str):
    with pytest.raises(InputError, match="expected COUNTxDEVICE"):
        plan("--plan_machines", machine)


def test_unreadable_model():
    with pytest.raises(InputError, match=r"nowhere: no config\.json"):
        plan("--model_name_or_path", "nowhere")
