"""Low-rank adapters (Hu et al., arXiv 2106.09685) by `peft`: a few trained numbers beside frozen weights.

Weights stay as they were loaded; `in_proj`, `out_proj` (or what `--lora_target` names) get two thin matrices each, in
fp32. What is saved is merged: a checkpoint is a model like any other, which vLLM serves and the next phase starts from.
The adapters lie in a folder of their own, where no engine looks for weights, and from which a run goes on.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from promptcot_mamba.errors import InputError
from promptcot_mamba.model import Mamba2ForCausalLM
from promptcot_mamba.ops.products import Linear

ADAPTER_FILE = "adapters/adapters.safetensors"
NAME = "default"  # peft's own name of the first adapter
BASE = ".base_layer."
SHARDED_ADAPTERS = (
    "--lora_rank: frozen weights are merged whole, which ZeRO-3 shards; use --deepspeed "
    "configs/promptcot_mamba_7b_config.json (ZeRO-2) or none"
)


def add_adapters(model: PreTrainedModel, rank: int, alpha: float, targets: list[str], seed: int = 0) -> int:
    """Freeze a model and put adapters beside its target modules, in place; returns the number of trained parameters.

    Raises InputError if a target names nothing in the model, or what cannot have adapters.
    """
    from peft import LoraConfig, inject_adapter_in_model

    # peft refuses Mamba's out_proj, for transformers' fused kernel reads its weight past the module; ours calls it.
    root = model.backbone.layers if isinstance(model, Mamba2ForCausalLM) else model
    names = {name.rpartition(".")[2] for name, module in root.named_modules() if isinstance(module, nn.Linear)}
    for target in targets:
        if target not in names:
            known = ", ".join(sorted(names))
            raise InputError(f"--lora_target {target}: no such linear layer in the model; it has {known}")
    model.requires_grad_(False)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft says int; it only divides it by the rank
        target_modules=targets,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # the same command draws the same adapters
        inject_adapter_in_model(config, root, adapter_name=NAME)
    for parameter in _adapters(model).values():
        parameter.data = parameter.data.float()
    for name, module in root.named_modules():
        if ".lora_" in name and type(module) is nn.Linear:
            module.__class__ = Linear  # peft makes plain ones, whose bf16 products (under autocast) a CPU may lack
    return sum(parameter.numel() for parameter in _adapters(model).values())


def _adapters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if ".lora_" in name}


@torch.no_grad()
def merged_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The model's weights with their adapters added, under the names and in the dtypes they were loaded with."""
    weights = {name: value for name, value in model.state_dict().items() if ".lora_" not in name}
    merged = {name.replace(BASE, "."): value for name, value in weights.items()}
    for name, module in model.named_modules():
        if hasattr(module, "base_layer") and NAME in getattr(module, "lora_A", {}):
            base = module.base_layer.weight
            change = module.lora_B[NAME].weight.float() @ module.lora_A[NAME].weight.float()
            merged[f"{name}.weight"] = (base.float() + module.scaling[NAME] * change).to(base.dtype)
    return merged


def save_adapters(model: nn.Module, folder: Path) -> None:
    """Write the adapters alone, to continue from."""
    (folder / ADAPTER_FILE).parent.mkdir(exist_ok=True)
    adapters = {name: parameter.detach().contiguous().cpu() for name, parameter in _adapters(model).items()}
    save_file(adapters, folder / ADAPTER_FILE)


@torch.no_grad()
def load_adapters(model: nn.Module, folder: Path) -> None:
    """Read what `save_adapters` wrote into a model with the same adapters."""
    saved, adapters = load_file(folder / ADAPTER_FILE), _adapters(model)
    if saved.keys() != adapters.keys():
        raise InputError(f"{folder / ADAPTER_FILE}: adapters of other modules than --lora_target's")
    for name, parameter in adapters.items():
        parameter.copy_(saved[name])
