"""The one sequential part of the SSD: states handed from chunk to chunk, forwards, and their gradients, backwards.

Both directions are the same sum with other letters (docs/ssd.md): with `s` the sum of `dt A` inside a chunk,

    state_out = exp(s_last) state_in  + sum_j exp(s_last - s_j) dt_j B_j x_j^T     forwards over the chunks
    grad_in   = exp(s_last) grad_out  + sum_i exp(s_i) C_i dy_i^T                  backwards

One program owns a document, a head and a slice of its channels, keeps the (n, p) sum in fp32 registers and stores
what enters each chunk. The backward pass runs both directions in one launch, since neither waits for the other.
"""

import triton
import triton.language as tl

from promptcot_mamba.ops.ssd.triton_tiles import activate_dt, load_rows, load_slice
from promptcot_mamba.ops.triton_common import LOG2E, sigmoid


@triton.jit
def _walk_forward(
    x, dt, A, dt_bias, B, initial, states, final, dt_out, sums_out,
    head, group, document, first_slot, n_chunks, doc_start, doc_end, channels, owner,
    x_row, dt_row, B_row, n_tokens, n_heads, dt_min, dt_max,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, SOFTPLUS: tl.constexpr, LIMITED: tl.constexpr,
):  # fmt: skip
    tokens = tl.arange(0, Q)
    rows = tl.arange(0, N)
    decay_rate = tl.load(A + head).to(tl.float32) * LOG2E  # sums are kept in units of log 2: exp2 is one instruction
    bias = 0.0
    if dt_bias is not None:
        bias = tl.load(dt_bias + head).to(tl.float32)
    tile = rows[:, None] * P + channels[None, :]  # (n, p) of a stored state
    outer = (document * n_heads + head) * P * N + channels[None, :] * N + rows[:, None]  # of a (docs, h, p, n) tensor
    if initial is not None:
        state = tl.load(initial + outer).to(tl.float32)
    else:
        state = tl.zeros([N, channels.shape[0]], tl.float32)
    raw = tl.load(dt + (doc_start + tokens) * dt_row + head, mask=tokens < doc_end - doc_start, other=0.0)
    for c in range(n_chunks):
        start = doc_start + c * Q
        inside = tokens < doc_end - start
        states_tile = states + ((first_slot + c) * n_heads + head) * N * P + tile
        tl.store(states_tile, state.to(states.dtype.element_ty))
        step = activate_dt(raw, bias, inside, dt_min, dt_max, SOFTPLUS, LIMITED)
        # The next chunk's steps travel while this chunk is worked on: too narrow for the pipeliner's copies.
        ahead = start + Q
        raw = tl.load(dt + (ahead + tokens) * dt_row + head, mask=tokens < doc_end - ahead, other=0.0)
        sums = tl.cumsum(step * decay_rate, axis=0)
        total = tl.sum(step * decay_rate, axis=0)
        if owner:
            here = head.to(tl.int64) * n_tokens + start + tokens
            tl.store(dt_out + here, step, mask=inside)
            tl.store(sums_out + here, sums, mask=inside)
        rows_left = tl.minimum(doc_end - start, Q).to(tl.int32)
        x_tile = load_slice(x + start * x_row + head * P, x_row, channels, rows_left, Q)
        B_tile = load_rows(B + start * B_row + group * N, B_row, rows_left, N, Q)
        weight = step * tl.exp2(total - sums)
        kept = (x_tile.to(tl.float32) * weight[:, None]).to(x_tile.dtype)
        state = tl.dot(tl.trans(B_tile), kept, acc=state * tl.exp2(total), input_precision="ieee")
    if final is not None:
        tl.store(final + outer, state)


@triton.jit
def _walk_backward(
    dy, z, dt, A, dt_bias, C, dfinal, grads, dinitial,
    head, group, document, first_slot, n_chunks, doc_start, doc_end, channels,
    dy_row, z_row, dt_row, C_row, n_heads, dt_min, dt_max,
    P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, SOFTPLUS: tl.constexpr, LIMITED: tl.constexpr,
):  # fmt: skip
    tokens = tl.arange(0, Q)
    rows = tl.arange(0, N)
    decay_rate = tl.load(A + head).to(tl.float32) * LOG2E
    bias = 0.0
    if dt_bias is not None:
        bias = tl.load(dt_bias + head).to(tl.float32)
    tile = rows[:, None] * P + channels[None, :]
    outer = (document * n_heads + head) * P * N + channels[None, :] * N + rows[:, None]
    if dfinal is not None:
        grad = tl.load(dfinal + outer).to(tl.float32)
    else:
        grad = tl.zeros([N, channels.shape[0]], tl.float32)
    last = doc_start + (n_chunks - 1) * Q
    raw = tl.load(dt + (last + tokens) * dt_row + head, mask=tokens < doc_end - last, other=0.0)
    for back in range(n_chunks):
        c = n_chunks - 1 - back
        start = doc_start + c * Q
        inside = tokens < doc_end - start
        grads_tile = grads + ((first_slot + c) * n_heads + head) * N * P + tile
        tl.store(grads_tile, grad.to(grads.dtype.element_ty))
        step = activate_dt(raw, bias, inside, dt_min, dt_max, SOFTPLUS, LIMITED)
        raw = tl.load(dt + (start - Q + tokens) * dt_row + head, mask=(start - Q + tokens) >= doc_start, other=0.0)
        sums = tl.cumsum(step * decay_rate, axis=0)
        total = tl.sum(step * decay_rate, axis=0)
        rows_left = tl.minimum(doc_end - start, Q).to(tl.int32)
        dy_tile = load_slice(dy + start * dy_row + head * P, dy_row, channels, rows_left, Q)
        if z is not None:
            gate = load_slice(z + start * z_row + head * P, z_row, channels, rows_left, Q).to(tl.float32)
            dy_tile = (dy_tile.to(tl.float32) * gate * sigmoid(gate)).to(dy_tile.dtype)
        C_tile = load_rows(C + start * C_row + group * N, C_row, rows_left, N, Q)
        decay_in = tl.where(inside, tl.exp2(sums), 0.0)
        entering = (dy_tile.to(tl.float32) * decay_in[:, None]).to(dy_tile.dtype)
        grad = tl.dot(tl.trans(C_tile), entering, acc=grad * tl.exp2(total), input_precision="ieee")
    if dinitial is not None:
        tl.store(dinitial + outer, grad)


@triton.jit
def state_walk_kernel(
    x, dt, A, dt_bias, B, initial, states, final, dt_out, sums_out,
    dy, z, C, dfinal, grads, dinitial,
    starts, lengths, first_chunks,
    x_row, dt_row, B_row, dy_row, z_row, C_row, n_tokens, n_heads, dt_min, dt_max,
    HEADS_PER_GROUP: tl.constexpr, P: tl.constexpr, N: tl.constexpr, BLOCK_P: tl.constexpr, Q: tl.constexpr,
    SOFTPLUS: tl.constexpr, LIMITED: tl.constexpr,
):  # fmt: skip
    """Store the state that enters every chunk, and with `grads` the gradient of the state that leaves it.

    Grid: (h * p / BLOCK_P, docs, 1 or 2 directions). states, grads: (chunks, h, n, p) in the dtype of x; dt_out and
    sums_out: (h, tokens) fp32, the activated steps and their running sums of `dt A / log 2` from each chunk's start.
    """
    head = tl.program_id(0) // (P // BLOCK_P)
    channels = tl.program_id(0) % (P // BLOCK_P) * BLOCK_P + tl.arange(0, BLOCK_P)
    owner = tl.program_id(0) % (P // BLOCK_P) == 0  # writes what a head's slices have in common
    group = head // HEADS_PER_GROUP
    document = tl.program_id(1).to(tl.int64)
    first_slot = tl.load(first_chunks + document)
    last_slot = tl.load(first_chunks + document + 1) - 1
    n_chunks = (last_slot - first_slot + 1).to(tl.int32)
    doc_start = tl.load(starts + first_slot)
    doc_end = tl.load(starts + last_slot) + tl.load(lengths + last_slot)
    if tl.program_id(2) == 0:
        _walk_forward(
            x, dt, A, dt_bias, B, initial, states, final, dt_out, sums_out,
            head, group, document, first_slot, n_chunks, doc_start, doc_end, channels, owner,
            x_row, dt_row, B_row, n_tokens, n_heads, dt_min, dt_max, P, N, Q, SOFTPLUS, LIMITED,
        )  # fmt: skip
    elif grads is not None:
        _walk_backward(
            dy, z, dt, A, dt_bias, C, dfinal, grads, dinitial,
            head, group, document, first_slot, n_chunks, doc_start, doc_end, channels,
            dy_row, z_row, dt_row, C_row, n_heads, dt_min, dt_max, P, N, Q, SOFTPLUS, LIMITED,
        )  # fmt: skip
