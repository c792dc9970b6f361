"""The auto policy: what fits is kept, sharded gradients and states to come are counted, nothing else changes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import pytest
import torch
from transformers import LlamaConfig, Mamba2Config, MixtralConfig

import train
from promptcot_mamba.model import Mamba2ForCausalLM, load_causal_lm
from promptcot_mamba.ops.fused_mixer import native
from promptcot_mamba.training import capacity
from promptcot_mamba.training.arguments import SftArguments
from promptcot_mamba.training.capacity import bytes_held, settle_kept_layers, usable_bytes
from tests.tiny import make_checkpoint

H100, H200 = 85.0e9, 150.2e9  # what torch says they hold
CONTEXT = 1.5e9


def settings(zero: dict[str, Any] | None, **changes: Any) -> Any:
    config = SimpleNamespace(
        config={"zero_optimization": zero}, get_value=lambda name, default: (zero or {}).get("stage", default)
    )
    plain: dict[str, Any] = {
        "deepspeed": "x" if zero else None, "hf_deepspeed_config": config if zero else None, "world_size": 8,
        "split_master_weights": False, "bf16": True, "gradient_accumulation_steps": 8, "grad_accum_dtype": "bf16",
        "lora_rank": 0, "device": torch.device("cpu"),
    }  # fmt: skip
    return SimpleNamespace(**plain | changes)


@pytest.fixture(scope="module")
def seven_b() -> Mamba2ForCausalLM:
    with torch.device("meta"):
        return Mamba2ForCausalLM(Mamba2Config()).to(torch.bfloat16)


@pytest.mark.parametrize(("memory", "low", "high"), [(H100, 14, 16), (H200, 55, 57)])
def test_layers_of_the_7b_model_under_zero_2(seven_b, monkeypatch, memory: float, low: int, high: int):
    """Counting whole gradients kept 7 and 48 of 64."""
    monkeypatch.setattr(capacity, "usable_bytes", lambda device: memory - CONTEXT)
    zero = {"stage": 2, "reduce_bucket_size": 500_000_000}
    assert low <= settle_kept_layers(settings(zero), seven_b, 20_480) <= high
    kept = [not layer.gradient_checkpointing for layer in seven_b.backbone.layers]
    assert low <= sum(kept) <= high
    assert kept == sorted(kept, reverse=True)


def test_what_is_held_depends_on_how_the_run_is_sharded(seven_b):
    p = sum(parameter.numel() for parameter in seven_b.parameters())
    bucket = {"reduce_bucket_size": 1000}
    held = bytes_held(settings({"stage": 2, **bucket}), seven_b)
    assert held == pytest.approx(2 * p + (2 + 12) * p / 8, rel=1e-4)
    wide = bytes_held(settings({"stage": 2, **bucket}, grad_accum_dtype="fp32"), seven_b)
    assert wide - held == pytest.approx(2 * p / 8)
    assert bytes_held(settings({"stage": 3, **bucket}), seven_b) == pytest.approx(16 * p / 8, rel=1e-4)
    offload = {"offload_optimizer": {"device": "cpu"}}
    assert bytes_held(settings({"stage": 2, **bucket, **offload}), seven_b) == pytest.approx(2.25 * p, rel=1e-4)
    alone = settings(None, world_size=1, split_master_weights=True, grad_accum_dtype="fp32")
    assert bytes_held(alone, seven_b) == (2 + 4 + 10) * p


@pytest.mark.parametrize(("free", "kept"), [(0, 0), (2**40, 2)])
def test_policy_follows_memory_and_changes_no_gradient(tmp_path, monkeypatch, free, kept):
    model = load_causal_lm(make_checkpoint(tmp_path), dtype=torch.float32).train()
    ids = torch.randint(3, 384, (1, 80))
    model(ids, labels=ids).loss.backward()
    want = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    monkeypatch.setattr(capacity, "usable_bytes", lambda device: free)
    assert settle_kept_layers(settings(None, world_size=1, bf16=False), model, 80) == kept
    model(ids, labels=ids).loss.backward()
    assert sum(not layer.gradient_checkpointing for layer in model.backbone.layers) == kept
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, want[name], rtol=1e-5, atol=1e-7)


def test_every_process_keeps_what_the_fullest_has_room_for(seven_b, monkeypatch):
    """Other counts would gather weights and exchange states at other times, and wait for one another for ever."""
    monkeypatch.setattr(capacity, "usable_bytes", lambda device: H100)
    monkeypatch.setattr(capacity, "gather_lists", lambda mine: [*mine, "3"])
    assert settle_kept_layers(settings({"stage": 2}), seven_b, 20_480) == 3


def test_memory_is_read_from_the_machine(monkeypatch):
    alone = usable_bytes(torch.device("cpu"))
    assert alone > 2**20
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert usable_bytes(torch.device("cpu")) < alone  # neighbours share it
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70, 80))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5)
    assert usable_bytes(torch.device("cuda")) == 75


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_mixer_s_forward_runs_twice_a_step(tmp_path, monkeypatch, checkpointing, reentrant):
    """However short memory is: a layer that is recomputed leaves its mixer nothing to make again."""
    runs = []
    forward = native.NativeStages.finish
    monkeypatch.setattr(native.NativeStages, "finish", lambda self: runs.append(1) or forward(self))
    monkeypatch.setattr(native, "free_memory", lambda: 0)
    monkeypatch.setattr(native, "_kept", WeakKeyDictionary())  # what other tests found to fit
    model = load_causal_lm(make_checkpoint(tmp_path), dtype=torch.float32).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
    ids = torch.randint(3, 384, (1, 80))
    model(ids, labels=ids).loss.backward()
    assert len(runs) == 2 * len(model.backbone.layers)


@pytest.mark.parametrize(
    ("changes", "keeps"),
    [
        ({}, True), ({"checkpoint_every": 8}, False), ({"offload_checkpoints": True}, False),
        ({"checkpoint_policy": "all"}, False), ({"gradient_checkpointing": False}, False),
    ],
)  # fmt: skip
def test_segments_and_checkpoints_with_the_host_recompute_every_layer(changes: dict[str, Any], keeps: bool):
    plain = {"gradient_checkpointing": True, "checkpoint_policy": "auto", "checkpoint_every": 1}
    args = SimpleNamespace(**{**plain, "offload_checkpoints": False, **changes})
    assert SftArguments.keeps_what_fits.fget(args) is keeps


def test_mfu_is_told_where_a_familys_arithmetic_is_known():
    """An MoE trains without: its config has all that a dense decoder's has, and its FLOPs are others."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    args = SimpleNamespace(lora_rank=0)
    assert train.count_flops(args, SimpleNamespace(config=LlamaConfig(**sizes))) > 0
    assert train.count_flops(args, SimpleNamespace(config=MixtralConfig(**sizes))) is None
