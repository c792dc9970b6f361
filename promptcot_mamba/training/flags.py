"""Flags that the trainer here does not follow, refused by name: a flag that does nothing would be believed."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from promptcot_mamba.data.rows import find_row_files
from promptcot_mamba.data.shards import is_shard_folder
from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.backends import choose_ops
from promptcot_mamba.training import run_folder
from promptcot_mamba.training.arguments import DataArguments, SftArguments

REPLACED_FLAGS = {
    "label_smoothing_factor": "the loss never makes whole logits",
    "average_tokens_across_devices": "see --loss_average",
    "auto_find_batch_size": "see --plan for what fits",
    "train_sampling_strategy": "row order is a function of the seed",
    "dataloader_drop_last": "every row is trained on exactly once an epoch",
    "ignore_data_skip": "a resumed run continues with the exact next row",
}


def check_flags(args: SftArguments, data_args: DataArguments) -> None:
    """Raise InputError for flags that are missing or cannot mean anything."""
    for name in ("model_name_or_path", "data_path"):
        if not getattr(data_args, name):
            raise InputError(f"--{name} is required")
    defaults = {one.name: one.default for one in fields(args)}
    for name, instead in REPLACED_FLAGS.items():
        if getattr(args, name) != defaults[name]:
            raise InputError(f"--{name} has no effect in this program: {instead}")
    if data_args.max_length < 2:
        raise InputError(f"--max_length {data_args.max_length}: expected at least 2")
    choose_ops(data_args.ops, "cpu" if args.use_cpu else "cuda")
    # Both checked again once the data is known; here, before an hour of encoding.
    run_folder.check_writable(Path(args.output_dir))
    find_row_files([path for path in data_args.data_path if not is_shard_folder(path)])
    find_row_files(data_args.eval_data_path)
