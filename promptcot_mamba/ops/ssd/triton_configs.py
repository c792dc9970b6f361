"""Tile sizes of the SSD kernels, chosen ahead per architecture, sizes and shared memory.

`scripts.bench.compile_report` compiles what stands here for every architecture and shows its registers, spills and
shared memory. The chunks are the kernels' own: results do not depend on them. Forward and backward differ because the
backward keeps four fp32 tiles in registers where the forward keeps two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch

# Bytes of shared memory one block may have (CUDA C++ programming guide, "technical specifications per compute
# capability"); what is not listed here says so itself.
SHARED_MEMORY = {
    80: 163 * 1024, 86: 99 * 1024, 87: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024, 103: 227 * 1024,
    120: 99 * 1024, 121: 99 * 1024,
}  # fmt: skip
HEADDIMS, DSTATES = (16, 128), (16, 256)


@dataclass(frozen=True)
class SsdConfig:
    """Tokens per chunk, channels at once, warps and software-pipelining depth of each kernel."""

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
    grad_pairs_first: bool  # see `_gradient_of_B_or_C`; wgmma's registers are the fewer the other way round
    grad_diagonal: bool = True  # see `_gradient_of_x`

    def capped(self, chunk_size: int | None) -> SsdConfig:
        """The same with chunks of at most `chunk_size` tokens, where the caller asks for smaller ones."""
        if chunk_size is None:
            return self
        return replace(self, scan_chunk=min(self.scan_chunk, chunk_size), grad_chunk=min(self.grad_chunk, chunk_size))


@dataclass(frozen=True)
class Tiles:
    """One configuration, the largest sizes it was compiled for, and the shared memory its kernels take there."""

    headdim: int
    dstate: int
    shared: int
    config: SsdConfig


# Two-byte dtypes run on the tensor cores; fp32 keeps its full mantissa on the ordinary ones, so its tiles are small.
_AMPERE = SsdConfig(64, 64, 4, 2, 32, 4, 3, 32, 2, 32, 32, 4, 2, True)
_HOPPER = SsdConfig(128, 64, 8, 2, 64, 4, 3, 64, 2, 64, 64, 4, 2, False)
_BLACKWELL = SsdConfig(64, 64, 8, 3, 64, 4, 3, 64, 2, 64, 64, 8, 2, False, grad_diagonal=False)
_SINGLE = SsdConfig(16, 16, 8, 1, 16, 4, 2, 16, 2, 16, 16, 8, 1, True)
# By the oldest architecture they are for. Consumer Blackwell (120) has Ampere's tensor instructions and less shared
# memory than Ampere's largest, so it runs Ampere's tiles, as do 86 and 89.
HALF = {
    80: (
        Tiles(64, 128, 99 * 1024, _AMPERE),
        Tiles(128, 128, 99 * 1024, replace(_AMPERE, scan_channels=32)),
        Tiles(128, 256, 99 * 1024, replace(
            _AMPERE, scan_channels=32, walk_channels=16, backward_walk_stages=3, grad_channels=16, grad_warps=8,
            grad_diagonal=False)),
    ),
    90: (
        Tiles(64, 128, 227 * 1024, _HOPPER),
        Tiles(128, 128, 227 * 1024, replace(_HOPPER, scan_chunk=64, grad_channels=32)),
        Tiles(128, 256, 227 * 1024, replace(
            _HOPPER, scan_chunk=64, scan_channels=32, walk_channels=32, grad_channels=32, grad_warps=8)),
    ),
    100: (
        Tiles(64, 128, 227 * 1024, _BLACKWELL),
        Tiles(128, 128, 227 * 1024, replace(_BLACKWELL, grad_channels=32)),
        Tiles(128, 256, 227 * 1024, replace(
            _BLACKWELL, scan_channels=32, walk_channels=32, backward_walk_channels=32, grad_channels=32,
            grad_stages=1)),
    ),
}  # fmt: skip
# Eight warps are held to 128 registers by triton 3.7.1 where the state is small, two short of what the gradients need.
SINGLE = {
    80: (
        Tiles(80, 64, 99 * 1024, replace(_SINGLE, grad_warps=4)),
        Tiles(128, 64, 99 * 1024, replace(_SINGLE, grad_pairs_first=False)),
        Tiles(128, 128, 99 * 1024, _SINGLE),
    ),
    120: (Tiles(128, 64, 99 * 1024, replace(_SINGLE, grad_warps=4, grad_diagonal=False)),),
}


@cache
def capability(device: torch.device) -> int:
    """Compute capability as one number (H100 and H200: 90). Off CUDA the interpreter stands in for 90."""
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@cache
def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory a block may have on this device."""
    if device.type != "cuda":
        return SHARED_MEMORY[90]
    told = getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0)
    return told or SHARED_MEMORY.get(capability(device), 99 * 1024)


def find_config(dtype: torch.dtype, arch: int, shared: int, headdim: int, dstate: int) -> SsdConfig | None:
    """The first tiles of the architecture, then of older ones, that hold these sizes in `shared` bytes; or None."""
    if headdim % 16 or not HEADDIMS[0] <= headdim <= HEADDIMS[1]:
        return None  # heads are cut into slices of 16 channels at least
    if dstate & (dstate - 1) or not DSTATES[0] <= dstate <= DSTATES[1]:
        return None
    families = SINGLE if dtype == torch.float32 else HALF
    fitting = (
        tiles.config
        for family in sorted((known for known in families if known <= arch), reverse=True)
        for tiles in families[family]
        if headdim <= tiles.headdim and dstate <= tiles.dstate and tiles.shared <= shared
    )
    return next(fitting, None)


def find_misfit(dtype: torch.dtype, device: torch.device, headdim: int, dstate: int) -> str | None:
    """Why the kernels cannot take these sizes on this device, None where they can."""
    if find_config(dtype, capability(device), shared_memory(device), headdim, dstate) is not None:
        return None
    kind = str(dtype).removeprefix("torch.")
    return (
        f"no tiles for p (headdim) {headdim} and n (dstate) {dstate} in {kind} on sm_{capability(device)} with "
        f"{shared_memory(device):,} bytes of shared memory; there are some for multiples of 16 up to {HEADDIMS[1]} "
        f"and powers of two from {DSTATES[0]} to {DSTATES[1]} (float32: 128)"
    )
