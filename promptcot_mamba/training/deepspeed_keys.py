"""What a DeepSpeed config says: passed on with the flags' numbers, refused by name, or told to do nothing here."""

import json
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from promptcot_mamba.training.flags import REFUSED

Config = dict[str, Any]
NUMBERS = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
PASSED = {
    *NUMBERS, "bf16", "zero_optimization", "optimizer", "scheduler", "data_types", "communication_data_type",
    "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "steps_per_print", "wall_clock_breakdown",
    "memory_breakdown", "dump_state", "flops_profiler", "comms_logger", "timers", "tensorboard", "csv_monitor", "wandb",
    "comet", "aio", "checkpoint", "log_level", "disable_allgather", "disable_python_gc", "prescale_gradients",
    "gradient_predivide_factor",
}  # fmt: skip
# Known to DeepSpeed, of no effect on a model that transformers' Trainer drives.
IDLE = {
    "activation_checkpointing": "see --gradient_checkpointing and --checkpoint_policy",
    "dataloader_drop_last": "DeepSpeed's loader is not used",
    "pipeline": "this model is no pipeline",
    "vocabulary_size": "DeepSpeed only warns by it",
    "seq_parallel_communication_data_type": "see --sequence_parallel_size",
    "use_data_before_expert_parallelism": "this model has no experts",
}


def _is_not_off(section: Any) -> bool:
    return section not in (None, False) and not (isinstance(section, Mapping) and section.get("enabled") is False)


def _is_on(section: Any) -> bool:
    return section is True or (isinstance(section, Mapping) and section.get("enabled") in (True, 1))


def _compiles(section: Any) -> bool:
    return _is_not_off(section) and section != {"disable": True}


def _splits_tensors(section: Any) -> bool:
    return _is_not_off(section) and not (isinstance(section, Mapping) and section.get("autotp_size", 1) in (0, 1))


# Section -> whether it asks for something, and what to use instead.
REFUSED_SECTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "fp16": (_is_on, REFUSED["fp16"]),
    "amp": (_is_on, REFUSED["fp16"]),
    "fp8": (_is_not_off, "DeepSpeed has no such section; use --bf16 True"),
    "torch_autocast": (_is_on, "weights are bf16 by --bf16 True"),
    "compile": (_compiles, REFUSED["torch_compile"]),
    "tensor_parallel": (_splits_tensors, "use ZeRO-3, or --sequence_parallel_size for rows"),
    "expert_parallel": (_is_on, "this model has no experts"),
    "sequence_parallel_size": (lambda one: one not in (1, "auto"), "use the flag --sequence_parallel_size"),
    "data_efficiency": (_is_on, REFUSED["train_sampling_strategy"]),
    "curriculum_learning": (_is_on, REFUSED["train_sampling_strategy"]),
    "compression_training": (_is_not_off, "the weights are trained as they are"),
    "weight_quantization": (_is_not_off, "the weights are trained as they are"),
    "hybrid_engine": (_is_on, "use infer_longcot.py to sample"),
    "autotuning": (_is_on, "see --plan for what fits"),
    "elasticity": (_is_not_off, "a run goes on with any number of devices (docs/many_nodes.md); leave it out"),
    "gradient_allreduce_op": (lambda one: one != "mean", "a step's loss is a mean over all processes"),
    "managed_gradient_accumulation": (lambda one: one is False, "the Trainer ends a step"),
    "datastates_ckpt": (_is_not_off, "checkpoints are written whole before the next step"),
}
# Their schedule, the value of --lr_scheduler_type for it, and what the flags say of it.
_WARMUP = ("warmup_min_lr", "warmup_max_lr", "warmup_num_steps")
SCHEDULES = {
    "WarmupLR": ("constant_with_warmup", _WARMUP),
    "WarmupDecayLR": ("linear", (*_WARMUP, "total_num_steps")),
    "WarmupCosineLR": ("cosine", ("warmup_num_steps", "total_num_steps")),
}
DEFAULT_SCHEDULE = "constant_with_warmup"
ADAMW = ("adamw_torch", "adamw_torch_fused")


def complete(config: Config, args: Any) -> tuple[Config, list[str]]:
    """The config with every number that a flag has, and notes on what in it does nothing.

    Raises ValueError for what is not followed here.
    """
    config = json.loads(json.dumps(config))
    if "bfloat16" in config:
        config["bf16"] = config.pop("bfloat16")
    notes = check_keys(config)
    for name in ("bf16", "zero_optimization", "optimizer", "scheduler", "data_types", "checkpoint"):
        if not isinstance(config.get(name, {}), dict):
            raise ValueError(f'{name} {config[name]}: expected an object, as {{"enabled": true}}')
    for name in NUMBERS:
        config.setdefault(name, "auto")
    config.setdefault("bf16", {}).setdefault("enabled", "auto")
    if config["bf16"]["enabled"] not in ("auto", bool(args.bf16)):
        raise ValueError(f"bf16.enabled is {config['bf16']['enabled']}: pass --bf16 {config['bf16']['enabled']}")
    complete_zero(config.setdefault("zero_optimization", {}))
    if offload_device(config, "param") != "none" and config["zero_optimization"]["stage"] != 3:
        raise ValueError("zero_optimization.offload_param: needs stage 3; leave it out")
    complete_sums(config.get("data_types", {}))
    notes += replace_optimizer(config, args)
    notes += complete_schedule(config, args)
    if config.get("checkpoint", {}).get("load_universal"):
        raise ValueError("checkpoint.load_universal: any checkpoint goes on with any number of devices; leave it out")
    if config.get("checkpoint", {}).get("use_node_local_storage"):
        raise ValueError(f"checkpoint.use_node_local_storage: {REFUSED['save_on_each_node']}")
    return config, notes


def offload_device(config: Config, what: str = "optimizer") -> str:
    """Where optimizer states (or weights, `param`) wait: none, cpu or nvme."""
    section = config.get("zero_optimization", {}).get(f"offload_{what}")
    return (section.get("device") if isinstance(section, dict) else None) or "none"


def name_sharding(config: Config) -> str:
    """As `--plan` names it."""
    stage = config["zero_optimization"]["stage"]
    return f"ZeRO-{stage}{' + offload' if offload_device(config) != 'none' else ''}"


def complete_zero(zero: Config) -> None:
    """Raises ValueError for what a checkpoint of whole weights cannot be made with."""
    stage = zero.setdefault("stage", 0)
    if stage == 0:
        raise ValueError("zero_optimization.stage 0 shards nothing: use 1, 2 or 3, or torchrun without --deepspeed")
    if stage not in (1, 2, 3) or isinstance(stage, bool):
        raise ValueError(f"zero_optimization.stage {stage}: expected 1, 2 or 3")
    if zero.get("cpu_offload"):
        raise ValueError('zero_optimization.cpu_offload: write "offload_optimizer": {"device": "cpu"}')
    if zero.get("compute_grad_norm") is False:
        raise ValueError(
            "zero_optimization.compute_grad_norm false: the norm tells when training diverges; leave it out"
        )
    if stage == 3:
        names = ("stage3_gather_16bit_weights_on_model_save", "gather_16bit_weights_on_model_save")
        said = [zero.pop(name) for name in (*names, "stage3_gather_fp16_weights_on_model_save") if name in zero]
        if False in said:
            raise ValueError(f"zero_optimization.{names[0]} false: checkpoints hold whole weights here; leave it out")
        zero[names[0]] = True


def complete_sums(types: Config) -> None:
    """Our names of the precision that gradients are summed in. Raises ValueError for another one."""
    said = types.pop("grad_accum_dtype", None)
    if said in (None, "auto"):
        return
    types["grad_accum_dtype"] = {"float": "fp32", "float32": "fp32", "bfloat16": "bf16"}.get(
        name := str(said).removeprefix("torch."), name
    )
    if types["grad_accum_dtype"] not in ("fp32", "bf16"):
        raise ValueError(f"data_types.grad_accum_dtype {said}: expected fp32 or bf16")


def replace_optimizer(config: Config, args: Any) -> list[str]:
    """AdamW with the flags' numbers is made by the flags, which spare norms, biases and A_log the decay.

    Raises ValueError for another optimizer.
    """
    block = config.pop("optimizer", None)
    forced = offload_device(config) != "none" and config.get("zero_force_ds_cpu_optimizer", True)
    if (forced or block is not None) and args.optim not in ADAMW:
        what = "an offloaded optimizer is DeepSpeed's AdamW" if forced else f"the config's is {block.get('type')}"
        raise ValueError(f"--optim {args.optim}: {what}; leave one of them out")
    if block is None:
        return []
    kind, params = str(block.get("type")), block.get("params") or {}
    if kind.lower() not in ("adam", "adamw") or params.get("adam_w_mode") is False:
        raise ValueError(f"optimizer {kind}: optimizers are made by --optim and the flags beside it; leave it out")
    meant = {
        "lr": args.learning_rate, "betas": [args.adam_beta1, args.adam_beta2], "eps": args.adam_epsilon,
        "weight_decay": args.weight_decay, "adam_w_mode": True, "bias_correction": True, "amsgrad": False,
    }  # fmt: skip
    for name, value in params.items():
        if name != "torch_adam" and (name not in meant or value not in ("auto", meant[name])):
            flag = f"{meant[name]} by the flags" if name in meant else "no flag says it"
            raise ValueError(f'optimizer.params.{name} is {value}, {flag}; write "auto", or leave the optimizer out')
    return [f"optimizer {kind} is made by the flags: --optim {args.optim}, with weight decay on matrices alone"]


def complete_schedule(config: Config, args: Any) -> list[str]:
    """DeepSpeed's schedule with the flags' numbers. Raises ValueError where flags say another one."""
    block = config.get("scheduler")
    if block is None:
        return []
    kind = block.get("type")
    if kind not in SCHEDULES:
        raise ValueError(
            f"scheduler {kind}: expected {', '.join(SCHEDULES)}; or leave it out and say --lr_scheduler_type"
        )
    same, names = SCHEDULES[kind]
    if args.lr_scheduler_type not in (DEFAULT_SCHEDULE, same) or args.lr_scheduler_kwargs:
        raise ValueError(f"scheduler {kind}: --lr_scheduler_type {args.lr_scheduler_type} says another; leave one out")
    params = block.setdefault("params", {})
    for name in names:
        params.setdefault(name, "auto")
    warmup = args.warmup_steps
    known = {
        "total_num_steps": args.max_steps if args.max_steps > 0 else None,
        "warmup_num_steps": max(1, int(warmup)) if warmup == 0 or warmup >= 1 else None,
    }
    for name, value in known.items():
        if params.get(name, "auto") not in ("auto", value):
            flags = "counted" if value is None else f"{value} by the flags"
            raise ValueError(f'scheduler.params.{name} is {params[name]}, {flags}; write "auto"')
    return [f"its scheduler {kind} sets the learning rate, and --lr_scheduler_type does not"]


def check_keys(config: Config) -> list[str]:
    """Notes on keys that do nothing; sections that are switched off are taken out.

    Raises ValueError for sections that are not followed and for misspelled keys.
    """
    notes = []
    for name, value in [*config.items()]:
        if name in REFUSED_SECTIONS:
            asks, instead = REFUSED_SECTIONS[name]
            if asks(value):
                raise ValueError(f"{name}: is not followed here: {instead}")
            del config[name]
        elif name in IDLE:
            notes.append(f"{name} does nothing: {IDLE[name]}")
        elif name not in PASSED and not name.startswith(("_", "/", "#")):  # comments
            if meant := get_close_matches(name, [*PASSED, *REFUSED_SECTIONS], 1, cutoff=0.8):
                raise ValueError(f"{name}: unknown; did you mean {meant[0]}?")
            notes.append(f"DeepSpeed knows no {name}: it does nothing")
    return notes
