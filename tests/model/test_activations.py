"""The activation policy: what fits is kept, nothing else changes."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import pytest
import torch
from transformers import Mamba2Config

from promptcot_mamba.model import activations, causal_lm, load_causal_lm
from promptcot_mamba.model.activations import bytes_kept_per_token, count_kept_layers
from promptcot_mamba.ops.fused_mixer import native
from tests.tiny import make_checkpoint

SEVEN_B = Mamba2Config()


def test_bytes_of_the_7b_model():
    assert bytes_kept_per_token(SEVEN_B, 2) == 2 * (18_560 + 8_192 + 4_096) + 4 * 4_096


@pytest.mark.parametrize(("gib", "kept"), [(0, 0), (20, 0), (90, 42), (1000, 64)])
def test_more_memory_keeps_more_layers(gib, kept):
    assert abs(count_kept_layers(SEVEN_B, 20_480, 2, gib * 2**30) - kept) <= 1


@pytest.mark.parametrize(("free", "kept"), [(0, 0), (2**40, 2)])
def test_policy_follows_memory_and_changes_no_gradient(tmp_path, monkeypatch, free, kept):
    model = load_causal_lm(make_checkpoint(tmp_path), dtype=torch.float32).train()
    ids = torch.randint(3, 384, (1, 80))
    model(ids, labels=ids).loss.backward()
    want = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    monkeypatch.setattr(causal_lm, "free_bytes", lambda device: free)
    model.choose_activations_from_memory()
    model(ids, labels=ids).loss.backward()
    assert sum(not layer.gradient_checkpointing for layer in model.backbone.layers) == kept
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, want[name], rtol=1e-5, atol=1e-7)


def test_free_memory_is_read_from_the_machine():
    assert activations.free_bytes(torch.device("cpu")) > 2**20


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
