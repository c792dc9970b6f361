"""How far a model sees, and how `--rope_scaling` stretches it."""

from typing import Any

from promptcot_mamba.checkpoint import CONTEXT_KEYS, Checkpoint
from promptcot_mamba.errors import InputError
from promptcot_mamba.sampling.layers import Config, language_config

# Kinds whose config says the stretched length, `max_position_embeddings`, beside the one of training; vLLM multiplies
# the length by the factor of the others (its `_get_and_verify_max_len`).
SAY_BOTH = ("yarn", "llama3", "longrope", "su", "deepseek_yarn", "deepseek_llama_scaling")
ORIGINAL, THETA, PART = "original_max_position_embeddings", "rope_theta", "partial_rotary_factor"


def model_context(checkpoint: Checkpoint, rope: dict[str, Any]) -> int | None:
    """The longest sequence of a model, stretched by --rope_scaling, else as its config says; None where there is no
    bound."""
    if checkpoint.is_mamba2:
        return None
    config = language_config(checkpoint.config)
    own = _own_context(config)
    if own is None:
        return None
    if "factor" in rope:
        return int(rope.get(ORIGINAL, own) * float(rope["factor"]))
    return int(own * _own_factor(config, rope))


def _own_context(config: Config) -> int | None:
    """What the config says, before vLLM multiplies it."""
    if isinstance(config.get("model_max_length"), int):  # Command-R's says more than its positions; vLLM goes by it
        return config["model_max_length"]
    return min((config[key] for key in CONTEXT_KEYS if isinstance(config.get(key), int)), default=None)


def _own_factor(config: Config, rope: dict[str, Any]) -> float:
    """By what vLLM multiplies the config's length, unless --rope_scaling takes the place of the config's own: by 4 for
    DeepSeek-Coder, by nothing for Gemma 3, whose length is stretched already."""
    if rope or "gemma3" in str(config.get("model_type")):
        return 1
    own = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kinds = [one for one in own.values() if isinstance(one, dict)] or [own]  # by kind of layer, or one for all
    factors = [one.get("factor") for one in kinds if one.get("rope_type", one.get("type")) not in SAY_BOTH]
    return max((float(factor) for factor in factors if factor), default=1.0)


def rope_overrides(checkpoint: Checkpoint, rope: dict[str, Any]) -> dict[str, Any] | None:
    """vLLM's `hf_overrides` for --rope_scaling, None without it.

    The flag replaces what the checkpoint's config says of scaling. vLLM takes the dict as it is given, with no regard
    to the config's own: the base that the model was trained with has to stand in it too.
    Raises InputError for a flag without a type, and for a model without rotary embeddings or with several kinds.
    """
    if not rope:
        return None
    kind = rope.get("rope_type", rope.get("type"))
    if not isinstance(kind, str):
        raise InputError('--rope_scaling: has no "rope_type"; give one, as in {"rope_type": "yarn", "factor": 4}')
    if checkpoint.is_mamba2:
        raise InputError("--rope_scaling: a Mamba-2 has no rotary embeddings; leave it out")
    config = language_config(checkpoint.config)
    own = config.get("rope_parameters") or {}
    if any(isinstance(value, dict) for value in own.values()):
        raise InputError("--rope_scaling: the model's layers have rotary embeddings of several kinds; leave it out")
    rope = {"rope_type": kind, **{name: value for name, value in rope.items() if name != "type"}}
    theta = rope.get(THETA) or config.get(THETA) or own.get(THETA)
    if theta is None:
        raise InputError(f"--rope_scaling: config.json of {checkpoint.path} has no {THETA}; leave the flag out")
    said: dict[str, Any] = {"rope_parameters": {**rope, THETA: theta}}
    part = config.get(PART, own.get(PART))  # of a head that turns
    if part is not None:
        said["rope_parameters"].setdefault(PART, part)
    if kind in SAY_BOTH:
        said["rope_parameters"].setdefault(ORIGINAL, _own_context(config))
        said["max_position_embeddings"] = model_context(checkpoint, rope)
    return {"text_config": said} if isinstance(checkpoint.config.get("text_config"), dict) else said
