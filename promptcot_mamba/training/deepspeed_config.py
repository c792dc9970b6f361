"""What `--deepspeed`, or `accelerate launch`, asks DeepSpeed for: completed from the flags, or refused by name.

Three programs read such a config, and each reads over something: transformers compares a number with its flag only
where the number is there, accelerate accumulates over 1 micro-batch where that key is missing and makes an offloaded
optimizer Adam whatever `--optim` says, and DeepSpeed reads over misspelled keys (transformers 5.19, accelerate 1.15,
DeepSpeed 0.19.8). What passes here does what it says.
"""

import json
import os
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any

from promptcot_mamba.errors import InputError
from promptcot_mamba.training.deepspeed_keys import NUMBERS, check_keys
from promptcot_mamba.training.flags import REFUSED

Config = dict[str, Any]
# Their schedule, the value of --lr_scheduler_type for it, and what the flags say of it.
_WARMUP = ("warmup_min_lr", "warmup_max_lr", "warmup_num_steps")
SCHEDULES = {
    "WarmupLR": ("constant_with_warmup", _WARMUP),
    "WarmupDecayLR": ("linear", (*_WARMUP, "total_num_steps")),
    "WarmupCosineLR": ("cosine", ("warmup_num_steps", "total_num_steps")),
}
DEFAULT_SCHEDULE = "constant_with_warmup"
ADAMW = ("adamw_torch", "adamw_torch_fused")


def join_deepspeed_on_cpu(timeout_seconds: int) -> None:
    """Let DeepSpeed know the process group that is already there: ZeRO-3 shards weights while they are loaded.

    Its shared-memory all-reduce is left out, which spares the first start a minute of compiling: only DeepSpeed's
    inference calls it.
    """
    from deepspeed import comm
    from deepspeed.ops import __compatible_ops__

    __compatible_ops__["deepspeed_shm_comm"] = False
    comm.init_distributed(
        dist_backend="gloo", auto_mpi_discovery=False, verbose=False, timeout=timedelta(seconds=timeout_seconds)
    )


def find_deepspeed_config(path: str) -> str:
    """The file that `--deepspeed` names. Raises ValueError, as argument classes do, if it is no JSON object.

    Several published names are links to one file; an archive unpacked without links leaves the target's name as text.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ValueError(f"--deepspeed {path}: {error.strerror}") from None
    if text.endswith(".json") and "\n" not in text and (target := file.parent / text).is_file():
        return find_deepspeed_config(str(target))
    if file.suffix in (".yaml", ".yml"):
        raise ValueError(
            f"--deepspeed {path}: expected DeepSpeed's JSON; an accelerate config is started as "
            f"`accelerate launch --config_file {path} train.py ...`, without --deepspeed"
        )
    try:
        if not isinstance(json.loads(text), dict):
            raise ValueError("expected an object")
    except ValueError as error:
        raise ValueError(f"--deepspeed {path}: malformed JSON ({error})") from None
    return path


def read_deepspeed_config(text: str) -> Config:
    """What `--deepspeed` says: the file that it names, or the object itself. Raises ValueError for anything else."""
    inline = text.lstrip().startswith("{")
    try:
        return json.loads(text if inline else Path(find_deepspeed_config(text)).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"--deepspeed {text}: malformed JSON ({error})") from None


def settle_deepspeed(args: Any) -> list[str]:
    """Make `args.deepspeed` the whole config, before transformers fills each "auto" from the flags.

    Returns what to tell the user. Raises ValueError, as argument classes do, for what is not followed.
    """
    brought = adopt_accelerate(args)
    if not args.deepspeed:
        return []
    name = "(accelerate launch)" if brought else args.deepspeed
    if isinstance(args.deepspeed, str):
        config = read_deepspeed_config(args.deepspeed)
    else:
        config = args.deepspeed
    try:
        args.deepspeed, told = complete(config, args)
    except ValueError as error:
        raise ValueError(f"--deepspeed {name}: {error}") from None
    return [f"--deepspeed {name}: {line}" for line in told]


def adopt_accelerate(args: Any) -> bool:
    """Follow what `accelerate launch` put into the environment; whether it brought a DeepSpeed config."""
    read = os.environ.get
    for name, refused in (("FP8", "mixed_precision fp8"), ("FSDP", "fsdp"), ("MEGATRON_LM", "Megatron-LM")):
        if read(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            raise ValueError(f"accelerate launch with {refused}: {REFUSED['fsdp']}")
    if read("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
        raise ValueError(f"accelerate launch with a dynamo backend: {REFUSED['torch_compile']}")
    precision = read("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision not in ("no", "bf16"):
        raise ValueError(f"accelerate launch with mixed_precision {precision}: {REFUSED['fp16']}")
    args.bf16 = args.bf16 or precision == "bf16"
    if read("ACCELERATE_USE_DEEPSPEED", "false").lower() != "true":
        return False
    if args.deepspeed:
        raise ValueError(
            f"--deepspeed {args.deepspeed}: accelerate launch brings a DeepSpeed config of its own; pass --deepspeed= "
            "to use that one, or start with torchrun"
        )
    from accelerate.utils import DeepSpeedPlugin

    os.environ.pop("ACCELERATE_CONFIG_DS_FIELDS", None)  # accelerate would refuse them beside the config made of them
    args.deepspeed = dict(DeepSpeedPlugin().deepspeed_config)
    del args.deepspeed["steps_per_print"]  # its infinity is no JSON
    return True


def complete(config: Config, args: Any) -> tuple[Config, list[str]]:
    """The config with every number that a flag has, and notes on what in it does nothing.

    Raises ValueError for what is not followed here.
    """
    config = json.loads(json.dumps(config))
    if "bfloat16" in config:
        config["bf16"] = config.pop("bfloat16")
    notes = check_keys(config)
    for name in ("bf16", "fp16", "zero_optimization", "optimizer", "scheduler", "data_types", "checkpoint"):
        if not isinstance(config.get(name, {}), dict):
            raise ValueError(f'{name} {config[name]}: expected an object, as {{"enabled": true}}')
    for name in NUMBERS:
        config.setdefault(name, "auto")
    config.setdefault("bf16", {}).setdefault("enabled", "auto")
    if config["bf16"]["enabled"] not in ("auto", bool(args.bf16)):
        raise ValueError(f"bf16.enabled is {config['bf16']['enabled']}: pass --bf16 {config['bf16']['enabled']}")
    complete_zero(config.setdefault("zero_optimization", {}))
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


def complete_zero(zero: Config) -> None:
    """Raises ValueError for what a checkpoint of whole weights cannot be made with."""
    stage = zero.setdefault("stage", 0)
    if stage == 0:
        raise ValueError("zero_optimization.stage 0 shards nothing: use 1, 2 or 3, or torchrun without --deepspeed")
    if stage not in (1, 2, 3) or isinstance(stage, bool):
        raise ValueError(f"zero_optimization.stage {stage}: expected 1, 2 or 3")
    if zero.get("cpu_offload"):
        raise ValueError('zero_optimization.cpu_offload: write "offload_optimizer": {"device": "cpu"}')
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


def name_mismatches(lines: list[str]) -> str:
    """transformers' findings (`- ds KEY=VALUE vs hf FLAG=VALUE`) in one line."""
    found = [line.removeprefix("- ds ").replace(" vs hf ", ", flags say ") for line in lines]
    return f'--deepspeed: {"; ".join(found)}; write "auto" there, or pass that flag'


def check_by_deepspeed(config: Config) -> None:
    """Raise InputError for what DeepSpeed itself refuses, which it would in a traceback, after an hour of encoding."""
    from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError

    try:
        DeepSpeedConfig(deepcopy(config))
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError, DeepSpeedConfigError) as error:
        found = error.errors()[0] if hasattr(error, "errors") else None  # pydantic's, a line each
        what = f"{'.'.join(map(str, found['loc']))}: {found['msg']}" if found else " ".join(str(error).split())
        raise InputError(f"--deepspeed: {what}") from None
