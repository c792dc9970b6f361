"""Arithmetic from shapes: against models that are really built, and against the 7B model's known figures."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    LlamaConfig,
    Mamba2Config,
    Mamba2ForCausalLM,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
)

from promptcot_mamba.efficiency.models import LARGE_PAIR, SMALL_PAIR, Pair
from promptcot_mamba.errors import InputError
from promptcot_mamba.memory_budget import (
    FP32,
    RESERVE,
    AttentionShapes,
    Mamba2Shapes,
    adapter_parameters,
    count_kept_layers,
    forward_flops_per_token,
    held_memory,
    offloaded_bytes,
    shapes_from_config,
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
    assert forward_flops_per_token(SEVEN_B) / 1e9 == pytest.approx(14.7, abs=0.1)


def test_kept_layers_of_the_7b_model():
    assert isinstance(SEVEN_B, Mamba2Shapes)
    assert SEVEN_B.saved_for_backward() == 2 * (18_560 + 8_192 + 4_096) + 4 * 4_096
    counts = [count_kept_layers(SEVEN_B, TOKENS, gib * 2**30) for gib in (0, 20, 90, 1000)]
    assert counts == [0, 0, 42, 64]
    # What is kept fits by the plan's own sum, and one more layer would not be inside the reserve.
    free = 90 * 2**30
    parts = [training_memory(SEVEN_B, tokens=TOKENS, devices=8, kept_layers=kept)["activations"] for kept in (42, 43)]
    assert parts[0] <= free
    spent = [TOKENS * (k * SEVEN_B.saved_for_backward() + (65 - k) * FP32 * 4096) for k in (43, 44)]
    assert spent[0] <= free * (1 - RESERVE) <= spent[1] + TOKENS * SEVEN_B.saved_for_backward()


@pytest.mark.parametrize(("stage", "gradients"), [(2, 8), (3, 8), (1, 1)])
def test_gradients_are_counted_by_their_shard(stage: int, gradients: int):
    parts = training_memory(SEVEN_B, tokens=TOKENS, devices=8, zero_stage=stage)
    assert parts["gradients"] == 2 * SEVEN_B.parameters / gradients
    assert held_memory(parts) == sum(parts[name] for name in ("weights", "gradients", "optimizer", "buckets"))


def test_adapters_alone_are_trained():
    trained = adapter_parameters(SEVEN_B, 16, ["in_proj", "out_proj"])
    assert trained == 64 * 16 * (4096 + 18_560 + 8192 + 4096)
    parts = training_memory(SEVEN_B, tokens=4096, devices=1, zero_stage=0, adapters=trained)
    assert parts["weights"] == 2 * SEVEN_B.parameters + 4 * trained
    assert (parts["gradients"], parts["optimizer"]) == (4 * trained, 8 * trained)  # fp32, their own masters
    with pytest.raises(InputError, match="--lora_target q_proj: the model's linear layers are in_proj, out_proj"):
        adapter_parameters(SEVEN_B, 16, ["q_proj"])
    single = training_memory(SEVEN_B, tokens=0, devices=1, zero_stage=0, element=4)
    assert held_memory(single) == 16 * SEVEN_B.parameters  # weights, gradients, two moments


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
    segments, layers, kept = (
        training_memory(SEVEN_B, tokens=TOKENS, devices=8, **how)["activations"]
        for how in ({"segment": 8}, {}, {"kept_layers": 64})
    )
    assert segments < layers < kept


def test_mamba_ssm_config_gives_the_same_shapes():
    config = {
        "d_model": 4096, "n_layer": 64, "vocab_size": 32_768, "tie_embeddings": False,
        "ssm_cfg": {"layer": "Mamba2", "ngroups": 8, "d_state": 128, "headdim": 64},
    }  # fmt: skip
    assert shapes_from_config(config) == SEVEN_B


def test_unknown_shapes_are_named():
    with pytest.raises(InputError, match="model type 'gpt': no key 'hidden_size'"):
        shapes_from_config({"model_type": "gpt"})


DENSE = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "intermediate_size": 14_336, "vocab_size": 32_000,
}  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, "'mixtral': num_local_experts 8"),
        ({"model_type": "qwen3_moe", "num_experts": 128}, "'qwen3_moe': num_experts 128"),
        ({"model_type": "deepseek_v3", "n_routed_experts": 256}, "n_routed_experts 256"),
        ({"model_type": "nemotron_h", "hybrid_override_pattern": "M-M*-"}, "hybrid_override_pattern: hybrids"),
        ({"model_type": "zamba2", "layers_block_type": ["mamba", "hybrid"]}, "layers_block_type: hybrids"),
        ({"model_type": "bamba", "attn_layer_indices": [9, 18]}, "attn_layer_indices: hybrids"),
        ({"model_type": "falcon_h1", "mamba_d_state": 256}, "mamba_d_state: hybrids"),
        ({"model_type": "granitemoehybrid", "num_experts": 0, "layer_types": ["mamba"]}, "mamba: hybrids"),
    ],
)  # fmt: skip
def test_experts_and_hybrids_are_no_dense_models(keys: dict[str, object], words: str):
    """Their configs have every key of a dense one's: Mixtral-8x7B was counted as 7.2 B."""
    with pytest.raises(InputError, match=words):
        shapes_from_config(DENSE | keys)


@pytest.mark.parametrize("keys", [{"num_local_experts": 0}, {"num_experts": None}, {"num_experts": 1},
                                  {"layer_types": ["full_attention", "sliding_attention"]},
                                  {"attn_layer_indices": None, "layers_block_type": []}])  # fmt: skip
def test_keys_that_say_nothing_leave_a_model_dense(keys: dict[str, object]):
    assert shapes_from_config(DENSE | {"model_type": "llama"} | keys) == shapes_from_config(DENSE)


@pytest.mark.parametrize("kind", [LlamaConfig, MistralConfig, Phi3Config, Qwen2Config, Qwen3Config])
def test_dense_families_of_transformers_are_known(kind: type[PreTrainedConfig]):
    assert isinstance(shapes_from_config(kind().to_dict()), AttentionShapes)


@pytest.mark.parametrize("pair", [LARGE_PAIR, SMALL_PAIR], ids=["7b", "small"])
def test_the_compared_models_are_known(pair: Pair):
    assert isinstance(shapes_from_config(pair.mamba2.config), Mamba2Shapes)
    assert isinstance(shapes_from_config(pair.qwen2.config), AttentionShapes)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"ssm_cfg": {}}, "ssm_cfg.layer is Mamba1, expected Mamba2"),  # state-spaces/mamba-2.8b
        ({"ssm_cfg": None}, "ssm_cfg.layer is Mamba1"),
        ({"ssm_cfg": {"layer": "Mamba2"}, "attn_layer_idx": [9, 18]}, r"attn_layer_idx \[9, 18\]"),
        ({"ssm_cfg": {"layer": "Mamba2"}, "d_intermediate": 4096}, "d_intermediate 4096"),
    ],
)  # fmt: skip
def test_mamba_ssm_configs_of_other_layers_are_refused(keys: dict[str, object], words: str):
    with pytest.raises(InputError, match=words):
        shapes_from_config({"d_model": 2560, "n_layer": 64, "vocab_size": 50_277, **keys})
