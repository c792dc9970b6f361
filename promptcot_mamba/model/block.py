"""One layer: norm, mixer, and the residual stream around them, kept in fp32 where the config asks."""

import torch
from transformers import Mamba2Config
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from promptcot_mamba.model.mixer import Mamba2Mixer, RMSNorm
from promptcot_mamba.ops.sequence_parallel import RowSlice


class Mamba2Block(GradientCheckpointingLayer):
    """`hidden + mixer(norm(hidden))`; under gradient checkpointing only `hidden` is kept for the backward pass."""

    def __init__(self, config: Mamba2Config, layer_idx: int):
        super().__init__()
        self.residual_in_fp32 = config.residual_in_fp32
        self.norm = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mixer = Mamba2Mixer(config, layer_idx)

    def forward(
        self,
        hidden: torch.Tensor,
        cu_seqlens: torch.Tensor | None = None,
        cache: Cache | None = None,
        place: RowSlice | None = None,
    ) -> torch.Tensor:
        """(b, l, d_model) -> (b, l, d_model); `place`: `hidden` is a slice of a row that several ranks hold."""
        recomputed = self.gradient_checkpointing and self.training  # so the mixer need not make anything again itself
        mixed = self.mixer(self.norm(hidden), cu_seqlens=cu_seqlens, cache=cache, keep=recomputed, place=place)
        return (hidden.float() if self.residual_in_fp32 else hidden) + mixed
