"""Tile sizes of the SSD kernels, chosen ahead per architecture; `scripts.bench.compile_report` shows their cost.

The chunks here are the kernels' own: results do not depend on them. Forward and backward differ because the
backward keeps four fp32 tiles in registers where the forward keeps two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class SsdConfig:
    """Tokens per chunk, warps and software-pipelining depth of each kernel; channels at once where tiles are cut."""

    scan_chunk: int
    scan_channels: int
    scan_warps: int
    scan_stages: int
    walk_channels: int
    walk_warps: int
    walk_stages: int
    backward_walk_channels: int
    backward_walk_stages: int
    grad_chunk: int
    grad_channels: int
    grad_warps: int
    grad_stages: int

    def capped(self, chunk_size: int | None) -> SsdConfig:
        """The same with chunks of at most `chunk_size` tokens, where the caller asks for smaller ones."""
        if chunk_size is None:
            return self
        return replace(self, scan_chunk=min(self.scan_chunk, chunk_size), grad_chunk=min(self.grad_chunk, chunk_size))


# Two-byte dtypes run on the tensor cores; fp32 keeps its full mantissa on the ordinary ones, so its tiles are small.
HALF = {
    80: SsdConfig(64, 64, 4, 2, 32, 4, 3, 32, 3, 32, 32, 4, 2),
    90: SsdConfig(128, 64, 8, 2, 64, 4, 3, 64, 2, 64, 64, 4, 2),
    100: SsdConfig(128, 64, 8, 3, 64, 4, 3, 64, 2, 64, 64, 4, 2),
}
SINGLE = SsdConfig(16, 16, 8, 1, 16, 4, 2, 16, 2, 16, 16, 8, 1)


def choose_config(dtype: torch.dtype, capability: int) -> SsdConfig:
    """The configuration of the nearest architecture at or below `capability`; the oldest one's below that."""
    if dtype == torch.float32:
        return SINGLE
    known = [arch for arch in HALF if arch <= capability]
    return HALF[max(known, default=min(HALF))]
