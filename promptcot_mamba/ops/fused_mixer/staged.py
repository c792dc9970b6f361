"""The fused mixer as one differentiable step in stages, between which slices of a row hear of one another.

    forward   enter (convolution, each chunk's own state)   pass_states      finish (outputs, gated norm)
    backward  finish_backward                               pass_gradients   leave (convolution)

Where a row is whole, nothing stands before its first document. Where other ranks hold the rest of it, `neighbours`
bring that document's last inputs of the convolution (the halo) and its state, and take what the last one leaves. A
form sees tensors only: initial states, final states, and their gradients.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch.autograd.function import once_differentiable

from promptcot_mamba.ops.mixer_settings import MixerSettings
from promptcot_mamba.ops.packing import boundaries

Tensors = Sequence[Any]  # tensors; None for a bias that there is not


class Stages(ABC):
    """One evaluation of a mixer. `tensors` are the seven of `fused_mixer`; `cu_seqlens` None for equal rows.

    A state is (h, p, n) in fp32 (fp64 for fp64), of the first document where it comes in and of the last where it
    leaves; a halo (d_conv, w - 1) in the dtype of zxbcdt, oldest first.
    """

    def __init__(self, settings: MixerSettings, tensors: Tensors, cu_seqlens: torch.Tensor | None):
        self.settings, self.tensors, self.cu_seqlens = settings, tensors, cu_seqlens
        self.heads = tensors[3].shape[0]
        self.d_inner, self.shared = self.heads * settings.head_dim, settings.n_groups * settings.state_size

    def split(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """z, xBC and dt of rows laid out like zxbcdt: views."""
        return rows.split([self.d_inner, self.d_inner + 2 * self.shared, self.heads], dim=-1)

    @property
    def marks(self) -> list[int]:
        assert self.cu_seqlens is not None  # what continues is a packed row's
        return boundaries(self.cu_seqlens)

    def of_first(self, state: torch.Tensor | None) -> torch.Tensor | None:
        """(docs, ...) initial states of which only the first document has one."""
        return None if state is None else torch.cat([state[None], state.new_zeros(len(self.marks) - 2, *state.shape)])

    def of_last(self, state: torch.Tensor | None) -> torch.Tensor | None:
        """(docs, ...) gradients of final states, of which only the last document's is asked for."""
        return None if state is None else torch.cat([state.new_zeros(len(self.marks) - 2, *state.shape), state[None]])

    def fits(self) -> bool:
        """Whether what the forward makes may be kept for the backward though nobody asked for it."""
        return False

    @abstractmethod
    def enter(self, halo: torch.Tensor | None, keep: bool) -> None:
        """The convolution, and what can be made without any incoming state; `keep`: `made` will be asked for."""

    @abstractmethod
    def fold_states(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What the last document's tokens here leave of themselves (h, p, n), and the decay (h) over them."""

    @abstractmethod
    def pass_states(self, state: torch.Tensor | None, final: bool = False) -> torch.Tensor | None:
        """From chunk to chunk, `state` entering the first document; with `final` the one the last document leaves."""

    @abstractmethod
    def finish(self) -> torch.Tensor:
        """The output (tokens, d_inner)."""

    def made(self) -> Tensors:
        """What the backward would have to make again."""
        return ()

    def take_back(self, made: Tensors, halo: torch.Tensor | None, state: torch.Tensor | None) -> None:
        """Be as after `finish`, from what was kept."""
        raise NotImplementedError  # a form that keeps nothing is never asked

    def run_again(self, halo: torch.Tensor | None, state: torch.Tensor | None) -> None:
        """Be as after `finish`, from the inputs."""
        self.enter(halo, keep=False)
        self.pass_states(state)
        self.finish()

    @abstractmethod
    def finish_backward(self, dout: torch.Tensor) -> None:
        """From the output's gradient (tokens, d_inner) back to the states."""

    @abstractmethod
    def fold_gradients(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What the first document's tokens here ask of their initial state, and the decay (h) over them."""

    @abstractmethod
    def pass_gradients(self, dfinal: torch.Tensor | None, initial: bool = False) -> torch.Tensor | None:
        """From chunk to chunk backwards, `dfinal` the last document's; with `initial` the gradient of `state`."""

    @abstractmethod
    def leave(self) -> tuple[list[torch.Tensor | None], torch.Tensor | None]:
        """Gradients of the seven tensors, and of the halo where there was one."""


class Neighbours(Protocol):
    """The slices before and after this one, as `ops.sequence_parallel` reaches them."""

    def take_halo(self, xBC: torch.Tensor, width: int, again: bool) -> torch.Tensor | None:
        """Lend the next slice its halo, and return what the previous one lends (None where a document begins).

        xBC: (l, d_conv) inputs of the convolution. `again`: this forward will be repeated for the backward pass.
        """

    def pass_states(self, stages: Stages) -> torch.Tensor | None:
        """Run `stages.pass_states` with the state that enters here, pass on the one that leaves; return the former."""

    def pass_gradients(self, stages: Stages) -> None:
        """Run `stages.pass_gradients`, from the last slice to the first."""

    def return_halo(self, dxBC: torch.Tensor, dhalo: torch.Tensor | None) -> None:
        """Give back the gradient of what was borrowed, and add to dxBC (l, d_conv) that of what was lent."""


class _StagedMixer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, make, settings, cu_seqlens, keep, neighbours, *tensors):
        stages: Stages = make(settings, tensors, cu_seqlens)
        learns = any(ctx.needs_input_grad)
        kept = learns and (keep or stages.fits())
        halo = state = None
        if neighbours is not None:
            xBC = stages.split(tensors[0])[1][0]
            halo = neighbours.take_halo(xBC, tensors[1].shape[1], again=learns and keep)
        stages.enter(halo, kept)
        if neighbours is None:
            stages.pass_states(None)
        else:
            state = neighbours.pass_states(stages)
        out = stages.finish()
        # Saved, so that checkpointing may drop it.
        ctx.save_for_backward(*tensors, halo, state, *(stages.made() if kept else ()))
        ctx.make, ctx.settings, ctx.neighbours, ctx.spent = make, settings, neighbours, False
        ctx.cu_seqlens = cu_seqlens  # not among the saved: what is known of documents is known of this very tensor
        return out.view(*tensors[0].shape[:2], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        saved = ctx.saved_tensors  # asked for once: under checkpointing this runs the forward again
        tensors, (halo, state), made = saved[:7], saved[7:9], saved[9:]
        stages: Stages = ctx.make(ctx.settings, tensors, ctx.cu_seqlens)
        if made and not ctx.spent:  # a second backward over a retained graph: the first may have written over them
            stages.take_back(made, halo, state)
        else:
            stages.run_again(halo, state)
        ctx.spent = True
        stages.finish_backward(dout.to(tensors[0].dtype).contiguous().view(-1, dout.shape[-1]))
        if ctx.neighbours is None:
            stages.pass_gradients(None)
        else:
            ctx.neighbours.pass_gradients(stages)
        grads, dhalo = stages.leave()
        if ctx.neighbours is not None:
            dzxbcdt = grads[0]
            assert dzxbcdt is not None  # the first of the seven always is
            ctx.neighbours.return_halo(stages.split(dzxbcdt.view(dout.shape[1], -1))[1], dhalo)
        cast = [
            None if tensor is None or grad is None else grad.to(tensor.dtype).view_as(tensor)
            for grad, tensor in zip(grads, tensors, strict=True)
        ]
        return None, None, None, None, None, *cast


def run_staged(
    make: Callable[..., Stages],
    settings: MixerSettings,
    tensors: Tensors,
    cu_seqlens: torch.Tensor | None,
    keep: bool,
    neighbours: Neighbours | None,
) -> Any:
    """(b, l, d_inner) by one form's stages; see `promptcot_mamba.ops.fused_mixer.fused_mixer`."""
    return _StagedMixer.apply(make, settings, cu_seqlens, keep, neighbours, *tensors)
