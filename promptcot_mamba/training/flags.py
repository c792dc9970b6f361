"""Every flag of transformers' `TrainingArguments`: followed here, or refused by name with what to use instead.

A flag that is accepted and does nothing would be believed. A field that is in neither table (a newer transformers) is
found by a test. `--help` shows the followed ones, in these groups.
"""

from dataclasses import fields
from typing import Any

FOLLOWED = {
    "model and data": (
        "model_name_or_path", "data_path", "tokenizer_path", "eval_data_path", "max_length", "packing", "overlong",
        "token_cache", "ops", "prompt_format", "control_text", "loss_on",
    ),
    "optimisation": (
        "num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps",
        "optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "max_grad_norm",
        "neftune_noise_alpha", "loss_average", "objective", "beta", "length_normalised", "nll_weight",
        "reference_path", "bf16", "split_master_weights", "grad_accum_dtype",
        "lora_rank", "lora_alpha", "lora_target", "seed", "data_seed",
    ),
    "batches": (
        "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps",
        "gradient_checkpointing", "checkpoint_policy", "checkpoint_every", "offload_checkpoints",
        "residual_in_fp32", "dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_pin_memory",
    ),
    "checkpoints and validation": (
        "output_dir", "save_strategy", "save_steps", "save_total_limit", "save_only_model", "resume_from_checkpoint",
        "eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "load_best_model_at_end",
        "metric_for_best_model",
    ),
    "logging": (
        "logging_strategy", "logging_steps", "logging_first_step", "report_to", "run_name", "debug_numerics",
    ),
    "hardware": (
        "deepspeed", "sequence_parallel_size", "use_cpu", "tf32", "torch_empty_cache_steps", "ddp_timeout",
        "full_determinism",
    ),
    "plan": ("plan", "plan_machines", "plan_examples", "plan_tokens_per_example", "plan_shares", "plan_network_gbs"),
}  # fmt: skip
UNSHOWN = ("local_rank",)  # what launchers pass; the place of a process is read from the environment

_LOSS_ONLY = "validation computes losses; benchmarks are infer_longcot.py and scripts.calc_acc"
_ONE_FOLDER = "upload a finished --output_dir with `hf upload`"
_LOADER = "rows are read from memory-mapped files in an order of the seed; see --dataloader_num_workers"
_COMPILED = "the kernels here are compiled already, and compiling around them takes minutes a shape"
_SHARDING = "use --deepspeed configs/deepspeed_zero3.json (or zero2)"
_WRAPPING = "use --deepspeed; every parameter has a gradient in every step"
_SPEAKS = "the first process prints a line a step; the environment's TRANSFORMERS_VERBOSITY sets the library's"
REFUSED = {
    "do_train": "this program only trains: leave the flag out",
    "do_eval": "validation runs where --eval_data_path is given",
    "do_predict": "use infer_longcot.py",
    "fp16": "use --bf16 True: nothing here is proven in fp16",
    "fp16_full_eval": "validation runs in the training's precision",
    "bf16_full_eval": "validation runs in the training's precision",
    "torch_compile": _COMPILED,
    "torch_compile_backend": _COMPILED,
    "torch_compile_mode": _COMPILED,
    "use_liger_kernel": "the loss is computed in chunks and fused with the head already",
    "liger_kernel_config": "the loss is computed in chunks and fused with the head already",
    "use_cache": "there is no cache in training; checkpoints keep the model's own setting",
    "label_smoothing_factor": "the loss never makes whole logits",
    "gradient_checkpointing_kwargs": "layers recompute in torch's non-reentrant way; see --checkpoint_policy",
    "optim_target_modules": "no optimizer that takes them is followed",
    "average_tokens_across_devices": "see --loss_average",
    "auto_find_batch_size": "see --plan for what fits",
    "log_on_each_node": _SPEAKS,
    "log_level": _SPEAKS,
    "log_level_replica": _SPEAKS,
    "logging_nan_inf_filter": "a loss that is not finite stops the run",
    "disable_tqdm": "a bar is shown where stderr is a terminal",
    "include_num_input_tokens_seen": "train_log.jsonl counts labelled tokens and tokens/s",
    "project": "only for trackio, which is not followed; see --report_to",
    "trackio_space_id": "see --report_to",
    "trackio_bucket_id": "see --report_to",
    "trackio_static_space_id": "see --report_to",
    "prediction_loss_only": _LOSS_ONLY,
    "eval_do_concat_batches": _LOSS_ONLY,
    "eval_use_gather_object": _LOSS_ONLY,
    "eval_accumulation_steps": _LOSS_ONLY,
    "include_for_metrics": _LOSS_ONLY,
    "batch_eval_metrics": _LOSS_ONLY,
    "save_on_each_node": "checkpoints go to one --output_dir that every node sees",
    "enable_jit_checkpoint": "SIGTERM and SIGUSR1 save a checkpoint already",
    "push_to_hub": _ONE_FOLDER,
    "hub_token": _ONE_FOLDER,
    "hub_private_repo": _ONE_FOLDER,
    "hub_model_id": _ONE_FOLDER,
    "hub_strategy": _ONE_FOLDER,
    "hub_always_push": _ONE_FOLDER,
    "hub_revision": _ONE_FOLDER,
    "greater_is_better": "validation computes losses, of which the lower is better",
    "ignore_data_skip": "a resumed run continues with the exact next row",
    "restore_callback_states_from_checkpoint": "a resumed run restores all that changes it",
    "accelerator_config": "rows are dealt to processes by seed, epoch and step",
    "parallelism_config": _SHARDING,
    "fsdp": _SHARDING,
    "fsdp_config": _SHARDING,
    "dataloader_drop_last": "every row is trained on exactly once an epoch",
    "dataloader_persistent_workers": _LOADER,
    "dataloader_multiprocessing_context": _LOADER,
    "dataloader_in_order": _LOADER,
    "remove_unused_columns": "rows have no columns to remove",
    "label_names": "the labels are the completions",
    "train_sampling_strategy": "row order is a function of the seed",
    "length_column_name": "lengths are counted when text is encoded",
    "ddp_find_unused_parameters": _WRAPPING,
    "ddp_bucket_cap_mb": _WRAPPING,
    "ddp_broadcast_buffers": _WRAPPING,
    "ddp_static_graph": _WRAPPING,
    "ddp_backend": "the backend follows the device: nccl on GPUs, gloo on CPUs",
    "debug": "see --debug_numerics",
    "skip_memory_metrics": "train_log.jsonl holds the peak memory of every step",
}
REPORTERS = ("tensorboard", "wandb")


def refuse_unfollowed(args: Any) -> None:
    """Raise ValueError, as argument classes do, for a refused flag with a value that would ask for something.

    Its default, and False where the default is None, ask for nothing: published command lines spell those out.
    """
    defaults = {one.name: one for one in fields(args)}
    for name, instead in REFUSED.items():
        field, value = defaults[name], getattr(args, name)
        default = field.default_factory() if callable(field.default_factory) else field.default
        if value != default and not (value in (None, False) and default in (None, "no", "")):
            raise ValueError(f"--{name} {value}: has no effect in this program: {instead}")
