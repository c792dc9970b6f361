"""`--rope_scaling` against vLLM's own reading of the configs it makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from promptcot_mamba.checkpoint import read_checkpoint
from promptcot_mamba.errors import InputError
from promptcot_mamba.sampling.rope import model_context, rope_overrides

SHAPE = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 200, "max_position_embeddings": 32768, "tie_word_embeddings": True,
}  # fmt: skip
# R1-Distill-Qwen-1.5B and -7B were trained with a base of 10,000, Qwen2's own class says another.
QWEN2 = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "rope_theta": 10000.0, **SHAPE}
# As transformers 5 writes it, with scaling of its own that the flag replaces.
LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], **SHAPE,
    "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}  # fmt: skip

GEMMA3 = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", **SHAPE}}  # local and global layers


def make(folder: Path, config: dict[str, Any]):
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")  # no tensors
    return read_checkpoint(folder)


@pytest.mark.parametrize(
    ("config", "theta", "flag"),
    [
        (QWEN2, 10000.0, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}),
        (QWEN2, 10000.0, {"rope_type": "yarn", "factor": 4.0}),
        (QWEN2, 10000.0, {"type": "yarn", "factor": 4.0}),
        (QWEN2, 10000.0, {"rope_type": "dynamic", "factor": 4.0}),
        (QWEN2, 10000.0, {"rope_type": "linear", "factor": 4.0}),
        (QWEN2, 1e6, {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6}),
        (LLAMA, 500000.0, {"rope_type": "yarn", "factor": 4.0}),
    ],
)
def test_vllm_takes_the_stretched_length_and_the_models_own_base(
    tmp_path: Path, config: dict, theta: float, flag: dict
):
    arguments = pytest.importorskip("vllm").EngineArgs
    checkpoint = make(tmp_path, config)
    assert model_context(checkpoint, flag) == 131072
    read = arguments(
        model=str(tmp_path),
        skip_tokenizer_init=True,
        max_model_len=131072,
        hf_overrides=rope_overrides(checkpoint, flag),
    ).create_model_config()
    assert read.max_model_len == 131072
    rope = read.hf_config.rope_parameters
    assert (rope["rope_type"], rope["factor"], rope["rope_theta"]) == (flag.get("rope_type", "yarn"), 4.0, theta)
    if rope["rope_type"] == "yarn":
        assert rope["original_max_position_embeddings"] == 32768


def test_a_multimodal_config_is_stretched_where_its_language_model_stands(tmp_path: Path):
    inner = {"model_type": "mistral", "rope_theta": 1e9, **SHAPE}
    checkpoint = make(tmp_path, {"model_type": "mistral3", "text_config": inner})
    said = rope_overrides(checkpoint, {"rope_type": "yarn", "factor": 2})
    assert said is not None
    assert said["text_config"]["max_position_embeddings"] == 65536
    assert said["text_config"]["rope_parameters"]["rope_theta"] == 1e9


@pytest.mark.parametrize(
    ("config", "flag", "words"),
    [
        (QWEN2, {"factor": 4}, "--rope_scaling: has no .rope_type"),
        ({"model_type": "mamba2"}, {"rope_type": "yarn", "factor": 4}, "a Mamba-2 has no rotary embeddings"),
        (GEMMA3, {"rope_type": "yarn", "factor": 4}, "rotary embeddings of several kinds"),
        ({"model_type": "unheard", **SHAPE}, {"rope_type": "yarn", "factor": 4}, "has no rope_theta"),
    ],
)  # fmt: skip
def test_what_cannot_be_stretched(tmp_path: Path, config: dict, flag: dict, words: str):
    with pytest.raises(InputError, match=words):
        rope_overrides(make(tmp_path, config), flag)


SCALED = {**LLAMA, "max_position_embeddings": 16384, "rope_parameters": None}  # as before transformers 5


@pytest.mark.parametrize(
    ("config", "own"),
    [
        # Command-R: 8,192 positions, `model_max_length` 131,072. vLLM goes by it, though of others it takes the least.
        ({"model_type": "cohere", "architectures": ["CohereForCausalLM"], **SHAPE, "max_position_embeddings": 8192,
          "model_max_length": 131072, "rope_theta": 8000000.0}, 131072),
        # deepseek-ai/deepseek-coder-6.7b-instruct: vLLM multiplies what it says.
        ({**SCALED, "rope_theta": 100000, "rope_scaling": {"type": "linear", "factor": 4.0}}, 65536),
        ({**SCALED, "rope_theta": 10000.0, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, 32768),
        (LLAMA, 32768),  # llama3's length is the stretched one
        ({**QWEN2, "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}}, 32768),
        ({"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], **SHAPE, "head_dim": 16,
          "rope_scaling": {"rope_type": "linear", "factor": 8.0}}, 32768),
    ],
)  # fmt: skip
def test_a_model_sees_as_far_as_vllm_says(tmp_path: Path, config: dict, own: int):
    assert model_context(make(tmp_path, config), {}) == own
    arguments = pytest.importorskip("vllm").EngineArgs
    read = arguments(model=str(tmp_path), skip_tokenizer_init=True).create_model_config()
    longest = arguments(model=str(tmp_path), skip_tokenizer_init=True, max_model_len=own).create_model_config()
    assert longest.max_model_len == own
    assert read.max_model_len <= own


def test_the_flag_takes_the_place_of_the_configs_own_scaling(tmp_path: Path):
    checkpoint = make(tmp_path, {**SCALED, "rope_theta": 100000, "rope_scaling": {"type": "linear", "factor": 4.0}})
    assert model_context(checkpoint, {"rope_type": "linear", "factor": 2}) == 32768
    said = rope_overrides(checkpoint, {"rope_type": "yarn", "factor": 2})
    assert said is not None
    assert (said["rope_parameters"]["original_max_position_embeddings"], said["max_position_embeddings"]) == (
        16384,
        32768,
    )


def test_nothing_without_the_flag(tmp_path: Path):
    assert rope_overrides(make(tmp_path, QWEN2), {}) is None
