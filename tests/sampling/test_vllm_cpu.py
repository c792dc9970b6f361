"""What stands for vLLM's CPU kernels: against plain definitions, and the same bits whatever stands beside a number; the
engine's own checks are in test_vllm_engine."""

from __future__ import annotations

import random

import pytest
import torch
from torch.nn import functional as F

from promptcot_mamba.sampling.vllm_cpu import (
    SEEDS_AHEAD,
    SEEDS_END,
    SeedsAhead,
    SeenTokens,
    _convolve_at_once,
    _draw_ahead,
    _keep_state,
    _penalise_seen,
    convolve,
    keep_nucleus,
    penalise,
    softplus_alike,
)


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


DIM, WIDTH = 48, 4
LENGTHS = [1, 7, 2, 300, 3]


def draw_prompts() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """x (tokens, dim), states (prompts, width - 1, dim), weight, bias."""
    states = randn(len(LENGTHS), WIDTH - 1, DIM, seed=1)
    return randn(sum(LENGTHS), DIM), states, randn(DIM, WIDTH, seed=2), randn(DIM, seed=3)


def test_prompts_convolved_together_are_those_convolved_one_by_one():
    x, states, weight, bias = draw_prompts()
    out, behind = convolve(x, LENGTHS, states, weight, bias)
    for i, (own, part) in enumerate(zip(x.split(LENGTHS), out.split(LENGTHS), strict=True)):
        line = torch.cat([states[i], own])
        expected = F.silu(F.conv1d(line.T[None], weight[:, None], bias, groups=DIM))[0].T
        torch.testing.assert_close(part, expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(behind[i], line[1 - WIDTH :])
        alone, last = convolve(own, [len(own)], states[i : i + 1], weight, bias)
        assert torch.equal(alone, part), "a prompt's bits do not depend on those beside it"
        assert torch.equal(last[0], behind[i])


def test_the_engine_finds_outputs_and_states_where_its_own_function_leaves_them():
    theirs = pytest.importorskip("vllm.model_executor.layers.mamba.ops.cpu.causal_conv1d").causal_conv1d_fn_cpu
    x, _, weight, bias = draw_prompts()
    starts = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0)], dtype=torch.int32)
    slots, begun = torch.tensor([5, 1, 7, 2, 4], dtype=torch.int32), torch.tensor([True, False, True, False, False])
    cache = randn(9, DIM, WIDTH - 1, seed=4)
    cache[2] = float("nan")  # whatever a slot's last owner left
    ours, own = cache.clone(), cache.clone()
    args = (x.T, weight, bias)
    out = _convolve_at_once(theirs, *args, ours, starts, slots, begun, activation="silu", metadata=None)
    torch.testing.assert_close(out, theirs(*args, own, starts, slots, begun), rtol=1e-5, atol=1e-6)
    assert torch.equal(ours.nan_to_num(9), own.nan_to_num(9))


def test_the_repetition_penalty_is_that_of_counting_all_tokens():
    logits, penalties = randn(6, 50), torch.tensor([1.0, 1.05, 1.3, 2.0, 0.5, 1.1])
    logits[2, 3] = -float("inf")
    tokens = torch.randint(50, (6, 20), generator=torch.Generator().manual_seed(5))
    there = torch.zeros(6, 50, dtype=torch.bool).scatter(1, tokens, True)
    factor = torch.where(there, penalties[:, None], 1.0)
    expected = logits * torch.where(logits > 0, 1.0 / factor, factor)
    assert torch.equal(penalise(logits.clone(), tokens, penalties), expected)


def test_tokens_kept_from_step_to_step_are_penalised_as_vllm_penalises_all():
    """While chains come, go and change their rows, and one begins again."""
    count = pytest.importorskip("vllm.v1.sample.ops.penalties").apply_all_penalties
    vocabulary, draw, seen = 60, random.Random(3), SeenTokens()

    def begin() -> tuple[list[int], list[int]]:
        return [draw.randrange(vocabulary) for _ in range(draw.randrange(1, 30))], []

    chains = [begin() for _ in range(5)]
    for step in range(200):
        if step % 20 == 7:
            chains.pop(draw.randrange(len(chains)))
        if step % 20 == 11:
            chains.append(begin())
        if step == 150:
            chains[0][1].clear()
        draw.shuffle(chains)
        longest = max(len(prompt) for prompt, _ in chains)
        prompts = torch.tensor([prompt + [vocabulary] * (longest - len(prompt)) for prompt, _ in chains])
        said = [ids for _, ids in chains]
        logits, penalties = randn(len(chains), vocabulary, seed=step), torch.linspace(0.8, 1.4, len(chains))
        none = torch.zeros(len(chains))
        args = (prompts, none, none, penalties, said)
        assert torch.equal(_penalise_seen(seen, None, logits.clone(), *args), count(logits.clone(), *args))
        for ids in said:
            ids.append(draw.randrange(vocabulary))
    assert len(seen._chains) == len(chains), "what is kept of a chain goes with it"


def test_what_is_not_penalised_by_repetition_alone_is_left_to_vllm():
    asked = []
    said, none = [[5], [6, -1]], torch.zeros(2)  # -1: drawn, but not known yet
    prompts, logits = torch.tensor([[1, 2], [3, 9]]), randn(2, 9)
    for presence, ids in ((none + 0.5, [[5], [6]]), (none, said), (none, [[], []])):
        _penalise_seen(SeenTokens(), lambda *args: asked.append(args), logits, prompts, presence, none, none + 1.1, ids)
    assert [args[-1] for args in asked] == [[[5], [6]], said]


def generators(count: int) -> dict[int, torch.Generator]:
    return {row: torch.Generator().manual_seed(100 + row) for row in range(count)}


def test_seeds_taken_ahead_are_those_drawn_one_by_one():
    """Also where chains change their rows, come and go."""
    ahead, plain, seeds = generators(5), generators(5), SeedsAhead()
    places = torch.Generator().manual_seed(1)
    for _ in range(3 * SEEDS_AHEAD):
        chosen = torch.randperm(5, generator=places)[: 1 + int(torch.randint(0, 5, (), generator=places))].tolist()
        taken = seeds.take({row: ahead[chain] for row, chain in enumerate(chosen)}, len(chosen))
        drawn = [torch.randint(0, SEEDS_END, (1,), generator=plain[chain], dtype=torch.long) for chain in chosen]
        assert torch.equal(taken, torch.cat(drawn))
    del ahead
    assert not len(seeds._drawn), "what is drawn for a chain goes with it"


def test_tokens_drawn_ahead_are_those_that_vllm_draws():
    sampler_module = pytest.importorskip("vllm.v1.sample.ops.topk_topp_sampler")
    if not hasattr(torch.ops._C, "fused_gumbel_argmax"):
        pytest.skip("not vLLM's CPU build")
    draw = sampler_module.TopKTopPSampler.forward_cpu
    draw = getattr(draw, "__wrapped__", draw)
    sampler = type("Sampler", (), {"use_fp64_gumbel": False, "logprobs_mode": "raw_logprobs"})()
    seeds, ours, theirs = SeedsAhead(), generators(8), generators(8)
    for step in range(SEEDS_AHEAD + 3):
        logits, top_p = 3 * randn(8, 300, seed=step), torch.full((8,), 0.95)
        drawn, _ = draw(sampler, logits.clone(), theirs, None, top_p)
        assert torch.equal(_draw_ahead(seeds, draw, sampler, logits.clone(), ours, None, top_p)[0], drawn)


class Blocks:
    """A cache of chains' states as vLLM's scheduler sees it: one block a chain, of the context's length."""

    empty_kv_cache_blocks = "none"

    def __init__(self, mode: str = "none"):
        self.asked = 0
        self.coordinator = self
        self.single_type_managers = (self,)
        self.mamba_cache_mode, self.block_size, self.req_to_blocks = mode, 100, {"known": ["block"]}

    def allocate(self, request, tokens: int, **kwargs):
        self.asked += 1
        return "asked"


@pytest.mark.parametrize(
    ("mode", "name", "computed", "tokens", "answer"),
    [
        ("none", "known", 50, 1, "none"),
        ("none", "known", 50, 2, "asked"),  # a prompt's part
        ("none", "known", 100, 1, "asked"),  # behind its block
        ("none", "new", 50, 1, "asked"),
        ("all", "known", 50, 1, "asked"),  # states at block borders are kept for others
    ],
)
def test_a_chain_that_has_its_state_needs_no_block(mode: str, name: str, computed: int, tokens: int, answer: str):
    request = type("Request", (), {"request_id": name, "num_computed_tokens": computed})()
    cache = Blocks(mode)
    assert _keep_state(Blocks.allocate, cache, request, tokens, num_lookahead_tokens=0) == answer
    cache.single_type_managers = (cache, cache)  # a hybrid's
    assert _keep_state(Blocks.allocate, cache, request, tokens, num_lookahead_tokens=0) == "asked"
