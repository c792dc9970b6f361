"""Engines that take turns, so short that a machine whose speed drifts is the same to all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

from promptcot_mamba.efficiency.shapes import Shape
from promptcot_mamba.efficiency.throughput import Load, Stopwatch

TURN_SECONDS = 0.1  # shorter ones cost more: the first steps of a turn find cold caches


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
    engines: Mapping[str, Engine], load: Load, seconds: float = TURN_SECONDS
) -> Iterator[tuple[str, dict[str, float]]]:
    """A wave of this load in each engine: its name and row as they end.

    The next turn is always of the engine that has generated the fewest tokens, so that all begin and end together,
    however much or little time they take.
    """
    generated = dict.fromkeys(engines, 0)
    while generated:
        name = min(generated, key=generated.__getitem__)
        generated[name], row = engines[name].advance(load, seconds)
        if row is not None:
            yield name, row
            del generated[name]
