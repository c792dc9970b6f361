"""A row in slices, on 2 and 4 processes, equals the row in one: outputs, every gradient, and the bytes that moved."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.fused_mixer import fused_mixer
from promptcot_mamba.ops.sequence_parallel import (
    RowSlice,
    make_slice_groups,
    slice_bounds,
    slice_documents,
)

H, P, N, W = 4, 8, 8, 4
NAMES = ("zxbcdt", "conv_weight", "conv_bias", "A_log", "D", "dt_bias", "norm_weight")
# Rows by their documents' lengths: whole, cut at every kind of place, of one token, shorter than the convolution.
ROWS = [
    [64], [16, 16, 16, 16], [15, 17, 32], [17, 31, 16], [1] * 64, [63, 1], [1, 63], [33, 31], [8], [5], [3, 2],
    [1, 1, 1, 1], [7, 1, 1, 1, 6, 20],
]  # fmt: skip


def draw_mixer(length: int, groups: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    inner, shared = H * P, groups * N
    return {
        "zxbcdt": draw(1, length, 2 * inner + 2 * shared + H), "conv_weight": draw(inner + 2 * shared, W),
        "conv_bias": draw(inner + 2 * shared), "A_log": 0.3 * draw(H), "D": draw(H), "dt_bias": draw(H) - 2,
        "norm_weight": draw(inner),
    }  # fmt: skip


def as_marks(lengths: list[int]) -> list[int]:
    marks = [0]
    for length in lengths:
        marks.append(marks[-1] + length)
    return marks


def whole_row(lengths: list[int], groups: int, seed: int) -> dict[str, torch.Tensor]:
    """The definition in fp64, in the torch form that `test_fused_mixer` holds against the recurrence."""
    inputs = {name: value.double().requires_grad_() for name, value in draw_mixer(sum(lengths), groups, seed).items()}
    ends = torch.tensor(as_marks(lengths), dtype=torch.int32)
    out = fused_mixer(**inputs, n_groups=groups, head_dim=P, state_size=N, cu_seqlens=ends, backend="recompute")
    loss_weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    (out * loss_weights).sum().backward()
    return {"out": out.detach()} | {name: value.grad for name, value in inputs.items()}


def slice_row(lengths: list[int], groups: int, seed: int, slices, dtype=torch.float32) -> dict[str, torch.Tensor]:
    """This rank's part: its slice of the output and of dzxbcdt, and its part of the parameters' gradients."""
    inputs = draw_mixer(sum(lengths), groups, seed)
    bounds = slice_bounds(sum(lengths), slices.size)
    start, end = bounds[slices.index : slices.index + 2]
    marks, continued, continues = slice_documents(as_marks(lengths), start, end)
    inputs["zxbcdt"] = inputs["zxbcdt"][:, start:end].contiguous()
    inputs = {name: value.to(dtype).requires_grad_() for name, value in inputs.items()}
    documents = torch.tensor(marks, dtype=torch.int32)
    out = fused_mixer(
        **inputs, neighbours=RowSlice(slices, continued, continues).neighbours(documents, layer=0),
        cu_seqlens=documents, n_groups=groups, head_dim=P, state_size=N,
    )  # fmt: skip
    weights = torch.linspace(-1, 1, sum(lengths) * H * P, dtype=torch.float64).view(1, -1, H * P)[:, start:end]
    (out * weights.to(out)).sum().backward()
    return {"out": out.detach()} | {name: value.grad for name, value in inputs.items()}


def check_rows(rank: int, world: int, size: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    slices = make_slice_groups(size)
    draws = random.Random(5)
    rows = [row for row in ROWS if sum(row) >= size]
    rows += [[draws.randint(1, 40) for _ in range(draws.randint(1, 9))] for _ in range(6)]
    for seed, lengths in enumerate(row for row in rows if sum(row) >= size):
        groups = (1, 2, 4)[seed % 3]
        # Groups beside one another hold rows of their own, as data parallelism has them.
        row_seed = seed + 1000 * (rank // size)
        # In fp64 nothing hides behind rounding; every fourth row in fp32, as training runs it.
        dtype, most = (torch.float32, 5e-5) if seed % 4 == 3 else (torch.float64, 1e-10)
        expected, got = whole_row(lengths, groups, row_seed), slice_row(lengths, groups, row_seed, slices, dtype)
        start, end = slice_bounds(sum(lengths), size)[slices.index : slices.index + 2]
        for name in ("out", "zxbcdt"):
            want = expected[name]
            error = (got[name].double() - want[:, start:end]).norm() / want.norm()
            assert error < most, (lengths, groups, name, float(error))
        for name in NAMES[1:]:
            total = got[name].double()
            dist.all_reduce(total, group=slices.group)
            # documents of one token have no decay to learn: its gradient is 0
            error = (total - expected[name]).norm() / expected[name].norm().clamp(min=1e-3)
            assert error < most, (lengths, groups, name, float(error))
    check_traffic(slices)
    dist.destroy_process_group()


def check_traffic(slices) -> None:
    """What crosses a border depends on the shapes alone, not on the row's length."""
    state, halo = 4 * H * P * N, 4 * (H * P + 2 * N) * (W - 1)
    for length in (64, 512):
        slices.bytes_sent = 0
        slice_row([length], 1, 0, slices)
        neighbours = (slices.index > 0) + (slices.index < slices.size - 1)
        assert slices.bytes_sent == neighbours * (state + halo)
        slices.bytes_sent = 0
        slice_row([length // slices.size] * slices.size, 1, 0, slices)  # documents end where slices do
        assert slices.bytes_sent == 0


@pytest.mark.parametrize(("world", "size"), [(2, 2), (4, 4), (4, 2)])
def test_slices_equal_the_whole_row(tmp_path: Path, world: int, size: int):
    mp.spawn(check_rows, (world, size, str(tmp_path / "store")), nprocs=world)


def test_documents_as_a_slice_sees_them():
    marks = [0, 10, 20, 21, 40]
    assert slice_documents(marks, 0, 10) == ([0, 10], False, False)
    assert slice_documents(marks, 5, 15) == ([0, 5, 10], True, True)
    assert slice_documents(marks, 20, 21) == ([0, 1], False, False)
    assert slice_documents(marks, 22, 30) == ([0, 8], True, True)


def test_a_row_shorter_than_its_slices_is_refused():
    with pytest.raises(InputError, match="a row of 3 tokens cannot be cut"):
        slice_bounds(3, 4)
    assert slice_bounds(5, 4) == [0, 1, 2, 3, 5]
