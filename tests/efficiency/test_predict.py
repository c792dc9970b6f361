"""The arithmetic of a wave, its costs and the crossover."""

from __future__ import annotations

import pytest

from promptcot_mamba.efficiency.models import SMALL_PAIR
from promptcot_mamba.efficiency.predict import (
    BLOCK,
    COSTS,
    Load,
    Work,
    count_seconds,
    find_crossover,
    fit_costs,
    play_wave,
)

PAIR = SMALL_PAIR


def play(shape, blocks_or_states: int, load: Load) -> Work:
    """First step and the others together."""
    unit = shape.sequence_bytes if shape.is_mamba2 else shape.token_bytes * BLOCK
    first, rest = play_wave(shape, load, cache_bytes=blocks_or_states * unit, max_num_seqs=8)
    assert first["steps"] == 1
    assert first["prefill"] == first["prompts"] * load.prompt > 0
    return first + rest


def test_without_pressure_every_step_serves_every_chain():
    wave = Load(8, prompt=4, length=10)
    roomy = play(PAIR.qwen2, 1000, wave)
    assert roomy == Work(steps=10, chains=80, context=8 * sum(4 + i for i in range(1, 11)), prompts=8, prefill=32)
    assert play(PAIR.mamba2, 8, wave) == Work(steps=10, chains=80, prompts=8, prefill=32)


def test_constant_states_go_in_waves():
    assert play(PAIR.mamba2, 3, Load(8, prompt=4, length=10))["steps"] == 30


def test_a_tight_cache_preempts_reads_again_and_loses_nothing():
    wave = Load(8, prompt=16, length=100)
    tight = play(PAIR.qwen2, 8, wave)  # 256 tokens: two chains at full length
    assert tight["chains"] == 800
    assert tight["preemptions"] > 0
    assert tight["prefill"] > 8 * 16
    assert tight["prompts"] == 8 + tight["preemptions"]
    assert tight["steps"] >= 400 - 4 * 100 + 100
    assert tight["steps"] > play(PAIR.qwen2, 16, wave)["steps"] > play(PAIR.qwen2, 1000, wave)["steps"] == 100
    with pytest.raises(ValueError, match="does not fit"):
        play(PAIR.qwen2, 3, wave)


def test_costs_are_recovered():
    costs = dict(zip(COSTS, (1e-3, 2e-4, 3e-7, 5e-4, 4e-5), strict=True))
    shapes = [(1, 16, 64), (32, 16, 16), (2, 16, 900), (8, 256, 2)]
    works = [
        part
        for chains, prompt, length in shapes
        for part in play_wave(PAIR.qwen2, Load(chains, prompt, length), cache_bytes=1 << 40, max_num_seqs=chains)
    ]
    got = fit_costs(works, [count_seconds(costs, work) for work in works])
    assert got == pytest.approx(costs, rel=1e-6)


@pytest.mark.parametrize(
    ("ratios", "crossover"),
    [
        ([0.25, 1, 4], 100.0),
        ([0.25, 0.25, 4], 10**2.5),
        ([0.25, 0.25, 0.25], None),
        ([2, 2, 2], 10.0),
        ([2, 0.5, 2], 10**2.5),  # the last time it passes
    ],
)
def test_crossover(ratios, crossover):
    got = find_crossover([10, 100, 1000], ratios)
    assert got == (None if crossover is None else pytest.approx(crossover))
