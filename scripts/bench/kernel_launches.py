"""The Triton launches of one forward and backward at the 7B model's sizes, recorded on meta tensors: nothing runs."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from promptcot_mamba.ops.ssd.triton_configs import SHARED_MEMORY, find_config

SHAPES = {"l": 20480, "h": 128, "p": 64, "g": 8, "n": 128, "d_model": 4096, "v": 32768}  # Mamba-Codestral-7B
SHIPPED = (SHAPES["p"], SHAPES["n"])
HEADS = {64: 128, 80: 64, 128: 64}  # by head width


def record_shipped(arch: int, size: tuple[int, int] = SHIPPED, dtype: torch.dtype = torch.bfloat16) -> dict[str, list]:
    """The launches of one forward and backward at SHAPES, nothing run: part -> launches.

    At another head width and state than the shipped the SSD's only, none where it has no tiles. The SSD has no `z`: the
    models leave the gate to the norm. "carried" are the forms that take and give states, as a slice of a row does
    (docs/sequence_parallel.md).
    """
    from promptcot_mamba.ops.ssd import triton_kernels as ssd
    from promptcot_mamba.ops.triton_common import record_launches

    config = find_config(dtype, arch, SHARED_MEMORY[arch], *size)
    if config is None:
        return {}
    length, g, (p, n) = SHAPES["l"], SHAPES["g"], size
    h = HEADS[p]
    d_inner, shared = h * p, g * n

    empty = partial(torch.empty, dtype=dtype, device="meta")
    # A mixer's own layout: everything is a slice of the projection's output or of the convolution's.
    z, xBC, dt = empty(length, 2 * d_inner + 2 * shared + h).split([d_inner, d_inner + 2 * shared, h], dim=1)
    x, B, C = empty(length, d_inner + 2 * shared).split([d_inner, shared, shared], dim=1)
    A, D, dt_bias = (empty(h, dtype=torch.float32) for _ in range(3))
    cu_seqlens = torch.tensor([0, length])
    inputs = ssd.SsdInputs(
        x, dt, A, B, C, D, None, dt_bias, None, cu_seqlens, 1, h, g, True, (0.0, math.inf), config
    )  # fmt: skip
    parts = {}
    with record_launches(run=False) as parts["ssd forward"]:
        ssd.run_forward(inputs, empty(length, d_inner))
    with record_launches(run=False) as parts["ssd backward"]:
        grads = ssd.SsdGradients(empty(length, d_inner), dt, B, C)
        ssd.run_backward(inputs, empty(length, d_inner), grads)
    if size == SHIPPED:
        parts |= _record_carried(inputs) | _record_other_ops(xBC, z, dtype)
    return parts


def _record_carried(inputs: Any) -> dict[str, list]:
    """The walks that take and give states; the SSD's other launches are the same as without."""
    from promptcot_mamba.ops.ssd import triton_kernels as ssd
    from promptcot_mamba.ops.triton_common import record_launches

    entering, leaving = (
        torch.empty(1, inputs.heads, inputs.headdim, inputs.dstate, dtype=torch.float32, device="meta")
        for _ in range(2)
    )
    carried, y = replace(inputs, initial_states=entering), torch.empty_like(inputs.x)
    grads = ssd.SsdGradients(inputs.x, inputs.dt, inputs.B, inputs.C, initial_states=entering)
    parts = {}
    with record_launches(run=False) as parts["ssd forward, carried"]:
        ssd.run_forward(carried, y, leaving)
    with record_launches(run=False) as parts["ssd backward, carried"]:
        ssd.run_backward(carried, y, grads, leaving)
    return {part: [one for one in launches if one.name == "state_walk"] for part, launches in parts.items()}


def _record_other_ops(xBC: torch.Tensor, z: torch.Tensor, dtype: torch.dtype) -> dict[str, list]:
    """Convolution, norm and loss at SHAPES, on slices of the projection's output."""
    from promptcot_mamba.ops.causal_conv1d import triton_kernels as conv
    from promptcot_mamba.ops.gated_rms_norm import triton_kernels as norm
    from promptcot_mamba.ops.linear_cross_entropy import triton_kernels as loss
    from promptcot_mamba.ops.packing import make_chunk_table
    from promptcot_mamba.ops.triton_common import record_launches

    (length, channels), d_inner, g = xBC.shape, z.shape[1], SHAPES["g"]

    empty = partial(torch.empty, dtype=dtype, device="meta")
    cu_seqlens, weight, bias, parts = torch.tensor([0, length]), empty(channels, 4), empty(channels), {}
    with record_launches(run=False) as parts["conv forward"]:
        table = make_chunk_table(cu_seqlens, conv.FORWARD_RUN)
        conv.run_forward(xBC, weight, bias, None, empty(length, channels), table, True)
    with record_launches(run=False) as parts["conv backward"]:
        table = make_chunk_table(cu_seqlens, conv.BACKWARD_RUN)
        conv.run_backward(xBC, weight, bias, None, empty(length, channels), xBC, table, True)
    y, norm_weight = empty(length, d_inner), empty(d_inner)
    with record_launches(run=False) as parts["norm forward"]:
        norm.run_forward(y, z, norm_weight, y, 1e-5, d_inner // g)
    with record_launches(run=False) as parts["norm backward"]:
        norm.run_backward(y, z, norm_weight, y, y, z, 1e-5, d_inner // g)
    rows = loss.LOGITS_BYTES // (dtype.itemsize * SHAPES["v"])
    with record_launches(run=False) as parts["loss (a slice)"]:
        losses = empty(rows, dtype=torch.float32)
        loss.launch_cross_entropy(empty(rows, SHAPES["v"]), empty(rows, dtype=torch.int64), losses, losses)
    return parts


def count_bytes(launch) -> int:
    """Every tensor argument once, the small counters left out."""
    tensors = [value for value in launch.args if isinstance(value, torch.Tensor) and value.dtype != torch.int32]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
