"""Small models in the proportions of the 7B ones, derived before anything is measured.

Three proportions decide what a memory budget does, and all three are kept:

    chains of Mamba-2 in the cache     (budget - W) / S     W/S as at 7B
    tokens of attention in the cache   (budget - W) / K     W/K as at 7B, in units of `length_divisor` tokens
    weights of the pair                W of one to W of the other, as at 7B

W are weight bytes, S a Mamba-2 chain's state, K a token's keys and values. Budgets are scaled by the weights: the
small budget is to the small Mamba-2 what 24 or 72 GiB are to the 7B one. Lengths are divided by `length_divisor`, so
that a chain of 65,536 tokens and its small image fill the same share of the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from promptcot_mamba.bench_record import RecordTable
from promptcot_mamba.efficiency.shapes import FP32, MAMBA2_7B, QWEN25_7B, Shape

GIB = 1 << 30
# What a CPU decodes in milliseconds a step; the rest follows from the 7B proportions.
LAYERS, WIDTH, HEAD_DIM, STATE_SIZE = 4, 256, 64, 16
CACHE_HEAD_DIM = 32  # of the one key-value head


@dataclass(frozen=True)
class Pair:
    """A Mamba-2 and an attention model, and the scales that carry 7B budgets and lengths over to them."""

    mamba2: Shape
    qwen2: Shape
    budget_divisor: float = 1.0  # 7B budget bytes / this pair's
    length_divisor: float = 1.0  # 7B tokens / this pair's

    def cache_bytes(self, shape: Shape, budget_gib: float) -> int:
        """What a 7B budget leaves one of the two for states or cache: the scaled budget less its weights."""
        return int(budget_gib * GIB / self.budget_divisor - shape.weight_bytes)

    def length(self, tokens: int) -> int:
        """This pair's image of a 7B length, in tokens."""
        return max(1, round(tokens / self.length_divisor))


LARGE_PAIR = Pair(MAMBA2_7B, QWEN25_7B)


def derive_small_pair(large: Pair = LARGE_PAIR) -> Pair:
    """Choose the vocabulary (Mamba-2) and the feed-forward width (attention), the free dials, to keep W/S and W/W."""
    mamba2 = _closest(
        large.mamba2.weight_bytes / large.mamba2.sequence_bytes,
        (_small_mamba2(vocab) for vocab in range(256, 4096, 16)),
        lambda shape: shape.weight_bytes / shape.sequence_bytes,
    )
    vocab = mamba2.config["vocab_size"]
    qwen2 = _closest(
        large.qwen2.weight_bytes / large.mamba2.weight_bytes,
        (_small_qwen2(vocab, width) for width in range(64, 4096, 16)),
        lambda shape: shape.weight_bytes / mamba2.weight_bytes,
    )
    tokens_of_weights = [shape.weight_bytes / shape.token_bytes for shape in (large.qwen2, qwen2)]
    return Pair(
        mamba2,
        qwen2,
        budget_divisor=large.mamba2.weight_bytes / mamba2.weight_bytes,
        length_divisor=tokens_of_weights[0] / tokens_of_weights[1],
    )


def _closest(target: float, candidates: Iterable[Shape], ratio: Callable[[Shape], float]) -> Shape:
    return min(candidates, key=lambda shape: abs(ratio(shape) - target))


def _small_mamba2(vocab: int) -> Shape:
    config = MAMBA2_7B.config | {
        "vocab_size": vocab, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_heads": 2 * WIDTH // HEAD_DIM,
        "head_dim": HEAD_DIM, "n_groups": 1, "state_size": STATE_SIZE,
    }  # fmt: skip
    return Shape("small Mamba-2", config, weight_width=FP32)


def _small_qwen2(vocab: int, feed_forward: int) -> Shape:
    config = QWEN25_7B.config | {
        "vocab_size": vocab, "hidden_size": WIDTH, "intermediate_size": feed_forward, "num_hidden_layers": LAYERS,
        "num_attention_heads": WIDTH // CACHE_HEAD_DIM, "num_key_value_heads": 1, "head_dim": CACHE_HEAD_DIM,
    }  # fmt: skip
    return Shape("small Qwen2", config, weight_width=FP32)


def derivation_table(small: Pair, budgets_gib: Sequence[float], large: Pair = LARGE_PAIR) -> RecordTable:
    """The proportions of both pairs side by side; tokens are counted in 7B units."""
    rows: list[tuple[str, Callable[[Pair], str]]] = [
        ("Mamba-2 weights, bytes", lambda pair: f"{pair.mamba2.weight_bytes:.4g}"),
        ("attention weights, bytes", lambda pair: f"{pair.qwen2.weight_bytes:.4g}"),
        ("state a chain, bytes", lambda pair: f"{pair.mamba2.sequence_bytes:.4g}"),
        ("cache a token, bytes", lambda pair: f"{pair.qwen2.token_bytes:.4g}"),
        ("weights / state", lambda pair: f"{pair.mamba2.weight_bytes / pair.mamba2.sequence_bytes:.1f}"),
        ("weights / weights", lambda pair: f"{pair.qwen2.weight_bytes / pair.mamba2.weight_bytes:.3f}"),
        ("state, in tokens of cache", lambda pair: f"{_in_large_tokens(pair, pair.mamba2.sequence_bytes):,.0f}"),
    ]
    for budget in budgets_gib:
        rows += [
            (f"{budget:g} GiB: chains of Mamba-2", lambda pair, b=budget: f"{_chains(pair, b):.1f}"),
            (
                f"{budget:g} GiB: tokens of attention",
                lambda pair, b=budget: f"{_in_large_tokens(pair, pair.cache_bytes(pair.qwen2, b)):,.0f}",
            ),
        ]
    caption = (
        f"The proportions, derived before measuring: lengths are divided by {small.length_divisor:.2f}, budgets by "
        f"{small.budget_divisor:,.0f}; tokens in 7B units."
    )
    return RecordTable(caption, ["", "7B", "measured pair"], [[name, show(large), show(small)] for name, show in rows])


def _chains(pair: Pair, budget_gib: float) -> float:
    return pair.mamba2.chains_in(pair.cache_bytes(pair.mamba2, budget_gib), 0)


def _in_large_tokens(pair: Pair, cache_bytes: float) -> float:
    return pair.qwen2.chains_in(cache_bytes, 1) * pair.length_divisor
