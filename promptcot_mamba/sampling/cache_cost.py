"""What one running chain holds in vLLM's cache, layer by layer, from a model's config alone.

A layer keeps keys and values of every token (dense, grouped-query), of a window of them, or a state of fixed size
(Mamba-2). Multimodal configs hold their language model's under `text_config`; hybrids name the kind of each layer.
Checked against vLLM's own specification of its cache on tiny models of each family (tests/sampling/test_cache_cost.py).
"""

from dataclasses import dataclass
from typing import Any

from promptcot_mamba.checkpoint import DTYPE_BYTES

ATTENTION, WINDOW, STATE, BOTH, NOTHING = "attention", "window", "state", "both", "nothing"
_KINDS = {
    **dict.fromkeys(("attention", "full_attention", "full", "*", "hybrid_attention"), ATTENTION),
    **dict.fromkeys(("sliding_attention", "sliding", "chunked_attention"), WINDOW),
    **dict.fromkeys(("mamba", "mamba2", "m", "linear_attention"), STATE),
    **dict.fromkeys(("mlp", "moe", "-", "e"), NOTHING),  # Nemotron-H counts feed-forwards as layers of their own
    "hybrid": BOTH,  # Zamba2: a shared attention beside the state
}
_STATE_KEYS = {  # of Mamba-2 layers by whoever names them, and of gated delta nets (Qwen3-Next), whose state is alike
    "heads": ("mamba_num_heads", "mamba_n_heads", "n_mamba_heads", "linear_num_value_heads", "num_heads"),
    "head_dim": ("mamba_head_dim", "mamba_d_head", "mamba_headdim", "linear_value_head_dim", "head_dim"),
    "state": ("ssm_state_size", "mamba_d_state", "linear_key_head_dim", "state_size"),
    "groups": ("mamba_n_groups", "mamba_ngroups", "linear_num_key_heads", "n_groups"),
    "conv": ("mamba_d_conv", "linear_conv_kernel_dim", "conv_kernel"),
}


@dataclass(frozen=True)
class CacheCost:
    """Bytes of one chain: what it holds from the start, a token's, and a token's within the window."""

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


def language_config(config: dict[str, Any]) -> dict[str, Any]:
    """A config's own keys, and those of the language model inside a multimodal one before them."""
    inside = config.get("text_config") or config.get("llm_config") or {}
    return {**config, **inside} if isinstance(inside, dict) else config


def layer_kinds(config: dict[str, Any]) -> list[str]:
    """The kind of each layer of a language model's config."""
    layers = int(config.get("num_hidden_layers") or config.get("n_layer") or 1)
    if config.get("model_type") in ("mamba2", "mamba") or "ssm_cfg" in config:
        return [STATE] * layers
    if config.get("model_type") == "falcon_h1":  # every layer has both
        return [BOTH] * layers
    named = config.get("layer_types") or config.get("layers_block_type") or config.get("hybrid_override_pattern")
    if named:
        return [_KINDS.get(str(kind).lower(), ATTENTION) for kind in named]
    if config.get("attn_layer_indices"):  # Bamba
        return [ATTENTION if layer in config["attn_layer_indices"] else STATE for layer in range(layers)]
    if not config.get("sliding_window") or config.get("use_sliding_window") is False:
        return [ATTENTION] * layers
    if every := config.get("sliding_window_pattern") or config.get(
        "_sliding_window_pattern"
    ):  # Gemma 3: each 6th sees all
        return [WINDOW if (layer + 1) % int(every) else ATTENTION for layer in range(layers)]
    if config.get("use_sliding_window"):  # Qwen2: from this layer on
        first = int(config.get("max_window_layers") or 0)
        return [WINDOW if layer >= first else ATTENTION for layer in range(layers)]
    return [WINDOW] * layers  # Mistral 7B v0.1


def is_hybrid(config: dict[str, Any]) -> bool:
    """Whether some layers keep states and some keys and values."""
    kinds = set(layer_kinds(language_config(config)))
    return BOTH in kinds or (STATE in kinds and bool(kinds & {ATTENTION, WINDOW}))


def cache_cost(config: dict[str, Any], dtype: str, state_dtype: str) -> CacheCost:
    """The cost of one chain of a model of this config."""
    config = language_config(config)
    kinds = layer_kinds(config)
    states = sum(kind in (STATE, BOTH) for kind in kinds)
    full = sum(kind in (ATTENTION, BOTH) for kind in kinds)
    token = _token_bytes(config) * DTYPE_BYTES[dtype] if full or WINDOW in kinds else 0
    state = _state_bytes(config, DTYPE_BYTES[dtype], DTYPE_BYTES[state_dtype]) if states else 0
    window = int(config.get("sliding_window") or config.get("attention_chunk_size") or 0)
    return CacheCost(states * state, full * token, kinds.count(WINDOW) * token, window)


def _token_bytes(config: dict[str, Any]) -> int:
    """Numbers a token leaves in one attention layer."""
    if config.get("kv_lora_rank"):  # DeepSeek's latent attention
        return int(config["kv_lora_rank"]) + int(config.get("qk_rope_head_dim") or 0)
    heads = int(config.get("num_attention_heads") or 1)
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head_dim = int(config.get("head_dim") or config.get("attention_head_dim") or config.get("hidden_size", 1) // heads)
    return 2 * kv_heads * head_dim


def _state_bytes(config: dict[str, Any], conv_bytes: int, state_bytes: int) -> int:
    """One Mamba-2 layer: its state, and the last inputs of its convolution."""

    def size(name: str, default: int) -> int:
        return int(next((config[key] for key in _STATE_KEYS[name] if config.get(key)), default))

    inner, state = size("heads", 1) * size("head_dim", 64), size("state", 128)
    channels = inner + 2 * size("groups", 1) * state
    return inner * state * state_bytes + channels * (size("conv", 4) - 1) * conv_bytes
