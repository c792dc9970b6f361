"""What stands for vLLM's CPU kernels: against plain definitions, and the same bits whatever stands beside a number; the
engine's own checks are in test_vllm_engine."""

from __future__ import annotations

import functools

import pytest
import torch
from torch.nn import functional as F

from promptcot_mamba.sampling import vllm_cpu
from promptcot_mamba.sampling.vllm_cpu import keep_nucleus, softplus_alike, update_states


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


def step_inputs(chains: int, groups: int) -> tuple[torch.Tensor, ...]:
    """x, dt, A, B, C, D, dt_bias of a step, and where each chain's state lies."""
    h, p, n = 4, 16, 32
    slots = torch.randperm(chains + 3, generator=torch.Generator().manual_seed(1))[:chains]
    a_head = (-randn(h, seed=4).exp(), randn(h, seed=7), randn(h, seed=8))
    x, dt = randn(chains, h, p, seed=2), randn(chains, h, seed=3)
    return x, dt, a_head[0], *(randn(chains, groups, n, seed=seed) for seed in (5, 6)), *a_head[1:], slots


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("block", [1, 5000, 1 << 18])
def test_states_take_one_step_of_the_recurrence(monkeypatch, groups: int, block: int):
    monkeypatch.setattr(vllm_cpu, "BLOCK", block)
    x, dt, A, B, C, D, bias, slots = step_inputs(7, groups)
    before = randn(10, 4, 16, 32, seed=9)
    state, expected = before.clone(), before.double()
    y = update_states(state, x, dt, A, B, C, D, bias, slots)
    for chain, slot in enumerate(slots.tolist()):  # the definition, number by number, in float64
        for head in range(4):
            group = head * groups // 4
            step = F.softplus((dt[chain, head] + bias[head]).double())
            new = torch.outer(x[chain, head].double() * step, B[chain, group].double())
            expected[slot, head] = (step * A[head].double()).exp() * expected[slot, head] + new
            out = expected[slot, head] @ C[chain, group].double() + D[head] * x[chain, head]
            torch.testing.assert_close(y[chain, head].double(), out, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state.double(), expected, rtol=1e-5, atol=1e-6)
    others = [slot for slot in range(10) if slot not in slots.tolist()]
    assert torch.equal(state[others], before[others])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("chains", [1, 2, 40])
def test_a_chain_has_the_same_bits_beside_any_others(request, chains: int, threads: int):
    request.addfinalizer(functools.partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(threads)
    x, dt, A, B, C, D, bias, slots = step_inputs(40, 1)
    before, here = randn(43, 4, 16, 32, seed=9), torch.arange(40)[-chains:]
    results = []
    for chosen in (torch.arange(40), here):
        state = before.clone()
        y = update_states(state, x[chosen], dt[chosen], A, B[chosen], C[chosen], D, bias, slots[chosen])
        results.append((y[-chains:], state[slots[here]]))
    assert all(map(torch.equal, *results))


def test_only_steps_of_mamba2_in_float32_are_taken_here():
    """As vLLM's mixer hands them over: decays, biases and steps of a head expanded over its numbers."""
    x, dt, A, B, C, D, bias, slots = step_inputs(7, 2)
    asked = []
    how = {"dt_softplus": True, "state_batch_indices": slots.int(), "num_accepted_tokens": None, "cu_seqlens": None}

    def step(state: torch.Tensor, decays: torch.Tensor, **changed: object) -> torch.Tensor:
        out = torch.zeros_like(x)
        wide = (
            dt[:, :, None].expand(-1, -1, 16),
            decays,
            B,
            C,
            D[:, None].expand(-1, 16),
            bias[:, None].expand(-1, 16),
        )
        given = {**how, "dst_state_batch_indices": how["state_batch_indices"], "out": out, **changed}
        vllm_cpu._update_by_heads(lambda *args, **kwargs: asked.append(kwargs), "backend", state, x, *wide, **given)
        return out

    decays, state = A[:, None, None].expand(-1, 16, 32), randn(10, 4, 16, 32, seed=9)
    expected = update_states(state.clone(), x, dt, A, B, C, D, bias, slots)
    assert torch.equal(step(state.clone(), decays), expected)
    assert not asked
    step(state.clone(), decays.contiguous())  # Mamba-1 has one for each
    step(state.bfloat16(), decays)
    step(state.clone(), decays, num_accepted_tokens=torch.ones(7))  # speculative decoding
    step(state.clone(), decays, z=x)
    assert len(asked) == 4
    assert all(each["dt_softplus"] and each["cu_seqlens"] is None for each in asked)


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
