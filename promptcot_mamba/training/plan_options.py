"""What a plan chooses from: machines, ways to shard a step's states, and what is kept for the backward pass."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from promptcot_mamba.errors import InputError
from promptcot_mamba.gpus import DATA_SHEETS, DataSheet
from promptcot_mamba.memory_budget import BF16, Mamba2Shapes, Shapes, count_kept_layers, held_memory, training_memory
from promptcot_mamba.roofline import Rates, Step, tokens_per_second

SHARDINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ZeRO-2", {"zero_stage": 2}),
    ("ZeRO-2 + offload", {"zero_stage": 2, "offload_optimizer": True}),
    ("ZeRO-3", {"zero_stage": 3}),
)
SHARDINGS_OF_ONE = (*SHARDINGS[:2], ("split masters", {"zero_stage": 0, "split_masters": True}))
ADAPTERS: tuple[tuple[str, dict[str, Any]], ...] = (("adapters", {"zero_stage": 0}),)
DEVICES = {name.replace(" ", "-"): sheet for name, sheet in DATA_SHEETS.items()}
MACHINE = re.compile(r"(\d+)x([\w-]+)")
RUNTIME_BYTES = 2e9  # of a device's memory: CUDA's context and NCCL's buffers
ABOUT_EQUAL = 0.95  # a plan does not tell speeds apart that differ by less


@dataclass(frozen=True)
class Machine:
    """So many devices of one kind."""

    count: int
    name: str
    sheet: DataSheet

    @property
    def usable(self) -> float:
        """Bytes a device, less what CUDA and NCCL take."""
        return self.sheet.memory_gib * 2**30 - RUNTIME_BYTES


def parse_machine(text: str) -> Machine:
    """`8xH100` -> eight of them. Raises InputError for other forms and unknown devices."""
    match = MACHINE.fullmatch(text)
    if not match or int(match[1]) < 1 or match[2] not in DEVICES:
        raise InputError(f"--plan_machines {text}: expected COUNTxDEVICE with a device of {', '.join(DEVICES)}")
    return Machine(int(match[1]), match[2], DEVICES[match[2]])


@dataclass(frozen=True)
class Load:
    """What a step asks of a device."""

    tokens: int  # a device and micro-batch
    micro_batches: int
    slices: int  # --sequence_parallel_size
    segment: int  # --checkpoint_every
    residual: int  # bytes of a number of the residual stream (--residual_in_fp32)
    host: bool  # --offload_checkpoints
    sums: str  # --grad_accum_dtype
    adapters: int  # numbers that --lora_rank and --lora_target train
    rates: Rates


@dataclass(frozen=True)
class Option:
    """One way to hold a step: how states are sharded and what is kept for the backward pass."""

    name: str
    settings: dict[str, Any]  # of `training_memory`
    parts: dict[str, float]
    fits: bool
    step: Step

    @property
    def offload(self) -> bool:
        return bool(self.settings.get("offload_optimizer"))


def list_options(shapes: Shapes, machine: Machine, load: Load) -> Iterator[Option]:
    """Every sharding, with as many layers kept as fit, with all recomputed, in segments, and with all kept.

    Where checkpoints wait with the host nothing else is kept.
    """
    shardings = ADAPTERS if load.adapters else SHARDINGS if machine.count > 1 else SHARDINGS_OF_ONE
    for sharding, settings in shardings:
        wide = load.micro_batches > 1 and not settings.get("offload_optimizer") and load.sums != "bf16"
        base = {
            "tokens": load.tokens, "devices": machine.count, "adapters": load.adapters, "residual": load.residual,
            "offload_checkpoints": load.host, **settings,
        }  # fmt: skip
        all_recomputed = _settle_sums(shapes, machine, base, wide and not load.adapters, load.sums)
        kinds = [("recompute all", all_recomputed)]
        if isinstance(shapes, Mamba2Shapes):  # transformers' own models know no other policy
            room = machine.usable - held_memory(training_memory(shapes, **all_recomputed))
            kept = count_kept_layers(shapes, load.tokens, room, residual=load.residual)
            if not load.host:
                kinds.insert(0, (f"auto ({kept} of {shapes.layers} kept)", {**all_recomputed, "kept_layers": kept}))
            kinds.append((f"every {load.segment} layers", {**all_recomputed, "segment": load.segment}))
        if not load.host:
            kinds.append(("no checkpointing", {**all_recomputed, "kept_layers": shapes.layers}))
        for kind, chosen in kinds:
            parts = training_memory(shapes, **chosen)
            step = Step(
                load.tokens, load.micro_batches, machine.count, settings["zero_stage"],
                bool(settings.get("offload_optimizer")), chosen.get("kept_layers", 0), chosen.get("segment", 1),
                load.adapters,
            )  # fmt: skip
            kind += ", host" if load.host else ""
            kind += ", bf16" if load.residual == BF16 else ""
            yield Option(f"{sharding}, {kind}", chosen, parts, sum(parts.values()) <= machine.usable, step)


def _settle_sums(shapes: Shapes, machine: Machine, base: dict[str, Any], wide: bool, sums: str) -> dict[str, Any]:
    """With fp32 sums of gradients where they fit, as `--grad_accum_dtype auto` chooses."""
    widened = {**base, "fp32_sums": wide}
    fits = sum(training_memory(shapes, **widened).values()) <= machine.usable
    return widened if fits or sums == "fp32" else {**base, "fp32_sums": False}


def choose_option(shapes: Shapes, machine: Machine, load: Load, fitting: list[Option]) -> Option:
    """The first named, which communicates least, of those that are about as fast as the fastest.

    Those that update on the device come first: the host's update is in no figure.
    """
    fitting = [option for option in fitting if not option.offload] or fitting
    rates = [tokens_per_second(shapes, machine.sheet, option.step, load.rates) for option in fitting]
    return next(option for option, rate in zip(fitting, rates, strict=True) if rate >= ABOUT_EQUAL * max(rates))
