"""The same kernels on rows side by side and on rows so far apart that the last lie past 2^31 elements.

A row of a million tokens has that many in zxbcdt and in most of the mixer's tensors. Here 120 tokens stand in reserved
memory of which only the pages they touch exist.
"""

from __future__ import annotations

import functools
import mmap
from collections.abc import Callable

import torch

from tests.ops.comparison import relative_errors

TOKENS, CHUNK, APART = 120, 16, 21_000_000
assert (TOKENS - CHUNK) * APART > 2**31
HEADS, HEAD_DIM, STATES = 2, 16, 16
Place = Callable[[torch.Tensor], torch.Tensor]


def far(tensor: torch.Tensor) -> torch.Tensor:
    """(tokens, channels) with APART elements between tokens."""
    no_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000)  # named since Python 3.13
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    space = mmap.mmap(-1, TOKENS * APART * tensor.element_size(), flags=flags)
    view = torch.frombuffer(space, dtype=tensor.dtype).as_strided(tensor.shape, (APART, 1))
    return view.copy_(tensor)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run_ssd(place: Place) -> list[torch.Tensor]:
    from promptcot_mamba.ops.ssd import triton_kernels as kernels

    x, z, dy = (draw(TOKENS, HEADS * HEAD_DIM, seed=seed) for seed in range(3))
    B, C, dt = draw(TOKENS, STATES, seed=3), draw(TOKENS, STATES, seed=4), draw(TOKENS, HEADS, seed=5)
    inputs = kernels.SsdInputs(
        place(x), place(dt), -torch.ones(HEADS), place(B), place(C), draw(HEADS), place(z), draw(HEADS) - 2, None, None,
        batch=1, heads=HEADS, groups=1, dt_softplus=True, dt_limit=kernels.NO_LIMIT,
        config=kernels.choose_config(x, HEAD_DIM, STATES, CHUNK),
    )  # fmt: skip
    y = place(torch.zeros_like(x))
    kernels.run_forward(inputs, y)
    grads = kernels.SsdGradients(*(place(torch.zeros_like(one)) for one in (x, dt, B, C, z)))
    per_head = kernels.run_backward(inputs, place(dy), grads)
    return [y, grads.x, grads.dt, grads.B, grads.C, grads.z, per_head]


def run_conv(place: Place) -> list[torch.Tensor]:
    from promptcot_mamba.ops.causal_conv1d import triton_kernels as kernels
    from promptcot_mamba.ops.triton_common import chunk_table

    x, weight, bias = draw(TOKENS, 32), draw(32, 4, seed=1), draw(32, seed=2)
    y, dx = place(torch.zeros_like(x)), place(torch.zeros_like(x))
    forward, backward = (
        chunk_table(1, TOKENS, None, run, x.device) for run in (kernels.FORWARD_RUN, kernels.BACKWARD_RUN)
    )
    kernels.run_forward(place(x), weight, bias, None, y, forward, True)
    dy = place(draw(TOKENS, 32, seed=3))
    return [y, dx, *kernels.run_backward(place(x), weight, bias, None, dy, dx, backward, True)]


def run_norm(place: Place) -> list[torch.Tensor]:
    from promptcot_mamba.ops.gated_rms_norm import triton_kernels as kernels

    x, z, dy = (draw(TOKENS, 32, seed=seed) for seed in range(3))
    weight = draw(32, seed=3)
    y, dx, dz = (place(torch.zeros_like(x)) for _ in range(3))
    kernels.run_forward(place(x), place(z), weight, y, 1e-5, 16)
    return [y, dx, dz, kernels.run_backward(place(x), place(z), weight, place(dy), dx, dz, 1e-5, 16)]


def run_loss(place: Place) -> list[torch.Tensor]:
    from promptcot_mamba.ops.linear_cross_entropy.triton_kernels import launch_cross_entropy

    logits, losses = place(draw(TOKENS, 32)), torch.empty(TOKENS)
    launch_cross_entropy(logits, torch.arange(TOKENS) % 32, losses, torch.ones(TOKENS))
    return [logits, losses]


def compare_places(run: Callable[[Place], list[torch.Tensor]]) -> dict:
    """What `run` writes far apart against what it writes side by side: nothing between them may differ."""
    near, apart = ({str(index): one for index, one in enumerate(run(place))} for place in (torch.clone, far))
    return {"errors": relative_errors(near, apart)}


CASES = {
    run.__name__.removeprefix("run_"): functools.partial(compare_places, run)
    for run in (run_ssd, run_conv, run_norm, run_loss)
}
