"""Load a causal language model from a folder, whichever layout its release has."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from promptcot_mamba.errors import InputError
from promptcot_mamba.log import get_logger
from promptcot_mamba.model.causal_lm import Mamba2ForCausalLM

logger = get_logger(__name__)


def load_causal_lm(path: str | Path, *, dtype: torch.dtype | str = "auto", **kwargs) -> PreTrainedModel:
    """Our Mamba-2 for Mamba-2 checkpoints, transformers' own class for other causal language models.

    Raises InputError, saying what the folder holds, where it is neither.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise InputError(f"{path}: no config.json here, expected a checkpoint folder")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architectures = config.get("architectures") or []
    if config.get("model_type") == "mamba2":
        logger.info("%s: Mamba-2 in transformers' layout", path)
        return Mamba2ForCausalLM.from_pretrained(folder, dtype=dtype, **kwargs)
    if not any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
        raise InputError(f"{path}: holds {', '.join(architectures) or 'no known model'}, not a causal language model")
    logger.info("%s: %s, transformers' own class", path, AutoConfig.from_pretrained(folder).model_type)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **kwargs)
