"""The SSD's outputs, every chunk on its own once its incoming state is known."""

import triton
import triton.language as tl

from promptcot_mamba.ops.ssd.triton_tiles import (
    decay_matrix,
    load_decays,
    load_rows,
    load_state,
    not_before,
    store_rows,
)
from promptcot_mamba.ops.triton_common import sigmoid


@triton.jit
def chunk_scan_kernel(
    x, dt, sums, B, C, states, D, z, y, starts, lengths,
    x_row, B_row, C_row, z_row, y_row, n_tokens, n_heads,
    HEADS_PER_GROUP: tl.constexpr, HEADS: tl.constexpr, P: tl.constexpr, BLOCK_P: tl.constexpr, N: tl.constexpr,
    Q: tl.constexpr,
):  # fmt: skip
    """y_i = sum_(j <= i) (C_i . B_j) exp(s_i - s_j) dt_j x_j + exp(s_i) C_i state + D x_i, gated by silu(z_i).

    Grid: (chunks, h / HEADS). A program takes HEADS heads of one group, so the (q, q) products C B^T are made once
    and stay in registers while head after head passes, BLOCK_P channels at a time.
    """
    slot = tl.program_id(0).to(tl.int64)
    first_head = tl.program_id(1) * HEADS
    group = first_head // HEADS_PER_GROUP
    start = tl.load(starts + slot)
    length = tl.load(lengths + slot).to(tl.int32)
    tokens = tl.arange(0, Q)
    B_tile = load_rows(B + start * B_row + group * N, B_row, length, N, Q)
    C_tile = load_rows(C + start * C_row + group * N, C_row, length, N, Q)
    scores = tl.dot(C_tile, tl.trans(B_tile), input_precision="ieee")  # (i, j)
    for k in range(HEADS):
        head = first_head + k
        step, running, _, _ = load_decays(dt, sums, head.to(tl.int64) * n_tokens + start, length, Q)
        weights = scores * decay_matrix(running[:, None], running[None, :], not_before(tokens, tokens, k))
        weights = (weights * step[None, :]).to(x.dtype.element_ty)
        for part in range(P // BLOCK_P):
            first = head * P + part * BLOCK_P
            x_tile = load_rows(x + start * x_row + first, x_row, length, BLOCK_P, Q)
            state = load_state(states, slot * n_heads + head, part, N, P, BLOCK_P)
            out = tl.dot(C_tile, state, input_precision="ieee") * tl.exp2(running)[:, None]
            out = tl.dot(weights, x_tile, acc=out, input_precision="ieee")
            if D is not None:
                out += tl.load(D + head).to(tl.float32) * x_tile.to(tl.float32)
            if z is not None:
                gate = load_rows(z + start * z_row + first, z_row, length, BLOCK_P, Q).to(tl.float32)
                out *= gate * sigmoid(gate)
            store_rows(y + start * y_row + first, y_row, out, tokens < length, BLOCK_P, Q)
