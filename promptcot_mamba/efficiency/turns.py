"""Engines that take turns, a second each, so that a machine whose speed drifts is the same to all of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

from promptcot_mamba.efficiency.shapes import Shape
from promptcot_mamba.efficiency.throughput import Load, Stopwatch

TURN_SECONDS = 1.0


class Engine(Protocol):
    def advance(self, load: Load, seconds: float) -> tuple[int, dict[str, float] | None]:
        """Go on with a wave of this load: tokens generated so far and, once it is through, its row."""


class EngineProcess:
    """A stopwatch in a process of its own, whose end frees the engine's memory. Starting goes on in the background."""

    def __init__(self, shape: Shape, folder: Path, **settings: Any):
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        self._started = self._pool.submit(_start, shape, folder, settings)

    def wait(self) -> None:
        """Until it has started; raises what hindered it."""
        self._started.result()

    def advance(self, load: Load, seconds: float) -> tuple[int, dict[str, float] | None]:
        return self._pool.submit(_advance, load, seconds).result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


_stopwatch: Stopwatch  # the child process's


def _start(shape: Shape, folder: Path, settings: dict[str, Any]) -> None:
    global _stopwatch
    _stopwatch = Stopwatch(shape, folder, **settings)


def _advance(load: Load, seconds: float) -> tuple[int, dict[str, float] | None]:
    if _stopwatch.load is None:
        _stopwatch.begin(load)
    wave = _stopwatch.advance(seconds)
    return _stopwatch.tokens, wave and wave.as_row()


def take_turns(
    engines: Mapping[str, Engine],
    queues: Mapping[str, Sequence[Load]],
    seconds: float = TURN_SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[tuple[str, dict[str, float]]]:
    """Each engine's waves as they end, with its name.

    The next turn is always of the engine that has generated the smallest share of its tokens, so that all begin and end
    together, however much or little they have to do. Waves that are short share a turn: the first steps after a turn
    are slow, and no wave is to have more than its part of them.
    """
    waiting = {name: deque(loads) for name, loads in queues.items() if loads}
    total = {name: sum(load.tokens for load in loads) for name, loads in waiting.items()}
    done, partly = dict.fromkeys(waiting, 0), dict.fromkeys(waiting, 0)
    while waiting:
        name = min(waiting, key=lambda name: (done[name] + partly[name]) / total[name])
        own, until = waiting[name], clock() + seconds
        while own and (left := until - clock()) > 0:
            partly[name], row = engines[name].advance(own[0], left)
            if row is not None:
                yield name, row
                done[name], partly[name] = done[name] + own.popleft().tokens, 0
        if not own:
            del waiting[name]
