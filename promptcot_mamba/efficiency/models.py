"""The compared models and the bytes that follow from their shapes: weights, a chain's state, a token's cache.

The 7B pair is the paper's: PromptCoT-Mamba-7B (Mamba-Codestral-7B-v0.1's config) against S1.1-7B, a Qwen2.5-7B.
The small pair is its image for a CPU. Three proportions decide what a memory budget does, and all three are kept:

    chains of Mamba-2 in the cache     (budget - W) / S     W/S as at 7B
    tokens of attention in the cache   (budget - W) / K     W/K as at 7B, in units of `length_divisor` tokens
    weights of the pair                W of one to W of the other, as at 7B

W are weight bytes, S a Mamba-2 chain's state, K a token's keys and values. Budgets are scaled by the weights: the
small budget is to the small Mamba-2 what 24 or 72 GiB are to the 7B one. Lengths are divided by `length_divisor`, so
that a chain of 65,536 tokens and its small image fill the same share of the budget.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from promptcot_mamba.bench_record import RecordTable
from promptcot_mamba.checkpoint import DTYPE_BYTES
from promptcot_mamba.memory_budget import shapes_from_config
from promptcot_mamba.sampling.cache_cost import cache_cost

GIB = 1 << 30


@dataclass(frozen=True)
class Shape:
    """One architecture: its `transformers` config, and the dtype of its weights and cache (SSM states are fp32)."""

    name: str
    config: dict[str, Any] = field(repr=False)
    dtype: str

    @property
    def is_mamba2(self) -> bool:
        return self.config["model_type"] == "mamba2"

    @property
    def parameters(self) -> int:
        """Parameters, counted from the shapes."""
        return shapes_from_config(self.config).parameters

    @property
    def weight_bytes(self) -> int:
        return self.parameters * DTYPE_BYTES[self.dtype]

    @property
    def sequence_bytes(self) -> int:
        """Bytes a running chain holds whatever its length: SSM and convolution states; 0 for attention."""
        return cache_cost(self.config, self.dtype, "float32").state

    @property
    def token_bytes(self) -> int:
        """Bytes each token of a running chain adds: keys and values; 0 for Mamba-2."""
        return cache_cost(self.config, self.dtype, "float32").a_token

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
    dtype="bfloat16",
)  # fmt: skip
QWEN25_7B = Shape(
    "Qwen2.5 7B",
    {
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": 152064, "hidden_size": 3584,
        "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        "head_dim": 128, "max_position_embeddings": 131072, "tie_word_embeddings": False,
    },
    dtype="bfloat16",
)  # fmt: skip
# What a CPU decodes in milliseconds a step. Sizes were chosen first; the vocabulary then keeps W/S, and the attention
# model's feed-forward width W/W (tests/efficiency holds both to a percent).
SMALL_MAMBA2 = Shape(
    "small Mamba-2",
    MAMBA2_7B.config | {
        "vocab_size": 928, "hidden_size": 256, "num_hidden_layers": 4, "num_heads": 8, "n_groups": 1, "state_size": 16,
    },
    dtype="float32",
)  # fmt: skip
SMALL_QWEN2 = Shape(
    "small Qwen2",
    QWEN25_7B.config | {
        "vocab_size": 928, "hidden_size": 256, "intermediate_size": 368, "num_hidden_layers": 4,
        "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 32,
    },
    dtype="float32",
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """A Mamba-2 and an attention model; budgets and lengths are given in those of the 7B pair."""

    mamba2: Shape
    qwen2: Shape

    @property
    def budget_divisor(self) -> float:
        """7B budget bytes / this pair's."""
        return MAMBA2_7B.weight_bytes / self.mamba2.weight_bytes

    @property
    def length_divisor(self) -> float:
        """7B tokens / this pair's."""
        return (QWEN25_7B.weight_bytes / QWEN25_7B.token_bytes) / (self.qwen2.weight_bytes / self.qwen2.token_bytes)

    def cache_bytes(self, shape: Shape, budget_gib: float) -> int:
        """What a 7B budget leaves one of the two for states or cache: the scaled budget less its weights."""
        return int(budget_gib * GIB / self.budget_divisor - shape.weight_bytes)

    def length(self, tokens: int) -> int:
        """This pair's image of a 7B length, in tokens."""
        return max(1, round(tokens / self.length_divisor))


LARGE_PAIR = Pair(MAMBA2_7B, QWEN25_7B)
SMALL_PAIR = Pair(SMALL_MAMBA2, SMALL_QWEN2)


def derivation_table(small: Pair, budgets_gib: Sequence[float]) -> RecordTable:
    """The proportions of both pairs side by side; tokens are counted in 7B units."""
    columns = [_proportions(pair, budgets_gib) for pair in (LARGE_PAIR, small)]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    caption = (
        f"The proportions, derived before measuring: lengths are divided by {small.length_divisor:.2f}, budgets by "
        f"{small.budget_divisor:,.0f}; tokens in 7B units."
    )
    return RecordTable(caption, ["", "7B", "measured pair"], rows)


def _proportions(pair: Pair, budgets_gib: Sequence[float]) -> dict[str, str]:
    mamba2, qwen2, divisor = pair.mamba2, pair.qwen2, pair.length_divisor
    found = {
        "Mamba-2 weights, bytes": f"{mamba2.weight_bytes:.4g}",
        "attention weights, bytes": f"{qwen2.weight_bytes:.4g}",
        "state a chain, bytes": f"{mamba2.sequence_bytes:.4g}",
        "cache a token, bytes": f"{qwen2.token_bytes:.4g}",
        "weights / state": f"{mamba2.weight_bytes / mamba2.sequence_bytes:.1f}",
        "weights / weights": f"{qwen2.weight_bytes / mamba2.weight_bytes:.3f}",
        "state, in tokens of cache": f"{qwen2.chains_in(mamba2.sequence_bytes, 1) * divisor:,.0f}",
    }
    for budget in budgets_gib:
        chains = mamba2.chains_in(pair.cache_bytes(mamba2, budget), 0)
        tokens = qwen2.chains_in(pair.cache_bytes(qwen2, budget), 1) * divisor
        found |= {
            f"{budget:g} GiB: chains of Mamba-2": f"{chains:.1f}",
            f"{budget:g} GiB: tokens of attention": f"{tokens:,.0f}",
        }
    return found
