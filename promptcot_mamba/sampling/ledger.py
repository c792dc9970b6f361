"""What has been sampled, on disk: every attempt in `X.attempts.jsonl`, the samples themselves in `X.jsonl`.

The attempts file is the journal and the truth: each finished attempt is appended to it first, and a killed run
resumes from it. `X.jsonl` is what graders read. While a run is under way its rows stand in the order they finished;
once complete it is ordered by run, then problem. Eight bytes a planned sample are all that is held in memory.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import DurableAppender, Row, iter_jsonl, write_jsonl
from promptcot_mamba.log import get_logger
from promptcot_mamba.records import Problem, Sample, grouped_row
from promptcot_mamba.run_info import side_path
from promptcot_mamba.sampling.backend import LENGTH

logger = get_logger(__name__)

MISSING = -1


def is_settled(sample: Sample, max_retries: int) -> bool:
    """Whether this attempt is the sample: a valid one, the last that may be made, or one no retry can mend."""
    no_room = sample.completion_tokens == 0 and sample.finish_reason == LENGTH  # its prompt fills the context
    return sample.format_valid or sample.attempt >= max_retries - 1 or no_room


def count_settled(output: str | Path, max_retries: int) -> tuple[int, float | None]:
    """How many samples an earlier run settled, and their mean length in tokens; reads only, locks nothing."""
    lengths = []
    path = side_path(output, "attempts.jsonl")
    if path.exists():
        for line in path.open("rb"):
            if line.endswith(b"\n"):
                sample = Sample(**json.loads(line))
                if is_settled(sample, max_retries):
                    lengths.append(sample.completion_tokens)
    return len(lengths), sum(lengths) / len(lengths) if lengths else None


def _is_grouped(output: Path) -> bool:
    """Whether a prediction file holds one row a problem."""
    return output.exists() and any("completions" in row for _, row in islice(iter_jsonl(output), 1))


class Ledger:
    """The record of one run: which samples are settled, which attempts were made, both files open and locked.

    A sample's `unit` is `run * len(problems) + index of its problem`, so raising `n` only adds units.

    Raises InputError if another process writes the same output, or the files do not belong to these problems.
    """

    def __init__(
        self,
        output: str | Path,
        problems: list[Problem],
        n: int,
        max_retries: int,
        *,
        grouped: bool = False,
        on_settled: Callable[[Sample, Problem], None] = lambda sample, problem: None,
        sync_seconds: float = 1.0,
    ):
        self.output = Path(output)
        self.problems = problems
        self.n = n
        self.max_retries = max_retries
        self.grouped = grouped
        self.units = n * len(problems)
        self.settled = 0
        self.resumed_attempts: dict[int, int] = {}  # unit -> attempts already made, where not settled
        self._on_settled = on_settled
        self._index = {problem.id: index for index, problem in enumerate(problems)}
        self._offsets = array("q", [MISSING]) * self.units  # where in the journal the settled attempt stands
        self._journal = DurableAppender(side_path(output, "attempts.jsonl"), sync_seconds)
        self._rows: DurableAppender | None = None  # X.jsonl while it grows; a grouped file is written at the end
        self._reader: IO[bytes] | None = None
        self._sync_seconds = sync_seconds
        self._last_unit = MISSING  # of the last row in X.jsonl, while it is in order
        self._in_order = True

    # -- opening ----------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Read what earlier runs left, repair it, and open `X.jsonl` for appending."""
        self._read_journal()
        if self.settled == 0 and _is_grouped(self.output):
            raise InputError(
                f"{self.output}: {self._journal.path.name} is gone; use --overwrite or another --output_path"
            )
        present = self._read_rows()
        if self.grouped:
            return
        self._rows = DurableAppender(self.output, self._sync_seconds)
        for unit, offset in enumerate(self._offsets):
            if offset != MISSING and not present[unit]:  # killed between the two appends, or another --format before
                self._append_row(unit, self._read_attempt(offset))

    def _read_journal(self) -> None:
        offset = 0
        with self._journal.path.open("rb") as file:
            for line in file:
                sample = self._parse_attempt(line)
                self._note(self._unit_of(sample.problem_id, sample.run, self._journal.path), sample, offset)
                offset += len(line)

    def _read_rows(self) -> bytearray:
        """Which units `X.jsonl` holds; rows the journal lacks are copied into it. A grouped file is removed."""
        present = bytearray(self.units)
        if self.grouped or not self.output.exists():
            return present
        DurableAppender(self.output).close()  # repairs a torn tail
        for number, row in iter_jsonl(self.output):
            if "completions" in row:  # an earlier --format grouped
                self.output.unlink()
                return bytearray(self.units)
            sample = self._parse_row(row, number)
            unit = self._unit_of(sample.problem_id, sample.run, f"{self.output}:{number}")
            if self._offsets[unit] == MISSING:
                self._note(unit, sample, self._journal.append(vars(sample)))
            present[unit] = 1
            self._track_order(unit)
        return present

    def _parse_attempt(self, line: bytes) -> Sample:
        try:
            return Sample(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise InputError(f"{self._journal.path}: not a file of attempts ({error}); use --overwrite") from None

    def _parse_row(self, row: Row, number: int) -> Sample:
        try:
            return Sample.from_row(row)
        except InputError as error:
            raise InputError(f"{self.output}:{number}: {error}") from None

    def _unit_of(self, identity: str, run: int, where: Any) -> int:
        index = self._index.get(identity)
        if index is None or not 0 <= run < self.n:
            raise InputError(
                f"{where}: holds run {run} of problem {identity!r}, which is not asked for; use --overwrite"
            )
        return run * len(self.problems) + index

    def _note(self, unit: int, sample: Sample, offset: int) -> bool:
        """Take one attempt into account; return whether it settles its sample."""
        if self._offsets[unit] != MISSING:
            return False
        if not is_settled(sample, self.max_retries):
            self.resumed_attempts[unit] = max(self.resumed_attempts.get(unit, 0), sample.attempt + 1)
            return False
        self.resumed_attempts.pop(unit, None)
        self._offsets[unit] = offset
        self.settled += 1
        self._on_settled(sample, self.problems[unit % len(self.problems)])
        return True

    # -- running ----------------------------------------------------------------------------------------------

    def missing(self) -> Iterator[tuple[int, int]]:
        """`(unit, next attempt)` of every unsettled sample, those begun in an earlier run first."""
        begun = dict(self.resumed_attempts)
        yield from begun.items()
        for unit in range(self.units):
            if self._offsets[unit] == MISSING and unit not in begun:
                yield unit, 0

    def append(self, unit: int, sample: Sample) -> bool:
        """Write one finished attempt durably; return whether it settled its sample."""
        if self._offsets[unit] != MISSING:
            return True  # a second answer to a request that was moved between servers
        offset = self._journal.append(vars(sample))
        settled = self._note(unit, sample, offset)
        self.resumed_attempts.pop(unit, None)
        if settled and self._rows is not None:
            self._append_row(unit, sample)
        return settled

    def _append_row(self, unit: int, sample: Sample) -> None:
        self._rows.append(sample.to_row(self.problems[unit % len(self.problems)]))
        self._track_order(unit)

    def _track_order(self, unit: int) -> None:
        self._in_order = self._in_order and unit > self._last_unit
        self._last_unit = unit

    def sync_if_due(self) -> None:
        self._journal.sync_if_due()
        if self._rows is not None:
            self._rows.sync_if_due()

    # -- closing ----------------------------------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        return self.settled == self.units

    def finish(self) -> None:
        """Put a complete run's `X.jsonl` into its final order and format."""
        if not self.complete:
            return
        if self._rows is not None:
            self._rows.close()
            self._rows = None
        if self.grouped:
            write_jsonl(self.output, self._grouped_rows())
        elif not self._in_order:
            write_jsonl(self.output, self._ordered_rows())
            self._in_order = True

    def _read_attempt(self, offset: int) -> Sample:
        if self._reader is None:
            self._reader = self._journal.path.open("rb")
        self._reader.seek(offset)
        return self._parse_attempt(self._reader.readline())

    def _ordered_rows(self) -> Iterator[Row]:
        for unit, offset in enumerate(self._offsets):
            yield self._read_attempt(offset).to_row(self.problems[unit % len(self.problems)])

    def _grouped_rows(self) -> Iterator[Row]:
        count = len(self.problems)
        for index, problem in enumerate(self.problems):
            samples = [self._read_attempt(self._offsets[run * count + index]) for run in range(self.n)]
            yield grouped_row(problem, samples)

    def close(self) -> None:
        for file in (self._rows, self._journal, self._reader):
            if file is not None:
                file.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
