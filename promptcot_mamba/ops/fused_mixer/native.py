"""The fused mixer on CPU: a handful of compiled passes, chunk by chunk in cache, all gradients by hand.

The algebra and its letters are those of `ops/ssd/chunk_math.py`; the passes are in `cpu_kernels.cpp`. While memory is
plentiful the forward's results are kept for the backward, which otherwise makes them again from the inputs.
"""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.native import MIXER_SOURCE, TYPES, free_memory, load_library, pointer, runs_native
from promptcot_mamba.ops.ssd.layout import Layout, make_layout

# Of free memory that one layer's results may take to be kept; so little that what follows always finds room.
KEPT_SHARE = 1 / 32
_kept: WeakKeyDictionary[Layout, dict[tuple[int, int], bool]] = WeakKeyDictionary()


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

    MADE = ("raw", "dt", "sums", "keep", "xbc", "scores", "states", "read", "y")  # by the forward, for the backward
    xbc: torch.Tensor  # these five as `large_shapes` says
    scores: torch.Tensor
    states: torch.Tensor
    read: torch.Tensor
    y: torch.Tensor

    def __init__(self, layout: Layout, tensors, n_groups, head_dim, state_size, eps, dt_limit):
        self.layout, self.eps, self.dt_limit = layout, eps, dt_limit
        zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight = tensors
        self.rows = zxbcdt.contiguous().view(-1, zxbcdt.shape[-1])
        table = layout.table
        self.c, self.q, self.h, self.p, self.g, self.n = (
            table.n_chunks, table.chunk_size, A_log.shape[0], head_dim, n_groups, state_size,
        )  # fmt: skip
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
        self.kind, self.layer = TYPES[zxbcdt.dtype], A_log.data_ptr()

    def call(self, name: str, *arguments: torch.Tensor | float) -> None:
        converted = [ctypes.c_float(a) if isinstance(a, float) else pointer(a) for a in arguments]
        getattr(load_library(MIXER_SOURCE), name)(ctypes.byref(self.shape), *converted)

    def large_shapes(self) -> dict[str, tuple[int, ...]]:
        c, q, g, kp = self.c, self.q, self.g, self.d_inner // self.g
        return {
            "xbc": (c, q, self.conv_dim), "scores": (g, c, q, q), "states": (g, c, self.n, kp),
            "read": (g, c, q, kp), "y": (g, c, q, kp),
        }  # fmt: skip

    def fits(self) -> bool:
        """Whether what the backward would have to make again may be kept: memory is not short.

        Said once for a layer and these documents: a forward repeated by checkpointing must save what the first did.
        """
        known = _kept.setdefault(self.layout, {})
        size = 4 * sum(map(math.prod, self.large_shapes().values()))
        return known.setdefault((self.layer, size), size < KEPT_SHARE * free_memory())

    def run(self, keep: bool) -> torch.Tensor:
        """The output (tokens, d_inner); with `keep`, what was made for it is this pass's own."""
        raw = self.rows[:, -self.h :].float() + self.dt_bias  # (tokens, h)
        self.raw = self.layout.split(raw[None]).contiguous()
        self.dt = F.softplus(self.raw).clamp_(*self.dt_limit)  # (c, q, h)
        if self.layout.padding is not None:
            self.dt.masked_fill_(self.layout.padding[..., None], 0)
        self.sums = (self.dt * self.A).cumsum(1)
        self.keep = (self.sums[:, -1:] - self.sums).exp_().mul_(self.dt)
        for name, shape in self.large_shapes().items():
            setattr(self, name, torch.empty(shape) if keep else _workspace.take(name, *shape))
        out = self.rows.new_empty(self.rows.shape[0], self.d_inner)
        self.call(
            f"enter_chunks_{self.kind}", self.rows, self.taps, self.bias, self.keep, self.xbc, self.scores, self.states
        )
        self.call("pass_states_forward", self.sums, self.states)
        self.call(
            f"finish_{self.kind}", self.rows, self.sums, self.dt, self.scores, self.xbc, self.states, self.D,
            self.norm_weight, self.read, self.y, out, float(self.eps),
        )  # fmt: skip
        return out

    def made(self) -> list[torch.Tensor]:
        return [getattr(self, name) for name in self.MADE]

    def take_back(self, made: Sequence[torch.Tensor]) -> None:
        for name, tensor in zip(self.MADE, made, strict=True):
            setattr(self, name, tensor)

    def gradients(self, dout: torch.Tensor):
        """From the gradient of the output (tokens, d_inner): those of zxbcdt, taps, bias, A, D, dt bias and norm."""
        c = self.c
        drows = torch.empty_like(self.rows)
        dxbc, dstates = (_workspace.take(f"d{name}", *getattr(self, name).shape) for name in ("xbc", "states"))
        ddt, d_pairs, d_in, d_out = (torch.empty_like(self.dt) for _ in range(4))
        dD, dnorm = torch.empty(c, self.h), torch.empty(c, self.d_inner)
        self.call(
            f"finish_backward_{self.kind}", self.rows, dout, self.sums, self.dt, self.scores, self.xbc, self.states,
            self.read, self.y, self.D, self.norm_weight, drows, dxbc, dstates, ddt, d_pairs, d_in, dD, dnorm,
            float(self.eps),
        )  # fmt: skip
        crossing = torch.empty(self.g, self.n, c, self.h // self.g)
        self.call("pass_states_backward", self.sums, self.states, dstates, crossing)
        self.call("leave_chunks_backward", self.sums, self.dt, self.keep, self.xbc, dstates, dxbc, ddt, d_out)
        dtaps, dbias = torch.empty(c, *self.taps.shape), torch.empty(c, self.conv_dim)
        self.call(f"convolve_backward_{self.kind}", self.rows, self.taps, self.bias, dxbc, drows, dtaps, dbias)
        across = crossing.sum(1).permute(1, 0, 2).reshape(c, 1, self.h)
        da = d_pairs.add_(d_in.flip(1).cumsum(1).flip(1)).add_(d_out.cumsum(1).sub_(d_out)).add_(across)
        ddt.addcmul_(da, self.A)
        low, high = self.dt_limit
        if low > 0 or high != float("inf"):
            free = F.softplus(self.raw)
            ddt.masked_fill_((free < low) | (free > high), 0)
        draw = self.layout.join(ddt.mul_(self.raw.sigmoid())).view(-1, self.h)
        drows[:, -self.h :] = draw
        dA_log = (da * self.dt).sum((0, 1)) * self.A
        return drows, dtaps.sum(0).T, dbias.sum(0), dA_log, dD.sum(0), draw.sum(0), dnorm.sum(0)


class _FusedMixer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, layout: Layout, settings: tuple, keep: bool, *tensors):
        ctx.layout, ctx.settings = layout, settings
        run = _Pass(layout, tensors, *settings)
        keep = any(ctx.needs_input_grad) and (keep or run.fits())
        out = run.run(keep)
        ctx.save_for_backward(*tensors, *(run.made() if keep else ()))  # saved so that checkpointing may drop them
        return out.view(*tensors[0].shape[:2], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        saved = ctx.saved_tensors  # asked for once: under checkpointing this runs the forward again
        tensors, made = saved[:7], saved[7:]
        run = _Pass(ctx.layout, tensors, *ctx.settings)
        if made:
            run.take_back(made)
        else:
            run.run(keep=False)
        grads = run.gradients(dout.to(tensors[0].dtype).contiguous())
        cast = [
            None if tensor is None else grad.to(tensor.dtype).view_as(tensor)
            for grad, tensor in zip(grads, tensors, strict=True)
        ]
        return None, None, None, *cast


def fused_mixer_native(
    zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, *, n_groups, head_dim, state_size, chunk_size,
    eps, cu_seqlens, dt_limit, keep=False,
):  # fmt: skip
    """See `promptcot_mamba.ops.fused_mixer.fused_mixer`. Chooses its own chunks.

    Raises:
        InputError: for other types than fp32 and bf16, and where the passes cannot be built.
    """
    if not runs_native(zxbcdt):
        raise InputError(
            f"fused_mixer: the native backend takes float32 or bfloat16 and needs a C++ compiler, found {zxbcdt.dtype}"
        )
    layout = make_layout(zxbcdt.shape[0], zxbcdt.shape[1], cu_seqlens, None, zxbcdt.device)
    settings = (n_groups, head_dim, state_size, eps, dt_limit)
    return _FusedMixer.apply(layout, settings, keep, zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight)
