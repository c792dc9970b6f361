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
    assert next(line for line in one.splitlines() if "split masters, checkpointing" in line).endswith("  fits")
    assert "--split_master_weights True" in one
    assert "split masters" not in eight
    assert eight.count("days an epoch") == one.count("days an epoch") == 2


def test_figures_of_both_machines():
    """By hand: 7.285 B parameters, ZeRO-2 over 8 and split masters on one."""
    text = plan("--gradient_accumulation_steps", "8")
    eight, one = section(text, "8 x H100 (80 GB)"), section(text, "1 x H200 (141 GB)")
    parts = next(line for line in eight.splitlines() if "ZeRO-2, checkpointing" in line).split()[2:8]
    assert parts[:3] == ["14.6", "3.6", "10.9"]  # 2 bytes, 4 / 8 (micro-batches are summed in fp32), 12 / 8
    assert "fits, gradients summed in fp32" in eight
    narrow = section(plan("--gradient_accumulation_steps", "8", "--grad_accum_dtype", "bf16"), "8 x H100 (80 GB)")
    parts = next(line for line in narrow.splitlines() if "ZeRO-2, checkpointing" in line).split()[2:8]
    assert parts[:3] == ["14.6", "1.8", "10.9"]  # 2 / 8 of them
    assert parts[4] == "3.0"
    parts = next(line for line in one.splitlines() if "split masters, checkpointing" in line).split()[3:9]
    assert parts[:3] == ["14.6", "14.6", "72.9"]  # 2, 2 and 10 bytes
    rate = 10_950
    days = 1.88e6 * 6000 / (8 * rate) / 86_400
    assert f"at most {rate:,} tokens/s per GPU" in eight
    assert f"phase 1: 11.28 G tokens, at least {days:.1f} days" in eight
    small = section(plan("--plan_machines", "1xH100", "--gradient_accumulation_steps", "8"), "1 x H100")
    assert "146 GB of host memory" in small  # 20 bytes a parameter, two of them for accumulating


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
    with pytest.raises(InputError, match=r"--model_name_or_path nowhere: no such folder"):
        plan("--model_name_or_path", "nowhere")


def test_adapters_are_counted():
    """By hand: rank 16 on both projections of 64 layers of PromptCoT-Mamba-7B's shapes."""
    text = plan("--lora_rank", "16", "--plan_machines", "1x4090", "1xH100", "--max_length", "4096")
    trained = 64 * 16 * ((4096 + 18_560) + (8192 + 4096))
    assert f"{trained / 1e6:.1f} M more trained as adapters" in text
    for machine, fits in (("1 x RTX 4090 (24 GB)", "fits"), ("1 x H100 (80 GB)", "fits")):
        row = next(line for line in section(text, machine).splitlines() if "adapters, checkpointing" in line)
        assert row.split()[2:5] == [f"{(2 * 7.285e9 + 4 * trained) / 1e9:.1f}", "0.1", "0.3"]
        assert row.endswith(fits)
    assert "ZeRO" not in text
    full = plan("--plan_machines", "1xH100", "--max_length", "4096")
    assert "44.1 GFLOP" in full
    assert "30.1 GFLOP" in text  # 4 a frozen weight instead of 6, and 6 a trained number
    with pytest.raises(InputError, match="--lora_target q_proj: the model's linear layers are in_proj, out_proj"):
        plan("--lora_rank", "4", "--lora_target", "q_proj")


def test_an_assumption_without_a_plan_is_refused():
    PlanArguments().refuse_idle()
    with pytest.raises(InputError, match="--plan_machines: needs --plan"):
        PlanArguments(plan_machines=["1xA100"]).refuse_idle()
