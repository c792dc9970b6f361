"""Triton kernels on CPU tensors, under Triton's interpreter: `TRITON_INTERPRET=1 python -m tests.ops.triton_cases OP`.

Whether `@triton.jit` means the interpreter is settled when triton is first imported, so these cases run in a process
of their own. For each case of CASES[OP] one JSON line is printed: errors against the fp64 definition relative to its
norm, the names of the kernels launched forward and backward, and the torch operations that computed beside them.
Memory that nobody wrote reads as NaN.
"""

from __future__ import annotations

import functools
import json
import sys
import threading
from dataclasses import replace

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from tests.ops import far_rows
from tests.ops.comparison import relative_errors

ALLOCATIONS_AND_VIEWS = {
    "empty", "empty_like", "new_empty", "new_empty_strided", "empty_strided", "view", "_unsafe_view", "slice",
    "select", "t", "transpose", "permute", "detach", "alias", "as_strided", "split", "split_with_sizes", "unsqueeze",
    "squeeze", "expand", "_reshape_alias", "unbind", "lift_fresh", "unfold",
}  # fmt: skip


class ComputedByTorch(TorchDispatchMode):
    """Collects the torch operations that are neither allocations nor views."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        if name not in ALLOCATIONS_AND_VIEWS:
            self.names.append(name)
        return function(*args, **kwargs or {})


def run(op, inputs: dict, dtype: torch.dtype):
    """(outputs and gradients in fp64, forward launches, backward launches, torch operations) of one call."""
    from promptcot_mamba.ops.triton_common import record_launches

    inputs = {
        name: value.detach().to(dtype, copy=True).requires_grad_() if value.is_floating_point() else value
        for name, value in inputs.items()
    }
    with record_launches() as forward, ComputedByTorch() as computed:
        outputs = op(**inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    seeds = [draw(output.shape).to(output) for output in outputs]
    leaves = {name: value for name, value in inputs.items() if value.requires_grad}
    with record_launches() as backward, ComputedByTorch() as computed_backward:
        gradients = torch.autograd.grad(outputs, list(leaves.values()), seeds)
    found = {f"output {index}": output for index, output in enumerate(outputs)}
    found |= {f"d{name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}
    found = {name: value.detach().double() for name, value in found.items()}
    launches = [[launch.name for launch in side] for side in (forward, backward)]
    return found, launches, [computed.names, computed_backward.names]


def compare(op, inputs: dict, **kernel_arguments) -> dict:
    """`op(backend="triton")` in fp32 against `op(backend="reference")` in fp64."""
    from promptcot_mamba.ops.triton_common import arrival_counters

    arrival_counters(next(iter(inputs.values())))  # made once a process
    reference, _, _ = run(functools.partial(op, backend="reference"), inputs, torch.float64)
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills what torch.empty hands out with NaN
    got, launches, computed = run(functools.partial(op, backend="triton", **kernel_arguments), inputs, torch.float32)
    torch.use_deterministic_algorithms(False)
    return {"errors": relative_errors(reference, got), "launches": launches, "computed": computed}


def ssd_inputs(length=None, lengths=None, b=1, h=4, p=16, g=1, n=16, initial=False, gate=True, skip=True, bias=True):
    from promptcot_mamba.ops.packing import cu_seqlens_from_lengths

    draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    length = length or sum(lengths)
    inputs = {
        "x": draw(b, length, h, p),
        "dt": draw(b, length, h),
        "A": -draw(h).exp(),
        "B": draw(b, length, g, n),
        "C": draw(b, length, g, n),
    }
    if skip:
        inputs["D"] = draw(h)
    if gate:
        inputs["z"] = draw(b, length, h, p)
    if bias:
        inputs["dt_bias"] = draw(h) - 2
    if lengths:
        inputs["cu_seqlens"] = cu_seqlens_from_lengths(lengths)
    if initial:
        inputs["initial_states"] = draw(len(lengths) if lengths else b, h, p, n)
    return inputs


def compare_ssd(finals=True, softplus=True, **shape) -> dict:
    from promptcot_mamba.ops.ssd import ssd
    from promptcot_mamba.ops.triton_common import chunk_table

    inputs = ssd_inputs(**shape)
    b, length = inputs["x"].shape[:2]
    chunk_table(b, length, inputs.get("cu_seqlens"), 16, inputs["x"].device)  # made once a batch, not once a call
    return compare(functools.partial(ssd, dt_softplus=softplus, return_final_states=finals, chunk_size=16), inputs)


def compare_other_order() -> dict:
    """The backward's two products the other way round, as on sm_90."""
    from promptcot_mamba.ops.ssd import triton_configs

    known = triton_configs.SINGLE
    tiles = known[80][-1]
    config = tiles.config
    other = replace(config, grad_pairs_first=not config.grad_pairs_first, grad_diagonal=not config.grad_diagonal)
    triton_configs.SINGLE = {80: (replace(tiles, config=other),)}
    found = compare_ssd(lengths=[3, 18])
    triton_configs.SINGLE = known
    return found


def compare_strong_decays() -> dict:
    from promptcot_mamba.ops.ssd import ssd
    from promptcot_mamba.ops.triton_common import chunk_table

    inputs = ssd_inputs(length=70, h=8, gate=False)
    inputs["A"] = -torch.logspace(-4, 4, 8, dtype=torch.float64)
    chunk_table(1, 70, None, 16, inputs["x"].device)
    return compare(functools.partial(ssd, dt_softplus=True, chunk_size=16), inputs)


def compare_conv(length=None, lengths=None, b=1, d=20, width=4, initial=False, finals=True, bias=True, silu=True):
    from promptcot_mamba.ops.causal_conv1d import causal_conv1d
    from promptcot_mamba.ops.causal_conv1d.triton_kernels import BACKWARD_RUN, FORWARD_RUN
    from promptcot_mamba.ops.packing import cu_seqlens_from_lengths
    from promptcot_mamba.ops.triton_common import chunk_table

    draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    length = length or sum(lengths)
    inputs = {"x": draw(b, length, d), "weight": draw(d, width)}
    if bias:
        inputs["bias"] = draw(d)
    if lengths:
        inputs["cu_seqlens"] = cu_seqlens_from_lengths(lengths)
    if initial:
        inputs["initial_states"] = draw(len(lengths) if lengths else b, d, width - 1)
    for run_length in (FORWARD_RUN, BACKWARD_RUN):
        chunk_table(b, length, inputs.get("cu_seqlens"), run_length, inputs["x"].device)
    settings = {"activation": "silu" if silu else None, "return_final_states": finals}
    return compare(functools.partial(causal_conv1d, **settings), inputs)


def compare_norm(rows=(2, 5), d=48, group_size=16, gate=True):
    from promptcot_mamba.ops.gated_rms_norm import gated_rms_norm

    draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs = {"x": draw(*rows, d), "z": draw(*rows, d), "weight": draw(d)}
    if not gate:
        del inputs["z"]
    settings = {"eps": 1e-5, "group_size": group_size} | ({} if gate else {"z": None})
    return compare(functools.partial(gated_rms_norm, **settings), inputs)


def compare_loss(reduction, ignored=(0, 3), rows=7, words=300):
    from promptcot_mamba.ops.linear_cross_entropy import linear_cross_entropy

    generator = torch.Generator().manual_seed(0)
    draw = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
    labels = torch.randint(words, (rows,), generator=generator)
    labels[list(ignored)] = -100
    inputs = {"hidden": draw(rows, 12), "weight": 3 * draw(words, 12), "labels": labels}
    return compare(functools.partial(linear_cross_entropy, reduction=reduction), inputs)


def compare_mixer(lengths=None, length=None, b=1, h=4, p=16, g=2, n=16, bias=True, checkpointed=False, **settings):
    from torch.utils.checkpoint import checkpoint

    from promptcot_mamba.ops.fused_mixer import fused_mixer
    from promptcot_mamba.ops.packing import cu_seqlens_from_lengths

    draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    length = length or sum(lengths)
    wide = h * p + 2 * g * n
    inputs = {
        "zxbcdt": draw(b, length, h * p + wide + h),
        "conv_weight": draw(wide, 4),
        "A_log": draw(h),
        "D": draw(h),
        "dt_bias": draw(h) - 2,
        "norm_weight": draw(h * p),
    }
    settings = {"n_groups": g, "head_dim": p, "state_size": n, "chunk_size": 16} | settings
    if bias:
        inputs["conv_bias"] = draw(wide)
    else:
        settings["conv_bias"] = None
    if lengths:
        inputs["cu_seqlens"] = cu_seqlens_from_lengths(lengths)
    op = functools.partial(fused_mixer, **settings)
    if checkpointed:
        op = functools.partial(checkpoint, functools.partial(op, keep=True), use_reentrant=False)
    return compare(op, inputs)


def compare_slices(lengths, slices, h=4, p=16, g=2, n=16, checkpointed=False) -> dict:
    """The mixer of a row on threads that hold a slice each; launches of all of them."""
    from torch.utils.checkpoint import checkpoint

    from promptcot_mamba.ops.triton_common import arrival_counters, record_launches
    from tests.ops.slices_in_threads import make_groups, sliced_row, whole_row
    from tests.ops.test_fused_mixer import make_inputs

    inputs = make_inputs(1, sum(lengths), h, p, g, n)
    arrival_counters(inputs["D"])
    settings = {"n_groups": g, "head_dim": p, "state_size": n, "chunk_size": 16}
    reference = whole_row(inputs, lengths, settings | {"backend": "recompute"})
    settings["backend"] = "triton"
    call = None
    if checkpointed:

        def call(op, **arguments):
            return checkpoint(functools.partial(op, keep=True), use_reentrant=False, **arguments)

    torch.use_deterministic_algorithms(True, warn_only=True)  # fills what torch.empty hands out with NaN
    with record_launches() as launches:
        got = sliced_row(inputs, lengths, settings, make_groups(slices), torch.float32, call)
    torch.use_deterministic_algorithms(False)
    names = [launch.name for launch in launches]
    return {"errors": relative_errors(reference, got), "launches": names, "slices": slices}


CASES = {
    "sliced_mixer": {
        "one document": lambda: compare_slices([35], 3, h=2),
        "documents across, at and beside borders": lambda: compare_slices([1, 18, 6, 1, 12], 2, g=1, h=2),
        "slices shorter than the convolution": lambda: compare_slices([3, 2], 4, h=2, g=1),
        "8 groups": lambda: compare_slices([5, 14], 2, h=8, g=8),
        "recomputed as a whole": lambda: compare_slices([20], 2, h=2, g=1, checkpointed=True),
    },
    "causal_conv1d": {
        "odd length, two rows": lambda: compare_conv(length=37, b=2, d=130),
        "documents": lambda: compare_conv(lengths=[1, 31, 2, 33, 3, 1]),
        "documents with initial states": lambda: compare_conv(lengths=[1, 2, 30, 5], initial=True),
        "more tokens than a run": lambda: compare_conv(lengths=[129, 3, 5], initial=True, d=8),
        "3 wide, linear, no bias": lambda: compare_conv(length=9, width=3, silu=False, bias=False, finals=False),
        "2 wide": lambda: compare_conv(lengths=[1, 1, 7], width=2, initial=True),
    },
    "gated_rms_norm": {
        "groups": lambda: compare_norm(),
        "odd groups": lambda: compare_norm(rows=(3,), d=15, group_size=5),
        "more rows than programs": lambda: compare_norm(rows=(1, 70), d=256, group_size=128),
        "no gate": lambda: compare_norm(gate=False),
    },
    "linear_cross_entropy": {
        "sum": lambda: compare_loss("sum"),
        "mean": lambda: compare_loss("mean"),
        "none": lambda: compare_loss("none"),
        "more words than a tile": lambda: compare_loss("sum", rows=3, words=4100, ignored=(1,)),
        "nothing labelled": lambda: compare_loss("mean", ignored=range(7)),
    },
    "fused_mixer": {
        "unpacked": lambda: compare_mixer(length=35, b=2),
        "packed": lambda: compare_mixer(lengths=[1, 17, 16], g=1, h=2, bias=False),
        "limited steps": lambda: compare_mixer(length=20, dt_limit=(0.05, 0.3)),
        "recomputed as a whole": lambda: compare_mixer(lengths=[1, 17, 16], checkpointed=True),
    },
    "ssd": {
        "odd length, two rows": lambda: compare_ssd(length=35, b=2, h=2),
        "boundaries inside and at chunks": lambda: compare_ssd(lengths=[1, 16, 15, 1, 17, 2]),
        "initial states, packed": lambda: compare_ssd(lengths=[5, 1, 20], initial=True),
        "initial states, unpacked": lambda: compare_ssd(length=18, b=2, h=2, initial=True, finals=False),
        "8 groups": lambda: compare_ssd(lengths=[3, 18], h=8, g=8, gate=False),
        "2 heads a group": lambda: compare_ssd(length=20, h=4, g=2, n=32, p=32, gate=False, skip=False, bias=False),
        "steps as given, negative ones too": lambda: compare_ssd(length=20, h=2, softplus=False, bias=False),
        "heads in 3 slices of channels": lambda: compare_ssd(lengths=[3, 18], h=2, p=48),
        "products in the other order": compare_other_order,
        "decays from weak to total": compare_strong_decays,
    },
    "far_rows": far_rows.CASES,
}


def main(op: str) -> None:
    from triton.runtime.interpreter import GridExecutor

    torch.set_num_threads(1)
    interpret, one_at_a_time = GridExecutor.__call__, threading.Lock()  # it patches triton's own module as it runs

    def uncounted(*args, **kwargs):  # the interpreter's own copies of a kernel's arguments
        with one_at_a_time, _disable_current_modes():
            return interpret(*args, **kwargs)

    GridExecutor.__call__ = uncounted
    for name, case in CASES[op].items():
        print(json.dumps({"case": name, **case()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
