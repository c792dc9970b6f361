"""The fused mixer put together from the other ops: as its definition, recomputed in the backward pass, in stages."""

from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from promptcot_mamba.log import log_once
from promptcot_mamba.ops.backends import MIXER_OPS, get_table, wanted_backend
from promptcot_mamba.ops.causal_conv1d import causal_conv1d
from promptcot_mamba.ops.fused_mixer.staged import Stages, run_staged
from promptcot_mamba.ops.gated_rms_norm import gated_rms_norm
from promptcot_mamba.ops.mixer_settings import MixerSettings
from promptcot_mamba.ops.ssd import ssd


def _compose(backends, settings, cu_seqlens, *tensors):
    """Whole rows; `backends`: the name each op runs on, None where it chooses."""
    stages = ComposedStages(backends, settings, tensors, cu_seqlens)
    stages.enter(None, keep=True)
    stages.pass_states(None)
    return stages.output()


def fused_mixer_reference(*tensors, keep=False, cu_seqlens, neighbours=None, **settings):
    """See `promptcot_mamba.ops.fused_mixer.fused_mixer`; the reference of every op it is made of. Keeps everything."""
    backends: dict[str, str | None] = dict.fromkeys(MIXER_OPS, "reference")
    if neighbours is not None:
        make = partial(ComposedStages, backends)
        return run_staged(make, MixerSettings(**settings), tensors, cu_seqlens, keep, neighbours)
    return _compose(backends, MixerSettings(**settings), cu_seqlens, *tensors)


def fused_mixer_recompute(*tensors, keep=False, cu_seqlens, neighbours=None, **settings):
    """See `promptcot_mamba.ops.fused_mixer.fused_mixer`."""
    # Asked now: the backward may run when `prefer_backend` is over, and must repeat what the forward did.
    backends = {op: wanted_backend(op, get_table(op)) for op in MIXER_OPS}
    asked = [f"{op}={name}" for op, name in backends.items() if name]
    if asked:
        log_once(f"fused_mixer: composed of its ops on {tensors[0].device.type}, as chosen: {' '.join(asked)}")
    if neighbours is not None:
        make = partial(ComposedStages, backends)
        return run_staged(make, MixerSettings(**settings), tensors, cu_seqlens, keep, neighbours)

    run = partial(_compose, backends, MixerSettings(**settings), cu_seqlens)
    return run(*tensors) if keep else checkpoint(run, *tensors, use_reentrant=False)


class ComposedStages(Stages):
    """The stages of a slice in plain ops, whose gradients autograd finds. It keeps nothing, whoever asks."""

    def __init__(self, backends: dict[str, str | None], *arguments):
        super().__init__(*arguments)
        self.backends = backends
        (z, xBC, dt), others = self.split(self.tensors[0]), self.tensors[1:]
        self.inputs: list[Any] = [z, xBC, dt, *others]  # tensors; None for a bias that there is not

    def _convolve(self, halo: torch.Tensor | None) -> torch.Tensor:
        _, xBC, _, weight, bias, *_ = self.inputs
        out = causal_conv1d(
            xBC, weight, bias, initial_states=self.of_first(halo), cu_seqlens=self.cu_seqlens,
            backend=self.backends["causal_conv1d"],
        )  # fmt: skip
        return cast(torch.Tensor, out)  # no final states were asked for

    def _ssd_inputs(self, part: slice = slice(None)):
        _, _, dt, _, _, A_log, _, dt_bias, _ = self.inputs
        x, B, C = self.convolved[:, part].split([self.d_inner, self.shared, self.shared], dim=-1)
        heads, groups = (self.heads, self.settings.head_dim), (self.settings.n_groups, self.settings.state_size)
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        dt = F.softplus(dt[:, part].to(wide) + dt_bias.to(wide)).clamp(*self.settings.dt_limit)
        return x.unflatten(-1, heads), dt, -torch.exp(A_log.to(wide)), B.unflatten(-1, groups), C.unflatten(-1, groups)

    def _decay(self, part: slice) -> torch.Tensor:
        _, dt, A, _, _ = self._ssd_inputs(part)
        return torch.exp(dt[0].sum(0) * A)

    def enter(self, halo: torch.Tensor | None, keep: bool) -> None:
        self.convolved = self._convolve(halo)

    def fold_states(self) -> tuple[torch.Tensor, torch.Tensor]:
        """By its sum over tokens: S = sum_t exp(sum_(s > t) dt_s A) dt_t x_t B_t^T."""
        x, dt, A, B, _ = self._ssd_inputs(slice(self.marks[-2], None))
        sums = (dt[0] * A).cumsum(0)  # (l, h)
        weighted = x[0].to(dt.dtype) * (dt[0] * torch.exp(sums[-1] - sums))[..., None]  # (l, h, p)
        grouped = weighted.flatten(1).unflatten(1, (self.settings.n_groups, -1)).permute(1, 2, 0)  # (g, k p, l)
        made = grouped @ B[0].to(dt.dtype).transpose(0, 1)
        return made.reshape(self.heads, -1, self.settings.state_size), torch.exp(sums[-1])

    def pass_states(self, state: torch.Tensor | None, final: bool = False) -> torch.Tensor | None:
        self.state = state
        if not final:
            return None
        made, decay = self.fold_states()
        reached = state is not None and len(self.marks) == 2  # what comes in is still the open document
        return made + decay[:, None, None] * cast(torch.Tensor, state) if reached else made

    def finish(self) -> torch.Tensor:
        return self.output()[0]

    def output(self) -> torch.Tensor:
        """(b, l, d_inner)."""
        z, _, _, _, _, _, D, _, norm_weight = self.inputs
        y = ssd(
            *self._ssd_inputs(), D=D, chunk_size=self.settings.chunk_size, initial_states=self.of_first(self.state),
            cu_seqlens=self.cu_seqlens, backend=self.backends["ssd"],
        )  # fmt: skip
        out = gated_rms_norm(
            cast(torch.Tensor, y).flatten(2), z, norm_weight, eps=self.settings.eps,
            group_size=self.d_inner // self.settings.n_groups, backend=self.backends["gated_rms_norm"],
        )  # fmt: skip
        return out.to(z.dtype)

    def run_again(self, halo: torch.Tensor | None, state: torch.Tensor | None) -> None:
        self.inputs = [None if piece is None else piece.detach().requires_grad_() for piece in self.inputs]
        self.halo, self.state = (None if piece is None else piece.detach().requires_grad_() for piece in (halo, state))
        with torch.enable_grad():
            self.from_inputs = self._convolve(self.halo)
            self.convolved = self.from_inputs.detach().requires_grad_()
            self.out = self.finish()

    def _add(self, output: torch.Tensor, gradient: torch.Tensor) -> None:
        """Add what `output` asks of the inputs, of what the convolution left, and of the initial state."""
        wanted = [*self.inputs, self.convolved, self.state]
        leaves = [leaf for leaf in wanted if leaf is not None]
        found = iter(torch.autograd.grad(output, leaves, gradient, allow_unused=True))
        for place, leaf in enumerate(wanted):
            gained = None if leaf is None else next(found)
            if gained is not None:
                known = self.grads[place]
                self.grads[place] = gained if known is None else known + gained

    def finish_backward(self, dout: torch.Tensor) -> None:
        self.grads: list[torch.Tensor | None] = [None] * (len(self.inputs) + 2)
        self._add(self.out, dout)

    def fold_gradients(self) -> tuple[torch.Tensor, torch.Tensor]:
        own = self.grads[-1]
        assert own is not None  # asked of slices that a state enters
        return own, self._decay(slice(0, self.marks[1]))

    def pass_gradients(self, dfinal: torch.Tensor | None, initial: bool = False) -> torch.Tensor | None:
        if dfinal is not None:
            with torch.enable_grad():
                final = cast(torch.Tensor, self.pass_states(self.state, final=True))
            self._add(final, dfinal)
        return self.grads[-1]

    def leave(self) -> tuple[list[torch.Tensor | None], torch.Tensor | None]:
        self._add_convolution()
        dz, dxBC, ddt, *others = self.grads[:-2]
        pieces = [piece for piece in (dz, dxBC, ddt) if piece is not None]  # each of them is reached
        return [torch.cat(pieces, dim=-1), *others], self.dhalo

    def _add_convolution(self) -> None:
        _, xBC, _, weight, bias, *_ = self.inputs
        leaves = [leaf for leaf in (xBC, weight, bias, self.halo) if leaf is not None]
        found = iter(torch.autograd.grad(self.from_inputs, leaves, self.grads[-2]))
        for place, leaf in ((1, xBC), (3, weight), (4, bias)):
            self.grads[place] = None if leaf is None else next(found)
        self.dhalo = None if self.halo is None else next(found)
