"""Every gradient of the SSD, every chunk on its own once both walks are done, and the steps' once both halves are.

The sums over a group's heads stay in registers, and registers are what is scarce: a chunk's work is therefore done
by two programs, one standing at the later token `i` of a pair and one at the earlier token `j`. They start side by
side, so that the second finds what both read in the L2 cache. Tiles named `_ij` have i along rows, `_ji` have j.
"""

from __future__ import annotations

import triton
import triton.language as tl

from promptcot_mamba.ops.ssd.triton_scan import decay_matrix
from promptcot_mamba.ops.triton_common import sigmoid


@triton.jit
def load_rows(pointer, row, mask, WIDTH: tl.constexpr, Q: tl.constexpr):
    """(q, WIDTH) of rows `row` elements apart, zero where `mask` (q) is false."""
    offsets = tl.arange(0, Q)[:, None] * row + tl.arange(0, WIDTH)[None, :]
    return tl.load(pointer + offsets, mask=mask[:, None], other=0.0)


@triton.jit
def store_rows(pointer, row, tile, mask, WIDTH: tl.constexpr, Q: tl.constexpr):
    offsets = tl.arange(0, Q)[:, None] * row + tl.arange(0, WIDTH)[None, :]
    tl.store(pointer + offsets, tile.to(pointer.dtype.element_ty), mask=mask[:, None])


@triton.jit
def load_dy(dy, z, dy_row, z_row, mask, P: tl.constexpr, Q: tl.constexpr):
    """The gradient of y before the gate: dy silu(z), or dy where there is no gate."""
    grad = load_rows(dy, dy_row, mask, P, Q)
    if z is not None:
        gate = load_rows(z, z_row, mask, P, Q).to(tl.float32)
        grad = (grad.to(tl.float32) * gate * sigmoid(gate)).to(grad.dtype)
    return grad


@triton.jit
def load_state(states, index, N: tl.constexpr, P: tl.constexpr):
    """One stored (n, p) tile."""
    return tl.load(states + index * N * P + tl.arange(0, N)[:, None] * P + tl.arange(0, P)[None, :])


@triton.jit
def load_decays(steps, sums, line, length, Q: tl.constexpr):
    """A chunk's steps, their running sums, the same with -inf past the end, and the whole chunk's sum."""
    tokens = tl.arange(0, Q)
    inside = tokens < length
    step = tl.load(steps + line + tokens, mask=inside, other=0.0)
    running = tl.load(sums + line + tokens, mask=inside, other=0.0)
    total = tl.sum(tl.where(tokens == length - 1, running, 0.0), axis=0)
    return step, running, tl.where(inside, running, float("-inf")), total


@triton.jit
def _gradient_of_x(
    x, B, C, D, z, dy, grads, steps, sums, dx, direct, d_log, head_partials,
    slot, group, first_head, start, length, x_row, B_row, C_row, z_row, dy_row, dx_row, n_tokens, n_heads,
    HEADS: tl.constexpr, P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """dx; of the decays, what pairs of tokens and the outgoing state say."""
    tokens = tl.arange(0, Q)
    inside = tokens < length
    B_tile = load_rows(B + start * B_row + group * N, B_row, inside, N, Q)
    C_tile = load_rows(C + start * C_row + group * N, C_row, inside, N, Q)
    scores_ji = tl.dot(B_tile, tl.trans(C_tile), input_precision="ieee")
    for k in range(HEADS):
        head = first_head + k
        line = head.to(tl.int64) * n_tokens + start
        step, running, running_i, total = load_decays(steps, sums, line, length, Q)
        x_tile = load_rows(x + start * x_row + head * P, x_row, inside, P, Q)
        dy_tile = load_dy(
            dy + start * dy_row + head * P, z + start * z_row + head * P if z is not None else None,
            dy_row, z_row, inside, P, Q,
        )  # fmt: skip
        grad = load_state(grads, slot * n_heads + head, N, P)  # of the outgoing state

        weights_ji = scores_ji * decay_matrix(running_i[None, :], running[:, None], tokens[:, None] <= tokens[None, :])
        # A pair's decay counts at every token after j up to i: add at i, take away at j, sum from the end. The
        # diagonal does not decay and stays out; what remains cancels between two copies of one fp32 number.
        pairs_ji = tl.dot(x_tile, tl.trans(dy_tile), input_precision="ieee") * weights_ji * step[:, None]
        pairs_ji = tl.where(tokens[:, None] < tokens[None, :], pairs_ji, 0.0)
        at_tokens = tl.sum(pairs_ji, axis=0) - tl.sum(pairs_ji, axis=1)

        decay_out = tl.exp2(total - running)  # from each token to the chunk's end
        left = tl.dot(B_tile, grad, input_precision="ieee") * decay_out[:, None]
        d_left = tl.sum(left * x_tile.to(tl.float32), axis=1) * step  # counts at every token after j
        dxdt = tl.dot(weights_ji.to(dy_tile.dtype), dy_tile, acc=left, input_precision="ieee")
        decays = tl.cumsum(at_tokens, axis=0, reverse=True) + (tl.cumsum(d_left, axis=0) - d_left)
        tl.store(d_log + line + tokens, decays, mask=inside)
        tl.store(direct + line + tokens, tl.sum(dxdt * x_tile.to(tl.float32), axis=1), mask=inside)
        dx_tile = dxdt * step[:, None]
        if D is not None:
            dx_tile += tl.load(D + head).to(tl.float32) * dy_tile.to(tl.float32)
            skipped = tl.sum(tl.sum(dy_tile.to(tl.float32) * x_tile.to(tl.float32), axis=1), axis=0)
            tl.store(head_partials + (slot * 3 + 1) * n_heads + head, skipped)
        store_rows(dx + start * dx_row + head * P, dx_row, dx_tile, inside, P, Q)


@triton.jit
def _gradient_of_B(
    x, C, z, dy, grads, steps, sums, dB,
    slot, group, first_head, start, length, x_row, C_row, z_row, dy_row, dB_row, n_tokens, n_heads,
    HEADS: tl.constexpr, P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    tokens = tl.arange(0, Q)
    inside = tokens < length
    dscores_ji = tl.zeros([Q, Q], tl.float32)
    dB_sum = tl.zeros([Q, N], tl.float32)
    for k in range(HEADS):
        head = first_head + k
        line = head.to(tl.int64) * n_tokens + start
        step, running, running_i, total = load_decays(steps, sums, line, length, Q)
        x_tile = load_rows(x + start * x_row + head * P, x_row, inside, P, Q)
        dy_tile = load_dy(
            dy + start * dy_row + head * P, z + start * z_row + head * P if z is not None else None,
            dy_row, z_row, inside, P, Q,
        )  # fmt: skip
        grad = load_state(grads, slot * n_heads + head, N, P)
        decays_ji = decay_matrix(running_i[None, :], running[:, None], tokens[:, None] <= tokens[None, :])
        dscores_ji += tl.dot(x_tile, tl.trans(dy_tile), input_precision="ieee") * decays_ji * step[:, None]
        kept = (x_tile.to(tl.float32) * (tl.exp2(total - running) * step)[:, None]).to(x_tile.dtype)
        dB_sum = tl.dot(kept, tl.trans(grad), acc=dB_sum, input_precision="ieee")
    C_tile = load_rows(C + start * C_row + group * N, C_row, inside, N, Q)
    dB_sum = tl.dot(dscores_ji.to(C_tile.dtype), C_tile, acc=dB_sum, input_precision="ieee")
    store_rows(dB + start * dB_row + group * N, dB_row, dB_sum, inside, N, Q)


@triton.jit
def _gradient_of_C(
    x, B, C, D, z, dy, states, grads, steps, sums, dC, dz, d_log,
    slot, group, first_head, start, length, x_row, B_row, C_row, z_row, dy_row, dC_row, dz_row, n_tokens, n_heads,
    HEADS: tl.constexpr, P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """dC and dz; of the decays, what the entering state says, read by tokens or passed on."""
    tokens = tl.arange(0, Q)
    inside = tokens < length
    C_tile = load_rows(C + start * C_row + group * N, C_row, inside, N, Q)
    if z is not None:
        B_tile = load_rows(B + start * B_row + group * N, B_row, inside, N, Q)
        scores_ij = tl.dot(C_tile, tl.trans(B_tile), input_precision="ieee")
    dscores_ij = tl.zeros([Q, Q], tl.float32)
    dC_sum = tl.zeros([Q, N], tl.float32)
    for k in range(HEADS):
        head = first_head + k
        line = head.to(tl.int64) * n_tokens + start
        step, running, running_i, total = load_decays(steps, sums, line, length, Q)
        x_tile = load_rows(x + start * x_row + head * P, x_row, inside, P, Q)
        dy_tile = load_dy(
            dy + start * dy_row + head * P, z + start * z_row + head * P if z is not None else None,
            dy_row, z_row, inside, P, Q,
        )  # fmt: skip
        state = load_state(states, slot * n_heads + head, N, P)  # entering the chunk
        grad = load_state(grads, slot * n_heads + head, N, P)
        passed = tl.sum(tl.sum(state.to(tl.float32) * grad.to(tl.float32), axis=1), axis=0) * tl.exp2(total)

        decays_ij = decay_matrix(running_i[:, None], running[None, :], tokens[:, None] >= tokens[None, :])
        decays_ij *= step[None, :]
        dscores_ij += tl.dot(dy_tile, tl.trans(x_tile), input_precision="ieee") * decays_ij
        decay_in = tl.exp2(running)  # of the entering state, at each token
        read = tl.dot(C_tile, state, input_precision="ieee") * decay_in[:, None]
        d_read = tl.sum(read * dy_tile.to(tl.float32), axis=1)  # counts at every token up to i
        tl.store(d_log + line + tokens, tl.cumsum(d_read, axis=0, reverse=True) + passed, mask=inside)
        entering = (dy_tile.to(tl.float32) * decay_in[:, None]).to(dy_tile.dtype)
        dC_sum = tl.dot(entering, tl.trans(state), acc=dC_sum, input_precision="ieee")

        if z is not None:
            y_tile = tl.dot((scores_ij * decays_ij).to(x_tile.dtype), x_tile, acc=read, input_precision="ieee")
            if D is not None:
                y_tile += tl.load(D + head).to(tl.float32) * x_tile.to(tl.float32)
            gate = load_rows(z + start * z_row + head * P, z_row, inside, P, Q).to(tl.float32)
            dout = load_rows(dy + start * dy_row + head * P, dy_row, inside, P, Q).to(tl.float32)
            gate_open = sigmoid(gate)
            dz_tile = dout * y_tile * (gate_open * (1.0 + gate * (1.0 - gate_open)))
            store_rows(dz + start * dz_row + head * P, dz_row, dz_tile, inside, P, Q)
    B_tile = load_rows(B + start * B_row + group * N, B_row, inside, N, Q)
    dC_sum = tl.dot(dscores_ij.to(B_tile.dtype), B_tile, acc=dC_sum, input_precision="ieee")
    store_rows(dC + start * dC_row + group * N, dC_row, dC_sum, inside, N, Q)


@triton.jit
def chunk_gradients_kernel(
    x, B, C, D, z, dy, states, grads, steps, sums, starts, lengths,
    dx, dB, dC, dz, direct, d_log, head_partials,
    x_row, B_row, C_row, z_row, dy_row, dx_row, dB_row, dC_row, dz_row, dBC_split, n_tokens, n_heads,
    HEADS_PER_GROUP: tl.constexpr, HEADS: tl.constexpr, P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """Gradients of x, B, C, z, each chunk's share of D's, and what `step_gradients_kernel` needs for the rest.

    Grid: (3 * chunks, h / HEADS). direct: (h, tokens) fp32, the gradient of each step with the decays held fixed;
    d_log: (2, h, tokens) fp32, the two programs' parts of the gradient of `dt A`; head_partials: (chunks, 3, h).
    dB and dC hold one copy per split of a group's heads, `dBC_split` elements apart.
    """
    slot = (tl.program_id(0) // 3).to(tl.int64)
    role = tl.program_id(0) % 3
    first_head = tl.program_id(1) * HEADS
    group = first_head // HEADS_PER_GROUP
    copy = (first_head % HEADS_PER_GROUP // HEADS) * dBC_split
    start = tl.load(starts + slot)
    length = tl.load(lengths + slot)
    if role == 0:
        _gradient_of_x(
            x, B, C, D, z, dy, grads, steps, sums, dx, direct, d_log, head_partials,
            slot, group, first_head, start, length, x_row, B_row, C_row, z_row, dy_row, dx_row, n_tokens, n_heads,
            HEADS, P, N, Q,
        )  # fmt: skip
    elif role == 1:
        _gradient_of_B(
            x, C, z, dy, grads, steps, sums, dB + copy,
            slot, group, first_head, start, length, x_row, C_row, z_row, dy_row, dB_row, n_tokens, n_heads,
            HEADS, P, N, Q,
        )  # fmt: skip
    else:
        _gradient_of_C(
            x, B, C, D, z, dy, states, grads, steps, sums, dC + copy, dz, d_log + n_heads.to(tl.int64) * n_tokens,
            slot, group, first_head, start, length, x_row, B_row, C_row, z_row, dy_row, dC_row, dz_row,
            n_tokens, n_heads, HEADS, P, N, Q,
        )  # fmt: skip


@triton.jit
def step_gradients_kernel(
    dt, dt_bias, A, steps, direct, d_log, starts, lengths, ddt, head_partials,
    dt_row, ddt_row, n_tokens, n_heads, dt_min, dt_max,
    BLOCK_HEADS: tl.constexpr, Q: tl.constexpr, SOFTPLUS: tl.constexpr, LIMITED: tl.constexpr,
):  # fmt: skip
    """The gradient of dt, and each chunk's share of those of A and dt_bias. Grid: (chunks, h / BLOCK_HEADS)."""
    slot = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    start = tl.load(starts + slot)
    length = tl.load(lengths + slot)
    tokens = tl.arange(0, Q)
    known = heads < n_heads
    mask = (tokens < length)[:, None] & known[None, :]
    lines = heads.to(tl.int64)[None, :] * n_tokens + start + tokens[:, None]
    step = tl.load(steps + lines, mask=mask, other=0.0)
    decay = tl.load(d_log + lines, mask=mask, other=0.0)
    decay += tl.load(d_log + n_heads.to(tl.int64) * n_tokens + lines, mask=mask, other=0.0)
    rate = tl.load(A + heads, mask=known, other=0.0).to(tl.float32)
    grad = tl.load(direct + lines, mask=mask, other=0.0) + rate[None, :] * decay
    raw = tl.load(dt + (start + tokens[:, None]) * dt_row + heads[None, :], mask=mask, other=0.0).to(tl.float32)
    if dt_bias is not None:
        raw += tl.load(dt_bias + heads, mask=known, other=0.0).to(tl.float32)[None, :]
    if LIMITED:
        grad = tl.where((step > dt_min) & (step < dt_max), grad, 0.0)
    if SOFTPLUS:
        grad *= sigmoid(raw)
    tl.store(ddt + (start + tokens[:, None]) * ddt_row + heads[None, :], grad.to(ddt.dtype.element_ty), mask=mask)
    partials = head_partials + slot * 3 * n_heads + heads
    tl.store(partials, tl.sum(decay * step, axis=0), mask=known)
    tl.store(partials + 2 * n_heads, tl.sum(grad, axis=0), mask=known)
