"""Every kernel starts on the device its tensors are on, whichever is current; by a stand-in for CUDA."""

from __future__ import annotations

import ast
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

triton_common = pytest.importorskip("promptcot_mamba.ops.triton_common", reason="triton is not installed")
OPS = Path(triton_common.__file__).parent


class OnCuda(torch.Tensor):
    """A tensor that says it is on a CUDA device; nothing of it is there."""

    def __new__(cls, device: str):
        return torch.Tensor._make_wrapper_subclass(cls, (3,), dtype=torch.float32, device=device)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} was called")


@pytest.fixture
def current(monkeypatch) -> list[torch.device]:
    """The stack of current devices, cuda:0 at first, as `torch.cuda.device` moves it."""
    stack = [torch.device("cuda:0")]

    @contextmanager
    def device(wanted):
        stack.append(torch.device(wanted))
        yield
        stack.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    return stack


class Kernel:
    """Notes the device that was current at each start."""

    __name__ = "noting_kernel"

    def __init__(self, current):
        self.current, self.started_on = current, []

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.started_on.append(self.current[-1])


def test_a_launch_moves_to_its_tensors_and_back(current):
    kernel = Kernel(current)
    triton_common.launch(kernel, (4,), None, OnCuda("cuda:1"), 7, BLOCK=16)
    triton_common.launch(kernel, (4,), OnCuda("cuda:0"), num_warps=4)
    with triton_common.record_launches() as seen:
        triton_common.launch(kernel, (1, 2), OnCuda("cuda:3"))
    assert kernel.started_on == [torch.device(f"cuda:{index}") for index in (1, 0, 3)]
    assert current == [torch.device("cuda:0")]
    assert len(seen) == 1


def test_off_cuda_nothing_moves(current):
    kernel = Kernel(current)
    triton_common.launch(kernel, (4,), torch.zeros(2))
    triton_common.launch(kernel, (0, 4), OnCuda("cuda:1"))  # nothing to do
    assert kernel.started_on == [torch.device("cuda:0")]


def test_no_kernel_is_started_past_launch():
    """`kernel[grid](...)` stands in one place only: a call whose callee is a subscript of a kernel."""
    for path in OPS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript):
                name = ast.unparse(node.func.value)
                assert not name.endswith("kernel") or path.name == "triton_common.py", f"{path}: {ast.unparse(node)}"
