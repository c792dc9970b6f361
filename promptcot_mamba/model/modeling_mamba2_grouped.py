"""Mamba-2 as mamba-ssm, vLLM and PromptCoT-Mamba compute it: the gated norm over each group of channels by itself.

This file is copied beside exported weights and named in their config's `auto_map`, so that

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)

computes what the model was trained with. It needs torch and transformers alone. transformers' own Mamba-2 normalises
over all channels at once, which is another function wherever `n_groups` is more than one.
"""

from typing import Any

import torch
from torch import nn
from transformers.models.mamba2 import modeling_mamba2


class GroupedGatedRMSNorm(nn.Module):
    """`weight * rms_norm(x * silu(gate))`, the mean square taken over each group of `group_size` channels, in fp32."""

    def __init__(self, width: int, group_size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.group_size, self.variance_epsilon = group_size, eps

    def forward(self, hidden_states: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
        """(..., width) -> (..., width), in the input's dtype."""
        x = hidden_states.float()
        if gate is not None:
            x = x * nn.functional.silu(gate.float())
        groups = x.unflatten(-1, (-1, self.group_size))
        groups = groups * torch.rsqrt(groups.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return (self.weight * groups.flatten(-2)).to(hidden_states.dtype)


class Mamba2ForCausalLM(modeling_mamba2.Mamba2ForCausalLM):
    """transformers' Mamba-2 with its gated norms exchanged; parameter names stay, and unknown keywords raise."""

    def __init__(self, config):
        if config.hidden_act not in ("silu", "swish"):
            raise ValueError(f"config: hidden_act must be silu, found {config.hidden_act!r}")
        super().__init__(config)
        for layer in self.backbone.layers:
            mixer: Any = layer.mixer
            width = mixer.norm.weight.numel()
            mixer.norm = GroupedGatedRMSNorm(width, width // config.n_groups, config.layer_norm_epsilon)
        self.post_init()

    def forward(
        self, input_ids=None, inputs_embeds=None, cache_params=None, labels=None, output_hidden_states=None,
        return_dict=None, use_cache=None, attention_mask=None, logits_to_keep=0, num_items_in_batch=None,
    ):  # fmt: skip
        """As transformers', which swallows what it does not know: `cu_seqlens=` would let documents see one another."""
        return super().forward(
            input_ids=input_ids, inputs_embeds=inputs_embeds, cache_params=cache_params, labels=labels,
            output_hidden_states=output_hidden_states, return_dict=return_dict, use_cache=use_cache,
            attention_mask=attention_mask, logits_to_keep=logits_to_keep, num_items_in_batch=num_items_in_batch,
        )  # fmt: skip
