"""One packed row held in slices by neighbouring ranks: what a mixer needs from the slice before it, and nothing else.

Outside the mixer every token is by itself. Inside, a slice that goes on with a document needs of the slice before it
the last w - 1 inputs of the convolution (the halo) and the document's state. With `S_r` the state that slice r's own
tokens leave and `a_r` the decay over them, the states at the borders are an exclusive scan,

    init_(r+1) = S_r + a_r init_r        (h, p, n);  a_r = 0 where a document began inside slice r

passed from neighbour to neighbour: one state of h p n numbers a border and direction, whatever the row's length. The
backward pass runs it the other way: with `G_r` the gradient of init_r and `g_r` its part from slice r's own outputs,

    G_r = g_r + a_r G_(r+1),   dS_r = G_(r+1),   da_r = <init_r, G_(r+1)>

Slices are computed at once; only the scans are in turn, and they are short. The ops are those of the tables and see
nothing of this: they take initial states. The definition is `fused_mixer` on the whole row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.causal_conv1d import causal_conv1d
from promptcot_mamba.ops.gated_rms_norm import gated_rms_norm
from promptcot_mamba.ops.mixer_settings import MixerSettings
from promptcot_mamba.ops.packing import boundaries
from promptcot_mamba.ops.ssd import ssd


@dataclass
class SliceGroup:
    """The ranks that hold one row's slices, in the order of the slices, and this rank's place among them."""

    ranks: list[int]  # of the whole job
    index: int
    group: Any = None  # their process group; None for the default one
    bytes_sent: int = 0
    _sending: list[tuple[Any, torch.Tensor]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.ranks)

    def send(self, tensor: torch.Tensor, towards: int) -> None:
        """Start sending to the next (`towards` 1) or the previous (-1) rank; `finish_sending` waits for it."""
        tensor = tensor.contiguous()
        work = dist.isend(tensor, self.ranks[self.index + towards], group=self.group)
        self._sending.append((work, tensor))  # the tensor lives until it is sent
        self.bytes_sent += tensor.numel() * tensor.element_size()

    def receive(self, like: torch.Tensor, towards: int) -> torch.Tensor:
        """A tensor shaped `like` from the previous (`towards` -1) or the next (1) rank."""
        tensor = torch.empty_like(like, memory_format=torch.contiguous_format)
        dist.recv(tensor, self.ranks[self.index + towards], group=self.group)
        return tensor

    def finish_sending(self) -> None:
        for work, _ in self._sending:
            work.wait()
        self._sending.clear()


def make_slice_groups(size: int) -> SliceGroup:
    """Groups of `size` neighbouring ranks, made by every rank of the job; returns this rank's.

    Raises InputError if `size` does not divide the number of ranks.
    """
    world, rank = dist.get_world_size(), dist.get_rank()
    if size < 1 or world % size:
        raise InputError(f"--sequence_parallel_size {size}: must divide the number of processes, {world}")
    mine = None
    for first in range(0, world, size):
        ranks = list(range(first, first + size))
        group = dist.new_group(ranks)
        if rank in ranks:
            mine = SliceGroup(ranks, rank - first, group)
    assert mine is not None
    return mine


@dataclass(frozen=True)
class RowSlice:
    """A rank's part of a row: `continued` if its first document began earlier, `continues` if its last one goes on."""

    group: SliceGroup
    continued: bool
    continues: bool


def slice_bounds(length: int, size: int) -> list[int]:
    """Where a row of `length` tokens is cut into `size` slices of almost equal length: `size + 1` marks."""
    if length < size:
        raise InputError(f"--sequence_parallel_size {size}: a row of {length} tokens cannot be cut into as many slices")
    return [length * index // size for index in range(size + 1)]


def slice_documents(marks: list[int], start: int, end: int) -> tuple[list[int], bool, bool]:
    """A row's documents (`marks`, as cu_seqlens) as tokens start..end see them: their marks, continued, continues."""
    inside = [mark - start for mark in marks if start < mark < end]
    return [0, *inside, end - start], start not in marks, end not in marks


class _Part:
    """One slice of one mixer: its stages, each a plain function of tensors that autograd can take alone."""

    def __init__(self, settings: MixerSettings, cu_seqlens: torch.Tensor, place: RowSlice, heads: int, width: int):
        self.settings, self.cu_seqlens, self.place = settings, cu_seqlens, place
        self.heads, self.halo_rows = heads, width - 1
        self.d_inner, self.shared = heads * settings.head_dim, settings.n_groups * settings.state_size
        marks = boundaries(cu_seqlens)
        self.documents, self.length = len(marks) - 1, marks[-1]
        self.last_start = marks[-2]
        # Whether what comes in from the left reaches the slice's right border.
        self.spanning = place.continued and self.documents == 1

    def split(self, zxbcdt: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """z (1, l, d_inner), xBC (1, l, d_conv), dt (1, l, h): views."""
        return zxbcdt.split([self.d_inner, self.d_inner + 2 * self.shared, self.heads], dim=-1)

    def _first_of(self, state: torch.Tensor | None) -> torch.Tensor | None:
        """Initial states (docs, ...) of which only the first document has one."""
        if state is None:
            return None
        others = state.new_zeros(self.documents - 1, *state.shape)
        return torch.cat([state[None], others])

    def tail(self, xBC: torch.Tensor, halo: torch.Tensor | None) -> torch.Tensor:
        """The last document's last w - 1 inputs (d_conv, w - 1), reaching into the halo if it spans the slice."""
        rows = xBC[0, max(self.last_start, self.length - self.halo_rows) :].T  # (d, at most w - 1)
        missing = self.halo_rows - rows.shape[1]
        if missing:
            if self.spanning:
                assert halo is not None  # a spanning slice is a continued one
                before = halo[:, -missing:]
            else:
                before = rows.new_zeros(rows.shape[0], missing)
            rows = torch.cat([before, rows], dim=1)
        return rows

    def convolve(self, xBC, weight, bias, halo) -> torch.Tensor:
        initial = self._first_of(halo)
        out = causal_conv1d(xBC, weight, bias, initial_states=initial, cu_seqlens=self.cu_seqlens)
        return cast(torch.Tensor, out)  # no final states were asked for

    def _inputs(self, convolved, dt, A_log, dt_bias):
        wide = torch.float64 if convolved.dtype == torch.float64 else torch.float32
        x, B, C = convolved.split([self.d_inner, self.shared, self.shared], dim=-1)
        heads, groups = (self.heads, self.settings.head_dim), (self.settings.n_groups, self.settings.state_size)
        dt = F.softplus(dt.to(wide) + dt_bias.to(wide)).clamp(*self.settings.dt_limit)
        return x.unflatten(-1, heads), B.unflatten(-1, groups), C.unflatten(-1, groups), dt, -torch.exp(A_log.to(wide))

    def state_made(self, convolved, dt, A_log, dt_bias) -> tuple[torch.Tensor, torch.Tensor]:
        """S (h, p, n) that the last document's own tokens leave at the border, and the decay a (h) over them."""
        x, B, _, dt, A = self._inputs(convolved[:, self.last_start :], dt[:, self.last_start :], A_log, dt_bias)
        sums = (dt[0] * A).cumsum(0)  # (l, h)
        weights = dt[0] * torch.exp(sums[-1] - sums)
        weighted = x[0].to(weights.dtype) * weights[..., None]  # (l, h, p)
        g = self.settings.n_groups
        made = weighted.flatten(1).unflatten(1, (g, -1)).permute(1, 2, 0) @ B[0].to(weights.dtype).transpose(0, 1)
        return made.reshape(self.heads, -1, self.settings.state_size), torch.exp(sums[-1])

    def finish(self, convolved, z, dt, A_log, D, dt_bias, norm_weight, state) -> torch.Tensor:
        """SSD from the incoming state, and the gated norm: (1, l, d_inner)."""
        x, B, C, dt, A = self._inputs(convolved, dt, A_log, dt_bias)
        y = ssd(
            x, dt, A, B, C, D=D, chunk_size=self.settings.chunk_size, initial_states=self._first_of(state),
            cu_seqlens=self.cu_seqlens,
        )  # fmt: skip
        group_size = self.d_inner // self.settings.n_groups
        y = cast(torch.Tensor, y).flatten(2)
        return gated_rms_norm(y, z, norm_weight, eps=self.settings.eps, group_size=group_size).to(z.dtype)


def _exchange_halos(part: _Part, xBC: torch.Tensor) -> torch.Tensor | None:
    """Send this slice's tail to the next rank; the halo from the previous one, None at a document's start."""
    group, place = part.place.group, part.place
    like = xBC.new_empty(xBC.shape[2], part.halo_rows)
    # A slice shorter than the halo that one document spans passes on what it was given; all others send at once.
    waits = part.spanning and part.length < part.halo_rows
    halo = None
    if waits:
        halo = group.receive(like, -1)
    if place.continues:
        group.send(part.tail(xBC, halo), 1)
    if place.continued and not waits:
        halo = group.receive(like, -1)
    return halo


def _exchange_states(part: _Part, convolved, dt, A_log, dt_bias) -> torch.Tensor | None:
    """The scan: the state that enters this slice, None at a document's start; the one that leaves it is sent on."""
    group, place = part.place.group, part.place
    made = decay = state = None
    if place.continues:
        made, decay = part.state_made(convolved, dt, A_log, dt_bias)
    if place.continued:
        wide = torch.float64 if convolved.dtype == torch.float64 else torch.float32
        like = torch.empty(
            part.heads, part.settings.head_dim, part.settings.state_size, dtype=wide, device=convolved.device
        )
        state = group.receive(like, -1)
    if made is not None:
        if part.spanning:
            assert decay is not None
            assert state is not None  # a spanning slice is a continued one
            made = made + decay[:, None, None] * state
        group.send(made, 1)
    return state


class _SlicedMixer(torch.autograd.Function):
    """Keeps its inputs and what came from the left; conv, SSD and norm are recomputed in the backward."""

    @staticmethod
    def forward(ctx, part: _Part, zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight):
        z, xBC, dt = part.split(zxbcdt)
        halo = _exchange_halos(part, xBC)
        convolved = part.convolve(xBC, conv_weight, conv_bias, halo)
        state = _exchange_states(part, convolved, dt, A_log, dt_bias)
        out = part.finish(convolved, z, dt, A_log, D, dt_bias, norm_weight, state)
        part.place.group.finish_sending()
        ctx.part = part
        ctx.save_for_backward(zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, halo, state)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        part: _Part = ctx.part
        place, group = part.place, part.place.group
        saved: list[Any] = [
            None if tensor is None else tensor.detach().requires_grad_() for tensor in ctx.saved_tensors
        ]
        zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, halo, state = saved
        with torch.enable_grad():
            z, xBC, dt = (piece.detach().requires_grad_() for piece in part.split(zxbcdt))
            convolved = part.convolve(xBC, conv_weight, conv_bias, halo)
            leaf = convolved.detach().requires_grad_()
            out = part.finish(leaf, z, dt, A_log, D, dt_bias, norm_weight, state)
            made = part.state_made(leaf, dt, A_log, dt_bias) if place.continues else None
        wanted = [leaf, z, dt, A_log, D, dt_bias, norm_weight]
        dleaf, dz, ddt, dA_log, dD, ddt_bias, dnorm, *dstate = torch.autograd.grad(
            out, wanted + ([state] if place.continued else []), dout
        )
        # The scan, from the last slice to the first.
        later = group.receive(made[0], 1) if made is not None else None
        if place.continued:
            own = dstate[0]
            if part.spanning and made is not None and later is not None:
                own = own + made[1].detach()[:, None, None] * later
            group.send(own, -1)
        if made is not None and later is not None:
            ddecay = (state.detach() * later).sum((1, 2)) if part.spanning else torch.zeros_like(made[1])
            through = torch.autograd.grad(made, [leaf, dt, A_log, dt_bias], [later, ddecay])
            dleaf, ddt, dA_log, ddt_bias = (
                mine + more for mine, more in zip((dleaf, ddt, dA_log, ddt_bias), through, strict=True)
            )
        # The convolution, and the gradient of what it lent to its neighbour.
        wanted = (
            [xBC, conv_weight] + ([conv_bias] if conv_bias is not None else []) + ([halo] if place.continued else [])
        )
        grads = list(torch.autograd.grad(convolved, wanted, dleaf))
        dxBC, dconv_weight = grads[:2]
        dconv_bias = grads[2] if conv_bias is not None else None
        dxBC = _return_halos(part, dxBC, grads[-1] if place.continued else None)
        group.finish_sending()
        dzxbcdt = torch.cat([dz, dxBC, ddt], dim=-1)
        return None, dzxbcdt, dconv_weight, dconv_bias, dA_log, dD, ddt_bias, dnorm


def _return_halos(part: _Part, dxBC: torch.Tensor, dhalo: torch.Tensor | None) -> torch.Tensor:
    """Send the halo's gradient back to the previous rank, and add the next rank's to the inputs it was lent."""
    group, place = part.place.group, part.place
    waits = part.spanning and part.length < part.halo_rows
    if dhalo is not None and not waits:
        group.send(dhalo, -1)
    if place.continues:
        dtail = group.receive(dxBC.new_empty(dxBC.shape[2], part.halo_rows), 1)
        own = min(part.length - part.last_start, part.halo_rows)
        dxBC[0, part.length - own :] += dtail[:, part.halo_rows - own :].T
        if waits:
            assert dhalo is not None  # a spanning slice is a continued one
            passed = part.halo_rows - own
            dhalo = dhalo.clone()
            dhalo[:, -passed:] += dtail[:, :passed]
    if waits:
        assert dhalo is not None
        group.send(dhalo, -1)
    return dxBC


def sliced_mixer(
    zxbcdt: torch.Tensor,
    conv_weight: torch.Tensor,
    conv_bias: torch.Tensor | None,
    A_log: torch.Tensor,
    D: torch.Tensor,
    dt_bias: torch.Tensor,
    norm_weight: torch.Tensor,
    *,
    place: RowSlice,
    cu_seqlens: torch.Tensor,
    n_groups: int,
    head_dim: int,
    state_size: int,
    chunk_size: int | None = None,
    eps: float = 1e-5,
    dt_limit: tuple[float, float],
) -> torch.Tensor:
    """`fused_mixer` of a whole row, of which this rank holds one slice; every rank of `place.group` calls it at once.

    Args:
        zxbcdt: (1, l, 2 d_inner + 2 g n + h), this slice's tokens. The other arguments are those of `fused_mixer`.
        cu_seqlens: (docs + 1) int32, the documents as this slice sees them (`slice_documents`).

    Returns:
        (1, l, d_inner), this slice's part of the row's result; gradients of shared parameters are its part too.
    """
    low, high = dt_limit
    settings = MixerSettings(n_groups, head_dim, state_size, chunk_size, eps, (low, high))
    part = _Part(settings, cu_seqlens, place, A_log.shape[0], conv_weight.shape[1])
    return _SlicedMixer.apply(part, zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight)
