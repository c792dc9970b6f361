"""One run of each op in the form that this machine would choose, against its definition, on every device."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch

from promptcot_mamba.doctor.finding import FAULT, OK, Finding
from promptcot_mamba.ops.causal_conv1d import causal_conv1d
from promptcot_mamba.ops.fused_mixer import fused_mixer
from promptcot_mamba.ops.gated_rms_norm import gated_rms_norm
from promptcot_mamba.ops.linear_cross_entropy import linear_cross_entropy
from promptcot_mamba.ops.ssd import ssd

# fp32, relative to the result's norm. On CUDA products of fp32 run in TF32 (10 bits), so an error is larger there.
TOLERANCE = {"cpu": 1e-4, "cuda": 5e-3}
HEADS, HEAD_DIM, GROUPS, STATES, WIDTH, LENGTH = 4, 64, 2, 64, 4, 200
INNER, SHARED = HEADS * HEAD_DIM, GROUPS * STATES
Case = tuple[Callable[..., Any], dict[str, torch.Tensor]]  # each op returns one tensor as it is called here


def draw_cases() -> dict[str, Case]:
    """Every op with inputs of two packed documents, in fp32 on the CPU."""
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator)
    ends = torch.tensor([0, 77, LENGTH], dtype=torch.int32)
    channels = INNER + 2 * SHARED
    steps = torch.rand(1, LENGTH, HEADS, generator=generator)
    return {
        "causal_conv1d": (
            causal_conv1d,
            {"x": draw(1, LENGTH, channels), "weight": draw(channels, WIDTH), "bias": draw(channels)},
        ),
        "ssd": (
            partial(ssd, cu_seqlens=ends),
            {
                "x": draw(1, LENGTH, HEADS, HEAD_DIM), "dt": 0.1 * steps, "A": -torch.ones(HEADS),
                "B": draw(1, LENGTH, GROUPS, STATES), "C": draw(1, LENGTH, GROUPS, STATES), "D": draw(HEADS),
            },
        ),
        "gated_rms_norm": (
            partial(gated_rms_norm, group_size=INNER // GROUPS),
            {"x": draw(1, LENGTH, INNER), "z": draw(1, LENGTH, INNER), "weight": draw(INNER)},
        ),
        "linear_cross_entropy": (
            partial(linear_cross_entropy, labels=torch.arange(LENGTH) % 100),
            {"hidden": draw(LENGTH, 64), "weight": draw(100, 64)},
        ),
        "fused_mixer": (
            partial(fused_mixer, n_groups=GROUPS, head_dim=HEAD_DIM, state_size=STATES, cu_seqlens=ends),
            {
                "zxbcdt": draw(1, LENGTH, 2 * INNER + 2 * SHARED + HEADS), "conv_weight": draw(channels, WIDTH),
                "conv_bias": draw(channels), "A_log": torch.zeros(HEADS), "D": draw(HEADS),
                "dt_bias": draw(HEADS) - 3, "norm_weight": draw(INNER),
            },
        ),
    }  # fmt: skip


def evaluate(case: Case, device: str, backend: str | None) -> dict[str, torch.Tensor]:
    """The result and every input's gradient, in fp32 on the CPU."""
    op, inputs = case
    bound = {name: value.to(device) for name, value in getattr(op, "keywords", {}).items() if torch.is_tensor(value)}
    leaves = {name: value.to(device, copy=True).requires_grad_() for name, value in inputs.items()}
    result = op(**leaves, **bound, backend=backend)
    (result * torch.linspace(-1, 1, result.numel(), device=device).view_as(result)).sum().backward()
    found = {"result": result} | {f"d{name}": cast(torch.Tensor, leaf.grad) for name, leaf in leaves.items()}
    return {name: value.detach().float().cpu() for name, value in found.items()}


def check_op(name: str, case: Case, device: str) -> Finding:
    """One op on one device: compiled, run forward and backward, compared with the definition on the CPU."""
    label = f"{name} on {device}"
    kind = device.partition(":")[0]
    definition = evaluate(case, "cpu", "reference")
    started = time.perf_counter()
    try:
        got = evaluate(case, device, None)
    # A compiler, a driver or a kernel may fail in any way here; the finding is the report of it.
    except Exception as error:  # noqa: BLE001
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        mend = f"train with --ops {name}=reference to go on, and report this line"
        return Finding(label, FAULT, f"failed: {reason:.160}", mend)
    seconds = time.perf_counter() - started
    errors = {key: float((got[key] - want).norm() / want.norm().clamp(min=1e-20)) for key, want in definition.items()}
    worst = max(errors, key=lambda key: errors[key])
    if not errors[worst] < TOLERANCE[kind]:
        mend = "do not train here: report this line with the device's name and driver"
        return Finding(label, FAULT, f"{worst} is off by {errors[worst]:.1e} of its norm", mend)
    return Finding(label, OK, f"agrees with its definition to {errors[worst]:.0e} ({seconds:.1f} s with compiling)")


def check_kernels() -> list[Finding]:
    """Every op on every device that torch sees; on the CPU where there is none."""
    devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else ["cpu"]
    cases = draw_cases()
    return [check_op(name, case, device) for device in devices for name, case in cases.items()]
