"""Load a causal language model from a folder, whichever layout its release has, and say which it was."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel

from promptcot_mamba.checkpoint import TRANSFORMERS, read_checkpoint, require_causal_lm
from promptcot_mamba.errors import InputError
from promptcot_mamba.log import logger
from promptcot_mamba.model.causal_lm import Mamba2ForCausalLM
from promptcot_mamba.model.layouts import make_config, read_weights

KEY_MAPPING = {r"^backbone\.embedding\.": "backbone.embeddings."}  # early conversions kept mamba-ssm's name


def load_causal_lm(path: str | Path, *, dtype: torch.dtype | str = "auto", **kwargs) -> PreTrainedModel:
    """Our Mamba-2 for Mamba-2 checkpoints in any of their layouts, transformers' own class for other causal models.

    Args:
        path: a folder, see `promptcot_mamba.checkpoint` for Mamba-2's layouts.
        dtype: of the weights; "auto" keeps the checkpoint's.
        kwargs: for transformers' `from_pretrained`.

    Raises:
        InputError: saying what the folder holds where it is no causal language model, and for missing, surplus or
            unreadable weights, which are never filled in with random ones.
    """
    checkpoint = read_checkpoint(path, flag="")
    require_causal_lm(checkpoint)
    folder, layout = checkpoint.path, checkpoint.layout
    if layout is None:
        logger.info("%s: not Mamba-2, on transformers' own class", folder)
        return _checked(AutoModelForCausalLM, folder, dtype, kwargs)
    logger.info("%s: Mamba-2, %s layout", path, layout)
    if layout == TRANSFORMERS:
        model: Any = _checked(Mamba2ForCausalLM, folder, dtype, kwargs | {"key_mapping": KEY_MAPPING})
        # Or saving would turn the mapping around: where it was used, and under ZeRO-3 also where it was not.
        model._weight_conversions = None
        return model
    weights = read_weights(folder, layout)
    config = make_config(folder, layout, weights)
    if dtype == "auto":
        dtype = weights["backbone.embeddings.weight"].dtype
    return _checked(Mamba2ForCausalLM, None, dtype, kwargs | {"config": config, "state_dict": weights}, name=folder)


def _checked(loader, source: Path | None, dtype, kwargs: dict, name: Path | None = None) -> PreTrainedModel:
    """`from_pretrained`, refusing what transformers would only warn of."""
    name = name or source
    try:
        model, found = loader.from_pretrained(source, dtype=dtype, output_loading_info=True, **kwargs)
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise InputError(f"{name}: the weights cannot be loaded: {str(error).strip().splitlines()[0]}") from None
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found.get(problem):
            keys = sorted(map(str, found[problem]))
            raise InputError(f"{name}: {len(keys)} {problem.replace('_', ' ')} in the weights, as {keys[0]}")
    return model
