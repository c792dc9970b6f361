"""The mixer between its projections on Triton kernels: keeps its inputs only, and writes every gradient in place.

Forward: convolution, walk, scan, norm (4 launches). The parts of zxbcdt are read where they stand, and x, B and C
where the convolution left them. Backward: the same up to the SSD's output (kept instead where the layer is recomputed
as a whole), then norm, SSD and convolution backwards; the gradients of z, xBC and dt are written straight into their
places of the gradient of zxbcdt. A slice of a row that others continue walks over its open document once more, from no
state, so that nobody waits for it longer than that.
"""

from dataclasses import replace

import torch

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.causal_conv1d import triton_kernels as conv
from promptcot_mamba.ops.fused_mixer.staged import Stages, run_staged
from promptcot_mamba.ops.gated_rms_norm import triton_kernels as norm
from promptcot_mamba.ops.mixer_settings import MixerSettings
from promptcot_mamba.ops.ssd import triton_kernels as ssd
from promptcot_mamba.ops.triton_common import as_rows, chunk_table


class TritonStages(Stages):
    def __init__(self, settings: MixerSettings, tensors, cu_seqlens: torch.Tensor | None):
        super().__init__(settings, tensors, cu_seqlens)
        zxbcdt, conv_weight, self.conv_bias, A_log, self.D, self.dt_bias, norm_weight = tensors
        self.batch, self.length = zxbcdt.shape[:2]
        self.rows = as_rows(zxbcdt)
        self.z, self.xBC, self.dt = self.split(self.rows)
        self.conv_weight, self.norm_weight = conv_weight.contiguous(), norm_weight.contiguous()
        self.A = -torch.exp(A_log.float())
        self.norm_settings = settings.eps, self.d_inner // settings.n_groups
        self.halo: torch.Tensor | None = None  # of every document, though only the first has one
        self.state: torch.Tensor | None = None

    def table(self, size: int):
        return chunk_table(self.batch, self.length, self.cu_seqlens, size, self.rows.device)

    def empty(self, width: int) -> torch.Tensor:
        return torch.empty(self.rows.shape[0], width, dtype=self.rows.dtype, device=self.rows.device)

    def inputs(self, first: int = 0, end: int | None = None) -> ssd.SsdInputs:
        """The SSD's, of the whole row; or of one document's tokens, from no state."""
        part = slice(first, end)
        x, B, C = self.convolved[part].split([self.d_inner, self.shared, self.shared], dim=1)
        settings = self.settings
        config = ssd.choose_config(x, settings.head_dim, settings.state_size, settings.chunk_size)
        return ssd.SsdInputs(
            x, self.dt[part], self.A, B, C, self.D, None, self.dt_bias, None, None, 1, self.heads, settings.n_groups,
            dt_softplus=True, dt_limit=settings.dt_limit, config=config,
        )  # fmt: skip

    def row_inputs(self) -> ssd.SsdInputs:
        return replace(
            self.inputs(), batch=self.batch, cu_seqlens=self.cu_seqlens, initial_states=self.of_first(self.state)
        )

    def empty_states(self, documents: int) -> torch.Tensor:
        shape = (documents, self.heads, self.settings.head_dim, self.settings.state_size)
        return torch.empty(shape, dtype=torch.float32, device=self.rows.device)

    def enter(self, halo: torch.Tensor | None, keep: bool) -> None:
        self.halo = self.of_first(halo)
        self.convolved = self.empty(self.xBC.shape[1])  # x, B and C side by side: (tokens, d_inner + 2 * g * n)
        conv.run_forward(
            self.xBC, self.conv_weight, self.conv_bias, self.halo, self.convolved, self.table(conv.FORWARD_RUN),
            silu=True,
        )  # fmt: skip

    def fold_states(self) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, left = self.inputs(first=self.marks[-2]), self.empty_states(1)
        walked = ssd.walk(inputs, inputs.table(inputs.config.scan_chunk), final=left)
        return left[0], torch.exp(self.A * walked.steps.sum(1))

    def pass_states(self, state: torch.Tensor | None, final: bool = False) -> torch.Tensor | None:
        self.state = state
        inputs = self.row_inputs()
        left = self.empty_states(len(self.marks) - 1) if final else None
        self.walked = ssd.walk(inputs, inputs.table(inputs.config.scan_chunk), final=left)
        return None if left is None else left[-1]

    def finish(self) -> torch.Tensor:
        self.y, out = self.empty(self.d_inner), self.empty(self.d_inner)
        ssd.run_scan(self.row_inputs(), self.walked, self.y)
        norm.run_forward(self.y, self.z, self.norm_weight, out, *self.norm_settings)
        return out

    def made(self) -> list[torch.Tensor]:
        return [self.convolved, self.y]

    def take_back(self, made, halo: torch.Tensor | None, state: torch.Tensor | None) -> None:
        self.convolved, self.y = made
        self.halo, self.state = self.of_first(halo), state

    def finish_backward(self, dout: torch.Tensor) -> None:
        self.drows = torch.empty(self.rows.shape, dtype=self.rows.dtype, device=self.rows.device)
        self.dz, self.dxBC, self.ddt = self.split(self.drows)
        self.dy = self.y  # each of the norm's programs has read its rows of y when it writes them
        self.dnorm_weight = norm.run_backward(
            self.y, self.z, self.norm_weight, dout, self.dy, self.dz, *self.norm_settings
        )

    def fold_gradients(self) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, asked = self.inputs(end=self.marks[1]), self.empty_states(1)
        table = inputs.table(inputs.config.grad_chunk)
        walked = ssd.walk(inputs, table, dy=self.dy[: self.marks[1]], dinitial=asked)
        return asked[0], torch.exp(self.A * walked.steps.sum(1))

    def pass_gradients(self, dfinal: torch.Tensor | None, initial: bool = False) -> torch.Tensor | None:
        inputs = self.row_inputs()
        asked = self.empty_states(len(self.marks) - 1) if initial else None
        table = inputs.table(inputs.config.grad_chunk)
        self.walked = ssd.walk(inputs, table, dy=self.dy, dfinal=self.of_last(dfinal), dinitial=asked)
        return None if asked is None else asked[0]

    def leave(self) -> tuple[list[torch.Tensor | None], torch.Tensor | None]:
        dconvolved = self.empty(self.xBC.shape[1])
        dx, dB, dC = dconvolved.split([self.d_inner, self.shared, self.shared], dim=1)
        grads = ssd.SsdGradients(dx, self.ddt, dB, dC)
        dA, dD, ddt_bias = ssd.run_gradients(self.row_inputs(), self.walked, self.dy, grads)
        dhalo = None if self.halo is None else torch.empty_like(self.halo)
        dconv_weight, dconv_bias = conv.run_backward(
            self.xBC, self.conv_weight, self.conv_bias, self.halo, dconvolved, self.dxBC,
            self.table(conv.BACKWARD_RUN), silu=True, dinitial=dhalo,
        )  # fmt: skip
        shared: list[torch.Tensor | None]
        shared = [self.drows, dconv_weight, dconv_bias, dA * self.A, dD, ddt_bias, self.dnorm_weight]
        return shared, None if dhalo is None else dhalo[0]


def fused_mixer_triton(zxbcdt, conv_weight, *others, cu_seqlens, keep=False, neighbours=None, **settings):
    """See `promptcot_mamba.ops.fused_mixer.fused_mixer`.

    Raises:
        InputError: for float64 and for sizes the kernels have no tiles for.
    """
    if zxbcdt.dtype == torch.float64:
        raise InputError("fused_mixer: the triton backend takes float16, bfloat16 or float32, found zxbcdt of float64")
    told = MixerSettings(**settings)
    ssd.choose_config(zxbcdt, told.head_dim, told.state_size, told.chunk_size)
    conv.check_width(conv_weight.shape[1])
    return run_staged(TritonStages, told, (zxbcdt, conv_weight, *others), cu_seqlens, keep, neighbours)
