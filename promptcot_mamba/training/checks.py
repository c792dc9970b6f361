"""Flags against one another and against what is installed: said in one line, before an hour of encoding."""

import importlib
import importlib.util
import os
from copy import copy
from dataclasses import fields
from typing import Any, cast

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import IntervalStrategy, SchedulerType, Trainer, get_scheduler
from transformers.trainer_utils import SaveStrategy
from transformers.training_args import OptimizerNames

from promptcot_mamba.cli import check_writable
from promptcot_mamba.data.rows import find_row_files
from promptcot_mamba.data.shards import is_shard_folder
from promptcot_mamba.errors import InputError
from promptcot_mamba.log import log_once
from promptcot_mamba.ops.backends import choose_ops
from promptcot_mamba.training.arguments import DataArguments, SftArguments
from promptcot_mamba.training.deepspeed_config import check_by_deepspeed
from promptcot_mamba.training.flags import REPORTERS
from promptcot_mamba.training.identity import zero_stage
from promptcot_mamba.training.lora import SHARDED_ADAPTERS

UNSET = {"lora_alpha": None, "lora_target": ["in_proj", "out_proj"]}


def check_flags(args: SftArguments, data_args: DataArguments) -> None:
    """Raise InputError for flags that are missing or cannot mean anything together."""
    for name in ("model_name_or_path", "data_path"):
        if not getattr(data_args, name):
            raise InputError(f"--{name} is required")
    if data_args.max_length < 2:
        raise InputError(f"--max_length {data_args.max_length}: expected at least 2")
    choose_ops(data_args.ops, "cpu" if args.use_cpu else "cuda")
    if args.save_only_model and args.load_best_model_at_end and args.deepspeed:
        raise InputError("--save_only_model True: does not go with --load_best_model_at_end under DeepSpeed")
    if args.sequence_parallel_size < 1 or args.world_size % args.sequence_parallel_size:
        raise InputError(
            f"--sequence_parallel_size {args.sequence_parallel_size}: must divide the number of processes, "
            f"{args.world_size}"
        )
    if args.checkpoint_every < 1 or (args.checkpoint_every > 1 and not args.gradient_checkpointing):
        raise InputError(f"--checkpoint_every {args.checkpoint_every}: at least 1, with --gradient_checkpointing True")
    if args.offload_checkpoints and not args.gradient_checkpointing:
        raise InputError("--offload_checkpoints True: needs --gradient_checkpointing True, whose checkpoints it moves")
    if args.deepspeed:
        check_by_deepspeed(args.hf_deepspeed_config.config)
    check_validation(args, data_args)
    check_adapters(args)
    check_optimizer(args)
    check_schedule(args)
    check_reporters(args)
    check_shards(data_args)
    # Both checked again once the data is known.
    check_writable(f"--output_dir {args.output_dir}", args.output_path, {"writes": "folder"})
    find_row_files([path for path in data_args.data_path if not is_shard_folder(path)])
    find_row_files(data_args.eval_data_path)


def check_slices(args: SftArguments, data_args: DataArguments, packing: bool, is_mamba2: bool) -> None:
    """Raise InputError where rows cannot be held in slices: only Mamba-2's packed rows can."""
    size = args.sequence_parallel_size
    if size == 1:
        return
    if not is_mamba2:
        raise InputError(f"--sequence_parallel_size {size}: only Mamba-2 rows can be cut; leave the flag out")
    if not packing:
        raise InputError(f"--sequence_parallel_size {size}: rows must be packed; leave --packing False out")
    if data_args.max_length < size:
        raise InputError(f"--sequence_parallel_size {size}: more slices than --max_length {data_args.max_length}")


def check_objective(args: SftArguments, data_args: DataArguments, packing: bool, is_mamba2: bool) -> None:
    """Raise InputError for what does not go with preferences, and for their flags without them."""
    if args.objective != "dpo":
        defaults = {one.name: one.default for one in fields(args)}
        for name in ("beta", "length_normalised", "nll_weight", "reference_path"):
            if getattr(args, name) != defaults[name]:
                raise InputError(f"--{name} {getattr(args, name)}: needs --objective dpo")
        return
    if not (is_mamba2 and packing):
        raise InputError("--objective dpo: pairs are rows of a packed Mamba-2; leave --packing False out")
    refused = {
        "sequence_parallel_size": (args.sequence_parallel_size, 1, "an answer's log-probability is one device's"),
        "loss_average": (args.loss_average, "tokens", "the loss is the mean over pairs"),
        "overlong": (data_args.overlong, "drop", "an answer that is cut short is another answer"),
    }
    for name, (value, plain, why) in refused.items():
        if value != plain:
            raise InputError(f"--{name} {value}: does not go with --objective dpo: {why}")
    if folder := next(filter(is_shard_folder, data_args.data_path), None):
        raise InputError(f"--data_path {folder}: prepared shards hold no preferences; name JSONL or Parquet files")
    if data_args.eval_data_path:
        raise InputError(
            f"--eval_data_path {data_args.eval_data_path[0]}: validation reads completions, and --objective dpo has "
            "none; leave it out (margin and accuracy of the training pairs are logged), or sample and grade"
        )


def check_residual(args: SftArguments, is_mamba2: bool) -> None:
    """Raise InputError for flags about the residual stream that this model or precision has no use for."""
    for name, unset in (("checkpoint_every", 1), ("offload_checkpoints", False), ("residual_in_fp32", None)):
        if not is_mamba2 and getattr(args, name) != unset:
            raise InputError(f"--{name} {getattr(args, name)}: for Mamba-2 models only; leave the flag out")
    if args.residual_in_fp32 is False and not args.narrow_weights:
        raise InputError(
            "--residual_in_fp32 False: needs bf16 weights (--bf16 True with --deepspeed, --split_master_weights or "
            "--lora_rank)"
        )


def check_validation(args: SftArguments, data_args: DataArguments) -> None:
    """With validation data, validation happens: as asked, or else whenever a checkpoint is saved."""
    if data_args.eval_data_path:
        if not args.validates:
            args.validate_with_checkpoints()
        if args.eval_steps is not None and args.eval_strategy != IntervalStrategy.STEPS:
            raise InputError(f"--eval_steps {args.eval_steps:g}: needs --eval_strategy steps")
        if args.metric_for_best_model and not args.follows_validation:
            raise InputError(
                f"--metric_for_best_model {args.metric_for_best_model}: needs --load_best_model_at_end True"
            )
        return
    schedule = SchedulerType(args.lr_scheduler_type)
    asked = {
        "save_strategy best": args.save_strategy == SaveStrategy.BEST,
        f"lr_scheduler_type {schedule.value}": schedule in (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY),
        "load_best_model_at_end True": args.load_best_model_at_end,
        "eval_on_start True": args.eval_on_start,
        f"eval_strategy {IntervalStrategy(args.eval_strategy).value}": args.validates,
        f"eval_steps {args.eval_steps}": args.eval_steps is not None,
        f"eval_delay {args.eval_delay}": args.eval_delay,
        f"metric_for_best_model {args.metric_for_best_model}": args.metric_for_best_model,
    }
    if first := next((flag for flag, given in asked.items() if given), None):
        raise InputError(f"--{first}: needs --eval_data_path")


def check_adapters(args: SftArguments) -> None:
    """Raise InputError for settings of adapters that are not asked for, and for a sharding that hides the weights."""
    if not args.lora_rank:
        for name in ("lora_alpha", "lora_target"):
            if getattr(args, name) != UNSET[name]:
                raise InputError(f"--{name}: needs --lora_rank")
    elif zero_stage(args) == 3:
        raise InputError(SHARDED_ADAPTERS)


def check_metric(args: SftArguments, sources: list[str]) -> None:
    """Raise InputError unless `--metric_for_best_model` is a loss that validation computes."""
    metric = (args.metric_for_best_model or "loss").removeprefix("eval_")
    known = ["loss", *(f"{source}_loss" for source in sources)]
    if sources and metric not in known:
        raise InputError(f"--metric_for_best_model {metric}: validation computes {', '.join(known)}")


def check_optimizer(args: SftArguments) -> None:
    """Raise InputError for an optimizer that is not installed, or that another flag replaces."""
    if args.split_master_weights and args.optim not in ("adamw_torch", "adamw_torch_fused"):
        raise InputError(
            f"--optim {OptimizerNames(args.optim).value}: --split_master_weights is AdamW; leave one of them out"
        )
    name = OptimizerNames(args.optim).value
    try:
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(args)
        _, without = Trainer.get_optimizer_cls_and_kwargs(replace_quietly(args, optim_args=None))
        kind([torch.nn.Parameter(torch.zeros(2, 2))], **settings)
    except (ImportError, ValueError, RuntimeError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"--optim {name}: {' '.join(str(error).split())}") from None
    if args.optim_args and settings == without:
        raise InputError(f"--optim_args {args.optim_args}: --optim {name} takes none of them; leave it out")


def replace_quietly(args: SftArguments, **changes: object) -> SftArguments:
    """A shallow copy with other values, without the start of a process group that making one anew would mean."""
    other = copy(args)
    for name, value in changes.items():
        setattr(other, name, value)
    return other


def check_schedule(args: SftArguments) -> None:
    """Raise InputError for a schedule that its arguments do not make."""
    name = SchedulerType(args.lr_scheduler_type).value
    settings = cast("dict[str, Any] | None", args.lr_scheduler_kwargs)  # read from JSON by now
    if settings and name in ("constant", "constant_with_warmup"):
        raise InputError(f"--lr_scheduler_kwargs {settings}: --lr_scheduler_type {name} takes none; leave it out")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    try:
        made = get_scheduler(
            name, optimizer, num_warmup_steps=1, num_training_steps=3, scheduler_specific_kwargs=settings
        )
        for _ in range(3 if isinstance(made, LambdaLR) else 0):
            optimizer.step()
            made.step()
    except (ValueError, TypeError, KeyError) as error:
        wanted = " ".join(str(error).split())
        raise InputError(f"--lr_scheduler_type {name}: {wanted} (--lr_scheduler_kwargs, a JSON object)") from None


def check_shards(data_args: DataArguments) -> None:
    """Raise InputError for settings of reading text where prepared shards, read already, are trained on."""
    if not any(map(is_shard_folder, data_args.data_path)):
        return
    idle = ["overlong"] if data_args.eval_data_path else ["overlong", "prompt_format", "loss_on", "control_text"]
    for name in idle:
        if (value := getattr(data_args, name)) != getattr(DataArguments, name):
            raise InputError(f"--{name} {value}: prepared shards were made with it; pass it to prepare_sft_data")


def check_reporters(args: SftArguments) -> None:
    """Raise InputError for a reporter that is not followed or not installed; wandb without an account stays offline."""
    for name in args.report_to:
        if name not in REPORTERS:
            raise InputError(f"--report_to {name}: expected {', '.join(REPORTERS)} or none")
        if importlib.util.find_spec(name) is None:
            raise InputError(f"--report_to {name}: {name} is not installed; install it, or pass none")
    if args.run_name and "wandb" not in args.report_to:
        raise InputError(f"--run_name {args.run_name}: only wandb shows it; add --report_to wandb, or leave it out")
    if "wandb" in args.report_to and "WANDB_MODE" not in os.environ:
        wandb = importlib.import_module("wandb")  # without types here, for it is nowhere required

        if not wandb.api.api_key:
            os.environ["WANDB_MODE"] = "offline"
            log_once("wandb: no account is configured, so the run is written to disk; `wandb sync` sends it later")
