"""Tiny Mamba-2 checkpoints, and transformers' own model with its norm made grouped, as an oracle."""

from __future__ import annotations

import pytest
import torch
from transformers import Mamba2ForCausalLM as TransformersMamba2

from promptcot_mamba.ops.gated_rms_norm import gated_rms_norm
from tests.tiny import make_checkpoint


@pytest.fixture(scope="session", params=[1, 8], ids=["g1", "g8"])
def checkpoint(request, tmp_path_factory):
    """A checkpoint written by transformers' own class, with 1 and with 8 groups."""
    return make_checkpoint(tmp_path_factory.mktemp(f"groups{request.param}"), n_groups=request.param)


def load_transformers(folder, dtype=torch.float32):
    """transformers' Mamba-2 with the gated norm over groups, which it lacks."""
    model = TransformersMamba2.from_pretrained(folder, dtype=dtype)
    group_size = model.backbone.layers[0].mixer.intermediate_size // model.config.n_groups
    for layer in model.backbone.layers:
        norm = layer.mixer.norm

        def grouped(hidden, gate=None, norm=norm):
            gate = gate.to(hidden.dtype)
            normed = gated_rms_norm(
                hidden, gate, norm.weight, eps=norm.variance_epsilon, group_size=group_size, backend="reference"
            )
            return normed

        norm.forward = grouped
    return model
