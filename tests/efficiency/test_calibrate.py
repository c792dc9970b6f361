"""Costs learnt on a machine whose speed jumps."""

from __future__ import annotations

import random
from dataclasses import asdict

import pytest

from promptcot_mamba.efficiency.calibrate import fit_pair
from promptcot_mamba.efficiency.engine import Wave
from promptcot_mamba.efficiency.measure import Measured
from promptcot_mamba.efficiency.models import SMALL_PAIR
from promptcot_mamba.efficiency.predict import COSTS, Load, count_seconds, play_wave
from promptcot_mamba.efficiency.setup import Setup

SETUP = Setup(SMALL_PAIR, [24, 72], [1024, 65536], prompt=128, max_num_seqs=32)
TRUE = [
    dict(zip(COSTS, values, strict=True))
    for values in ((2.4e-3, 9e-5, 0, 7e-4, 3.5e-5), (2.5e-3, 6e-5, 6e-8, 1e-4, 2.8e-5))
]


def measure(speeds: random.Random | None) -> Measured:
    """Eight rounds of the calibration; each round of a stage has a speed of its own, the same for both models."""
    done: Measured = {}
    for stage in SETUP.calibration():
        slowness = [speeds.choice([1, 1, 1.4]) * speeds.uniform(0.95, 1.05) if speeds else 1 for _ in range(8)]
        for shape, costs in zip(SETUP.shapes, TRUE, strict=True):
            first, rest = play_wave(shape, stage.load, cache_bytes=1 << 62, max_num_seqs=32)
            done.setdefault(stage.name, {})[SETUP.engine(shape)] = [
                Wave(
                    **asdict(stage.load), steps=1 + rest["steps"], preemptions=0,
                    seconds=slow * count_seconds(costs, first + rest),
                    first_seconds=slow * count_seconds(costs, first), first_tokens=first["chains"],
                ).as_row()
                for slow in slowness
            ]  # fmt: skip
    return done


def test_a_steady_machine_gives_the_costs():
    for got, true in zip(fit_pair(SETUP, measure(None)), TRUE, strict=True):
        assert got == pytest.approx(true, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_jumps_of_speed_do_not_bend_the_ratio(seed: int):
    costs = fit_pair(SETUP, measure(random.Random(seed)))
    for length in (33, 530, 2119):
        ratios = []
        for fitted in (costs, TRUE):
            load = Load(32, 4, length)
            constant, growing = (
                count_seconds(each, play_wave(shape, load, cache_bytes=1 << 62, max_num_seqs=32)[1])
                for each, shape in zip(fitted, SETUP.shapes, strict=True)
            )
            ratios.append(growing / constant)
        assert ratios[0] == pytest.approx(ratios[1], rel=0.04)
