"""`--plan`: will it fit, how fast can it be, how many days: from shapes, before any machine is rented."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields
from typing import Any

from promptcot_mamba.checkpoint import find_folder, read_config
from promptcot_mamba.errors import InputError
from promptcot_mamba.memory_budget import (
    DEVICES,
    Device,
    Mamba2Shapes,
    Shapes,
    adapter_parameters,
    offloaded_bytes,
    shapes_from_config,
    tokens_per_second_bound,
    training_flops_per_token,
    training_memory,
)
from promptcot_mamba.training.arguments import DataArguments, SftArguments

# PromptCoT-Mamba-7B: Mamba-Codestral-7B's shapes.
DEFAULT_SHAPES = Mamba2Shapes(
    hidden=4096, layers=64, heads=128, head_dim=64, n_groups=8, state=128, conv=4, vocab=32_768
)  # fmt: skip
SHARDINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ZeRO-2", {"zero_stage": 2}),
    ("ZeRO-2 + offload", {"zero_stage": 2, "offload_optimizer": True}),
    ("ZeRO-3", {"zero_stage": 3}),
)
SHARDINGS_OF_ONE = (*SHARDINGS[:2], ("split masters", {"zero_stage": 0, "split_masters": True}))
MACHINE = re.compile(r"(\d+)x(\w+)")
SECONDS_PER_DAY = 86_400


@dataclass
class PlanArguments:
    """What a plan assumes beyond the recipe."""

    plan_machines: list[str] = field(
        default_factory=lambda: ["8xH100", "1xH200"],
        metadata={"help": f"Machines to plan for, as COUNTxDEVICE with a device of {', '.join(DEVICES)}."},
    )
    # Examples: OpenCodeReasoning 735,255 + OpenThoughts2 1,143,205 (the paper's 1.88 M); the published PromptCoT SFT
    # set, about 406 k. What a phase really mixes is in configs/data; these are its sources' sizes.
    plan_examples: list[float] = field(
        default_factory=lambda: [1.88e6, 4.06e5], metadata={"help": "Examples of phase 1 and phase 2."}
    )
    plan_tokens_per_example: float = field(
        default=6000, metadata={"help": "Mean tokens per example: an assumption; measure yours when data is prepared."}
    )

    def refuse_idle(self) -> None:
        """Raise InputError for an assumption where no plan is asked for."""
        for one in fields(self):
            default = one.default_factory() if callable(one.default_factory) else one.default
            if getattr(self, one.name) != default:
                raise InputError(f"--{one.name}: needs --plan")


def parse_machine(text: str) -> tuple[int, Device]:
    """`8xH100` -> (8, its Device). Raises InputError for other forms and unknown devices."""
    match = MACHINE.fullmatch(text)
    if not match or int(match[1]) < 1 or match[2] not in DEVICES:
        raise InputError(f"--plan_machines {text}: expected COUNTxDEVICE with a device of {', '.join(DEVICES)}")
    return int(match[1]), DEVICES[match[2]]


def _verdict(fits: bool, fp32_sums: bool) -> str:
    return ("fits" if fits else "does not fit") + (", gradients summed in fp32" if fp32_sums else "")


@dataclass(frozen=True)
class _Load:
    """What a step asks of a device."""

    tokens: int  # a device and micro-batch
    slices: int  # --sequence_parallel_size
    segment: int  # --checkpoint_every
    accumulating: bool
    sums: str  # --grad_accum_dtype
    adapters: int = 0  # numbers that --lora_rank and --lora_target train


def _machine_lines(
    shapes: Shapes, count: int, device: Device, load: _Load, phases: list[tuple[str, float]]
) -> list[str]:
    lines = [f"{count} x {device.name} ({device.memory_gb:.0f} GB), {load.tokens:,} tokens a device and micro-batch"]
    lines.append(
        f"  {'GB per GPU':<34}{'weights':>8}{'grads':>8}{'optim':>8}{'activ':>8}{'buckets':>8}{'update':>8}{'total':>8}"
    )
    fitting, tried = [], []
    shardings = SHARDINGS if count > 1 else SHARDINGS_OF_ONE
    for name, settings in (("adapters", {"adapters": load.adapters}),) if load.adapters else shardings:
        # Without gradient checkpointing this project's layers still recompute conv, SSD and norm.
        kinds = (
            ("layer", "checkpointing"),
            ("segments", f"every {load.segment} layers"),
            ("mixer", "no checkpointing"),
        )
        for recompute, meaning in kinds:
            offload = settings.get("offload_optimizer", False)
            wide = load.accumulating and not offload and load.sums != "bf16" and not load.adapters
            for fp32_sums in (True, False) if wide else (False,):  # as `--grad_accum_dtype auto` chooses
                parts = training_memory(
                    shapes, tokens=load.tokens, devices=count, recompute=recompute, segment=load.segment,
                    fp32_sums=fp32_sums, **settings,
                )  # fmt: skip
                total = sum(parts.values()) / 1e9
                fits = total <= device.memory_gb
                if fits or load.sums == "fp32":
                    break
            tried.append(parts)
            cells = "".join(f"{value / 1e9:8.1f}" for value in parts.values())
            lines.append(f"  {f'{name}, {meaning}':<34}{cells}{total:8.1f}  {_verdict(fits, fp32_sums)}")
            if fits:
                rate = tokens_per_second_bound(shapes, device, recompute, load.adapters)
                fitting.append((rate, f"{name}, {meaning}", offload))
    if not fitting:
        smallest = min(tried, key=lambda parts: sum(parts.values()))
        part = max(smallest, key=lambda name: smallest[name])
        mend = (
            f"--sequence_parallel_size {2 * load.slices} or a lower --max_length (more devices alone do not help)"
            if part == "activations"
            else "more devices, or offload"
        )
        return [*lines, f"  nothing fits; the largest part is {part}, {smallest[part] / 1e9:.0f} GB: try {mend}"]
    # The fastest that updates on the device, whose bound counts; the host's update is in no bound. Among equals the
    # first named, which communicates least.
    bound, name, offload = max(fitting, key=lambda fit: (not fit[2], fit[0]))
    mfu = bound * training_flops_per_token(shapes, load.adapters) / (device.peak_tflops * 1e12)
    lines.append(f"  {name}: at most {bound:,.0f} tokens/s per GPU (MFU {mfu:.0%}), {bound * count:,.0f} in all")
    if "every" in name:
        lines.append(f"  (--gradient_checkpointing True --checkpoint_every {load.segment})")
    if name.startswith("split masters"):
        lines.append("  (--split_master_weights True, without --deepspeed)")
    if offload:
        host = offloaded_bytes(shapes, count, accumulating=load.accumulating) / 1e9
        lines.append(f"  offload also needs {host:.0f} GB of host memory per GPU, and the bound leaves its update out")
    for phase, phase_tokens in phases:
        days = phase_tokens / (bound * count) / SECONDS_PER_DAY
        lines.append(f"  {phase}: {phase_tokens / 1e9:.2f} G tokens, at least {days:.1f} days an epoch")
    return lines


def render_plan(args: SftArguments, data_args: DataArguments, plan_args: PlanArguments) -> str:
    """The plan as text. Raises InputError for an unreadable config or an unknown machine."""
    if data_args.model_name_or_path:
        name = data_args.model_name_or_path
        shapes = shapes_from_config(read_config(find_folder(name, "--model_name_or_path", weights=False)))
    else:
        shapes, name = DEFAULT_SHAPES, "PromptCoT-Mamba-7B's shapes (no --model_name_or_path given)"
    slices = args.sequence_parallel_size
    tokens = -(-data_args.max_length * args.per_device_train_batch_size // slices)
    phases = [
        (f"phase {number}", examples * plan_args.plan_tokens_per_example)
        for number, examples in enumerate(plan_args.plan_examples, start=1)
    ]
    adapters = adapter_parameters(shapes, args.lora_rank, args.lora_target) if args.lora_rank else 0
    lines = [
        f"{name}: {shapes.parameters / 1e9:.3f} B parameters, "
        + (f"{adapters / 1e6:.1f} M more trained as adapters, " if adapters else "")
        + f"{training_flops_per_token(shapes, adapters) / 1e9:.1f} GFLOP per trained token",
        f"assumed: {plan_args.plan_tokens_per_example:,.0f} tokens per example on average "
        "(--plan_tokens_per_example), rows full (packed)",
        "speed is an upper bound: matrix products at the rate large ones reach, conv, SSD and norm at memory "
        "bandwidth; no communication, no optimizer",
    ]
    # Where a user names no segment, the one that keeps least: k segments of k layers.
    segment = args.checkpoint_every if args.checkpoint_every > 1 else math.isqrt(shapes.layers)
    load = _Load(tokens, slices, segment, args.gradient_accumulation_steps > 1, args.grad_accum_dtype, adapters)
    for machine in plan_args.plan_machines:
        count, device = parse_machine(machine)
        if count % slices:
            lines += ["", f"{machine}: cannot hold rows in {slices} slices (--sequence_parallel_size)"]
        else:
            lines += ["", *_machine_lines(shapes, count, device, load, phases)]
    return "\n".join(lines)
