"""Flags against one another and against what is installed: said in one line, before an hour of encoding."""

from __future__ import annotations

import importlib
import importlib.util
import os

from transformers import IntervalStrategy, Trainer
from transformers.training_args import OptimizerNames

from promptcot_mamba.data.rows import find_row_files
from promptcot_mamba.data.shards import is_shard_folder
from promptcot_mamba.errors import InputError
from promptcot_mamba.log import log_once
from promptcot_mamba.ops.backends import choose_ops
from promptcot_mamba.training import run_folder
from promptcot_mamba.training.arguments import DataArguments, SftArguments
from promptcot_mamba.training.flags import REPORTERS


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
    check_validation(args, data_args)
    check_optimizer(args)
    check_reporters(args)
    # Both checked again once the data is known.
    run_folder.check_writable(args.output_path)
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


def check_validation(args: SftArguments, data_args: DataArguments) -> None:
    """With validation data, validation happens: as asked, or else whenever a checkpoint is saved."""
    if data_args.eval_data_path:
        if not args.validates:
            args.validate_with_checkpoints()
        return
    for name, value in (("load_best_model_at_end", True), ("eval_on_start", True), ("save_strategy", "best")):
        if getattr(args, name) == value:
            raise InputError(f"--{name} {value}: needs --eval_data_path")
    if args.validates:
        raise InputError(f"--eval_strategy {IntervalStrategy(args.eval_strategy).value}: needs --eval_data_path")


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
    try:
        Trainer.get_optimizer_cls_and_kwargs(args)
    except (ImportError, ValueError, RuntimeError) as error:
        raise InputError(f"--optim {OptimizerNames(args.optim).value}: {' '.join(str(error).split())}") from None


def check_reporters(args: SftArguments) -> None:
    """Raise InputError for a reporter that is not followed or not installed; wandb without an account stays offline."""
    for name in args.report_to:
        if name not in REPORTERS:
            raise InputError(f"--report_to {name}: expected {', '.join(REPORTERS)} or none")
        if importlib.util.find_spec(name) is None:
            raise InputError(f"--report_to {name}: {name} is not installed; install it, or pass none")
    if "wandb" in args.report_to and "WANDB_MODE" not in os.environ:
        wandb = importlib.import_module("wandb")  # without types here, for it is nowhere required

        if not wandb.api.api_key:
            os.environ["WANDB_MODE"] = "offline"
            log_once("wandb: no account is configured, so the run is written to disk; `wandb sync` sends it later")
