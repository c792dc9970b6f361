"""The plan: what fits, how fast, how long; and what it refuses."""

from __future__ import annotations

import re

import pytest

from promptcot_mamba.cli import parse_args
from promptcot_mamba.errors import InputError
from promptcot_mamba.training.arguments import DataArguments, SftArguments
from promptcot_mamba.training.plan import PlanArguments, render_plan


def plan(*flags: str) -> str:
    return render_plan(*parse_args([SftArguments, DataArguments, PlanArguments], ["--plan", *flags]))


def section(text: str, title: str) -> str:
    return next(part for part in text.split("\n\n") if part.startswith(title))


def row(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line.strip().startswith(name))


def test_both_machines_and_phases():
    text = plan()
    eight, one = section(text, "8 x H100 (80 GiB)"), section(text, "1 x H200 (140 GiB)")
    assert "ZeRO-2, auto (" in eight
    assert row(one, "ZeRO-2, recompute all").endswith("does not fit")
    assert row(one, "split masters, recompute all").endswith("  fits")
    assert "--split_master_weights True" in one
    assert "split masters" not in eight
    assert eight.count("days an epoch") == one.count("days an epoch") == 2


def test_figures_of_both_machines():
    """By hand: 7.285 B parameters, ZeRO-2 over 8 and split masters on one."""
    text = plan("--gradient_accumulation_steps", "8")
    eight, one = section(text, "8 x H100 (80 GiB)"), section(text, "1 x H200 (140 GiB)")
    parts = row(eight, "ZeRO-2, recompute all").split()[3:9]
    assert parts[:3] == ["14.6", "3.6", "10.9"]  # 2 bytes, 4 / 8 (micro-batches are summed in fp32), 12 / 8
    assert row(eight, "ZeRO-2, recompute all").endswith("fits, fp32 sums")
    narrow = section(plan("--gradient_accumulation_steps", "8", "--grad_accum_dtype", "bf16"), "8 x H100 (80 GiB)")
    parts = row(narrow, "ZeRO-2, recompute all").split()[3:9]
    assert parts[:3] == ["14.6", "1.8", "10.9"]  # 2 / 8 of them
    assert parts[4] == "3.0"
    parts = row(one, "split masters, recompute all").split()[4:10]
    assert parts[0] == "14.6"
    assert parts[2] == "72.9"  # 2 and 10 bytes
    small = section(plan("--plan_machines", "1xH100", "--gradient_accumulation_steps", "8"), "1 x H100")
    assert "(--deepspeed configs/deepspeed_zero2_offload.json)" in small
    assert "146 GB of host memory" in small  # 20 bytes a parameter, two of them for accumulating


def test_speed_is_said_by_part_with_what_it_assumes():
    text = section(plan("--config", "configs/sft_phase2.yaml", "--plan_machines", "8xH100"), "8 x H100")
    rate = int(re.search(r"kept\): ([\d,]+) tokens/s per GPU", text)[1].replace(",", ""))
    assert 8_000 < rate < 9_500
    assert f"{1.88e6 * 6000 / (8 * rate) / 86_400:.1f} days" in row(text, "phase 1")
    for part in ("matrix products", "conv, SSD and norms", "head", "optimizer", "communication"):
        assert re.search(rf"{part} [\d.]+ s \(\d+%\)", text), part
    assert "largest: matrix products" in text
    assert "693 TFLOP/s (70% of 989), 2.01 TB/s (60% of 3.35), 360 GB/s between GPUs" in text
    assert "--checkpoint_policy auto" in text
    slower = plan("--plan_machines", "8xH100", "--plan_shares", "0.9", "0.1")
    assert "largest: conv, SSD and norms" in slower


@pytest.mark.parametrize(("machine", "low", "high"), [("8xH100", 13, 16), ("8xH200", 54, 58)])
def test_sharded_gradients_leave_room_for_layers(machine: str, low: int, high: int):
    """Whole gradients would leave 7 and 48 of 64."""
    text = plan("--config", "configs/sft_phase2.yaml", "--plan_machines", machine)
    kept, of = re.search(r"ZeRO-2, auto \((\d+) of (\d+) kept\)", text).groups()
    assert low <= int(kept) <= high
    assert of == "64"
    assert "fits" in row(text, "ZeRO-2, auto")


def test_adapters_fit_a_small_card():
    text = plan("--lora_rank", "16", "--max_length", "4096", "--plan_machines", "1x4090")
    assert "adapters, auto (" in text
    assert row(text, "adapters, recompute all").endswith("fits")
    assert "ZeRO" not in text
    assert "adapters (--lora_rank)" in plan("--max_length", "4096", "--plan_machines", "1x4090")


def test_assumptions_scale_the_days():
    short, long = plan("--plan_tokens_per_example", "1000"), plan("--plan_tokens_per_example", "2000")
    assert "phase 1: 1.88 G tokens" in short
    assert "phase 1: 3.76 G tokens" in long


def test_nothing_fits():
    assert "nothing fits" in plan("--max_length", "2000000", "--plan_machines", "1xA100")


@pytest.mark.parametrize("flags", ["plan_shares 0 0.5", "plan_shares 0.5", "plan_shares 0.5 1.5", "plan_network_gbs 0"])
def test_shares_are_shares(flags: str):
    name, *values = flags.split()
    with pytest.raises(InputError, match=f"--{name} .*: expected"):
        plan(f"--{name}", *values)


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
    for machine, fits in (("1 x 4090 (24 GiB)", "fits"), ("1 x H100 (80 GiB)", "fits")):
        row = next(line for line in section(text, machine).splitlines() if "adapters, recompute all" in line)
        assert row.split()[3:6] == [f"{(2 * 7.285e9 + 4 * trained) / 1e9:.1f}", "0.1", "0.3"]
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


def test_long_rows_find_a_way_or_hear_what_is_short():
    long = ("--config", "configs/sft_long.yaml", "--plan_machines", "8xH100", "--max_length")
    assert row(plan(*long, "1048576"), "ZeRO-3, every 8 layers").endswith("  fits")
    host = plan(*long, "1048576", "--offload_checkpoints", "True")
    assert "--offload_checkpoints True: 137 GB of host memory per GPU" in host  # 64 x 131,072 x 4,096 x 4 bytes
    narrow = plan(*long, "1048576", "--residual_in_fp32", "False")
    wide = plan(*long, "1048576")
    assert row(wide, "ZeRO-3, every 8 layers") != row(narrow, "ZeRO-3, every 8 layers, bf16")
    assert "(--residual_in_fp32 False)" in narrow
    # Four million: everything is tried, and the largest part is named.
    assert "every 8 layers, host, bf16" in plan(*long, "4194304")
    assert "nothing fits; the largest part is activations" in plan(*long, "4194304")


def test_a_config_is_read_and_named():
    assert "--deepspeed asks for ZeRO-2 + offload;" in plan("--deepspeed", "configs/deepspeed_zero2_offload.json")
    with pytest.raises(InputError, match=r"--deepspeed nowhere.json: No such file"):
        plan("--deepspeed", "nowhere.json")
    with pytest.raises(InputError, match="--lora_rank: frozen weights are merged whole, which ZeRO-3 shards"):
        plan("--deepspeed", "configs/deepspeed_zero3.json", "--lora_rank", "16")
