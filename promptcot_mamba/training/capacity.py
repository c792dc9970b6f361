"""`--checkpoint_policy auto`: as many layers keep their activations as the device has room for, the others recompute.

Room is what the process may hold in all, less what the plan's bytes say it will hold whatever a row's length: weights,
gradients (a shard of them under ZeRO-2 and -3), optimizer states and buckets. Arithmetic, since much of that does not
exist yet when training begins: DeepSpeed 0.19.8 makes Adam's moments in the first update.
"""

import os
from typing import Any, cast

import psutil
import torch
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from promptcot_mamba.log import log_once
from promptcot_mamba.memory_budget import FP32, count_kept_layers, held_memory, shapes_from_config, training_memory
from promptcot_mamba.model import Mamba2ForCausalLM
from promptcot_mamba.ops.native import free_memory
from promptcot_mamba.training.arguments import SftArguments
from promptcot_mamba.training.deepspeed_keys import offload_device
from promptcot_mamba.training.identity import accumulates_narrow_gradients, zero_stage
from promptcot_mamba.training.ranks import gather_lists


def usable_bytes(device: torch.device) -> int:
    """Memory that this process holds or may still take; a CPU's is shared among the machine's processes."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    return free_memory() // int(os.environ.get("LOCAL_WORLD_SIZE") or 1) + psutil.Process().memory_info().rss


def count_trained(model: PreTrainedModel) -> int:
    """Parameters that get gradients, those that ZeRO-3 keeps elsewhere too."""
    return sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters() if p.requires_grad)


def bytes_held(args: SftArguments, model: PreTrainedModel) -> float:
    """What this run holds on a device beside activations, by the plan's arithmetic."""
    shapes = shapes_from_config(model.config.to_dict())
    config: dict[str, Any] = args.hf_deepspeed_config.config if args.deepspeed else {}
    offload = offload_device(config) != "none"
    buckets = config.get("zero_optimization", {}).get("reduce_bucket_size")
    parts = training_memory(
        shapes, tokens=0, devices=args.world_size, zero_stage=zero_stage(args), offload_optimizer=offload,
        split_masters=args.split_master_weights, element=model.dtype.itemsize,
        fp32_sums=accumulates_narrow_gradients(args) and args.grad_accum_dtype == "fp32",
        adapters=count_trained(model) if args.lora_rank else 0,
        **cast(dict[str, Any], {"bucket_elements": int(buckets)} if isinstance(buckets, int | float) else {}),
    )  # fmt: skip
    return held_memory(parts)


def settle_kept_layers(args: SftArguments, model: Mamba2ForCausalLM, tokens: int) -> int:
    """Let the model keep as many layers as every process has room for, `tokens` at once in each; returns how many.

    All keep the same ones: a layer that is recomputed gathers its weights (ZeRO-3) once more, and the processes must
    meet there.
    """
    room = usable_bytes(args.device) - bytes_held(args, model)
    shapes = shapes_from_config(model.config.to_dict())
    residual = FP32 if model.config.residual_in_fp32 else model.dtype.itemsize
    fitting = count_kept_layers(shapes, tokens, room, model.dtype.itemsize, residual)
    kept = min(map(int, gather_lists([str(fitting)])))
    model.keep_layers(kept)
    log_once(
        f"activations: {kept} of {shapes.layers} layers kept for {tokens:,} tokens, the others recomputed "
        "(--checkpoint_policy auto)"
    )
    return kept


class KeepLayersCallback(TrainerCallback):
    """Settles it when training begins: model and engine are then where they stay."""

    def __init__(self, model: Mamba2ForCausalLM, tokens: int):
        self.model, self.tokens = model, tokens

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        assert isinstance(args, SftArguments)
        settle_kept_layers(args, self.model, self.tokens)
