"""Mamba-2's mixer: input projection, convolution, SSD, grouped gated norm, output projection.

Parameter names are transformers' own. `b` batch, `l` length, `h` heads of `p` channels, `g` groups, `n` states,
`w` the convolution's width.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Mamba2Config
from transformers.cache_utils import Cache, LinearAttentionCacheLayerMixin

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.causal_conv1d import causal_conv1d
from promptcot_mamba.ops.fused_mixer import fused_mixer
from promptcot_mamba.ops.gated_rms_norm import gated_rms_norm
from promptcot_mamba.ops.products import Linear
from promptcot_mamba.ops.sequence_parallel import RowSlice
from promptcot_mamba.ops.ssd import ssd


class RMSNorm(nn.Module):
    """RMS norm in fp32 of a stream that may be wider than the model; the result has the weight's dtype."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return gated_rms_norm(hidden, None, self.weight, eps=self.eps)


class Mamba2Mixer(nn.Module):
    """One mixer; `forward` takes whole rows or packed documents, and continues from a cache where one is given."""

    def __init__(self, config: Mamba2Config, layer_idx: int):
        super().__init__()
        if config.hidden_act not in ("silu", "swish"):
            raise InputError(f"config: hidden_act must be silu, found {config.hidden_act!r}")
        self.config, self.layer_idx = config, layer_idx
        self.d_inner = config.num_heads * config.head_dim
        self.d_shared = config.n_groups * config.state_size  # of B, and of C
        conv_dim = self.d_inner + 2 * self.d_shared
        self.in_proj = Linear(config.hidden_size, self.d_inner + conv_dim + config.num_heads, bias=config.use_bias)
        self.conv1d = nn.Conv1d(conv_dim, conv_dim, config.conv_kernel, groups=conv_dim, bias=config.use_conv_bias)
        self.dt_bias = nn.Parameter(torch.ones(config.num_heads))
        self.A_log = nn.Parameter(torch.zeros(config.num_heads))
        self.D = nn.Parameter(torch.ones(config.num_heads))
        self.norm = RMSNorm(self.d_inner, config.layer_norm_epsilon)
        self.out_proj = Linear(self.d_inner, config.hidden_size, bias=config.use_bias)

    def forward(
        self,
        hidden: torch.Tensor,
        cu_seqlens: torch.Tensor | None = None,
        cache: Cache | None = None,
        keep: bool = False,
        place: RowSlice | None = None,
    ) -> torch.Tensor:
        """(b, l, d_model) -> (b, l, d_model), each document or row by itself.

        `keep`: see `fused_mixer`; `place`: the tokens are a slice of a row (`ops.sequence_parallel`).
        """
        zxbcdt = self.in_proj(hidden)
        if cache is None:
            neighbours = None
            if place is not None:
                assert cu_seqlens is not None  # a slice is one of a packed row
                neighbours = place.neighbours(cu_seqlens, self.layer_idx)
            y = fused_mixer(
                zxbcdt, self.conv1d.weight[:, 0], self.conv1d.bias, self.A_log, self.D, self.dt_bias,
                self.norm.weight, n_groups=self.config.n_groups, head_dim=self.config.head_dim,
                state_size=self.config.state_size, eps=self.config.layer_norm_epsilon, cu_seqlens=cu_seqlens,
                dt_limit=cast("tuple[float, float]", self.config.time_step_limit), keep=keep, neighbours=neighbours,
            )  # fmt: skip
        elif cache.has_previous_state(self.layer_idx) and zxbcdt.shape[1] == 1 and cu_seqlens is None:
            y = self._step(zxbcdt[:, 0], cache)[:, None]
        else:
            y = self._continue(zxbcdt, cu_seqlens, cache)
        return self.out_proj(y.to(hidden.dtype))

    def _split(self, zxbcdt: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """gate (..., d_inner), xBC (..., d_inner + 2 g n), dt (..., h) in fp32."""
        z, xBC, dt = zxbcdt.split([self.d_inner, self.d_inner + 2 * self.d_shared, self.config.num_heads], dim=-1)
        dt = F.softplus(dt.float() + self.dt_bias.float()).clamp(*self.config.time_step_limit)
        return z, xBC, dt

    def _split_inputs(self, xBC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x (..., h, p), B and C (..., g, n)."""
        x, B, C = xBC.split([self.d_inner, self.d_shared, self.d_shared], dim=-1)
        groups = (self.config.n_groups, self.config.state_size)
        heads = (self.config.num_heads, self.config.head_dim)
        return x.unflatten(-1, heads), B.unflatten(-1, groups), C.unflatten(-1, groups)

    def _normed(self, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        group_size = self.d_inner // self.config.n_groups
        return gated_rms_norm(y, z, self.norm.weight, eps=self.norm.eps, group_size=group_size)

    def _states(self, cache: Cache) -> tuple[torch.Tensor, torch.Tensor]:
        """What an earlier call left: the convolution's inputs (b, d, w-1) and the state (b, h, p, n) in fp32."""
        layer = cast(LinearAttentionCacheLayerMixin, cache.layers[self.layer_idx])
        conv_state, ssm_state = layer.conv_states[0], layer.recurrent_states[0]
        assert conv_state is not None
        assert ssm_state is not None
        return conv_state, ssm_state

    def _continue(self, zxbcdt: torch.Tensor, cu_seqlens: torch.Tensor | None, cache: Cache) -> torch.Tensor:
        """Many tokens, from the cache's states where it has any, leaving the new ones there."""
        conv_state = ssm_state = None
        if cache.has_previous_state(self.layer_idx):
            conv_state, ssm_state = self._states(cache)
        z, xBC, dt = self._split(zxbcdt)
        xBC, conv_state = causal_conv1d(
            xBC, self.conv1d.weight[:, 0], self.conv1d.bias, initial_states=conv_state, cu_seqlens=cu_seqlens,
            return_final_states=True,
        )  # fmt: skip
        x, B, C = self._split_inputs(xBC)
        y, ssm_state = ssd(
            x, dt, -torch.exp(self.A_log.float()), B, C, D=self.D, initial_states=ssm_state, cu_seqlens=cu_seqlens,
            return_final_states=True,
        )  # fmt: skip
        cache.update_conv_state(conv_state, self.layer_idx, conv_kernel_size=conv_state.shape[-1])
        cache.update_recurrent_state(ssm_state, self.layer_idx)
        return self._normed(y.flatten(2), z)

    def _step(self, zxbcdt: torch.Tensor, cache: Cache) -> torch.Tensor:
        """One token of every row, (b, ...) -> (b, d_inner): the recurrence itself."""
        conv_state, ssm_state = self._states(cache)
        z, xBC, dt = self._split(zxbcdt)
        window = torch.cat([conv_state, xBC[..., None].to(conv_state.dtype)], dim=-1)  # (b, d, w)
        xBC = (window.float() * self.conv1d.weight[:, 0].float()).sum(-1)
        if self.conv1d.bias is not None:
            xBC = xBC + self.conv1d.bias.float()
        x, B, C = self._split_inputs(F.silu(xBC).to(zxbcdt.dtype).float())
        b, h, p = x.shape
        g = B.shape[1]
        grouped = ssm_state.float().view(b, g, h // g, p, -1)  # (b, g, k, p, n)
        decay = torch.exp(-dt * self.A_log.float().exp()).view(b, g, h // g, 1, 1)
        update = (x * dt[..., None]).view(b, g, h // g, p, 1) * B[:, :, None, None]
        grouped = decay * grouped + update
        y = (grouped @ C[:, :, None, :, None]).view(b, h, p) + self.D.float()[:, None] * x
        cache.update_conv_state(window[..., 1:], self.layer_idx)
        cache.update_recurrent_state(grouped.view(b, h, p, -1), self.layer_idx)
        return self._normed(y.flatten(1).to(zxbcdt.dtype), z)
