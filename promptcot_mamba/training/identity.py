"""What makes two runs the same: every setting that changes samples or gradients, and hashes of data, model, tokenizer.

Flags about placement and logging are left out on purpose: a resumed run may change them. The number of processes is
left out too (their rows per step together are in): `session` decides about it by what the checkpoint allows.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from promptcot_mamba.errors import InputError
from promptcot_mamba.model.layouts import read_json
from promptcot_mamba.ops.backends import chosen_ops
from promptcot_mamba.training.arguments import DataArguments, SftArguments
from promptcot_mamba.training.run_folder import Identity

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
CONFIG_FILES = ("config.json", "params.json")  # transformers' and mamba_ssm's, Mistral's
PROBE_BYTES = 1 << 20
SAMPLE_OR_GRADIENT_FLAGS = (
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "adam_beta1", "adam_beta2",
    "adam_epsilon", "weight_decay", "max_grad_norm", "num_train_epochs", "max_steps", "optim", "optim_args", "bf16",
    "fp16", "seed", "data_seed", "loss_average", "neftune_noise_alpha", "use_liger_kernel", "split_master_weights",
)  # fmt: skip


def hash_model(folder: Path) -> str:
    """A hash of a checkpoint folder's config and weight files: their names, sizes, first and last MiB.

    Reading 15 GB in every process to notice an edit in the middle of a tensor would cost more than it tells.
    """
    digest = hashlib.blake2b(digest_size=16)
    if not folder.is_dir():
        digest.update(str(folder).encode())  # a name on a hub
        return digest.hexdigest()
    for file in sorted(folder.iterdir()):
        if file.name in CONFIG_FILES:
            digest.update(file.read_bytes())
        elif file.suffix in WEIGHT_SUFFIXES and file.name != "training_args.bin":
            size = file.stat().st_size
            digest.update(f"{file.name} {size}".encode())
            with file.open("rb") as stream:
                digest.update(stream.read(PROBE_BYTES))
                stream.seek(max(size - PROBE_BYTES, 0))
                digest.update(stream.read(PROBE_BYTES))
    return digest.hexdigest()


def read_config(model_path: str) -> dict[str, Any]:
    """A checkpoint's own config, as its layout has it. Raises InputError if there is none."""
    folder = Path(model_path)
    names = [name for name in CONFIG_FILES if (folder / name).is_file()]
    if not names:
        raise InputError(f"--model_name_or_path {model_path}: no {' or '.join(CONFIG_FILES)} here")
    return read_json(folder / names[0])


def zero_stage(args: SftArguments) -> int:
    """The DeepSpeed ZeRO stage of a run; 0 without DeepSpeed."""
    config = getattr(args, "hf_deepspeed_config", None)
    return int(config.get_value("zero_optimization.stage", 0)) if config else 0


def own_optimizer(args: SftArguments) -> str | None:
    """A DeepSpeed config's own optimizer and scheduler, which win over the flags; None where it has none."""
    config = args.hf_deepspeed_config.config if getattr(args, "hf_deepspeed_config", None) else {}
    own = {name: config[name] for name in ("optimizer", "scheduler") if name in config}
    return json.dumps(own, sort_keys=True) if own else None


def describe_identity(
    args: SftArguments, data_args: DataArguments, *, data: str, tokenizer: str, model: str, packing: bool
) -> Identity:
    """Everything that a resumed run must share with the one it continues, as JSON values keyed by flag."""
    rows_per_step = args.world_size * args.per_device_train_batch_size * args.gradient_accumulation_steps
    flags = {f"--{name}": getattr(args, name) for name in SAMPLE_OR_GRADIENT_FLAGS}
    plain = (int, float, dict, type(None))  # anything else (an enum) is told by its text
    return {
        **{name: value if isinstance(value, plain) else str(value) for name, value in flags.items()},
        "--data_path (contents)": data,
        "--tokenizer_path (contents)": tokenizer,
        "--model_name_or_path (contents)": model,
        "--max_length": data_args.max_length,
        "--overlong": data_args.overlong,
        "--packing": packing,
        "--ops": chosen_ops(),
        "rows per step (devices x per_device_train_batch_size x gradient_accumulation_steps)": rows_per_step,
        "ZeRO stage (--deepspeed)": zero_stage(args),
        "optimizer and scheduler (--deepspeed)": own_optimizer(args),
    }
