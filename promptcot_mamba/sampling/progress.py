"""What a person sees while chains grow, and the table at the end."""

from __future__ import annotations

import sys
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from promptcot_mamba.grading.summary import render_table
from promptcot_mamba.records import Problem, Sample
from promptcot_mamba.sampling.backend import LENGTH, LOOP, REFUSED, Backend

LONGEST_SHOWN = 3  # chains whose length the line tells
COUNTS = ("samples", "invalid", "truncated", "looped", "refused", "continued", "retried", "saved_tokens")  # of a Tally
COMPARED, COMPARED_TOKENS = 20, 16  # problems whose samples are compared with their first, and the least tokens of them


@dataclass
class Tally:
    """Counts over settled samples of one source."""

    samples: int = 0
    invalid: int = 0
    truncated: int = 0
    looped: int = 0
    refused: int = 0  # by the server's filter or policy
    continued: int = 0  # chains that something unplanned cut
    saved_tokens: int = 0  # that looping chains could still have taken
    retried: int = 0  # samples that took more than one attempt
    lengths: array = field(default_factory=lambda: array("i"))  # completion tokens, four bytes a sample

    def add(self, sample: Sample, max_len: int) -> None:
        self.samples += 1
        self.invalid += not sample.format_valid
        self.truncated += sample.finish_reason == LENGTH
        if sample.finish_reason == LOOP:
            self.looped += 1
            self.saved_tokens += max_len - sample.completion_tokens
        self.refused += sample.finish_reason == REFUSED
        self.continued += bool(sample.continued)
        self.retried += sample.attempt > 0
        self.lengths.append(sample.completion_tokens)

    def merge(self, other: Tally) -> None:
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.lengths.extend(other.lengths)

    def summary(self) -> dict[str, Any]:
        """Counts, rates and the quantiles of chain length, as JSON values."""
        ordered = sorted(self.lengths)
        count = max(1, self.samples)

        def quantile(q: float) -> int:
            return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0

        return {
            **{name: getattr(self, name) for name in COUNTS},
            "completion_tokens": sum(ordered),
            "mean_tokens": round(sum(ordered) / count, 1),
            "median_tokens": quantile(0.5),
            "p95_tokens": quantile(0.95),
            "max_tokens": ordered[-1] if ordered else 0,
        }


class Report:
    """Tallies by source, fed by the ledger as samples settle."""

    def __init__(self, max_len: int) -> None:
        self.max_len = max_len
        self.by_source: dict[str, Tally] = {}
        self._texts: dict[str, str] = {}  # the first sample of some problems
        self._compared = self._same = 0  # with it

    def add(self, sample: Sample, problem: Problem) -> None:
        self.by_source.setdefault(problem.source or "all", Tally()).add(sample, self.max_len)
        looked_at = problem.id in self._texts or len(self._texts) < COMPARED
        if looked_at and sample.completion_tokens >= COMPARED_TOKENS:
            first = self._texts.setdefault(problem.id, sample.completion)
            if first is not sample.completion:
                self._compared += 1
                self._same += first == sample.completion

    def total(self) -> Tally:
        total = Tally()
        for tally in self.by_source.values():
            total.merge(tally)
        return total

    def summaries(self) -> dict[str, dict[str, Any]]:
        rows = {source: tally.summary() for source, tally in sorted(self.by_source.items())}
        return rows if len(rows) == 1 else {**rows, "total": self.total().summary()}

    def table(self) -> str:
        """The closing table, one row a source."""
        header = ["source", "samples", "invalid", "truncated", "looped", "retried", "mean", "median", "p95", "max"]
        rows = [header]
        for source, row in self.summaries().items():
            count = max(1, row["samples"])
            shares = [
                f"{row[name]} ({row[name] / count:.1%})" for name in ("invalid", "truncated", "looped", "retried")
            ]
            lengths = [f"{row[f'{name}_tokens']:,.0f}" for name in ("mean", "median", "p95", "max")]
            rows.append([source, f"{row['samples']:,}", *shares, *lengths])
        notes = "lengths in completion tokens"
        total = self.total()
        if total.looped:
            notes += f"; ending {total.looped:,} loops saved up to {total.saved_tokens:,} tokens"
        if self._compared >= 3 and self._same == self._compared:
            notes += "; ALL SAMPLES OF A PROBLEM ARE THE SAME TEXT: greedy, or a server that does not sample"
        if total.refused:
            notes += f"; {total.refused:,} were refused by the server (finish_reason refused), which counts as invalid"
        if total.continued:
            notes += f"; {total.continued:,} were continued after an interruption"
        return f"{render_table(rows)}\n({notes})"


class Progress:
    """One line about the run: rewritten in a terminal, one every ten seconds in a log."""

    def __init__(self, total: int, report: Report):
        self._total = total
        self._report = report
        self._terminal = sys.stderr.isatty()
        self._every = 0.5 if self._terminal else 10.0
        self._started = self._shown = time.monotonic()
        self._before = sum(tally.samples for tally in report.by_source.values())

    def show(
        self, backend: Backend, longest: Callable[[int], list[int]], *, now: bool = False, spared: int = 0
    ) -> None:
        """Print the line if it is due; `longest` gives the lengths of the longest chains under way.

        `spared` samples of the total need not be made.
        """
        if not now and time.monotonic() - self._shown < self._every:
            return
        self._shown = time.monotonic()
        seconds = self._shown - self._started
        line = self.line(backend.running(), backend.generated_tokens, seconds, self._total - spared)
        if lengths := longest(LONGEST_SHOWN):
            line += f" | longest {' '.join(f'{length:,}' for length in lengths)}"
        print(f"\r\x1b[2K{line}" if self._terminal else f"{line}\n", end="", file=sys.stderr, flush=True)

    def line(self, running: int, generated_tokens: int, seconds: float, total: int | None = None) -> str:
        total = self._total if total is None else total
        tallies = self._report.by_source.values()
        done = sum(tally.samples for tally in tallies)
        fresh, refused = done - self._before, sum(tally.refused for tally in tallies)
        eta = (total - done) * seconds / fresh if fresh else None
        return (
            f"{done:,}/{total:,} samples | {generated_tokens / max(seconds, 1e-9):,.0f} tok/s | {running} running"
            f" | ETA {clock(eta)} | truncated {sum(t.truncated for t in tallies):,}"
            f" | invalid {sum(t.invalid for t in tallies):,}{f' | refused {refused:,}' if refused else ''}"
        )

    def end(self) -> None:
        if self._terminal:
            print(file=sys.stderr)


def clock(seconds: float | None) -> str:
    """A duration as h:mm:ss; "--" where unknown."""
    if seconds is None:
        return "--"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
