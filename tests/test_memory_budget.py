"""Arithmetic from shapes: against models that are really built, and against the 7B model's known figures."""

from __future__ import annotations

import pytest
import torch
from transformers import Mamba2Config, Mamba2ForCausalLM, Qwen2Config, Qwen2ForCausalLM

from promptcot_mamba.errors import InputError
from promptcot_mamba.memory_budget import (
    DEVICES,
    forward_flops_per_token,
    offloaded_bytes,
    shapes_from_config,
    tokens_per_second_bound,
    training_memory,
)

SEVEN_B = shapes_from_config(Mamba2Config().to_dict())  # transformers' defaults are Mamba-Codestral-7B's
TOKENS = 20_480


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["mamba2", "qwen2"])
def test_parameters_are_those_of_the_built_model(kind: str, tied: bool):
    with torch.device("meta"):
        if kind == "mamba2":
            config = Mamba2Config(
                vocab_size=100, hidden_size=64, num_hidden_layers=3, state_size=16, head_dim=16, num_heads=8,
                n_groups=2, tie_word_embeddings=tied,
            )  # fmt: skip
            model = Mamba2ForCausalLM(config)
        else:
            config = Qwen2Config(
                vocab_size=100, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                intermediate_size=96, tie_word_embeddings=tied,
            )  # fmt: skip
            model = Qwen2ForCausalLM(config)
    expected = sum(parameter.numel() for parameter in model.parameters())
    assert shapes_from_config(config.to_dict()).parameters == expected


def test_seven_b_figures():
    assert SEVEN_B.parameters == 7_285_403_648
    assert 2 * SEVEN_B.layer_matrix_parameters / 1e6 == pytest.approx(219, abs=0.5)  # MFLOP per token and layer
    assert SEVEN_B.mixing_flops / 1e6 == pytest.approx(6.6, abs=0.1)
    assert SEVEN_B.mixing_bytes * TOKENS / 1e9 == pytest.approx(4.4, abs=0.1)
    assert SEVEN_B.state_bytes == pytest.approx(268e6, rel=0.03)
    assert SEVEN_B.cache_bytes(10) == SEVEN_B.cache_bytes(65_536)
    assert forward_flops_per_token(SEVEN_B) / 1e9 == pytest.approx(14.7, abs=0.1)


@pytest.mark.parametrize(("recompute", "low", "high"), [("layer", 10_900, 11_700), ("mixer", 14_400, 14_700)])
def test_speed_bound_on_an_h200(recompute: str, low: float, high: float):
    assert low < tokens_per_second_bound(SEVEN_B, DEVICES["H200"], recompute) < high


def test_memory_by_part():
    parts = training_memory(SEVEN_B, tokens=TOKENS, devices=8)
    held = parts["weights"] + parts["gradients"] + parts["optimizer"]
    assert held / 1e9 == pytest.approx(27.3, abs=0.1)
    alone = training_memory(SEVEN_B, tokens=TOKENS, devices=1)
    assert [round(alone[name] / 1e9, 1) for name in ("weights", "gradients", "optimizer")] == [14.6, 14.6, 87.4]
    sharded = training_memory(SEVEN_B, tokens=TOKENS, devices=8, zero_stage=3)
    assert sharded["weights"] == pytest.approx(parts["weights"] / 8)
    offloaded = training_memory(SEVEN_B, tokens=TOKENS, devices=8, offload_optimizer=True)
    assert offloaded["optimizer"] == offloaded["update"] == 0
    assert offloaded_bytes(SEVEN_B, 8) == pytest.approx(18 * SEVEN_B.parameters / 8)
    assert offloaded_bytes(SEVEN_B, accumulating=True) == pytest.approx(20 * SEVEN_B.parameters)
    kept = {name: training_memory(SEVEN_B, tokens=TOKENS, devices=8, recompute=name) for name in ("layer", "mixer")}
    assert kept["layer"]["activations"] < kept["mixer"]["activations"]


def test_mamba_ssm_config_gives_the_same_shapes():
    config = {
        "d_model": 4096, "n_layer": 64, "vocab_size": 32_768, "tie_embeddings": False,
        "ssm_cfg": {"layer": "Mamba2", "ngroups": 8, "d_state": 128, "headdim": 64},
    }  # fmt: skip
    assert shapes_from_config(config) == SEVEN_B


def test_unknown_shapes_are_named():
    with pytest.raises(InputError, match="model type 'gpt': no key 'hidden_size'"):
        shapes_from_config({"model_type": "gpt"})
