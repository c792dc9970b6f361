"""What makes two runs the same: every setting that changes samples or gradients, and hashes of data, model, tokenizer.

Flags about placement and logging are left out on purpose: a resumed run may change them. The number of processes is
left out too (their rows per step together are in): a run may go on with another one.
"""

import json
from typing import Any

from promptcot_mamba.ops.backends import chosen_ops
from promptcot_mamba.training.arguments import DataArguments, SftArguments
from promptcot_mamba.training.run_folder import MODEL_KEY, Identity

ROWS_KEY = "rows per step (devices x per_device_train_batch_size x gradient_accumulation_steps)"
BATCH_FLAGS = ("per_device_train_batch_size", "gradient_accumulation_steps", "sequence_parallel_size")
GRAD_ACCUM_KEY = "--grad_accum_dtype"
DATA_KEY = "--data_path (contents)"
TOKENIZER_KEY = "--tokenizer_path (contents)"
SAMPLE_OR_GRADIENT_FLAGS = (
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "adam_beta1", "adam_beta2",
    "adam_epsilon", "weight_decay", "max_grad_norm", "num_train_epochs", "max_steps", "optim", "optim_args", "bf16",
    "fp16", "seed", "data_seed", "loss_average", "neftune_noise_alpha", "use_liger_kernel", "split_master_weights",
)  # fmt: skip


def zero_stage(args: SftArguments) -> int:
    """The DeepSpeed ZeRO stage of a run; 0 without DeepSpeed."""
    config = getattr(args, "hf_deepspeed_config", None)
    return int(config.get_value("zero_optimization.stage", 0)) if config else 0


def own_optimizer(args: SftArguments) -> str | None:
    """A DeepSpeed config's own optimizer and scheduler, which win over the flags; None where it has none."""
    config = args.hf_deepspeed_config.config if getattr(args, "hf_deepspeed_config", None) else {}
    own = {name: config[name] for name in ("optimizer", "scheduler") if name in config}
    return json.dumps(own, sort_keys=True) if own else None


def accumulates_narrow_gradients(args: SftArguments) -> bool:
    """Whether a step sums bf16 gradients of several micro-batches, so that the sum's precision matters."""
    narrow = args.split_master_weights or (args.bf16 and bool(args.deepspeed))
    return narrow and args.gradient_accumulation_steps > 1


def as_finished(identity: Identity, args: SftArguments, run: dict[str, Any] | None) -> Identity:
    """The identity to compare a folder's run with: where it has finished, other devices alone make no other run."""
    config = (run or {}).get("config") or {}
    if run and run.get("finished") and all(config.get(name) == getattr(args, name) for name in BATCH_FLAGS):
        return {**identity, ROWS_KEY: run["identity"].get(ROWS_KEY)}
    return identity


def describe_identity(
    args: SftArguments,
    data_args: DataArguments,
    *,
    data: str,
    eval_data: str,
    tokenizer: str,
    model: str,
    packing: bool,
) -> Identity:
    """Everything that a resumed run must share with the one it continues, as JSON values keyed by flag."""
    rows_per_step = (
        args.world_size
        // args.sequence_parallel_size
        * args.per_device_train_batch_size
        * args.gradient_accumulation_steps
    )
    flags = {f"--{name}": getattr(args, name) for name in SAMPLE_OR_GRADIENT_FLAGS}
    if args.lora_rank:  # settings that runs before them did not have are in the identity where they are used
        flags |= {"--lora_rank": args.lora_rank, "--lora_alpha": args.lora_alpha or 2 * args.lora_rank}
        flags["--lora_target"] = " ".join(sorted(args.lora_target))
    if args.objective == "dpo":
        flags |= {"--objective": "dpo", "--beta": args.beta, "--length_normalised": args.length_normalised}
        flags |= {"--nll_weight": args.nll_weight} if args.nll_weight else {}  # younger than the objective
    if args.residual_in_fp32 is not None:
        flags["--residual_in_fp32"] = args.residual_in_fp32
    if accumulates_narrow_gradients(args) and args.grad_accum_dtype == "fp32":  # before there were bf16 sums only
        flags[GRAD_ACCUM_KEY] = args.grad_accum_dtype
    if args.follows_validation:  # another loss would be compared with the best so far
        flags |= {"--eval_data_path (contents)": eval_data, "--metric_for_best_model": args.metric_for_best_model}
        flags |= {"--eval_strategy": args.eval_strategy, "--eval_steps": args.eval_steps}
    plain = (int, float, dict, type(None))  # anything else (an enum) is told by its text
    return {
        **{name: value if isinstance(value, plain) else str(value) for name, value in flags.items()},
        DATA_KEY: data,
        TOKENIZER_KEY: tokenizer,
        MODEL_KEY: model,
        "--max_length": data_args.max_length,
        "--overlong": data_args.overlong,
        "--packing": packing,
        "--ops": chosen_ops(),
        ROWS_KEY: rows_per_step,
        "ZeRO stage (--deepspeed)": zero_stage(args),
        "optimizer and scheduler (--deepspeed)": own_optimizer(args),
    }
