"""softplus whose bits do not depend on a number's place; the engine's own check is in test_vllm_engine."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from promptcot_mamba.sampling.vllm_cpu import softplus_alike


def test_every_number_is_computed_alike_wherever_it_stands():
    x = 3 * torch.randn(400, generator=torch.Generator().manual_seed(0))
    whole = softplus_alike(x)
    for first in range(0, 70, 3):
        for length in (1, 5, 31, 32, 33, 100, 129):
            assert torch.equal(softplus_alike(x[first : first + length]), whole[first : first + length])
    assert torch.equal(softplus_alike(x.view(100, 4)), whole.view(100, 4))
    assert softplus_alike(x[:0]).shape == (0,)
    torch.testing.assert_close(whole, F.softplus(x), rtol=1e-6, atol=0)
