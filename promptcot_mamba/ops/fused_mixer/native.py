"""The fused mixer on CPU: compiled passes over memory around torch's matrix products, all gradients by hand.

The algebra and its letters are those of `ops/ssd/chunk_math.py`. Forward keeps the caller's tensors only. Whatever
touches states is one matrix product per group; everything else happens in a handful of passes (`cpu_kernels.cpp`),
chunk by chunk in cache.
"""

from __future__ import annotations

import ctypes
import math
import threading

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from promptcot_mamba.ops.native import MIXER_SOURCE, TYPES, load_library, pointer
from promptcot_mamba.ops.ssd.layout import Layout, make_layout


class _Workspace(threading.local):
    """Buffers for what lives within one call only, kept for the next one: fresh pages cost as much as the passes.

    They grow to the longest row seen and are shared by all layers (a thread runs one call at a time).
    """

    def __init__(self):
        self.buffers: dict[str, torch.Tensor] = {}

    def take(self, name: str, *shape: int) -> torch.Tensor:
        size = math.prod(shape)
        if name not in self.buffers or self.buffers[name].numel() < size:
            self.buffers.pop(name, None)
            with torch.inference_mode(False):  # a buffer born in inference mode could not serve training
                self.buffers[name] = torch.empty(size)
        return self.buffers[name][:size].view(shape)


_workspace = _Workspace()


class _Shape(ctypes.Structure):
    """`Shape` of cpu_kernels.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("c", "q", "h", "p", "g", "n", "w", "row")),
        *((name, ctypes.c_void_p) for name in ("start", "length", "position")),
    ]


class _Pass:
    """One evaluation: inputs in fp32 where small, intermediate results by their names in `chunk_math`."""

    def __init__(self, layout: Layout, tensors, n_groups, head_dim, state_size, eps, dt_limit):
        self.layout, self.eps, self.dt_limit = layout, eps, dt_limit
        zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight = tensors
        self.rows = zxbcdt.contiguous().view(-1, zxbcdt.shape[-1])
        table = layout.table
        self.c, self.q, self.h, self.p, self.g, self.n = (
            table.n_chunks, table.chunk_size, A_log.shape[0], head_dim, n_groups, state_size,
        )  # fmt: skip
        self.k = self.h // self.g
        self.d_inner, self.conv_dim = self.h * self.p, conv_weight.shape[0]
        self.taps = conv_weight.float().T.contiguous()  # (w, conv_dim)
        self.bias = torch.zeros(self.conv_dim) if conv_bias is None else conv_bias.float().contiguous()
        self.A = -A_log.float().exp()
        self.D, self.norm_weight = D.float().contiguous(), norm_weight.float().contiguous()
        self.dt_bias = dt_bias.float()
        self.position = table.positions  # kept alive: the structure holds bare pointers
        self.shape = _Shape(
            self.c, self.q, self.h, self.p, self.g, self.n, self.taps.shape[0], self.rows.shape[1],
            table.starts.data_ptr(), table.lengths.data_ptr(), self.position.data_ptr(),
        )  # fmt: skip
        self.kind = TYPES[zxbcdt.dtype]

    def call(self, name: str, *arguments: torch.Tensor | float) -> None:
        converted = [ctypes.c_float(a) if isinstance(a, float) else pointer(a) for a in arguments]
        getattr(load_library(MIXER_SOURCE), name)(ctypes.byref(self.shape), *converted)

    def group(self, tensor: torch.Tensor, group: int, offset: int, width: int) -> torch.Tensor:
        """Columns of one group of a (c, q, ...) buffer: (c, q, width), a view."""
        first = offset + group * width
        return tensor[..., first : first + width]

    def B(self, buffer: torch.Tensor, group: int) -> torch.Tensor:
        return self.group(buffer, group, self.d_inner, self.n)

    def C(self, buffer: torch.Tensor, group: int) -> torch.Tensor:
        return self.group(buffer, group, self.d_inner + self.g * self.n, self.n)

    def heads(self, buffer: torch.Tensor, group: int) -> torch.Tensor:
        return self.group(buffer, group, 0, self.k * self.p)

    def run(self) -> None:
        """Everything up to what the outputs are read from."""
        c, q, g, n, kp = self.c, self.q, self.g, self.n, self.k * self.p
        raw = self.rows[:, -self.h :].float() + self.dt_bias  # (tokens, h)
        self.raw = self.layout.split(raw[None]).contiguous()
        self.dt = F.softplus(self.raw).clamp_(*self.dt_limit)  # (c, q, h)
        if self.layout.padding is not None:
            self.dt.masked_fill_(self.layout.padding[..., None], 0)
        self.sums = (self.dt * self.A).cumsum(1)
        keep = (self.sums[:, -1:] - self.sums).exp_().mul_(self.dt)
        self.xbc = _workspace.take("xbc", c, q, self.conv_dim)
        self.kept = _workspace.take("kept", c, q, self.d_inner)
        self.call(f"convolve_{self.kind}", self.rows, self.taps, self.bias, keep, self.xbc, self.kept)
        self.states = _workspace.take("states", g, c, n, kp)
        self.scores = _workspace.take("scores", g, c, q, q)
        self.read = _workspace.take("read", g, c, q, kp)
        for i in range(g):
            torch.bmm(self.B(self.xbc, i).mT, self.heads(self.kept, i), out=self.states[i])
            torch.bmm(self.C(self.xbc, i), self.B(self.xbc, i).mT, out=self.scores[i])
        self.call("pass_states_forward", self.sums, self.states)
        for i in range(g):
            torch.bmm(self.C(self.xbc, i), self.states[i], out=self.read[i])

    def output(self) -> torch.Tensor:
        out = self.rows.new_empty(self.rows.shape[0], self.d_inner)
        self.call(
            f"finish_{self.kind}", self.rows, self.sums, self.dt, self.scores, self.xbc, self.read, self.D,
            self.norm_weight, out, float(self.eps),
        )  # fmt: skip
        return out

    def gradients(self, dout: torch.Tensor):
        """From the gradient of the output (tokens, d_inner): those of zxbcdt, taps, bias, A, D, dt bias and norm."""
        c, q, g = self.c, self.q, self.g
        drows = torch.empty_like(self.rows)
        dy, entering = (_workspace.take(name, c, q, self.d_inner) for name in ("dy", "entering"))
        d_in, dD, dnorm = torch.empty_like(self.dt), torch.empty(c, self.h), torch.empty(c, self.d_inner)
        self.call(
            f"finish_backward_{self.kind}", self.rows, dout, self.sums, self.dt, self.scores, self.xbc, self.read,
            self.D, self.norm_weight, drows, dy, entering, d_in, dD, dnorm, float(self.eps),
        )  # fmt: skip
        dstates = _workspace.take("dstates", *self.states.shape)
        for i in range(g):
            torch.bmm(self.C(self.xbc, i).mT, self.heads(entering, i), out=dstates[i])
        crossing = torch.empty(g, self.n, c, self.k)
        self.call("pass_states_backward", self.sums, self.states, dstates, crossing)
        left = self.read  # its values are spent
        for i in range(g):
            torch.bmm(self.B(self.xbc, i), dstates[i], out=left[i])
        dxbc = _workspace.take("dxbc", *self.xbc.shape)
        dscores = _workspace.take("dscores", *self.scores.shape)
        ddt, d_pairs, d_out = (torch.empty_like(self.dt) for _ in range(3))
        self.call(
            "within_chunks_backward", self.sums, self.dt, self.scores, self.xbc, dy, left, self.D, dxbc, dscores,
            ddt, d_pairs, d_out,
        )  # fmt: skip
        part = torch.empty(c, q, self.n)
        for i in range(g):
            torch.bmm(dscores[i].mT, self.C(self.xbc, i), out=part)
            torch.add(part, torch.bmm(self.heads(self.kept, i), dstates[i].mT), out=self.B(dxbc, i))
            torch.bmm(dscores[i], self.B(self.xbc, i), out=part)
            torch.add(part, torch.bmm(self.heads(entering, i), self.states[i].mT), out=self.C(dxbc, i))
        across = crossing.sum(1).permute(1, 0, 2).reshape(c, 1, self.h)
        da = d_pairs.add_(d_in.flip(1).cumsum(1).flip(1)).add_(d_out.cumsum(1).sub_(d_out)).add_(across)
        ddt.addcmul_(da, self.A)
        low, high = self.dt_limit
        if low > 0 or high != float("inf"):
            free = F.softplus(self.raw)
            ddt.masked_fill_((free < low) | (free > high), 0)
        draw = self.layout.join(ddt.mul_(self.raw.sigmoid())).view(-1, self.h)
        drows[:, -self.h :] = draw
        dtaps, dbias = torch.empty(c, *self.taps.shape), torch.empty(c, self.conv_dim)
        self.call(f"convolve_backward_{self.kind}", self.rows, self.taps, self.bias, dxbc, drows, dtaps, dbias)
        dA_log = (da * self.dt).sum((0, 1)) * self.A
        return drows, dtaps.sum(0).T, dbias.sum(0), dA_log, dD.sum(0), draw.sum(0), dnorm.sum(0)


class _FusedMixer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, layout: Layout, settings: tuple, *tensors):
        ctx.layout, ctx.settings = layout, settings
        ctx.save_for_backward(*tensors)
        run = _Pass(layout, tensors, *settings)
        run.run()
        return run.output().view(*tensors[0].shape[:2], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        tensors = ctx.saved_tensors
        run = _Pass(ctx.layout, tensors, *ctx.settings)
        run.run()
        grads = run.gradients(dout.to(tensors[0].dtype).contiguous())
        cast = [
            None if tensor is None else grad.to(tensor.dtype).view_as(tensor)
            for grad, tensor in zip(grads, tensors, strict=True)
        ]
        return None, None, *cast


def fused_mixer_native(
    zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, *, n_groups, head_dim, state_size, chunk_size,
    eps, cu_seqlens, dt_limit,
):  # fmt: skip
    """See `promptcot_mamba.ops.fused_mixer.fused_mixer`; fp32 or bf16 on CPU. Chooses its own chunks."""
    layout = make_layout(zxbcdt.shape[0], zxbcdt.shape[1], cu_seqlens, None, zxbcdt.device)
    settings = (n_groups, head_dim, state_size, eps, dt_limit)
    return _FusedMixer.apply(layout, settings, zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight)
