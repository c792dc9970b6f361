"""Split master weights lose nothing: the update equals AdamW on fp32 copies, bit by bit, also after saving."""

from __future__ import annotations

import copy

import pytest
import torch

from promptcot_mamba.training.split_adamw import SplitAdamW, join_halves, split_halves

SETTINGS = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


def test_halves_of_every_kind_of_number():
    bits = torch.randint(-(2**31), 2**31 - 1, (200_000,), dtype=torch.int64).to(torch.int32)
    ties = (torch.arange(-4000, 4000, dtype=torch.int32) << 16) + 0x8000  # exactly between two bf16 numbers
    numbers = torch.cat([bits, ties]).view(torch.float32)
    numbers = torch.cat([numbers[numbers.isfinite()], torch.tensor([0.0, -0.0, 1e-45, -3.4e38, 1.0])])
    high, low = split_halves(numbers)
    assert torch.equal(join_halves(high, low).view(torch.int32), numbers.view(torch.int32))
    large = numbers.abs() > 1e-37
    distance = (high[large].double() - numbers[large].double()).abs() / numbers[large].double().abs()
    assert float(distance[distance.isfinite()].max()) <= 2**-8  # rounded to nearest, not cut off


def take_steps(optimizer, parameters, gradients):
    for step in gradients:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient.to(parameter.dtype)
        optimizer.step()


@pytest.fixture
def pair():
    """bf16 parameters and one of fp32, and fp32 copies; gradients that bf16 holds exactly, most of them tiny."""
    torch.manual_seed(0)
    start = [torch.randn(37, 5).bfloat16(), torch.randn(300).bfloat16(), torch.randn(7)]
    gradients = [[(torch.randn_like(p, dtype=torch.float32) * 1e-4).bfloat16() for p in start] for _ in range(12)]
    return [torch.nn.Parameter(p.clone()) for p in start], [torch.nn.Parameter(p.float()) for p in start], gradients


def test_equals_adamw_on_fp32_copies(pair):
    split, whole, gradients = pair
    ours, theirs = SplitAdamW(split, **SETTINGS), torch.optim.AdamW(whole, fused=True, **SETTINGS)
    take_steps(ours, split, gradients)
    take_steps(theirs, whole, gradients)
    for narrow, wide in zip(split, whole, strict=True):
        assert torch.equal(ours.master(narrow), wide)
        torch.testing.assert_close(narrow.float(), wide.detach(), rtol=2**-8, atol=0)
    assert not torch.equal(split[0].float(), whole[0])  # the further bits do hold something


def test_continues_from_its_saved_state(pair):
    split, _, gradients = pair
    ours = SplitAdamW(split, **SETTINGS)
    take_steps(ours, split, gradients[:5])
    again = [torch.nn.Parameter(p.detach().clone()) for p in split]
    resumed = SplitAdamW(again, **SETTINGS)
    resumed.load_state_dict(copy.deepcopy(ours.state_dict()))
    take_steps(ours, split, gradients[5:])
    take_steps(resumed, again, gradients[5:])
    for one, other in zip(split, again, strict=True):
        assert torch.equal(ours.master(one), resumed.master(other))


def test_refuses_other_dtypes():
    with pytest.raises(TypeError, match=r"found torch\.float16"):
        SplitAdamW([torch.nn.Parameter(torch.zeros(2, dtype=torch.float16))], lr=1e-3)
