"""What a step costs either model, learnt from the calibration's waves."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from promptcot_mamba.efficiency.engine import Load, Wave
from promptcot_mamba.efficiency.measure import Measured
from promptcot_mamba.efficiency.models import Shape
from promptcot_mamba.efficiency.predict import Costs, Work, fit_costs, play_wave
from promptcot_mamba.efficiency.setup import Setup


def median_wave(waves: Sequence[dict[str, float]]) -> dict[str, float]:
    """Each figure's median over equal waves; the ratios among them follow from these."""
    names = Wave.__dataclass_fields__
    medians: dict[str, Any] = {name: statistics.median(wave[name] for wave in waves) for name in names}
    return Wave(**medians).as_row()


def fit_pair(setup: Setup, done: Measured) -> tuple[Costs, Costs]:
    """The costs of Mamba-2 and of attention from the calibration alone: what is compared is predicted, not fitted.

    Mamba-2 is the clock. Its step takes as long at any length, so that its costs are sure; what attention takes is its
    median ratio to the Mamba-2 wave that ran beside it, times what that takes by these costs. Otherwise some seconds of
    a slower machine would pass for the price of a long context.
    """
    stages = setup.calibration()
    works = [[_play(shape, stage.load) for stage in stages] for shape in setup.shapes]
    clocks, others = ([done[stage.name][setup.engine(shape)] for stage in stages] for shape in setup.shapes)
    clock = _fit(works[0], clocks, [statistics.median(map(_generating, waves)) for waves in clocks])
    ratios = [
        statistics.median(_generating(wave) / _generating(beside) for beside, wave in zip(*pair, strict=True))
        for pair in zip(clocks, others, strict=True)
    ]
    seconds = [ratio * clock.seconds(rest) for ratio, (_, rest) in zip(ratios, works[0], strict=True)]
    return clock, _fit(works[1], others, seconds)


def _play(shape: Shape, load: Load) -> tuple[Work, Work]:
    return play_wave(shape, cache_bytes=1 << 62, max_num_seqs=load.chains, **asdict(load))


def _fit(
    works: Sequence[tuple[Work, Work]], waves: Sequence[list[dict[str, float]]], seconds: Sequence[float]
) -> Costs:
    """From first steps as they were measured, and these seconds of all others."""
    parts, times = [], []
    for (first, rest), same, later in zip(works, waves, seconds, strict=True):
        parts += [first, rest]
        times += [statistics.median(wave["first_seconds"] for wave in same), later]
    return fit_costs(parts, times)


def _generating(wave: dict[str, float]) -> float:
    """Seconds after the first tokens."""
    return wave["seconds"] - wave["first_seconds"]
