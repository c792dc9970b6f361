"""bf16 gradients are summed in fp32 where memory allows; a run that began otherwise goes on as it began."""

from __future__ import annotations

import types

import pytest
import torch

from promptcot_mamba.errors import InputError
from promptcot_mamba.training.accumulation import settle_accumulation, widen_gradients

CONFIG = {
    "model_type": "mamba2", "hidden_size": 4096, "num_hidden_layers": 64, "num_heads": 128, "head_dim": 64,
    "n_groups": 8, "state_size": 128, "conv_kernel": 4, "vocab_size": 32768,
}  # fmt: skip


def arguments(config: dict | None = None, device: str = "cpu", devices: int = 8, **changes: object):
    holder = types.SimpleNamespace(config=config, get_value=lambda *_: 2) if config is not None else None
    return types.SimpleNamespace(
        **{
            "grad_accum_dtype": "auto", "gradient_accumulation_steps": 8, "bf16": True, "split_master_weights": False,
            "deepspeed": "x.json" if holder else None, "hf_deepspeed_config": holder, "world_size": devices,
            "device": torch.device(device), "gradient_checkpointing": True,
            "checkpoint_every": 1,
        }
        | changes
    )  # fmt: skip


def settled(recorded: dict | None = None, config: dict | None = None, **changes: object) -> tuple[str, str | None]:
    config = {} if config is None else config
    args = arguments(config, **changes)
    settle_accumulation(args, CONFIG, 20_480, recorded)
    return args.grad_accum_dtype, config.get("data_types", {}).get("grad_accum_dtype")


def test_what_is_chosen_is_what_deepspeed_is_told():
    assert settled() == ("fp32", "fp32")
    assert settled(grad_accum_dtype="bf16") == ("bf16", "bf16")
    assert settled(gradient_accumulation_steps=1) == ("auto", None)  # nothing is summed
    assert settled(bf16=False) == ("auto", None)
    assert settled(config={"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}) == ("bf16", "bf16")
    assert settled(config={"zero_optimization": {"offload_optimizer": {"device": "none"}}}) == ("fp32", "fp32")
    assert settled(config={"data_types": {"grad_accum_dtype": "bf16"}}) == ("bf16", "bf16")


def test_memory_decides(monkeypatch):
    for gigabytes, chosen in ((80, "fp32"), (40, "bf16")):
        total = types.SimpleNamespace(total_memory=gigabytes * 10**9)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, total=total: total)
        assert settled(device="cuda") == (chosen, chosen)


def test_a_run_goes_on_as_it_began():
    assert settled({"--seed": 42}) == ("bf16", "bf16")  # begun before there was a choice
    assert settled({"--grad_accum_dtype": "fp32"}) == ("fp32", "fp32")


def test_contradictions_are_named():
    with pytest.raises(InputError, match="the --deepspeed config says bf16"):
        settled(config={"data_types": {"grad_accum_dtype": "bf16"}}, grad_accum_dtype="fp32")
    with pytest.raises(InputError, match="offloaded optimizer of DeepSpeed sums in bf16"):
        settled(config={"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}, grad_accum_dtype="fp32")


def test_sums_in_fp32_keep_what_bf16_sums_lose():
    """64 terms of 1/64 + 1/65536 each: bf16 rounds nearly all of the second part away."""
    sums = {}
    for widened in (True, False):
        layer = torch.nn.Linear(4, 1, bias=False, dtype=torch.bfloat16)
        if widened:
            widen_gradients(layer)
        for step in range(64):
            layer(torch.full((1, 4), 1.0 + step / 64, dtype=torch.bfloat16)).sum().backward()
        sums[widened] = layer.weight.grad.double()
        assert layer.weight.grad.dtype == (torch.float32 if widened else torch.bfloat16)
    exact = sum(float(torch.tensor(1.0 + step / 64, dtype=torch.bfloat16)) for step in range(64))
    error = {widened: float((total / exact - 1).abs().max()) for widened, total in sums.items()}
    assert error[True] < 1e-6
    assert error[False] > 1e-3
