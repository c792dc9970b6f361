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
from promptcot_mamba.training.deepspeed_keys import Config, complete
from promptcot_mamba.training.flags import REFUSED

LAUNCHED_FIELDS = "ACCELERATE_CONFIG_DS_FIELDS"  # what its YAML says of DeepSpeed


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
    # Where a plugin is made in this process accelerate sets the first of these too; its launcher sets both.
    if read("ACCELERATE_USE_DEEPSPEED", "false").lower() != "true" or LAUNCHED_FIELDS not in os.environ:
        return False
    if args.deepspeed:
        raise ValueError(
            f"--deepspeed {args.deepspeed}: accelerate launch brings a DeepSpeed config of its own; pass --deepspeed= "
            "to use that one, or start with torchrun"
        )
    from accelerate.utils import DeepSpeedPlugin

    os.environ[LAUNCHED_FIELDS] = ""  # accelerate would refuse them beside the config made of them
    args.deepspeed = dict(DeepSpeedPlugin().deepspeed_config)
    del args.deepspeed["steps_per_print"]  # its infinity is no JSON
    return True


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
