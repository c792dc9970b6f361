"""The sections of a DeepSpeed config: passed on, refused with what to use instead, or told to do nothing here.

DeepSpeed reads over keys that it does not know (0.19.8): a misspelled one would be believed.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from promptcot_mamba.training.flags import REFUSED

NUMBERS = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
PASSED = {
    *NUMBERS, "bf16", "fp16", "zero_optimization", "optimizer", "scheduler", "data_types", "communication_data_type",
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


def _enabled(section: Any) -> bool:
    return section not in (None, False) and not (isinstance(section, Mapping) and section.get("enabled") is False)


def _enables(section: Any) -> bool:
    return isinstance(section, Mapping) and section.get("enabled") is True


def _compiles(section: Any) -> bool:
    return _enabled(section) and section != {"disable": True}


def _splits_tensors(section: Any) -> bool:
    return _enabled(section) and not (isinstance(section, Mapping) and section.get("autotp_size", 1) in (0, 1))


# Section -> whether it asks for something, and what to use instead.
REFUSED_SECTIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "fp16": (_enables, REFUSED["fp16"]),
    "amp": (_enables, REFUSED["fp16"]),
    "fp8": (_enabled, "DeepSpeed has no such section; use --bf16 True"),
    "torch_autocast": (_enables, "weights are bf16 by --bf16 True"),
    "compile": (_compiles, REFUSED["torch_compile"]),
    "tensor_parallel": (_splits_tensors, "use ZeRO-3, or --sequence_parallel_size for rows"),
    "expert_parallel": (_enables, "this model has no experts"),
    "sequence_parallel_size": (lambda one: one not in (1, "auto"), "use the flag --sequence_parallel_size"),
    "data_efficiency": (_enables, REFUSED["train_sampling_strategy"]),
    "curriculum_learning": (_enables, REFUSED["train_sampling_strategy"]),
    "compression_training": (_enabled, "the weights are trained as they are"),
    "weight_quantization": (_enabled, "the weights are trained as they are"),
    "hybrid_engine": (_enables, "use infer_longcot.py to sample"),
    "autotuning": (_enables, "see --plan for what fits"),
    "elasticity": (_enabled, "a run goes on with any number of devices (docs/many_nodes.md); leave it out"),
    "gradient_allreduce_op": (lambda one: one != "mean", "a step's loss is a mean over all processes"),
    "managed_gradient_accumulation": (lambda one: one is False, "the Trainer ends a step"),
    "datastates_ckpt": (_enabled, "checkpoints are written whole before the next step"),
}


def check_keys(config: dict[str, Any]) -> list[str]:
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
