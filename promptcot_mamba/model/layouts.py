"""From the layouts Mamba-2 weights are released in (see `promptcot_mamba.checkpoint`) to transformers', and back.

The releases' names are mamba-ssm's own; they differ from transformers' in the embedding alone. Sizes are read from the
weights: config files name only some of them.
"""

import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import Mamba2Config

from promptcot_mamba.checkpoint import CODESTRAL, MAMBA_SSM, RELEASE_CONFIGS, RELEASE_WEIGHTS, read_json
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import write_json

# Mistral's v3 tokenizer has <unk> 0, <s> 1, </s> 2; state-spaces' models use GPT-NeoX's <|endoftext|> 0 for all.
TOKENS = {CODESTRAL: {"bos": 1, "eos": 2, "pad": 2}, MAMBA_SSM: {"bos": 0, "eos": 0, "pad": 0}}


def read_weights(folder: Path, layout: str) -> dict[str, torch.Tensor]:
    """The weights of a mamba-ssm-named release, under transformers' names."""
    path = folder / RELEASE_WEIGHTS[layout]
    try:
        if layout == CODESTRAL:
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be read as weights ({str(error).splitlines()[0]})") from None
    return {to_transformers_name(name): tensor for name, tensor in weights.items()}


def to_transformers_name(name: str) -> str:
    return re.sub(r"^backbone\.embedding\.", "backbone.embeddings.", name.removeprefix("model."))


def to_mamba_ssm_name(name: str) -> str:
    return re.sub(r"^backbone\.embeddings\.", "backbone.embedding.", name)


def make_config(folder: Path, layout: str, weights: dict[str, torch.Tensor]) -> Mamba2Config:
    """transformers' config for a mamba-ssm-named release: groups from its config file, sizes from its weights."""
    path = folder / RELEASE_CONFIGS[layout]
    given = read_json(path)
    cfg = given.get("ssm_cfg") or {}
    mixer = "backbone.layers.0.mixer."
    if (layout == MAMBA_SSM and cfg.get("layer", "Mamba1") != "Mamba2") or mixer + "dt_bias" not in weights:
        raise InputError(f"{path}: the model is not made of Mamba-2 layers (ssm_cfg: {cfg}), which this project needs")
    if given.get("attn_layer_idx"):
        raise InputError(f"{path}: holds attention layers {given['attn_layer_idx']}; only pure Mamba-2 is supported")
    if not given.get("rms_norm", True):
        raise InputError(f"{path}: uses LayerNorm (rms_norm false); only RMSNorm is supported")
    vocab_size, hidden_size = weights["backbone.embeddings.weight"].shape
    num_heads, d_inner = weights[mixer + "dt_bias"].numel(), weights[mixer + "norm.weight"].numel()
    n_groups = int(given.get("n_groups", cfg.get("ngroups", 1)))
    conv_dim, _, conv_kernel = weights[mixer + "conv1d.weight"].shape
    if (conv_dim - d_inner) % (2 * n_groups):
        raise InputError(
            f"{path}: {n_groups} groups do not divide the convolution's {conv_dim - d_inner} shared channels"
        )
    tokens = TOKENS[layout]
    layers = {int(match[1]) for name in weights if (match := re.match(r"backbone\.layers\.(\d+)\.", name))}
    return Mamba2Config(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=len(layers),
        num_heads=num_heads,
        head_dim=d_inner // num_heads,
        n_groups=n_groups,
        state_size=(conv_dim - d_inner) // (2 * n_groups),
        expand=d_inner // hidden_size,
        conv_kernel=conv_kernel,
        use_conv_bias=mixer + "conv1d.bias" in weights,
        use_bias=mixer + "in_proj.bias" in weights,
        residual_in_fp32=bool(given.get("residual_in_fp32", True)),
        tie_word_embeddings=bool(given.get("tie_embeddings", "lm_head.weight" not in weights)),
        bos_token_id=tokens["bos"],
        eos_token_id=tokens["eos"],
        pad_token_id=tokens["pad"],
    )


def write_mamba_ssm_names(folder: Path, layout: str, config: Mamba2Config, weights: dict[str, torch.Tensor]) -> None:
    """Write weights (transformers' names) in the codestral or mamba_ssm layout."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {to_mamba_ssm_name(name): tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    shared = {
        "vocab_size": config.vocab_size, "rms_norm": True, "residual_in_fp32": config.residual_in_fp32,
        "fused_add_norm": True, "pad_vocab_size_multiple": 1, "tie_embeddings": config.tie_word_embeddings,
    }  # fmt: skip
    if layout == CODESTRAL:
        if config.tie_word_embeddings:  # safetensors holds no two names for one tensor
            named.pop("lm_head.weight", None)
        save_file(named, folder / RELEASE_WEIGHTS[layout], metadata={"format": "pt"})
        sizes = {"dim": config.hidden_size, "n_layers": config.num_hidden_layers, "n_groups": config.n_groups}
        write_json(folder / RELEASE_CONFIGS[layout], sizes | shared | {"model_type": "mamba"})
        return
    torch.save(named, folder / RELEASE_WEIGHTS[layout])
    cfg = {
        "layer": "Mamba2", "d_state": config.state_size, "d_conv": config.conv_kernel, "expand": config.expand,
        "headdim": config.head_dim, "ngroups": config.n_groups,
    }  # fmt: skip
    sizes = {"d_model": config.hidden_size, "d_intermediate": 0, "n_layer": config.num_hidden_layers}
    write_json(
        folder / RELEASE_CONFIGS[layout], sizes | {"ssm_cfg": cfg, "attn_layer_idx": [], "attn_cfg": {}} | shared
    )
