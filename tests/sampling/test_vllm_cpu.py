"""What stands for vLLM's CPU kernels: against plain definitions, and the same bits whatever stands beside a number; the
engine's own checks are in test_vllm_engine."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from promptcot_mamba.sampling.vllm_cpu import keep_nucleus, softplus_alike


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_every_number_is_computed_alike_wherever_it_stands():
    x = 3 * randn(400)
    whole = softplus_alike(x)
    for first in range(0, 70, 3):
        for length in (1, 5, 31, 32, 33, 100, 129):
            assert torch.equal(softplus_alike(x[first : first + length]), whole[first : first + length])
    assert torch.equal(softplus_alike(x.view(100, 4)), whole.view(100, 4))
    assert softplus_alike(x[:0]).shape == (0,)
    torch.testing.assert_close(whole, F.softplus(x), rtol=1e-6, atol=0)
    long = 3 * randn(100_003)  # more than one thread's
    assert torch.equal(softplus_alike(long)[70_001:90_000], softplus_alike(long[70_001:90_000]))


def by_sorting(logits: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """vLLM's rule: sort, sum from the least, cut, put back."""
    values, places = logits.sort(dim=-1)
    outside = values.softmax(-1).cumsum(-1) <= 1 - top_p[:, None]
    outside[:, -1] = False
    return logits.scatter(-1, places, values.masked_fill(outside, -float("inf")))


@pytest.mark.parametrize("top_p", [1e-6, 0.1, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
def test_the_nucleus_is_what_sorting_keeps(top_p: float, scale: float):
    logits, row = scale * randn(30, 640), torch.full((30,), top_p)
    logits[::3, 100:] = -float("inf")  # left out before
    assert torch.equal(keep_nucleus(logits.clone(), row), by_sorting(logits, row))


def test_of_two_alike_at_the_edge_sorting_decides():
    assert keep_nucleus(torch.tensor([[0.0, 0.0, 0.0, 0.0]]), torch.tensor([0.6])) is None
    logits = torch.tensor([[0.0, 0.0, 5.0, -9.0]])
    assert torch.equal(keep_nucleus(logits.clone(), torch.tensor([0.5])), by_sorting(logits, torch.tensor([0.5])))
