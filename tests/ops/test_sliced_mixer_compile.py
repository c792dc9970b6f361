"""The Triton launches of a slice between two others, as machine code at the 7B model's shapes: no spills."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch

from promptcot_mamba.ops.mixer_settings import MixerSettings
from promptcot_mamba.ops.packing import boundaries

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
H, P, G, N, LENGTH, WIDTH = 128, 64, 8, 128, 8192, 4


def record_launches_of_a_slice(monkeypatch) -> list:
    """Forward and backward on meta tensors: a state and a halo come in from both sides, nothing runs."""
    from promptcot_mamba.ops import triton_common
    from promptcot_mamba.ops.fused_mixer.triton_kernels import TritonStages

    def empty(*shape, dtype=torch.bfloat16):
        return torch.empty(*shape, dtype=dtype, device="meta")

    inner, conv = H * P, H * P + 2 * G * N
    monkeypatch.setattr(
        triton_common, "row_boundaries",
        lambda batch, length, device: torch.arange(0, (batch + 1) * length, length, dtype=torch.int64),
    )  # fmt: skip
    tensors = (
        empty(1, LENGTH, inner + conv + H), empty(conv, WIDTH), empty(conv), *(empty(H) for _ in range(3)),
        empty(inner),
    )  # fmt: skip
    documents = torch.tensor([0, 3000, LENGTH], dtype=torch.int32)
    assert boundaries(documents)[-1] == LENGTH
    settings = MixerSettings(G, P, N, None, 1e-5, (0.0, math.inf))
    state, halo = empty(H, P, N, dtype=torch.float32), empty(conv, WIDTH - 1)
    with triton_common.record_launches(run=False) as launches:
        stages = TritonStages(settings, tensors, documents)
        stages.enter(halo, keep=True)
        stages.fold_states()
        stages.pass_states(state, final=True)
        stages.finish()
        stages.finish_backward(empty(LENGTH, inner))
        stages.fold_gradients()
        stages.pass_gradients(state, initial=True)
        stages.leave()
    return launches


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90, 100])
def test_what_slices_add_compiles_without_spills(monkeypatch, arch: int):
    import triton
    from triton.backends.compiler import GPUTarget

    from scripts.bench.compile_report import make_source, read_resources

    launches = record_launches_of_a_slice(monkeypatch)
    assert [launch.name for launch in launches].count("state_walk") == 4
    known = set()
    for launch in launches:
        source = make_source(launch)
        if launch.name not in ("state_walk", "conv_forward", "conv_backward") or source.hash() in known:
            continue
        known.add(source.hash())
        options = {name: launch.kwargs[name] for name in ("num_warps", "num_stages") if name in launch.kwargs}
        compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
        assert read_resources(compiled.asm["cubin"])["stack"] == 0, launch.name
    assert len(known) == 6
