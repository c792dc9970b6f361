"""What kind of layers a model has, from its config alone, whoever wrote it.

Published configs name only what differs from their class (Gemma 3 of 4B says neither its heads nor which layers look
back through a window), so the class's own defaults fill the rest, as they do in vLLM. Multimodal configs hold their
language model's under `text_config`; hybrids name the kind of each layer, each family in its own words.
"""

from __future__ import annotations

import json
from typing import Any

from promptcot_mamba.checkpoint import MISTRAL_KEYS
from promptcot_mamba.errors import InputError
from promptcot_mamba.log import log_once

ATTENTION, WINDOW, STATE, BOTH, NOTHING = "attention", "window", "state", "both", "nothing"
_KINDS = {
    **dict.fromkeys(("attention", "full_attention", "full", "*", "hybrid_attention"), ATTENTION),
    **dict.fromkeys(("sliding_attention", "sliding", "chunked_attention"), WINDOW),
    **dict.fromkeys(("mamba", "mamba2", "m", "linear_attention", "conv"), STATE),  # LFM2's state is a convolution's
    **dict.fromkeys(("mlp", "moe", "-", "e"), NOTHING),  # Nemotron-H counts feed-forwards as layers of their own
    "hybrid": BOTH,  # Zamba2: a shared attention beside the state
}
# What older families call their sizes; for keys and values the first that is there counts, as for vLLM 0.32.
_ALIASES = {
    "num_hidden_layers": ("n_layer", "num_layers"),  # GPT-2; ChatGLM, LongCat
    "hidden_size": ("n_embd", "d_model"),  # GPT-2; DBRX
    "num_attention_heads": ("n_head",),
    "num_key_value_heads": ("n_head_kv", "num_kv_heads", "num_key_value_heads", "multi_query_group_num",
                            "num_attention_groups"),  # Falcon, ChatGLM, Step 3.5
}  # fmt: skip
_UNCOUNTED = ("bailing_hybrid", "inkling", "deepseek_v4")  # Ring and Ling 2.5 and 3, Inkling, DeepSeek V4
Config = dict[str, Any]


def language_config(config: Config) -> Config:
    """A config's own keys, before them those of the language model inside a multimodal one, and behind both the
    defaults of its class where transformers has one."""
    inside = config.get("text_config") or config.get("llm_config") or config.get("language_config") or {}
    own = {**config, **(inside if isinstance(inside, dict) else {})}
    own |= {new: own[old] for old, new in MISTRAL_KEYS.items() if old in own and new not in own}
    own = {name: value for name, value in own.items() if value is not None}
    return {**_usual_names(_class_defaults(config)), **_usual_names(own)}


def _usual_names(config: Config) -> Config:
    """With the names of most models beside those of older ones."""
    usual = dict(config)
    for name, others in _ALIASES.items():
        known = [config[other] for other in others if config.get(other) is not None]
        if known and (name not in config or name in others):
            usual[name] = known[0]
    if config.get("multi_query") and not config.get("new_decoder_architecture"):  # Falcon-7B, StarCoder 1
        usual["num_key_value_heads"] = 1
    if isinstance(attention := config.get("attn_config"), dict) and attention.get("kv_n_heads"):  # DBRX
        usual["num_key_value_heads"] = attention["kv_n_heads"]
    return usual


def size_of(config: Config, name: str) -> int:
    """A size that every model has. Raises InputError where its config does not say it."""
    if config.get(name):
        return int(config[name])
    raise InputError(
        f"--model_path: the model's config.json says no {name}, by any name known here, so that what a chain takes of "
        "the memory cannot be counted; serve the model (vllm serve) and give --base_url and its name"
    )


def _class_defaults(config: Config) -> Config:
    """What the config's class in transformers says; nothing for one it lacks, or that it does not take as it is."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = str(config.get("model_type"))
    if kind not in CONFIG_MAPPING:
        return {}
    # JSON has no infinity: transformers writes {"__float__": "Infinity"}, and reads that back from files alone.
    plain = json.loads(json.dumps(config), object_hook=lambda a: float(a["__float__"]) if "__float__" in a else a)
    try:
        return CONFIG_MAPPING[kind].from_dict(plain).get_text_config().to_dict()
    except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
        told = (str(error).splitlines() or [type(error).__name__])[0]
        log_once(f"transformers does not read this {kind} config ({told}); its own keys alone are counted")
        return {}


def layer_kinds(config: Config) -> list[str]:
    """The kind of each layer of a language model's config, as far as they keep anything of their own."""
    if str(kind := config.get("model_type")).startswith(_UNCOUNTED):
        log_once(f"what a chain of a {kind} model holds is not counted right here: how many run at once is a guess, "
                 "vLLM's own count decides, and --max_num_seqs says another")  # fmt: skip
    kinds = _all_kinds(config)
    shared = int(config.get("num_kv_shared_layers") or 0)  # Gemma 3n, 4: the last ones read an earlier layer's
    return kinds[: len(kinds) - shared] + [NOTHING] * shared


def _all_kinds(config: Config) -> list[str]:
    named = config.get("layers_block_type") or config.get("hybrid_override_pattern") or config.get("layer_types") or ()
    # transformers 5 writes a Nemotron-H's layers by their kinds alone.
    layers = int(config.get("num_hidden_layers") or len(named) or size_of(config, "num_hidden_layers"))
    if config.get("model_type") in ("mamba2", "mamba", "falcon_mamba") or "ssm_cfg" in config:
        return [STATE] * layers
    if config.get("model_type") == "falcon_h1":  # every layer has both
        return [BOTH] * layers
    if str(config.get("model_type")).startswith("longcat_flash"):  # each layer attends twice
        return [ATTENTION] * 2 * int(config.get("num_layers") or layers)
    if pattern := config.get("hybrid_layer_pattern"):  # MiMo-V2
        return [WINDOW if flag else ATTENTION for flag in pattern]
    if flags := config.get("attn_type_list"):  # MiniMax-M2, which has ones alone; vLLM serves no other
        return [ATTENTION] * len(flags)
    if blocks := config.get("block_configs"):  # Nemotron-NAS (Llama-3.3-Nemotron-Super): some attend to nothing
        return [NOTHING if _is_skipped(block.get("attention") or {}) else ATTENTION for block in blocks]
    linear = config.get("linear_attn_config")
    if linear and "layer_types" not in config:  # Kimi Linear, counted from 1
        return [ATTENTION if layer + 1 in linear["full_attn_layers"] else STATE for layer in range(layers)]
    if named:
        return [_KINDS.get(str(kind).lower(), ATTENTION) for kind in named]
    if every := config.get("attn_layer_period"):  # Jamba
        return [ATTENTION if layer % every == config.get("attn_layer_offset", 0) else STATE for layer in range(layers)]
    return _windows(config, layers)


def _is_skipped(attention: Config) -> bool:
    return bool(attention.get("no_op") or attention.get("replace_with_linear"))


def attention_layers(config: Config, *wanted: str) -> list[Config]:
    """The config as each attention layer of the `wanted` kinds has it, where layers differ in their heads."""
    own: dict[int, Config] = {
        # Gemma 4: layers that see all have fewer and wider heads. The keys are numbers as text ("05").
        int(layer): value
        for layer, value in (config.get("per_layer_config") or {}).items()
    }
    for layer, block in enumerate(config.get("block_configs") or []):  # Nemotron-NAS says how many share keys
        if sharing := (block.get("attention") or {}).get("n_heads_in_group"):
            own[layer] = {"num_key_value_heads": int(config["num_attention_heads"]) // int(sharing)}
    kinds = layer_kinds(config)
    if config.get("hybrid_layer_pattern"):  # MiMo-V2: layers with a window have heads of their own
        theirs = {name.removeprefix("swa_"): value for name, value in config.items() if name.startswith("swa_")}
        own = {layer: theirs for layer, kind in enumerate(kinds) if kind == WINDOW}
    return [{**config, **own.get(layer, {})} for layer, kind in enumerate(kinds) if kind in wanted]


def _windows(config: Config, layers: int) -> list[str]:
    """Of a model that attends in every layer: which of them look back through a window only."""
    window, pattern = config.get("sliding_window"), config.get("sliding_window_pattern")
    if isinstance(window, list):  # Mistral's own files: one entry a layer of the repeated pattern
        return [WINDOW if window[layer % len(window)] else ATTENTION for layer in range(layers)]
    if not window or config.get("use_sliding_window") is False:
        return [ATTENTION] * layers
    if isinstance(pattern, str):  # EXAONE 4: "LLLG", the last layer being global
        return [
            WINDOW if pattern[layer % len(pattern)] == "L" and layer < layers - 1 else ATTENTION
            for layer in range(layers)
        ]
    if every := pattern or config.get("_sliding_window_pattern"):  # Gemma 3: each 6th sees all
        return [WINDOW if (layer + 1) % int(every) else ATTENTION for layer in range(layers)]
    if config.get("use_sliding_window"):  # Qwen2: from this layer on
        first = int(config.get("max_window_layers") or 0)
        return [WINDOW if layer >= first else ATTENTION for layer in range(layers)]
    return [WINDOW] * layers  # Mistral 7B v0.1


def has_states(config: Config) -> bool:
    """Whether some layers keep a state, all of them or beside attention."""
    return bool({STATE, BOTH} & set(layer_kinds(language_config(config))))
