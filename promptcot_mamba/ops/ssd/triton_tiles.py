"""Device functions the SSD kernels share: tiles of tokens and states in and out, step sizes, decays, masks."""

import triton
import triton.language as tl

from promptcot_mamba.ops.triton_common import sigmoid, softplus


@triton.jit
def activate_dt(raw, bias, mask, dt_min, dt_max, SOFTPLUS: tl.constexpr, LIMITED: tl.constexpr):
    """The step size (q) in fp32; exactly 0 past the chunk's end, so that those tokens neither decay nor add."""
    dt = raw.to(tl.float32) + bias
    if SOFTPLUS:
        dt = softplus(dt)
    if LIMITED:
        dt = tl.minimum(tl.maximum(dt, dt_min), dt_max)
    return tl.where(mask, dt, 0.0)


@triton.jit
def decay_matrix(sums_i, sums_j, keep):
    """exp(s_i - s_j) where `keep`, 0 elsewhere; masked before the exponential, which would overflow above."""
    return tl.exp2(tl.where(keep, sums_i - sums_j, float("-inf")))


@triton.jit
def load_rows(pointer, row, length, WIDTH: tl.constexpr, Q: tl.constexpr):
    """(q, WIDTH) of rows `row` elements apart; past the chunk's end its last row again, which costs no mask.

    What those repeated rows stand for is undone by their step of 0 and their decay of exp(-inf).
    """
    return load_slice(pointer, row, tl.arange(0, WIDTH), length, Q)


@triton.jit
def load_slice(pointer, row, channels, length, Q: tl.constexpr):
    """The same for some of a row's channels."""
    rows = tl.minimum(tl.arange(0, Q), length - 1)
    return tl.load(pointer + rows[:, None] * row + channels[None, :])


@triton.jit
def store_rows(pointer, row, tile, mask, WIDTH: tl.constexpr, Q: tl.constexpr):
    offsets = tl.arange(0, Q)[:, None] * row + tl.arange(0, WIDTH)[None, :]
    tl.store(pointer + offsets, tile.to(pointer.dtype.element_ty), mask=mask[:, None])


# The masks below add `k`, the loop's counter, to both sides: to the compiler they then change from head to head, and it
# compares again instead of keeping a predicate per element in the registers that the sums over heads need.


@triton.jit
def not_after(rows, columns, k):
    return (rows + k)[:, None] <= (columns + k)[None, :]


@triton.jit
def not_before(rows, columns, k):
    return (rows + k)[:, None] >= (columns + k)[None, :]


@triton.jit
def is_same(tokens, k):
    return (tokens + k)[:, None] == (tokens + k)[None, :]


@triton.jit
def load_dy(dy, z, start, first, dy_row, z_row, length, WIDTH: tl.constexpr, Q: tl.constexpr):
    """WIDTH channels from `first` of the gradient of y before the gate: dy silu(z), or dy where there is no gate."""
    grad = load_rows(dy + start * dy_row + first, dy_row, length, WIDTH, Q)
    if z is not None:
        gate = load_rows(z + start * z_row + first, z_row, length, WIDTH, Q).to(tl.float32)
        grad = (grad.to(tl.float32) * gate * sigmoid(gate)).to(grad.dtype)
    return grad


@triton.jit
def load_state(states, index, part, N: tl.constexpr, P: tl.constexpr, BLOCK_P: tl.constexpr):
    """BLOCK_P channels of one stored (n, p) tile."""
    channels = part * BLOCK_P + tl.arange(0, BLOCK_P)
    return tl.load(states + index * N * P + tl.arange(0, N)[:, None] * P + channels[None, :])


@triton.jit
def load_decays(steps, sums, line, length, Q: tl.constexpr):
    """A chunk's steps, their running sums, the same with -inf past the end, and the whole chunk's sum."""
    tokens = tl.arange(0, Q)
    inside = tokens < length
    step = tl.load(steps + line + tokens, mask=inside, other=0.0)
    running = tl.load(sums + line + tokens, mask=inside, other=0.0)
    total = tl.sum(tl.where(tokens == length - 1, running, 0.0), axis=0)
    return step, running, tl.where(inside, running, float("-inf")), total
