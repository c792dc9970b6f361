"""What one running chain holds in vLLM's cache, layer by layer, from a model's config alone.

A layer keeps keys and values of every token (dense, grouped-query, latent), of a window of them, or a state of fixed
size (Mamba, gated delta nets, lightning attention). Checked against vLLM's own specification of its cache on tiny
models of each family, and by hand for published configs (tests/sampling/test_cache_cost.py).
"""

from dataclasses import dataclass

from promptcot_mamba.checkpoint import DTYPE_BYTES
from promptcot_mamba.sampling.layers import ATTENTION, BOTH, STATE, WINDOW, Config, language_config, layer_kinds

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

    def bytes(self, context: int) -> int:
        """After `context` tokens."""
        return self.state + self.a_token * context + self.a_window_token * min(context, self.window)

    @property
    def grows(self) -> bool:
        return bool(self.a_token or self.a_window_token)


def cache_cost(config: Config, dtype: str, state_dtype: str, parts: int = 1) -> CacheCost:
    """The cost of one chain of a model of this config, on one of the `parts` devices that share each layer."""
    config = language_config(config)
    kinds = layer_kinds(config)
    states = sum(kind in (STATE, BOTH) for kind in kinds)
    state = _state_bytes(config, DTYPE_BYTES[dtype], DTYPE_BYTES[state_dtype]) // parts if states else 0

    # Gemma 4: layers that see all have fewer and wider heads. The keys are numbers as text ("05").
    own = {int(layer): value for layer, value in (config.get("per_layer_config") or {}).items()}

    def numbers_of(*wanted: str) -> int:
        layers = (layer for layer, kind in enumerate(kinds) if kind in wanted)
        return sum(_token_numbers({**config, **own.get(layer, {})}, parts) for layer in layers)

    window = config.get("sliding_window") or config.get("attention_chunk_size") or 0
    if isinstance(window, list):
        window = max(filter(None, window), default=0)
    size = DTYPE_BYTES[dtype]
    return CacheCost(states * state, size * numbers_of(ATTENTION, BOTH), size * numbers_of(WINDOW), int(window))


def _token_numbers(config: Config, parts: int) -> int:
    """Numbers a token leaves in one attention layer on each device; a device has whole heads, and one at least."""
    if config.get("kv_lora_rank"):  # DeepSeek's latent attention, which every device holds whole
        return int(config["kv_lora_rank"]) + int(config.get("qk_rope_head_dim") or 0)
    heads = int(config.get("num_attention_heads") or 1)
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head_dim = config.get("head_dim") or config.get("attention_head_dim") or config.get("hidden_size", 1) // heads
    return 2 * max(1, kv_heads // parts) * int(head_dim)


def _state_bytes(config: Config, conv_bytes: int, state_bytes: int) -> int:
    """One layer's state: what it multiplies up, and the last inputs of its convolution."""
    if config.get("attn_type_list"):  # MiniMax's lightning attention: keys by values, no convolution
        return int(config["num_attention_heads"]) * int(config["head_dim"]) ** 2 * state_bytes
    if linear := config.get("linear_attn_config"):  # Kimi's: queries, keys and values are convolved
        inner = int(linear["num_heads"]) * int(linear["head_dim"])
        conv = 3 * inner * (int(linear.get("short_conv_kernel_size", 4)) - 1)
        return inner * int(linear["head_dim"]) * state_bytes + conv * conv_bytes

    def size(name: str, default: int) -> int:
        return int(next((config[key] for key in _STATE_KEYS[name] if config.get(key)), default))

    kept = size("conv", 4) - 1
    if config.get("conv_L_cache"):  # LFM2: a short convolution alone
        return int(config["hidden_size"]) * kept * conv_bytes
    if not any(config.get(key) for key in _STATE_KEYS["heads"]):  # Mamba-1: a state for each channel
        inner = int(config.get("mamba_expand") or config.get("expand") or 2) * int(config.get("hidden_size") or 1)
        return inner * (size("state", 16) * state_bytes + kept * conv_bytes)
    inner, state = size("heads", 1) * size("head_dim", 64), size("state", 128)
    channels = inner + 2 * size("groups", 1) * state
    return inner * state * state_bytes + channels * kept * conv_bytes
