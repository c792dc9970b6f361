"""What a step costs either model, learnt from the calibration's waves."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict

from promptcot_mamba.efficiency.measure import Measured
from promptcot_mamba.efficiency.predict import Costs, Work, fit_costs, play_wave
from promptcot_mamba.efficiency.setup import Setup
from promptcot_mamba.efficiency.throughput import Wave


def mean_wave(waves: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of equal waves; its tokens/s are all their tokens over all their seconds."""
    return Wave(**{name: statistics.fmean(wave[name] for wave in waves) for name in Wave.__annotations__}).as_row()


def fit_pair(setup: Setup, done: Measured) -> tuple[Costs, Costs]:
    """The costs of Mamba-2 and of attention from the calibration alone: what is compared is predicted, not fitted.

    Mamba-2 is the clock. Its step takes as long at any length, so that its costs are sure; what attention takes is its
    median ratio to the Mamba-2 wave that ran beside it, times what that takes by these costs. Otherwise a few seconds of
    a slower machine would pass for the price of a long context.
    """
    stages, (constant, growing) = setup.calibration(), setup.shapes
    clocks, others = ([done[stage.name][setup.engine(shape)] for stage in stages] for shape in setup.shapes)
    works = {
        shape.name: [
            play_wave(shape, cache_bytes=1 << 62, max_num_seqs=stage.load.chains, **asdict(stage.load))
            for stage in stages
        ]
        for shape in setup.shapes
    }
    seconds = [statistics.fmean(map(_generating, waves)) for waves in clocks]
    clock = _fit(works[constant.name], clocks, seconds)
    seconds = [
        clock.seconds(rest)
        * statistics.median(_generating(b) / _generating(a) for a, b in zip(first, second, strict=True))
        for (_, rest), first, second in zip(works[constant.name], clocks, others, strict=True)
    ]
    return clock, _fit(works[growing.name], others, seconds)


def _fit(
    works: Sequence[tuple[Work, Work]], waves: Sequence[list[dict[str, float]]], seconds: Sequence[float]
) -> Costs:
    """From first steps as they were measured, and these seconds of all others."""
    firsts = [statistics.fmean(wave["first_seconds"] for wave in same) for same in waves]
    return fit_costs(
        [part for work in works for part in work], [t for both in zip(firsts, seconds, strict=True) for t in both]
    )


def _generating(wave: dict[str, float]) -> float:
    """Seconds after the first tokens."""
    return wave["seconds"] - wave["first_seconds"]
