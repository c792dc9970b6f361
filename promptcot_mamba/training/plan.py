"""`--plan`: will it fit, how fast can it be, how many days: from shapes, before any machine is rented."""

import math
from dataclasses import dataclass, fields, replace

from promptcot_mamba.checkpoint import find_folder, read_config
from promptcot_mamba.cli import flag
from promptcot_mamba.errors import InputError
from promptcot_mamba.memory_budget import (
    BF16,
    FP32,
    Mamba2Shapes,
    Shapes,
    adapter_parameters,
    checkpoint_bytes,
    offloaded_bytes,
    shapes_from_config,
    training_flops_per_token,
)
from promptcot_mamba.roofline import BEST, Rates, at_best, step_seconds, tokens_per_second
from promptcot_mamba.training.arguments import DataArguments, SftArguments
from promptcot_mamba.training.deepspeed_keys import name_sharding
from promptcot_mamba.training.lora import SHARDED_ADAPTERS
from promptcot_mamba.training.plan_options import (
    ABOUT_EQUAL,
    DEVICES,
    Load,
    Machine,
    Option,
    choose_option,
    list_options,
    parse_machine,
)

# What --deepspeed names for each way to shard.
CONFIGS = {
    "ZeRO-2": "configs/promptcot_mamba_7b_config.json",
    "ZeRO-2 + offload": "configs/deepspeed_zero2_offload.json",
    "ZeRO-3": "configs/deepspeed_zero3.json",
}
# PromptCoT-Mamba-7B: Mamba-Codestral-7B's shapes.
DEFAULT_SHAPES = Mamba2Shapes(
    hidden=4096, layers=64, heads=128, head_dim=64, n_groups=8, state=128, conv=4, vocab=32_768
)  # fmt: skip
SECONDS_PER_DAY = 86_400


@dataclass
class PlanArguments:
    """What a plan assumes beyond the recipe."""

    plan_machines: list[str] = flag(
        f"Machines to plan for, as COUNTxDEVICE with a device of {', '.join(DEVICES)}.",
        factory=lambda: ["8xH100", "1xH200"],
    )
    # Examples: OpenCodeReasoning 735,255 + OpenThoughts2 1,143,205 (the paper's 1.88 M); the published PromptCoT SFT
    # set, about 406 k. What a phase really mixes is in configs/data; these are its sources' sizes.
    plan_examples: list[float] = flag("Examples of phase 1 and phase 2.", factory=lambda: [1.88e6, 4.06e5])
    plan_tokens_per_example: float = flag(
        "Mean tokens per example: an assumption; measure yours when data is prepared.", default=6000
    )
    plan_shares: list[float] = flag(
        "Of the data sheet's bf16 rate what products reach, of its bandwidth what kernels do.",
        factory=lambda: [Rates.product_share, Rates.bandwidth_share],
    )
    plan_network_gbs: float = flag(
        "GB/s out of a node in one direction, all its network cards together; for more than 8 GPUs.",
        default=Rates.network_gbs,
    )

    @property
    def rates(self) -> Rates:
        """Raises InputError for a share that is none."""
        if len(self.plan_shares) != 2 or not all(0 < share <= 1 for share in self.plan_shares):
            told = " ".join(f"{share:g}" for share in self.plan_shares)
            raise InputError(f"--plan_shares {told}: expected two shares above 0, at most 1: products, bandwidth")
        if self.plan_network_gbs <= 0:
            raise InputError(f"--plan_network_gbs {self.plan_network_gbs}: expected more than 0")
        products, bandwidth = self.plan_shares
        return Rates(products, bandwidth, network_gbs=self.plan_network_gbs)

    def refuse_idle(self) -> None:
        """Raise InputError for an assumption where no plan is asked for."""
        for one in fields(self):
            default = one.default_factory() if callable(one.default_factory) else one.default
            if getattr(self, one.name) != default:
                raise InputError(f"--{one.name}: needs --plan")


def _machine_lines(shapes: Shapes, machine: Machine, load: Load, phases: list[tuple[str, float]]) -> list[str]:
    count = machine.count
    lines = [
        f"{count} x {machine.name} ({machine.sheet.memory_gib:.0f} GiB), {machine.usable / 1e9:.0f} GB each to use, "
        f"{load.tokens:,} tokens a device and micro-batch, {load.micro_batches} a step",
        f"  {'GB per GPU':<44}{'weights':>8}{'grads':>7}{'optim':>7}{'activ':>7}{'buckets':>8}{'update':>7}{'total':>7}"
        f"{'tok/s':>8}",
    ]
    options = _find_options(shapes, machine, load)
    for option in options:
        widths = (8, 7, 7, 7, 8, 7)
        cells = "".join(f"{size / 1e9:{width}.1f}" for size, width in zip(option.parts.values(), widths, strict=True))
        rate = f"{tokens_per_second(shapes, machine.sheet, option.step, load.rates):,.0f}" if option.fits else "-"
        verdict = ("fits" if option.fits else "does not fit") + (", fp32 sums" if option.settings["fp32_sums"] else "")
        verdict += ", the host's update not in tok/s" if option.fits and option.offload else ""
        lines.append(f"  {option.name:<44}{cells}{sum(option.parts.values()) / 1e9:7.1f}{rate:>8}  {verdict}")
    fitting = [option for option in options if option.fits]
    if not fitting:
        return [*lines, _what_would_fit(options, load)]
    best = choose_option(shapes, machine, load, fitting)
    lines += _speed_lines(shapes, machine, load, best)
    speed = tokens_per_second(shapes, machine.sheet, best.step, load.rates)
    for phase, phase_tokens in phases:
        days = phase_tokens / (speed * count) / SECONDS_PER_DAY
        lines.append(
            f"  {phase}: {phase_tokens / 1e9:.2f} G tokens, about {days:.1f} days an epoch, "
            f"{24 * count * days:,.0f} device-hours"
        )
    return lines


def _find_options(shapes: Shapes, machine: Machine, load: Load) -> list[Option]:
    """As asked; where none of them fits also with checkpoints in host memory, and then with a bf16 residual stream."""
    options = list(list_options(shapes, machine, load))
    for more in ({"host": True}, {"host": True, "residual": BF16}):
        load = replace(load, **more)
        if isinstance(shapes, Mamba2Shapes) and not any(option.fits for option in options):
            options += list_options(shapes, machine, load)
    return options


def _what_would_fit(options: list[Option], load: Load) -> str:
    smallest = min((option.parts for option in options), key=lambda parts: sum(parts.values()))
    part = max(smallest, key=lambda name: smallest[name])
    mend = (
        f"--sequence_parallel_size {2 * load.slices} or a lower --max_length (more devices alone do not help)"
        if part == "activations"
        else "more devices, offload, or adapters (--lora_rank)"
    )
    return f"  nothing fits; the largest part is {part}, {smallest[part] / 1e9:.0f} GB: try {mend}"


def _speed_lines(shapes: Shapes, machine: Machine, load: Load, best: Option) -> list[str]:
    """The chosen option's speed, its seconds by part, and what its flags are."""
    rates, sheet = load.rates, machine.sheet
    seconds = step_seconds(shapes, sheet, best.step, rates)
    rate = tokens_per_second(shapes, machine.sheet, best.step, rates)
    most = tokens_per_second(shapes, machine.sheet, best.step, at_best(rates))
    mfu = rate * training_flops_per_token(shapes, load.adapters) / (sheet.bf16_tflops * 1e12)
    mixing = "conv, SSD and norms" if isinstance(shapes, Mamba2Shapes) else "attention and norms"
    names = {name: mixing if name == "mixing" else name for name in seconds}
    whole = sum(seconds.values())
    shares = ", ".join(f"{names[name]} {part:.2f} s ({part / whole:.0%})" for name, part in seconds.items())
    largest = max(seconds, key=lambda name: seconds[name])
    lines = [
        f"  -> {best.name}: {rate:,.0f} tokens/s per GPU (MFU {mfu:.0%}; at most {most:,.0f}), "
        f"{rate * machine.count:,.0f} in all",
        f"  a step takes {whole:.1f} s: {shares}; largest: {names[largest]}",
        f"  at {rates.flops(sheet) / 1e12:,.0f} TFLOP/s ({rates.product_share:.0%} of {sheet.bf16_tflops:,.0f}), "
        f"{rates.bandwidth(sheet) / 1e12:.2f} TB/s ({rates.bandwidth_share:.0%} of {sheet.bandwidth_tbs})"
        + (f", {rates.link(sheet, machine.count) / 1e9:,.0f} GB/s between GPUs" if machine.count > 1 else ""),
    ]
    if config := CONFIGS.get(best.name.partition(", ")[0]):
        lines.append(f"  (--deepspeed {config})")
    if "auto" in best.name or "recompute" in best.name:
        policy = "auto" if "auto" in best.name else "all"
        lines.append(f"  (--gradient_checkpointing True --checkpoint_policy {policy})")
    if "every" in best.name:
        lines.append(f"  (--gradient_checkpointing True --checkpoint_every {load.segment})")
    if best.settings["offload_checkpoints"]:
        host = checkpoint_bytes(shapes, load.tokens, best.step.segment, best.settings["residual"]) / 1e9
        lines.append(
            f"  (--offload_checkpoints True: {host:.0f} GB of host memory per GPU; the copies are not in the time)"
        )
    if best.settings["residual"] == BF16:
        lines.append("  (--residual_in_fp32 False)")
    if best.name.startswith("split masters"):
        lines.append("  (--split_master_weights True, without --deepspeed)")
    if best.offload:
        host = offloaded_bytes(shapes, machine.count, accumulating=load.micro_batches > 1) / 1e9
        lines.append(f"  offload also needs {host:.0f} GB of host memory per GPU; the host's update is not in the time")
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
    rates = plan_args.rates
    adapters = adapter_parameters(shapes, args.lora_rank, args.lora_target) if args.lora_rank else 0
    lines = [
        f"{name}: {shapes.parameters / 1e9:.3f} B parameters, "
        + (f"{adapters / 1e6:.1f} M more trained as adapters, " if adapters else "")
        + f"{training_flops_per_token(shapes, adapters) / 1e9:.1f} GFLOP per trained token",
        f"assumed: {plan_args.plan_tokens_per_example:,.0f} tokens per example on average "
        "(--plan_tokens_per_example), rows full (packed)",
        f"speed by arithmetic, not measured: what each part computes at {rates.product_share:.0%} of the data sheet's "
        f"bf16 rate, what it moves at {rates.bandwidth_share:.0%} of the memory's bandwidth (--plan_shares); "
        f"at most: at {BEST.product_share:.0%} and {BEST.bandwidth_share:.0%}",
        f"-> is the first that fits within {1 - ABOUT_EQUAL:.0%} of the fastest, those that update on the host aside; "
        "its flags stand below it. update: what the optimizer's step takes above the activations gone by then",
    ]
    # Where a user names no segment, the one that keeps least: k segments of k layers.
    segment = args.checkpoint_every if args.checkpoint_every > 1 else math.isqrt(shapes.layers)
    load = Load(
        tokens, args.gradient_accumulation_steps, slices, segment, BF16 if args.residual_in_fp32 is False else FP32,
        args.offload_checkpoints, args.grad_accum_dtype, adapters, rates,
    )  # fmt: skip
    if isinstance(args.deepspeed, dict):
        if args.lora_rank and args.deepspeed["zero_optimization"]["stage"] == 3:
            raise InputError(SHARDED_ADAPTERS)
        lines.append(f"--deepspeed asks for {name_sharding(args.deepspeed)}; what fits is shown whatever it asks for")
    for text in plan_args.plan_machines:
        machine = parse_machine(text)
        if machine.count % slices:
            lines += ["", f"{text}: cannot hold rows in {slices} slices (--sequence_parallel_size)"]
        else:
            lines += ["", *_machine_lines(shapes, machine, load, phases)]
    return "\n".join(lines)
