"""The SSD's outputs, every chunk on its own once its incoming state is known."""

from __future__ import annotations

import triton
import triton.language as tl

from promptcot_mamba.ops.triton_common import sigmoid


@triton.jit
def decay_matrix(sums_i, sums_j, keep):
    """exp(s_i - s_j) where `keep`, 0 elsewhere; masked before the exponential, which would overflow above."""
    return tl.exp2(tl.where(keep, sums_i - sums_j, float("-inf")))


@triton.jit
def chunk_scan_kernel(
    x, dt, sums, B, C, states, D, z, y, starts, lengths,
    x_row, B_row, C_row, z_row, y_row, n_tokens, n_heads,
    HEADS_PER_GROUP: tl.constexpr, HEADS: tl.constexpr, P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """y_i = sum_(j <= i) (C_i . B_j) exp(s_i - s_j) dt_j x_j + exp(s_i) C_i state + D x_i, gated by silu(z_i).

    Grid: (chunks, h / HEADS). A program takes HEADS heads of one group, so the (q, q) products C B^T are made once
    and stay in registers while head after head passes.
    """
    slot = tl.program_id(0).to(tl.int64)
    first_head = tl.program_id(1) * HEADS
    group = first_head // HEADS_PER_GROUP
    start = tl.load(starts + slot)
    length = tl.load(lengths + slot)
    tokens = tl.arange(0, Q)
    inside = tokens < length
    rows = tl.arange(0, N)
    channels = tl.arange(0, P)

    B_tile = tl.load(
        B + start * B_row + group * N + tokens[:, None] * B_row + rows[None, :], mask=inside[:, None], other=0.0
    )
    C_tile = tl.load(
        C + start * C_row + group * N + tokens[:, None] * C_row + rows[None, :], mask=inside[:, None], other=0.0
    )
    scores = tl.dot(C_tile, tl.trans(B_tile), input_precision="ieee")  # (i, j)
    causal = tokens[:, None] >= tokens[None, :]

    x_tiles = x + start * x_row + tokens[:, None] * x_row + channels[None, :]
    y_tiles = y + start * y_row + tokens[:, None] * y_row + channels[None, :]
    state_tiles = states + slot * n_heads * N * P + rows[:, None] * P + channels[None, :]
    for k in range(HEADS):
        head = first_head + k
        line = head.to(tl.int64) * n_tokens + start + tokens
        step = tl.load(dt + line, mask=inside, other=0.0)
        running = tl.load(sums + line, mask=inside, other=0.0)
        x_tile = tl.load(x_tiles + head * P, mask=inside[:, None], other=0.0)
        state = tl.load(state_tiles + head * N * P)
        out = tl.dot(C_tile, state, input_precision="ieee") * tl.exp2(running)[:, None]
        weights = scores * decay_matrix(running[:, None], running[None, :], causal) * step[None, :]
        out = tl.dot(weights.to(x_tile.dtype), x_tile, acc=out, input_precision="ieee")
        if D is not None:
            out += tl.load(D + head).to(tl.float32) * x_tile.to(tl.float32)
        if z is not None:
            z_tile = z + start * z_row + tokens[:, None] * z_row + channels[None, :] + head * P
            gate = tl.load(z_tile, mask=inside[:, None], other=0.0).to(tl.float32)
            out *= gate * sigmoid(gate)
        tl.store(y_tiles + head * P, out.to(y.dtype.element_ty), mask=inside[:, None])
