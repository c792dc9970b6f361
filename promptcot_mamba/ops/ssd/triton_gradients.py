"""Every gradient of the SSD, every chunk on its own once both walks are done, and the steps' once both halves are.

The sums over a group's heads stay in registers, and registers are what is scarce: four programs share the work of a
chunk and a group, for x, for B, for C, and for what the entering state says of the decays. They start side by side,
so that what one has read the others find in the L2 cache. In tiles named `_ij` the later token i of a pair runs along
rows, in `_ji` the earlier token j.
"""

import triton
import triton.language as tl

from promptcot_mamba.ops.ssd.triton_tiles import (
    decay_matrix,
    is_same,
    load_decays,
    load_dy,
    load_rows,
    load_state,
    not_after,
    not_before,
    store_rows,
)
from promptcot_mamba.ops.triton_common import sigmoid


@triton.jit
def _gradient_of_x(
    x, B, C, D, z, dy, grads, steps, sums, dx, direct, d_log, head_partials,
    slot, group, first_head, start, length, x_row, B_row, C_row, z_row, dy_row, dx_row, n_tokens, n_heads,
    DIAGONAL: tl.constexpr,
    HEADS: tl.constexpr, P: tl.constexpr, BLOCK_P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """dx; of the decays, what pairs of tokens and the outgoing state say; D's gradient.

    `DIAGONAL`: the last off the pairs' products, in fewest registers; triton 3.7.1 does not compile that for sm_100.
    """
    tokens = tl.arange(0, Q)
    inside = tokens < length
    B_tile = load_rows(B + start * B_row + group * N, B_row, length, N, Q)
    C_tile = load_rows(C + start * C_row + group * N, C_row, length, N, Q)
    scores_ji = tl.dot(B_tile, tl.trans(C_tile), input_precision="ieee")
    for k in range(HEADS):
        head = first_head + k
        line = head.to(tl.int64) * n_tokens + start
        step, running, running_i, total = load_decays(steps, sums, line, length, Q)
        weights_ji = scores_ji * decay_matrix(running_i[None, :], running[:, None], not_after(tokens, tokens, k))
        products_ji = tl.zeros([Q, Q], tl.float32)
        for part in range(P // BLOCK_P):
            first = head * P + part * BLOCK_P
            x_tile = load_rows(x + start * x_row + first, x_row, length, BLOCK_P, Q)
            dy_tile = load_dy(dy, z, start, first, dy_row, z_row, length, BLOCK_P, Q)
            products_ji = tl.dot(x_tile, tl.trans(dy_tile), acc=products_ji, input_precision="ieee")
        same = tl.zeros([Q], tl.float32)  # dy_j . x_j, which D's gradient is the sum of
        if D is not None and DIAGONAL:
            same = tl.sum(tl.where(is_same(tokens, k), products_ji, 0.0), axis=1)
            tl.store(head_partials + (slot * 3 + 1) * n_heads + head, tl.sum(tl.where(inside, same, 0.0), axis=0))
        # A pair's decay counts at every token after j up to i: add at i, take away at j, sum from the end. The
        # diagonal does not decay and stays out; what remains cancels between two copies of one fp32 number.
        pairs_ji = tl.where(not_after(tokens, tokens - 1, k), products_ji * weights_ji * step[:, None], 0.0)
        at_tokens = tl.sum(pairs_ji, axis=0) - tl.sum(pairs_ji, axis=1)

        decay_out = tl.exp2(total - running)  # from each token to the chunk's end
        d_left = tl.zeros([Q], tl.float32)
        d_step = tl.zeros([Q], tl.float32)
        for part in range(P // BLOCK_P):
            first = head * P + part * BLOCK_P
            # Read again, out of the L2 cache: kept since the products they would not fit the registers.
            x_tile = load_rows(x + start * x_row + first, x_row, length, BLOCK_P, Q)
            dy_tile = load_dy(dy, z, start, first, dy_row, z_row, length, BLOCK_P, Q)
            grad = load_state(grads, slot * n_heads + head, part, N, P, BLOCK_P)  # of the outgoing state
            left = tl.dot(B_tile, grad, input_precision="ieee") * decay_out[:, None]
            d_left += tl.sum(left * x_tile.to(tl.float32), axis=1)
            dxdt = tl.dot(weights_ji.to(dy_tile.dtype), dy_tile, acc=left, input_precision="ieee")
            d_step += tl.sum(dxdt * x_tile.to(tl.float32), axis=1)
            dx_tile = dxdt * step[:, None]
            if D is not None:
                dx_tile += tl.load(D + head).to(tl.float32) * dy_tile.to(tl.float32)
                if not DIAGONAL:
                    same += tl.sum(x_tile.to(tl.float32) * dy_tile.to(tl.float32), axis=1)
            store_rows(dx + start * dx_row + first, dx_row, dx_tile, inside, BLOCK_P, Q)
        if D is not None and not DIAGONAL:
            tl.store(head_partials + (slot * 3 + 1) * n_heads + head, tl.sum(tl.where(inside, same, 0.0), axis=0))
        d_left *= step  # counts at every token after j
        decays = tl.cumsum(at_tokens, axis=0, reverse=True) + (tl.cumsum(d_left, axis=0) - d_left)
        tl.store(d_log + line + tokens, decays, mask=inside)
        tl.store(direct + line + tokens, d_step, mask=inside)


@triton.jit
def _gradient_of_B_or_C(
    x, other, z, dy, states, steps, sums, out,
    slot, group, first_head, start, length, x_row, other_row, z_row, dy_row, out_row, n_tokens, n_heads,
    OF_B: tl.constexpr, PAIRS_FIRST: tl.constexpr,
    HEADS: tl.constexpr, P: tl.constexpr, BLOCK_P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """dB from pairs with later tokens and the outgoing state's gradient; dC from earlier ones and the entering state.

    `other` is C for dB and B for dC, `states` the outgoing states' gradients for dB and the entering states for dC.
    Rows of the (q, q) tiles are the tokens whose gradient it is. The two products of the inner loop do not depend on
    one another, but the compiler gives one's layout of warps to the other. On mma.sync the square one (q, q) must not
    be the one: each warp would hold a whole row of (q, n), four times over.
    """
    tokens = tl.arange(0, Q)
    dscores = tl.zeros([Q, Q], tl.float32)
    total = tl.zeros([Q, N], tl.float32)
    for k in range(HEADS):
        head = first_head + k
        line = head.to(tl.int64) * n_tokens + start
        step, running, running_i, last = load_decays(steps, sums, line, length, Q)
        products = tl.zeros([Q, Q], tl.float32)
        for part in range(P // BLOCK_P):
            first = head * P + part * BLOCK_P
            x_tile = load_rows(x + start * x_row + first, x_row, length, BLOCK_P, Q)
            dy_tile = load_dy(dy, z, start, first, dy_row, z_row, length, BLOCK_P, Q)
            state = load_state(states, slot * n_heads + head, part, N, P, BLOCK_P)
            if OF_B:
                if PAIRS_FIRST:
                    products = tl.dot(x_tile, tl.trans(dy_tile), acc=products, input_precision="ieee")
                kept = (x_tile.to(tl.float32) * (tl.exp2(last - running) * step)[:, None]).to(x_tile.dtype)
                total = tl.dot(kept, tl.trans(state), acc=total, input_precision="ieee")
                if not PAIRS_FIRST:
                    products = tl.dot(x_tile, tl.trans(dy_tile), acc=products, input_precision="ieee")
            else:
                if PAIRS_FIRST:
                    products = tl.dot(dy_tile, tl.trans(x_tile), acc=products, input_precision="ieee")
                entering = (dy_tile.to(tl.float32) * tl.exp2(running_i)[:, None]).to(dy_tile.dtype)
                total = tl.dot(entering, tl.trans(state), acc=total, input_precision="ieee")
                if not PAIRS_FIRST:
                    products = tl.dot(dy_tile, tl.trans(x_tile), acc=products, input_precision="ieee")
        if OF_B:
            decays = decay_matrix(running_i[None, :], running[:, None], not_after(tokens, tokens, k))
            dscores += products * (decays * step[:, None])
        else:
            decays = decay_matrix(running_i[:, None], running[None, :], not_before(tokens, tokens, k))
            dscores += products * (decays * step[None, :])
    other_tile = load_rows(other + start * other_row + group * N, other_row, length, N, Q)
    total = tl.dot(dscores.to(other_tile.dtype), other_tile, acc=total, input_precision="ieee")
    store_rows(out + start * out_row + group * N, out_row, total, tokens < length, N, Q)


@triton.jit
def _gradient_from_state(
    x, B, C, D, z, dy, states, grads, steps, sums, dz, d_log,
    slot, group, first_head, start, length, x_row, B_row, C_row, z_row, dy_row, dz_row, n_tokens, n_heads,
    HEADS: tl.constexpr, P: tl.constexpr, BLOCK_P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    """Of the decays, what the entering state says, read by tokens or passed on; and dz, which needs all of y."""
    tokens = tl.arange(0, Q)
    inside = tokens < length
    C_tile = load_rows(C + start * C_row + group * N, C_row, length, N, Q)
    if z is not None:
        B_tile = load_rows(B + start * B_row + group * N, B_row, length, N, Q)
        scores_ij = tl.dot(C_tile, tl.trans(B_tile), input_precision="ieee")
    for k in range(HEADS):
        head = first_head + k
        line = head.to(tl.int64) * n_tokens + start
        step, running, running_i, total = load_decays(steps, sums, line, length, Q)
        passed = 0.0
        d_read = tl.zeros([Q], tl.float32)  # counts at every token up to i
        if z is not None:
            decays = decay_matrix(running_i[:, None], running[None, :], not_before(tokens, tokens, k)) * step[None, :]
            weights = (scores_ij * decays).to(x.dtype.element_ty)
        for part in range(P // BLOCK_P):
            first = head * P + part * BLOCK_P
            dy_tile = load_dy(dy, z, start, first, dy_row, z_row, length, BLOCK_P, Q)
            state = load_state(states, slot * n_heads + head, part, N, P, BLOCK_P)  # entering the chunk
            grad = load_state(grads, slot * n_heads + head, part, N, P, BLOCK_P)  # of the state leaving it
            passed += tl.sum(tl.sum(state.to(tl.float32) * grad.to(tl.float32), axis=1), axis=0)
            read = tl.dot(C_tile, state, input_precision="ieee") * tl.exp2(running_i)[:, None]
            d_read += tl.sum(read * dy_tile.to(tl.float32), axis=1)
            if z is not None:
                x_tile = load_rows(x + start * x_row + first, x_row, length, BLOCK_P, Q)
                y_tile = tl.dot(weights, x_tile, acc=read, input_precision="ieee")
                if D is not None:
                    y_tile += tl.load(D + head).to(tl.float32) * x_tile.to(tl.float32)
                gate = load_rows(z + start * z_row + first, z_row, length, BLOCK_P, Q).to(tl.float32)
                dout = load_rows(dy + start * dy_row + first, dy_row, length, BLOCK_P, Q).to(tl.float32)
                gate_open = sigmoid(gate)
                dz_tile = dout * y_tile * (gate_open * (1.0 + gate * (1.0 - gate_open)))
                store_rows(dz + start * dz_row + first, dz_row, dz_tile, inside, BLOCK_P, Q)
        decays_in = tl.cumsum(d_read, axis=0, reverse=True) + passed * tl.exp2(total)
        tl.store(d_log + line + tokens, decays_in, mask=inside)


@triton.jit
def chunk_gradients_kernel(
    x, B, C, D, z, dy, states, grads, steps, sums, starts, lengths,
    dx, dB, dC, dz, direct, d_log, head_partials,
    x_row, B_row, C_row, z_row, dy_row, dx_row, dB_row, dC_row, dz_row, dBC_split, n_tokens, n_heads,
    HEADS_PER_GROUP: tl.constexpr, HEADS: tl.constexpr, P: tl.constexpr, BLOCK_P: tl.constexpr, N: tl.constexpr,
    Q: tl.constexpr, PAIRS_FIRST: tl.constexpr, DIAGONAL: tl.constexpr,
):  # fmt: skip
    """Gradients of x, B, C, z, each chunk's share of D's, and what `step_gradients_kernel` needs for the rest.

    Grid: (4 * chunks, h / HEADS). direct: (h, tokens) fp32, the gradient of each step with the decays held fixed;
    d_log: (2, h, tokens) fp32, two programs' parts of the gradient of `dt A`; head_partials: (chunks, 3, h).
    dB and dC hold one copy per split of a group's heads, `dBC_split` elements apart.
    """
    slot = (tl.program_id(0) // 4).to(tl.int64)
    role = tl.program_id(0) % 4
    first_head = tl.program_id(1) * HEADS
    group = first_head // HEADS_PER_GROUP
    copy = (first_head % HEADS_PER_GROUP // HEADS) * dBC_split
    start = tl.load(starts + slot)
    length = tl.load(lengths + slot).to(tl.int32)
    if role == 0:
        _gradient_of_x(
            x, B, C, D, z, dy, grads, steps, sums, dx, direct, d_log, head_partials,
            slot, group, first_head, start, length, x_row, B_row, C_row, z_row, dy_row, dx_row, n_tokens, n_heads,
            DIAGONAL, HEADS, P, BLOCK_P, N, Q,
        )  # fmt: skip
    elif role == 1:
        _gradient_of_B_or_C(
            x, C, z, dy, grads, steps, sums, dB + copy,
            slot, group, first_head, start, length, x_row, C_row, z_row, dy_row, dB_row, n_tokens, n_heads,
            True, PAIRS_FIRST, HEADS, P, BLOCK_P, N, Q,
        )  # fmt: skip
    elif role == 2:
        _gradient_of_B_or_C(
            x, B, z, dy, states, steps, sums, dC + copy,
            slot, group, first_head, start, length, x_row, B_row, z_row, dy_row, dC_row, n_tokens, n_heads,
            False, PAIRS_FIRST, HEADS, P, BLOCK_P, N, Q,
        )  # fmt: skip
    else:
        _gradient_from_state(
            x, B, C, D, z, dy, states, grads, steps, sums, dz, d_log + n_heads.to(tl.int64) * n_tokens,
            slot, group, first_head, start, length, x_row, B_row, C_row, z_row, dy_row, dz_row, n_tokens, n_heads,
            HEADS, P, BLOCK_P, N, Q,
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
