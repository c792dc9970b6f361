"""What one running chain holds in vLLM's cache, layer by layer, from a model's config alone.

A layer keeps keys and values of every token (dense, grouped-query, latent), of a window of them, or a state of fixed
size (Mamba, gated delta nets). Checked against vLLM's own specification of its cache for published sizes and on tiny
models of each family, and by hand for published configs (tests/sampling/test_cache_cost.py).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from promptcot_mamba.checkpoint import DTYPE_BYTES
from promptcot_mamba.sampling.layers import (
    ATTENTION,
    BOTH,
    STATE,
    WINDOW,
    Config,
    attention_layers,
    language_config,
    layer_kinds,
    size_of,
)

CPU_BLOCK = 128  # tokens of a page of vLLM's cache on a CPU
_STATE_KEYS = {  # of Mamba-2 layers by whoever names them, and of gated delta nets (Qwen3-Next), whose state is alike
    "heads": ("mamba_num_heads", "mamba_n_heads", "n_mamba_heads", "linear_num_value_heads", "num_heads"),
    "head_dim": ("mamba_head_dim", "mamba_d_head", "mamba_headdim", "linear_value_head_dim", "head_dim"),
    "state": ("ssm_state_size", "mamba_d_state", "linear_key_head_dim", "state_size"),
    "groups": ("mamba_n_groups", "mamba_ngroups", "linear_num_key_heads", "n_groups"),
    "conv": ("mamba_d_conv", "linear_conv_kernel_dim", "conv_kernel", "conv_L_cache"),
}


@dataclass(frozen=True)
class CacheCost:
    """Bytes of one chain on one device: what it holds from the start, a token's, and a token's within the window."""

    state: int
    a_token: int
    a_window_token: int
    window: int
    padding: float = 1.0  # pages of all layers and of those that vLLM adds to make its groups alike, by the former

    def bytes(self, context: int) -> int:
        """After `context` tokens."""
        return self.state + self.a_token * context + self.a_window_token * min(context, self.window)

    def whole(self, context: int) -> int:
        """What vLLM's CPU engine wants of its cache before it starts: room for one chain of `context` tokens.

        Prompts are read at once there, so layers with a window count the context like the others. Each layer may take
        a block more for each end of a window, and one block in all stays empty (`get_kv_cache_configs`). A hybrid's
        blocks are of the size of a state, for its attention too: two blocks are two states, and rounding costs more.
        """
        pages = self.state + (self.a_token + self.a_window_token) * (context + 2 * CPU_BLOCK)
        if self.state:
            pages = (pages + 2 * self.state) * 5 // 4
        return int(pages * self.padding)

    @property
    def grows(self) -> bool:
        return bool(self.a_token or self.a_window_token)


def cache_cost(config: Config, dtype: str, state_dtype: str, parts: int = 1) -> CacheCost:
    """The cost of one chain of a model of this config, on one of the `parts` devices that share each layer."""
    config = language_config(config)
    kinds = layer_kinds(config)
    states = sum(kind in (STATE, BOTH) for kind in kinds)
    state = _state_bytes(config, DTYPE_BYTES[dtype], DTYPE_BYTES[state_dtype]) // parts if states else 0

    def numbers_of(*wanted: str) -> int:
        return sum(_token_numbers(layer, parts) for layer in attention_layers(config, *wanted))

    window = config.get("sliding_window") or config.get("attention_chunk_size") or 0
    if isinstance(window, list):
        window = max(filter(None, window), default=0)
    size = DTYPE_BYTES[dtype]
    tokens, window_tokens = size * numbers_of(ATTENTION, BOTH) + _index_bytes(config), size * numbers_of(WINDOW)
    return CacheCost(states * state, tokens, window_tokens, int(window), _padding(kinds))


def _padding(kinds: Sequence[str]) -> float:
    """Layers with those vLLM adds, by layers. It puts those of a kind into groups that are all as large as the fewest
    layers of a kind, or as the most where that is less than half as many again: 52 of 10 and 52 become 60."""
    counts = Counter(kind for kind in kinds if kind in (ATTENTION, WINDOW, STATE))
    if both := list(kinds).count(BOTH):
        counts.update({ATTENTION: both, STATE: both})
    if not counts:
        return 1.0
    fewest, most = min(counts.values()), max(counts.values())
    group = most if most < 1.5 * fewest else fewest
    return sum(-(-count // group) * group for count in counts.values()) / sum(counts.values())


def _token_numbers(config: Config, parts: int) -> int:
    """Numbers a token leaves in one attention layer on each device; a device has whole heads, and one at least."""
    if has_latents(config):  # which every device holds whole
        return int(config["kv_lora_rank"]) + int(config.get("qk_rope_head_dim") or 0)
    heads, kv_heads = attention_heads(config)
    head_dim = config.get("head_dim") or config.get("attention_head_dim") or size_of(config, "hidden_size") // heads
    if config.get("kv_lora_rank"):  # its keys are of two parts, and values are kept as wide
        head_dim = int(config.get("qk_nope_head_dim") or 0) + int(config.get("qk_rope_head_dim") or 0)
    values = config.get("v_head_dim") if config.get("hybrid_layer_pattern") else None  # MiMo-V2's are narrower
    return max(1, kv_heads // parts) * (int(head_dim) + int(values or head_dim))


def _index_bytes(config: Config) -> int:
    """What a token leaves for DeepSeek-V3.2's and GLM-5's choice of tokens, on every device: bytes of one key, and a
    float for each 128 of them, in every layer that does not go by an earlier one's choice."""
    if config.get("model_type") not in ("deepseek_v32", "glm_moe_dsa"):
        return 0
    layers, width = range(size_of(config, "num_hidden_layers")), size_of(config, "index_head_dim")
    pattern, every = config.get("index_topk_pattern"), int(config.get("index_topk_freq") or 1)
    first = int(config.get("index_skip_topk_offset", 2)) - 1
    if pattern:
        choosing = sum(layer >= len(pattern) or pattern[layer] != "S" for layer in layers)
    else:
        choosing = sum(max(layer - first, 0) % every == 0 for layer in layers)
    return choosing * (width + width // 128 * 4)


def has_latents(config: Config) -> bool:
    """Whether vLLM keeps DeepSeek's latents in place of keys and values; MiniCPM3's it spreads to all heads."""
    return bool(config.get("kv_lora_rank")) and config.get("model_type") != "minicpm3"


def attention_heads(config: Config) -> tuple[int, int]:
    """Heads of queries, and of keys and values."""
    heads = size_of(config, "num_attention_heads")
    if config.get("kv_lora_rank") and not has_latents(config):
        return heads, heads
    return heads, int(config.get("num_key_value_heads") or heads)


def state_heads(config: Config) -> tuple[int, int]:
    """Heads and groups of layers that keep a state, as tensor parallelism deals them out; 0 where they have none."""
    if linear := config.get("linear_attn_config"):
        return int(linear["num_heads"]), 0
    return _size(config, "heads", 0), _size(config, "groups", 0)


def _size(config: Config, name: str, default: int) -> int:
    return int(next((config[key] for key in _STATE_KEYS[name] if config.get(key)), default))


def _state_bytes(config: Config, conv_bytes: int, state_bytes: int) -> int:
    """One layer's state: what it multiplies up, and the last inputs of its convolution."""
    if linear := config.get("linear_attn_config"):  # Kimi's: queries, keys and values are convolved
        inner = int(linear["num_heads"]) * int(linear["head_dim"])
        conv = 3 * inner * (int(linear.get("short_conv_kernel_size", 4)) - 1)
        return inner * int(linear["head_dim"]) * state_bytes + conv * conv_bytes

    kept = _size(config, "conv", 4) - 1
    if config.get("conv_L_cache"):  # LFM2: a short convolution alone
        return int(config["hidden_size"]) * kept * conv_bytes
    if not any(config.get(key) for key in _STATE_KEYS["heads"]):  # Mamba-1: a state for each channel
        inner = int(config.get("mamba_expand") or config.get("expand") or 2) * size_of(config, "hidden_size")
        if config.get("model_type") in ("mamba", "falcon_mamba"):  # Falcon's expand of 16 is not what it was built with
            inner = int(config.get("intermediate_size") or inner)
        return inner * (_size(config, "state", 16) * state_bytes + kept * conv_bytes)
    inner, state = _size(config, "heads", 1) * _size(config, "head_dim", 64), _size(config, "state", 128)
    channels = inner + 2 * _size(config, "groups", 1) * state
    return inner * state * state_bytes + channels * kept * conv_bytes
