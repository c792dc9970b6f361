"""The fused mixer on CPU: a handful of compiled passes, chunk by chunk in cache, all gradients by hand.

The algebra and its letters are those of `ops/ssd/chunk_math.py`; the passes are in `cpu_kernels.cpp`. While memory is
plentiful the forward's results are kept for the backward, which otherwise makes them again from the inputs.
"""

import ctypes
import math
import threading
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.fused_mixer.staged import Stages, run_staged
from promptcot_mamba.ops.mixer_settings import MixerSettings
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
        *((name, ctypes.c_void_p) for name in ("start", "length", "position", "halo")),
    ]


class NativeStages(Stages):
    """Inputs in fp32 where small, intermediate results by their names in `chunk_math`."""

    MADE = ("raw", "dt", "sums", "keep", "xbc", "scores", "states", "read", "y")  # by the forward, for the backward
    xbc: torch.Tensor  # these five as `large_shapes` says
    scores: torch.Tensor
    states: torch.Tensor
    read: torch.Tensor
    y: torch.Tensor

    def __init__(self, settings: MixerSettings, tensors, cu_seqlens: torch.Tensor | None):
        super().__init__(settings, tensors, cu_seqlens)
        zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight = tensors
        self.layout = make_layout(zxbcdt.shape[0], zxbcdt.shape[1], cu_seqlens, None, zxbcdt.device)
        self.rows = zxbcdt.contiguous().view(-1, zxbcdt.shape[-1])
        table = self.layout.table
        self.c, self.q, self.h, self.p, self.g, self.n = (
            table.n_chunks, table.chunk_size, self.heads, settings.head_dim, settings.n_groups, settings.state_size,
        )  # fmt: skip
        self.conv_dim = conv_weight.shape[0]
        self.taps = conv_weight.float().T.contiguous()  # (w, conv_dim)
        self.bias = torch.zeros(self.conv_dim) if conv_bias is None else conv_bias.float().contiguous()
        self.A = -A_log.float().exp()
        self.D, self.norm_weight = D.float().contiguous(), norm_weight.float().contiguous()
        self.dt_bias = dt_bias.float()
        self.position = table.positions  # kept alive: the structure holds bare pointers
        self.shape = _Shape(
            self.c, self.q, self.h, self.p, self.g, self.n, self.taps.shape[0], self.rows.shape[1],
            table.starts.data_ptr(), table.lengths.data_ptr(), self.position.data_ptr(), None,
        )  # fmt: skip
        self.kind, self.layer = TYPES[zxbcdt.dtype], A_log.data_ptr()

    def call(self, name: str, *arguments: torch.Tensor | float | None) -> None:
        converted = [_as_c(argument) for argument in arguments]
        getattr(load_library(MIXER_SOURCE), name)(ctypes.byref(self.shape), *converted)

    def large_shapes(self) -> dict[str, tuple[int, ...]]:
        c, q, g, kp = self.c, self.q, self.g, self.d_inner // self.g
        return {
            "xbc": (c, q, self.conv_dim), "scores": (g, c, q, q), "states": (g, c, self.n, kp),
            "read": (g, c, q, kp), "y": (g, c, q, kp),
        }  # fmt: skip

    def fits(self) -> bool:
        """Memory is not short. Said once for a layer and these documents: a forward repeated by checkpointing must
        save what the first did."""
        known = _kept.setdefault(self.layout, {})
        size = 4 * sum(map(math.prod, self.large_shapes().values()))
        return known.setdefault((self.layer, size), size < KEPT_SHARE * free_memory())

    # ---- states, (h, p, n) outside and (g, n, k p) within ------------------------------------------------------

    def _grouped(self, state: torch.Tensor | None) -> torch.Tensor | None:
        return None if state is None else state.reshape(self.g, -1, self.n).mT.contiguous()

    def _ungrouped(self, state: torch.Tensor) -> torch.Tensor:
        return state.mT.reshape(self.h, self.p, self.n)

    def _empty_state(self, wanted: bool = True) -> torch.Tensor | None:
        return torch.empty(self.g, self.n, self.d_inner // self.g) if wanted else None

    def _fold(self, name: str, first: int, chunks: slice, own: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        total = self._empty_state()
        assert total is not None
        self.call(name, first, self.sums, own, total)
        return self._ungrouped(total), self.sums[chunks, -1].sum(0).exp_()

    # ---- forward -----------------------------------------------------------------------------------------------

    def _take_halo(self, halo: torch.Tensor | None) -> None:
        self.halo = None if halo is None else halo.float().T.contiguous()  # (w - 1, conv_dim)
        self.shape.halo = None if self.halo is None else self.halo.data_ptr()

    def enter(self, halo: torch.Tensor | None, keep: bool) -> None:
        """With `keep`, what is made is this evaluation's own."""
        self._take_halo(halo)
        raw = self.rows[:, -self.h :].float() + self.dt_bias  # (tokens, h)
        self.raw = self.layout.split(raw[None]).contiguous()
        self.dt = F.softplus(self.raw).clamp_(*self.settings.dt_limit)  # (c, q, h)
        if self.layout.padding is not None:
            self.dt.masked_fill_(self.layout.padding[..., None], 0)
        self.sums = (self.dt * self.A).cumsum(1)
        self.keep = (self.sums[:, -1:] - self.sums).exp_().mul_(self.dt)
        for name, shape in self.large_shapes().items():
            setattr(self, name, torch.empty(shape) if keep else _workspace.take(name, *shape))
        self.call(
            f"enter_chunks_{self.kind}", self.rows, self.taps, self.bias, self.keep, self.xbc, self.scores, self.states
        )

    def fold_states(self) -> tuple[torch.Tensor, torch.Tensor]:
        first = int(self.layout.table.first_chunks[-2])
        return self._fold("fold_forward", first, slice(first, None), self.states)

    def pass_states(self, state: torch.Tensor | None, final: bool = False) -> torch.Tensor | None:
        left = self._empty_state(final)
        self.call("pass_states_forward", self.sums, self._grouped(state), self.states, left)
        return None if left is None else self._ungrouped(left)

    def finish(self) -> torch.Tensor:
        out = self.rows.new_empty(self.rows.shape[0], self.d_inner)
        self.call(
            f"finish_{self.kind}", self.rows, self.sums, self.dt, self.scores, self.xbc, self.states, self.D,
            self.norm_weight, self.read, self.y, out, float(self.settings.eps),
        )  # fmt: skip
        return out

    def made(self) -> list[torch.Tensor]:
        return [getattr(self, name) for name in self.MADE]

    def take_back(self, made: Sequence[torch.Tensor], halo: torch.Tensor | None, state: torch.Tensor | None) -> None:
        self._take_halo(halo)
        for name, tensor in zip(self.MADE, made, strict=True):
            setattr(self, name, tensor)

    # ---- backward ----------------------------------------------------------------------------------------------

    def finish_backward(self, dout: torch.Tensor) -> None:
        self.drows = torch.empty_like(self.rows)
        self.dxbc, self.dstates = (
            _workspace.take(f"d{name}", *getattr(self, name).shape) for name in ("xbc", "states")
        )
        self.ddt, self.d_pairs, self.d_in = (torch.empty_like(self.dt) for _ in range(3))
        self.dD, self.dnorm = torch.empty(self.c, self.h), torch.empty(self.c, self.d_inner)
        self.call(
            f"finish_backward_{self.kind}", self.rows, dout, self.sums, self.dt, self.scores, self.xbc, self.states,
            self.read, self.y, self.D, self.norm_weight, self.drows, self.dxbc, self.dstates, self.ddt, self.d_pairs,
            self.d_in, self.dD, self.dnorm, float(self.settings.eps),
        )  # fmt: skip

    def fold_gradients(self) -> tuple[torch.Tensor, torch.Tensor]:
        after = int(self.layout.table.first_chunks[1])
        return self._fold("fold_backward", after - 1, slice(after), self.dstates)

    def pass_gradients(self, dfinal: torch.Tensor | None, initial: bool = False) -> torch.Tensor | None:
        self.crossing = torch.empty(self.g, self.n, self.c, self.h // self.g)
        asked = self._empty_state(initial)
        self.call(
            "pass_states_backward", self.sums, self.states, self._grouped(dfinal), self.dstates, self.crossing, asked
        )
        return None if asked is None else self._ungrouped(asked)

    def leave(self) -> tuple[list[torch.Tensor | None], torch.Tensor | None]:
        c, ddt, drows, d_out = self.c, self.ddt, self.drows, torch.empty_like(self.dt)
        self.call("leave_chunks_backward", self.sums, self.dt, self.keep, self.xbc, self.dstates, self.dxbc, ddt, d_out)
        dtaps, dbias = torch.empty(c, *self.taps.shape), torch.empty(c, self.conv_dim)
        dhalo = None if self.halo is None else torch.empty_like(self.halo)
        self.call(
            f"convolve_backward_{self.kind}", self.rows, self.taps, self.bias, self.dxbc, drows, dtaps, dbias, dhalo
        )
        across = self.crossing.sum(1).permute(1, 0, 2).reshape(c, 1, self.h)
        after, before = self.d_in.flip(1).cumsum(1).flip(1), d_out.cumsum(1).sub_(d_out)
        da = self.d_pairs.add_(after).add_(before).add_(across)
        ddt.addcmul_(da, self.A)
        low, high = self.settings.dt_limit
        if low > 0 or high != float("inf"):
            free = F.softplus(self.raw)
            ddt.masked_fill_((free < low) | (free > high), 0)
        draw = self.layout.join(ddt.mul_(self.raw.sigmoid())).view(-1, self.h)
        drows[:, -self.h :] = draw
        dA_log = (da * self.dt).sum((0, 1)) * self.A
        grads: list[torch.Tensor | None]
        grads = [drows, dtaps.sum(0).T, dbias.sum(0), dA_log, self.dD.sum(0), draw.sum(0), self.dnorm.sum(0)]
        return grads, None if dhalo is None else dhalo.T.to(self.rows.dtype)


def _as_c(argument: torch.Tensor | float | None) -> Any:
    if argument is None or isinstance(argument, torch.Tensor):
        return None if argument is None else pointer(argument)
    return ctypes.c_float(argument) if isinstance(argument, float) else ctypes.c_int64(argument)


def fused_mixer_native(zxbcdt, *others, cu_seqlens, keep=False, neighbours=None, **settings):
    """See `promptcot_mamba.ops.fused_mixer.fused_mixer`. Chooses its own chunks.

    Raises:
        InputError: for other types than fp32 and bf16, and where the passes cannot be built.
    """
    if not runs_native(zxbcdt):
        raise InputError(
            f"fused_mixer: the native backend takes float32 or bfloat16 and needs a C++ compiler, found {zxbcdt.dtype}"
        )
    return run_staged(NativeStages, MixerSettings(**settings), (zxbcdt, *others), cu_seqlens, keep, neighbours)
