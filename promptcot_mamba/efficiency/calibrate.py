"""What a step costs either model, learnt from the calibration's waves."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from promptcot_mamba.efficiency.engine import Wave
from promptcot_mamba.efficiency.measure import Measured
from promptcot_mamba.efficiency.predict import Costs, Work, count_seconds, fit_costs, play_wave
from promptcot_mamba.efficiency.setup import ROOMY, Setup

Row = dict[str, float]


def median_wave(waves: Sequence[Row]) -> Wave:
    """Each figure's median over equal waves; the ratios among them follow from these."""
    medians: dict[str, Any] = {name: statistics.median(w[name] for w in waves) for name in Wave.__dataclass_fields__}
    return Wave(**medians)


def fit_pair(setup: Setup, done: Measured) -> tuple[Costs, Costs]:
    """The costs of Mamba-2 and of attention from the calibration alone: what is compared is predicted, not fitted.

    Mamba-2 is the clock. Its step takes as long at any length, so that its costs are sure; what attention takes is its
    median ratio to the Mamba-2 wave that ran beside it, times what that takes by these costs. Otherwise some seconds of
    a slower machine would pass for the price of a long context.
    """
    stages = setup.calibration()
    works, others = (
        [play_wave(shape, stage.load, cache_bytes=ROOMY, max_num_seqs=stage.load.chains) for stage in stages]
        for shape in setup.shapes
    )
    clocks, waves = ([done[stage.name][setup.engine(shape)] for stage in stages] for shape in setup.shapes)
    clock = _fit(works, clocks, (statistics.median(map(_generating, same)) for same in clocks))
    seconds = (
        count_seconds(clock, rest)
        * statistics.median(_generating(b) / _generating(a) for a, b in zip(beside, same, strict=True))
        for (_, rest), beside, same in zip(works, clocks, waves, strict=True)
    )
    return clock, _fit(others, waves, seconds)


def _fit(works: Sequence[tuple[Work, Work]], waves: Sequence[list[Row]], seconds: Iterable[float]) -> Costs:
    """From first steps as they were measured, and these seconds of all others."""
    firsts = (statistics.median(wave["first_seconds"] for wave in same) for same in waves)
    times = [part for pair in zip(firsts, seconds, strict=True) for part in pair]
    return fit_costs([part for pair in works for part in pair], times)


def _generating(wave: Row) -> float:
    """Seconds after the first tokens."""
    return wave["seconds"] - wave["first_seconds"]
