"""Slices of a row on threads of one process: the exchange without a process group, for any form of the mixer."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import torch

from promptcot_mamba.ops.fused_mixer import fused_mixer
from promptcot_mamba.ops.native import MIXER_SOURCE, load_library
from promptcot_mamba.ops.packing import cu_seqlens_from_lengths
from promptcot_mamba.ops.sequence_parallel import RowSlice, SliceGroup, slice_bounds, slice_documents
from tests.ops.comparison import run

SECONDS = 60  # a neighbour that says nothing is a deadlock


@dataclass
class ThreadGroup(SliceGroup):
    """A `SliceGroup` whose messages go through queues, one a border and direction."""

    borders: dict[tuple[int, int], queue.Queue] = field(default_factory=dict)

    def send(self, tensor: torch.Tensor, towards: int) -> None:
        self.borders[self.index, self.index + towards].put(tensor.detach().clone())
        self.bytes_sent += tensor.numel() * tensor.element_size()

    def receive(self, like: torch.Tensor, towards: int) -> torch.Tensor:
        tensor = self.borders[self.index + towards, self.index].get(timeout=SECONDS)
        assert tensor.shape == like.shape
        assert tensor.dtype == like.dtype
        return tensor


def make_groups(size: int) -> list[ThreadGroup]:
    borders = {(one, other): queue.Queue() for one in range(size) for other in (one - 1, one + 1)}
    return [ThreadGroup(list(range(size)), index, borders=borders) for index in range(size)]


def on_threads(work, groups: list[ThreadGroup]) -> list:
    """`work(group)` on a thread for each."""
    load_library(MIXER_SOURCE)  # built once, not by every thread
    started = threading.Barrier(len(groups), timeout=SECONDS)

    def begin(group):
        started.wait()
        return work(group)

    with ThreadPoolExecutor(len(groups)) as pool:
        return list(pool.map(begin, groups))


def whole_row(inputs: dict, lengths: list[int], settings: dict) -> dict[str, torch.Tensor]:
    """The definition on the whole row in fp64: output and every gradient (`comparison.run`'s loss)."""
    marks = cu_seqlens_from_lengths(lengths)
    return run(lambda **tensors: fused_mixer(**tensors, cu_seqlens=marks, **settings), inputs, torch.float64)


def sliced_row(inputs: dict, lengths: list[int], settings: dict, groups, dtype, call=None) -> dict:
    """The same from slices: outputs and dzxbcdt put together, the parameters' gradients summed.

    `call(op, **arguments)` may wrap the op, as checkpointing does.
    """
    total, marks = sum(lengths), cu_seqlens_from_lengths(lengths).tolist()
    bounds = slice_bounds(total, len(groups))
    d_inner = inputs["norm_weight"].numel()
    weights = torch.randn((1, total, d_inner), generator=torch.Generator().manual_seed(7), dtype=torch.float64)

    def work(group):
        start, end = bounds[group.index : group.index + 2]
        inside, continued, continues = slice_documents(marks, start, end)
        documents = torch.tensor(inside, dtype=torch.int32)
        neighbours = RowSlice(group, continued, continues).neighbours(documents, layer=0)
        own = inputs | {"zxbcdt": inputs["zxbcdt"][:, start:end]}
        leaves = {name: value.detach().to(dtype, copy=True).requires_grad_() for name, value in own.items()}
        op = fused_mixer if call is None else partial(call, fused_mixer)
        out = op(**leaves, cu_seqlens=documents, neighbours=neighbours, **settings)
        (out * weights[:, start:end].to(out)).sum().backward()
        return {"output 0": out.detach()} | {f"d{name}": leaf.grad for name, leaf in leaves.items()}

    parts = on_threads(work, groups)
    joined = {name: torch.cat([part[name] for part in parts], 1).double() for name in ("output 0", "dzxbcdt")}
    return joined | {name: sum(part[name].double() for part in parts) for name in parts[0] if name not in joined}
