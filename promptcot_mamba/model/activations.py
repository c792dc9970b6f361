"""What each layer keeps for its backward pass: its activations, or its input only, chosen from free memory.

A kept layer holds its input, the norm's output, `in_proj`'s output and `out_proj`'s input (the fused mixer recomputes
what lies between); a recomputed one its input alone, and runs its forward a second time. Per token of the 7B model in
bf16: 78 KB against 16 KB.
"""

from __future__ import annotations

import torch
from transformers import Mamba2Config

from promptcot_mamba.ops.native import free_memory

RESERVE = 0.2  # of free memory, left to the pass's temporaries and to fragmentation


def bytes_kept_per_token(config: Mamba2Config, element_size: int) -> int:
    """Bytes a kept layer holds per token; `element_size` is the model's, the residual may be wider."""
    d_inner = config.num_heads * config.head_dim
    projected = 2 * d_inner + 2 * config.n_groups * config.state_size + config.num_heads
    return (projected + d_inner + config.hidden_size) * element_size + bytes_recomputed_per_token(config, element_size)


def bytes_recomputed_per_token(config: Mamba2Config, element_size: int) -> int:
    """Bytes a recomputed layer holds per token: its input."""
    return config.hidden_size * (4 if config.residual_in_fp32 else element_size)


def count_kept_layers(config: Mamba2Config, tokens: int, element_size: int, free_bytes: float) -> int:
    """How many layers may keep their activations when `tokens` run at once and `free_bytes` are free."""
    kept = tokens * bytes_kept_per_token(config, element_size)
    recomputed = tokens * bytes_recomputed_per_token(config, element_size)
    budget = free_bytes * (1 - RESERVE) - config.num_hidden_layers * recomputed - kept  # one layer is being recomputed
    return max(0, min(config.num_hidden_layers, int(budget // (kept - recomputed))))


def free_bytes(device: torch.device) -> int:
    """Memory this process may still take on a device: on CUDA also what torch's allocator holds unused."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free_memory()
