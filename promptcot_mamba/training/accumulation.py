"""The precision in which bf16 gradients of a step's micro-batches are summed.

A bf16 sum of 64 equal terms is off by 1 to 3 percent, an fp32 one by rounding; it takes two more bytes for each
gradient that a device keeps (its shard's under ZeRO-2 and -3).
"""

from typing import Any

import torch

from promptcot_mamba.errors import InputError
from promptcot_mamba.log import log_once
from promptcot_mamba.memory_budget import shapes_from_config, training_memory
from promptcot_mamba.training.arguments import SftArguments
from promptcot_mamba.training.deepspeed_keys import offload_device
from promptcot_mamba.training.identity import GRAD_ACCUM_KEY, accumulates_narrow_gradients, zero_stage

DATA_TYPES = "data_types"  # DeepSpeed's section and key of the same name as our flag


def settle_accumulation(
    args: SftArguments, model_config: dict[str, Any], tokens: int, recorded: dict[str, Any] | None
) -> None:
    """Make `args.grad_accum_dtype` fp32 or bf16, and DeepSpeed's config say the same.

    `tokens` per micro-batch; `recorded`: the identity of the run that is continued, which goes on as it began.
    Raises InputError where the flag and DeepSpeed's config disagree, or the optimizer's offload cannot sum in fp32.
    """
    if not accumulates_narrow_gradients(args):
        if args.grad_accum_dtype == "bf16" and args.gradient_accumulation_steps > 1:
            raise InputError("--grad_accum_dtype bf16: gradients are fp32 here (no DeepSpeed, no split master weights)")
        return
    config = args.hf_deepspeed_config.config if args.deepspeed else {}
    offloaded = offload_device(config) != "none"
    own = config.get(DATA_TYPES, {}).get("grad_accum_dtype")
    if own and args.grad_accum_dtype not in ("auto", own):
        raise InputError(f"--grad_accum_dtype {args.grad_accum_dtype}: the --deepspeed config says {own}")
    if offloaded and "fp32" in (args.grad_accum_dtype, own):
        raise InputError("--grad_accum_dtype fp32: the offloaded optimizer of DeepSpeed sums in bf16; use bf16 or auto")
    if own:
        args.grad_accum_dtype = own
    elif args.grad_accum_dtype == "auto":
        if recorded is not None:
            args.grad_accum_dtype = recorded.get(GRAD_ACCUM_KEY) or "bf16"
        else:
            args.grad_accum_dtype = "fp32" if not offloaded and _fits(args, model_config, tokens) else "bf16"
            log_once(f"gradients: {args.gradient_accumulation_steps} micro-batches summed in {args.grad_accum_dtype}")
    if args.deepspeed:
        config.setdefault(DATA_TYPES, {})["grad_accum_dtype"] = args.grad_accum_dtype


def _fits(args: SftArguments, model_config: dict[str, Any], tokens: int) -> bool:
    """Whether the plan's bytes with fp32 sums fit the device; CPUs are taken to have room."""
    if args.device.type != "cuda":
        return True
    try:
        shapes = shapes_from_config(model_config)
    except InputError:  # a release whose sizes only its weights tell
        return False
    parts = training_memory(
        shapes, tokens=tokens, devices=args.world_size, zero_stage=zero_stage(args),
        split_masters=args.split_master_weights, fp32_sums=True,
        kept_layers=0 if args.gradient_checkpointing else shapes.layers, segment=args.checkpoint_every,
    )  # fmt: skip
    return sum(parts.values()) <= torch.cuda.get_device_properties(args.device).total_memory


def widen_gradients(model: torch.nn.Module) -> None:
    """Let torch sum a model's bf16 gradients in fp32: without DeepSpeed that is a property of the parameter."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype == torch.bfloat16:
            parameter.grad_dtype = torch.float32
