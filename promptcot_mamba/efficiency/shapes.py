"""Shapes of the compared models and the bytes that follow from them: weights, a chain's state, a token's cache.

The 7B pair is the paper's: PromptCoT-Mamba-7B (Mamba-Codestral-7B-v0.1's config) against S1.1-7B, a Qwen2.5-7B.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from promptcot_mamba.memory_budget import BF16, FP32, shapes_from_config


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
        return shapes_from_config(self.config).parameters

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
