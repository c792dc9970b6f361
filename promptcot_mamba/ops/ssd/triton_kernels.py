"""The SSD on Triton kernels: two launches forward, three backward, nothing kept but the inputs (docs/ssd.md)."""

import math
from dataclasses import dataclass

import torch
import triton
from torch.autograd.function import once_differentiable

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.packing import ChunkTable
from promptcot_mamba.ops.ssd.triton_configs import SsdConfig, capability, find_config, find_misfit, shared_memory
from promptcot_mamba.ops.ssd.triton_gradients import chunk_gradients_kernel, step_gradients_kernel
from promptcot_mamba.ops.ssd.triton_scan import chunk_scan_kernel
from promptcot_mamba.ops.ssd.triton_walk import state_walk_kernel
from promptcot_mamba.ops.triton_common import (
    as_rows,
    chunk_table,
    launch,
    multiprocessors,
    require_power_of_two,
    sum_copies,
)

NO_LIMIT = (float("-inf"), float("inf"))
STEP_HEADS = 32  # heads per program where each token's steps lie side by side
BUSY = 4  # programs per multiprocessor below which a group's heads are split among several


@dataclass(frozen=True, eq=False)
class SsdInputs:
    """The SSD's arguments as rows: `x`, `z` (b*l, h*p), `dt` (b*l, h), `B`, `C` (b*l, g*n), with any row stride."""

    x: torch.Tensor
    dt: torch.Tensor
    A: torch.Tensor
    B: torch.Tensor
    C: torch.Tensor
    D: torch.Tensor | None
    z: torch.Tensor | None
    dt_bias: torch.Tensor | None
    initial_states: torch.Tensor | None
    cu_seqlens: torch.Tensor | None
    batch: int
    heads: int
    groups: int
    dt_softplus: bool
    dt_limit: tuple[float, float]
    config: SsdConfig

    @property
    def tokens(self) -> int:
        return self.x.shape[0]

    @property
    def headdim(self) -> int:
        return self.x.shape[1] // self.heads

    @property
    def dstate(self) -> int:
        return self.B.shape[1] // self.groups

    @property
    def flags(self) -> dict[str, bool]:
        no_limit = (0.0 if self.dt_softplus else float("-inf"), float("inf"))  # softplus is never negative
        limited = self.dt_limit[0] > no_limit[0] or self.dt_limit[1] < no_limit[1]
        return {"SOFTPLUS": self.dt_softplus, "LIMITED": limited}

    @property
    def shape_flags(self) -> dict[str, int]:
        return {"HEADS_PER_GROUP": self.heads // self.groups, "P": self.headdim, "N": self.dstate}

    def table(self, chunk: int) -> ChunkTable:
        return chunk_table(self.batch, self.tokens // self.batch, self.cu_seqlens, chunk, self.x.device)

    def block(self, channels: int) -> int:
        """At most so many of a head's channels, a power of two that divides them."""
        return math.gcd(channels, self.headdim)

    def heads_per_program(self, n_chunks: int) -> int:
        """All heads of a group, or fewer (a divisor) while that leaves multiprocessors idle."""
        heads = self.heads // self.groups
        wanted = BUSY * multiprocessors(self.x.device)
        while heads % 2 == 0 and n_chunks * self.heads // heads < wanted:
            heads //= 2
        return heads


@dataclass(frozen=True, eq=False)
class SsdGradients:
    """Where the backward writes: rows like the inputs', any row stride. `A`, `D`, `dt_bias` come back as fp32."""

    x: torch.Tensor
    dt: torch.Tensor
    B: torch.Tensor
    C: torch.Tensor
    z: torch.Tensor | None = None
    initial_states: torch.Tensor | None = None


def _row(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.stride(0)


@dataclass(frozen=True, eq=False)
class Walked:
    """What a walk leaves: (c, h, n, p) states and, backwards, their gradients; (h, tokens) fp32 steps and sums."""

    table: ChunkTable
    states: torch.Tensor
    grads: torch.Tensor | None
    steps: torch.Tensor
    sums: torch.Tensor


def walk(inputs: SsdInputs, table: ChunkTable, final=None, dy=None, dfinal=None, dinitial=None) -> Walked:
    """Run the walk over the chunks of `table`, over both directions where `dy` is given."""
    x, config = inputs.x, inputs.config
    h, p, n = inputs.heads, inputs.headdim, inputs.dstate
    channels, stages = config.walk_channels, config.walk_stages
    if dy is not None:
        channels, stages = config.backward_walk_channels, config.backward_walk_stages
    channels = inputs.block(channels)
    states = torch.empty(table.n_chunks, h, n, p, dtype=x.dtype, device=x.device)
    grads = None if dy is None else torch.empty_like(states)
    steps = torch.empty(h, inputs.tokens, dtype=torch.float32, device=x.device)
    sums = torch.empty_like(steps)
    launch(
        state_walk_kernel, (h * p // channels, table.n_documents, 1 if dy is None else 2),
        x, inputs.dt, inputs.A, inputs.dt_bias, inputs.B, inputs.initial_states, states, final, steps, sums,
        dy, None if dy is None else inputs.z, None if dy is None else inputs.C, dfinal, grads, dinitial,
        table.starts, table.lengths, table.first_chunks,
        _row(x), _row(inputs.dt), _row(inputs.B), _row(dy), _row(inputs.z), _row(inputs.C),
        inputs.tokens, h, *map(float, inputs.dt_limit),
        BLOCK_P=channels, Q=table.chunk_size, **inputs.shape_flags, **inputs.flags,
        num_warps=config.walk_warps, num_stages=stages,
    )  # fmt: skip
    return Walked(table, states, grads, steps, sums)


def run_forward(inputs: SsdInputs, y: torch.Tensor, final_states: torch.Tensor | None = None) -> None:
    """Write y (b*l, h*p), and the final states (docs, h, p, n) where asked for."""
    run_scan(inputs, walk(inputs, inputs.table(inputs.config.scan_chunk), final=final_states), y)


def run_scan(inputs: SsdInputs, walked: Walked, y: torch.Tensor) -> None:
    """Write y (b*l, h*p), from a walk over chunks of `scan_chunk`."""
    config, table = inputs.config, walked.table
    heads = inputs.heads_per_program(table.n_chunks)
    launch(
        chunk_scan_kernel, (table.n_chunks, inputs.heads // heads),
        inputs.x, walked.steps, walked.sums, inputs.B, inputs.C, walked.states, inputs.D, inputs.z, y,
        table.starts, table.lengths,
        _row(inputs.x), _row(inputs.B), _row(inputs.C), _row(inputs.z), _row(y), inputs.tokens, inputs.heads,
        HEADS=heads, BLOCK_P=inputs.block(config.scan_channels), Q=table.chunk_size, **inputs.shape_flags,
        num_warps=config.scan_warps, num_stages=config.scan_stages,
    )  # fmt: skip


def run_backward(
    inputs: SsdInputs, dy: torch.Tensor, grads: SsdGradients, dfinal_states: torch.Tensor | None = None
) -> torch.Tensor:
    """Fill `grads` from the gradient of y (b*l, h*p); returns those of A, D and dt_bias, fp32 (3, h)."""
    table = inputs.table(inputs.config.grad_chunk)
    walked = walk(inputs, table, dy=dy, dfinal=dfinal_states, dinitial=grads.initial_states)
    return run_gradients(inputs, walked, dy, grads)


def run_gradients(inputs: SsdInputs, walked: Walked, dy: torch.Tensor, grads: SsdGradients) -> torch.Tensor:
    """As `run_backward`, from a walk over chunks of `grad_chunk` in both directions."""
    config, table, steps, h = inputs.config, walked.table, walked.steps, inputs.heads
    heads = inputs.heads_per_program(table.n_chunks)
    splits = h // inputs.groups // heads
    partials = torch.empty(table.n_chunks, 3, h, dtype=torch.float32, device=dy.device)
    direct = torch.empty_like(steps)
    d_log = torch.empty(2, *steps.shape, dtype=torch.float32, device=dy.device)
    dB, dC, dBC_split = grads.B, grads.C, 0
    if splits > 1:
        both = torch.empty(splits, 2, *inputs.B.shape, dtype=torch.float32, device=dy.device)
        dB, dC, dBC_split = both[0, 0], both[0, 1], both.stride(0)
    launch(
        chunk_gradients_kernel, (4 * table.n_chunks, h // heads),
        inputs.x, inputs.B, inputs.C, inputs.D, inputs.z, dy, walked.states, walked.grads, steps, walked.sums,
        table.starts, table.lengths,
        grads.x, dB, dC, grads.z, direct, d_log, partials,
        _row(inputs.x), _row(inputs.B), _row(inputs.C), _row(inputs.z), _row(dy),
        _row(grads.x), _row(dB), _row(dC), _row(grads.z), dBC_split, inputs.tokens, h,
        HEADS=heads, BLOCK_P=inputs.block(config.grad_channels), Q=table.chunk_size, **inputs.shape_flags,
        PAIRS_FIRST=config.grad_pairs_first, DIAGONAL=config.grad_diagonal,
        num_warps=config.grad_warps, num_stages=config.grad_stages,
    )  # fmt: skip
    launch(
        step_gradients_kernel, (table.n_chunks, triton.cdiv(h, STEP_HEADS)),
        inputs.dt, inputs.dt_bias, inputs.A, steps, direct, d_log, table.starts, table.lengths, grads.dt, partials,
        _row(inputs.dt), _row(grads.dt), inputs.tokens, h, *map(float, inputs.dt_limit),
        BLOCK_HEADS=STEP_HEADS, Q=table.chunk_size, **inputs.flags, num_warps=4,
    )  # fmt: skip
    if splits > 1:
        sum_copies(both[:, 0], grads.B)
        sum_copies(both[:, 1], grads.C)
    per_head = torch.empty(3, h, dtype=torch.float32, device=dy.device)
    sum_copies(partials, per_head)
    return per_head


class _Ssd(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dt, A, B, C, D, z, dt_bias, initial_states, cu_seqlens, dt_softplus, dt_limit, config):
        inputs = _make_inputs(x, dt, A, B, C, D, z, dt_bias, initial_states, cu_seqlens, dt_softplus, dt_limit, config)
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        documents = x.shape[0] if cu_seqlens is None else cu_seqlens.numel() - 1
        final_states = torch.empty(documents, *x.shape[2:], B.shape[-1], dtype=torch.float32, device=x.device)
        run_forward(inputs, as_rows(y), final_states)
        ctx.save_for_backward(x, dt, A, B, C, D, z, dt_bias, initial_states, cu_seqlens)
        ctx.settings = (dt_softplus, dt_limit, config)
        ctx.set_materialize_grads(False)
        return y, final_states

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, dfinal_states):
        saved = ctx.saved_tensors
        x, dt, A, B, C, D, z, dt_bias, initial_states, _ = saved
        inputs = _make_inputs(*saved, *ctx.settings)
        dy = torch.zeros_like(x) if dy is None else dy
        dfinal_states = None if dfinal_states is None else dfinal_states.contiguous()
        dx, ddt, dB, dC = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (x, dt, B, C))
        dz, dinitial = (None if t is None else torch.empty(t.shape, dtype=t.dtype, device=t.device)
                        for t in (z, initial_states))  # fmt: skip
        grads = SsdGradients(
            as_rows(dx), as_rows(ddt), as_rows(dB), as_rows(dC), None if dz is None else as_rows(dz), dinitial
        )
        dA, dD, dbias = run_backward(inputs, as_rows(dy), grads, dfinal_states)
        dD = None if D is None else dD.to(D.dtype)
        dbias = None if dt_bias is None else dbias.to(dt_bias.dtype)
        return dx, ddt, dA.to(A.dtype), dB, dC, dD, dz, dbias, dinitial, None, None, None, None


def _make_inputs(x, dt, A, B, C, D, z, dt_bias, initial_states, cu_seqlens, dt_softplus, dt_limit, config):
    return SsdInputs(
        as_rows(x), as_rows(dt), A.contiguous(), as_rows(B), as_rows(C), D, None if z is None else as_rows(z), dt_bias,
        None if initial_states is None else initial_states.contiguous(), cu_seqlens,
        batch=x.shape[0], heads=x.shape[2], groups=B.shape[2], dt_softplus=dt_softplus, dt_limit=dt_limit,
        config=config,
    )  # fmt: skip


def choose_config(x: torch.Tensor, headdim: int, dstate: int, chunk_size: int | None) -> SsdConfig:
    """The tiles for these sizes on the device of `x`. Raises InputError for sizes the kernels have none for."""
    if chunk_size is not None:
        require_power_of_two("ssd", "chunk_size", chunk_size, 16, 1 << 20)
    config = find_config(x.dtype, capability(x.device), shared_memory(x.device), headdim, dstate)
    if config is None:
        raise InputError(f"ssd: the triton backend has {find_misfit(x.dtype, x.device, headdim, dstate)}")
    return config.capped(chunk_size)


def ssd_triton(
    x, dt, A, B, C, *, D=None, z=None, dt_bias=None, dt_softplus=False, chunk_size=None, initial_states=None,
    cu_seqlens=None, return_final_states=False, dt_limit=NO_LIMIT,
):  # fmt: skip
    """See `promptcot_mamba.ops.ssd.ssd`. x, B, C and z share one dtype: fp16, bf16 or fp32.

    `chunk_size` is an upper bound on the kernels' own chunks. `dt_limit` clamps the activated step sizes.

    Raises:
        InputError: for mixed dtypes, float64, and sizes the kernels have no tiles for.
    """
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise InputError(f"ssd: the triton backend takes float16, bfloat16 or float32, found x of {x.dtype}")
    for name, tensor in (("B", B), ("C", C), ("z", z)):
        if tensor is not None and tensor.dtype != x.dtype:
            raise InputError(f"ssd: the triton backend takes {name} in the dtype of x, {x.dtype}, found {tensor.dtype}")
    config = choose_config(x, x.shape[3], B.shape[3], chunk_size)
    y, final_states = _Ssd.apply(
        x, dt, A, B, C, D, z, dt_bias, initial_states, cu_seqlens, dt_softplus, dt_limit, config
    )
    return (y, final_states) if return_final_states else y
