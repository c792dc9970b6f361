"""Shapes of the compared models and the bytes that follow from them: weights, a chain's state, a token's cache.

The 7B pair is the paper's: PromptCoT-Mamba-7B (Mamba-Codestral-7B-v0.1's config) against S1.1-7B, a Qwen2.5-7B.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FP32, BF16 = 4, 2  # bytes


@dataclass(frozen=True)
class Shape:
    """One architecture: its `transformers` config and the bytes of one weight and of one state element."""

    name: str
    config: dict[str, Any] = field(repr=False)
    weight_width: int  # bytes of a weight, a convolution state and a cache element
    state_width: int = FP32  # bytes of an SSM state element

    @property
    def is_mamba2(self) -> bool:
        return self.config["model_type"] == "mamba2"

    @property
    def parameters(self) -> int:
        """Parameters, counted from the shapes."""
        return mamba2_parameters(self.config) if self.is_mamba2 else qwen2_parameters(self.config)

    @property
    def weight_bytes(self) -> int:
        return self.parameters * self.weight_width

    @property
    def sequence_bytes(self) -> int:
        """Bytes a running chain holds whatever its length: SSM and convolution states; 0 for attention."""
        if not self.is_mamba2:
            return 0
        config = self.config
        inner = config["num_heads"] * config["head_dim"]
        channels = inner + 2 * config["n_groups"] * config["state_size"]
        state = inner * config["state_size"] * self.state_width
        convolution = channels * (config["conv_kernel"] - 1) * self.weight_width
        return config["num_hidden_layers"] * (state + convolution)

    @property
    def token_bytes(self) -> int:
        """Bytes each token of a running chain adds: keys and values; 0 for Mamba-2."""
        if self.is_mamba2:
            return 0
        config = self.config
        width = config["num_key_value_heads"] * config["head_dim"]
        return 2 * config["num_hidden_layers"] * width * self.weight_width

    def chains_in(self, cache_bytes: float, tokens: int) -> float:
        """How many chains of `tokens` tokens fit into a cache of this size."""
        return cache_bytes / (self.sequence_bytes + tokens * self.token_bytes)


def mamba2_parameters(config: dict[str, Any]) -> int:
    """Parameters of a `transformers` Mamba2ForCausalLM."""
    d, h, g, n = config["hidden_size"], config["num_heads"], config["n_groups"], config["state_size"]
    inner = h * config["head_dim"]
    channels = inner + 2 * g * n
    in_proj = d * (inner + channels + h)
    convolution = channels * (config["conv_kernel"] + 1)
    layer = in_proj + convolution + 3 * h + inner + inner * d + d
    embeddings = config["vocab_size"] * d * (1 if config.get("tie_word_embeddings") else 2)
    return config["num_hidden_layers"] * layer + embeddings + d


def qwen2_parameters(config: dict[str, Any]) -> int:
    """Parameters of a `transformers` Qwen2ForCausalLM (biases on q, k, v only)."""
    d, f = config["hidden_size"], config["intermediate_size"]
    q = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    layer = d * q + q + 2 * (d * kv + kv) + q * d + 3 * d * f + 2 * d
    embeddings = config["vocab_size"] * d * (1 if config.get("tie_word_embeddings") else 2)
    return config["num_hidden_layers"] * layer + embeddings + d


MAMBA2_7B = Shape(
    "Mamba-2 7B",
    {
        "model_type": "mamba2", "architectures": ["Mamba2ForCausalLM"], "vocab_size": 32768, "hidden_size": 4096,
        "num_hidden_layers": 64, "num_heads": 128, "head_dim": 64, "n_groups": 8, "state_size": 128,
        "conv_kernel": 4, "expand": 2, "chunk_size": 256, "tie_word_embeddings": False,
    },
    weight_width=BF16,
)  # fmt: skip
QWEN25_7B = Shape(
    "Qwen2.5 7B",
    {
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": 152064, "hidden_size": 3584,
        "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        "head_dim": 128, "max_position_embeddings": 131072, "tie_word_embeddings": False,
    },
    weight_width=BF16,
)  # fmt: skip
