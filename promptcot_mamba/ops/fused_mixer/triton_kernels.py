"""The mixer between its projections on Triton kernels: keeps its inputs only, and writes every gradient in place.

Forward: convolution, walk, scan, norm (4 launches). The parts of zxbcdt are read where they stand, and x, B and C
where the convolution left them. Backward: the same up to the SSD's output (kept instead where the layer is recomputed
as a whole), then norm, SSD and convolution backwards; the gradients of z, xBC and dt are written straight into their
places of the gradient of zxbcdt.
"""

from __future__ import annotations

import torch
from torch.autograd.function import once_differentiable

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.causal_conv1d import triton_kernels as conv
from promptcot_mamba.ops.gated_rms_norm import triton_kernels as norm
from promptcot_mamba.ops.mixer_settings import MixerSettings
from promptcot_mamba.ops.ssd import triton_kernels as ssd
from promptcot_mamba.ops.triton_common import as_rows, chunk_table


class _Mixer:
    """One forward evaluation: what the backward needs again."""

    def __init__(
        self, settings: MixerSettings, zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, cu_seqlens
    ):
        self.settings, self.cu_seqlens = settings, cu_seqlens
        self.batch, self.length = zxbcdt.shape[:2]
        self.heads = A_log.shape[0]
        self.d_inner = self.heads * settings.head_dim
        self.shared = settings.n_groups * settings.state_size
        self.zxbcdt = as_rows(zxbcdt)
        self.conv_weight, self.conv_bias = conv_weight.contiguous(), conv_bias
        self.norm_weight = norm_weight.contiguous()
        self.A = -torch.exp(A_log.float())
        self.D, self.dt_bias = D, dt_bias

    def split(self, rows: torch.Tensor):
        """z, xBC and dt of rows laid out like zxbcdt: views."""
        return rows.split([self.d_inner, self.d_inner + 2 * self.shared, self.heads], dim=1)

    def table(self, size: int):
        return chunk_table(self.batch, self.length, self.cu_seqlens, size, self.zxbcdt.device)

    def empty(self, width: int) -> torch.Tensor:
        rows = self.zxbcdt
        return torch.empty(rows.shape[0], width, dtype=rows.dtype, device=rows.device)

    def convolve(self) -> torch.Tensor:
        """x, B and C side by side: (tokens, d_inner + 2 * g * n)."""
        _, xBC, _ = self.split(self.zxbcdt)
        convolved = self.empty(xBC.shape[1])
        conv.run_forward(
            xBC, self.conv_weight, self.conv_bias, None, convolved, self.table(conv.FORWARD_RUN), silu=True
        )
        return convolved

    def ssd_inputs(self, convolved: torch.Tensor) -> ssd.SsdInputs:
        _, _, dt = self.split(self.zxbcdt)
        x, B, C = convolved.split([self.d_inner, self.shared, self.shared], dim=1)
        settings = self.settings
        config = ssd.choose_config(x, settings.head_dim, settings.state_size, settings.chunk_size)
        return ssd.SsdInputs(
            x, dt, self.A, B, C, self.D, None, self.dt_bias, None, self.cu_seqlens, self.batch, self.heads,
            settings.n_groups, dt_softplus=True, dt_limit=settings.dt_limit, config=config,
        )  # fmt: skip

    @property
    def norm_settings(self) -> tuple[float, int]:
        return self.settings.eps, self.d_inner // self.settings.n_groups


class _FusedMixer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, settings, keep, zxbcdt, *rest):
        mixer = _Mixer(settings, zxbcdt, *rest)
        convolved, y = mixer.convolve(), mixer.empty(mixer.d_inner)
        ssd.run_forward(mixer.ssd_inputs(convolved), y)
        out = torch.empty_like(y)
        norm.run_forward(y, mixer.split(mixer.zxbcdt)[0], mixer.norm_weight, out, *mixer.norm_settings)
        made = (convolved, y) if keep and any(ctx.needs_input_grad) else (None, None)
        ctx.save_for_backward(zxbcdt, *rest, *made)
        ctx.settings, ctx.y_is_whole = settings, True
        return out.view(*zxbcdt.shape[:2], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        zxbcdt, *rest, convolved, y = ctx.saved_tensors
        mixer = _Mixer(ctx.settings, zxbcdt, *rest)
        inputs = mixer.ssd_inputs(mixer.convolve() if convolved is None else convolved)
        if y is None or not ctx.y_is_whole:  # a graph retained for a second backward: the first wrote dy over it
            y = mixer.empty(mixer.d_inner)
            ssd.run_forward(inputs, y)
        ctx.y_is_whole = False
        z, xBC, _ = mixer.split(mixer.zxbcdt)
        dzxbcdt = torch.empty(zxbcdt.shape, dtype=zxbcdt.dtype, device=zxbcdt.device)
        dz, dxBC, ddt = mixer.split(as_rows(dzxbcdt))
        dy = y  # each of the norm's programs has read its rows of y when it writes them
        dnorm_weight = norm.run_backward(y, z, mixer.norm_weight, as_rows(dout), dy, dz, *mixer.norm_settings)
        dconvolved = mixer.empty(xBC.shape[1])
        dx, dB, dC = dconvolved.split([mixer.d_inner, mixer.shared, mixer.shared], dim=1)
        dA, dD, ddt_bias = ssd.run_backward(inputs, dy, ssd.SsdGradients(dx, ddt, dB, dC))
        dconv_weight, dconv_bias = conv.run_backward(
            xBC, mixer.conv_weight, mixer.conv_bias, None, dconvolved, dxBC, mixer.table(conv.BACKWARD_RUN), silu=True
        )
        _, _, A_log, D, dt_bias, _, _ = rest
        dA_log = (dA * mixer.A).to(A_log.dtype)
        return (
            None, None, dzxbcdt, dconv_weight, dconv_bias, dA_log, dD.to(D.dtype), ddt_bias.to(dt_bias.dtype),
            dnorm_weight, None,
        )  # fmt: skip


def fused_mixer_triton(
    zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, *, n_groups, head_dim, state_size, chunk_size,
    eps, cu_seqlens, dt_limit, keep=False,
):  # fmt: skip
    """See `promptcot_mamba.ops.fused_mixer.fused_mixer`.

    Raises:
        InputError: for float64 and for sizes the kernels have no tiles for.
    """
    if zxbcdt.dtype == torch.float64:
        raise InputError("fused_mixer: the triton backend takes float16, bfloat16 or float32, found zxbcdt of float64")
    ssd.choose_config(zxbcdt, head_dim, state_size, chunk_size)
    conv.check_width(conv_weight.shape[1])
    settings = MixerSettings(n_groups, head_dim, state_size, chunk_size, eps, tuple(dt_limit))
    return _FusedMixer.apply(
        settings, keep, zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, cu_seqlens
    )  # fmt: skip
