"""What has been sampled, on disk: the samples in `X.jsonl`, and the journal of all attempts in `X.attempts.jsonl`.

Each text stands once. A settled sample is a row of `X.jsonl`, appended as it finishes; the journal has a line for every
attempt, with the text of those that were tried again and the checksum of those that were settled. A killed run resumes
from the two, and either mends the other: a row without a journal line gets one, an unreadable line is moved aside, a
sample whose row is lost is drawn again from its seed. Once complete, `X.jsonl` is put in order of run, then problem.
Eight bytes a planned sample are all that is held in memory.
"""

from __future__ import annotations

import re
import zlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, TypeVar

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import (
    DurableAppender,
    Line,
    Row,
    checksum,
    decode_json,
    dump_json,
    read_lines,
    replace_atomically,
)
from promptcot_mamba.log import logger
from promptcot_mamba.records import Problem, Sample, derive_seed, sample_fields, ungroup
from promptcot_mamba.run_info import side_path
from promptcot_mamba.sampling.backend import LENGTH, REFUSED, STOP
from promptcot_mamba.sampling.grouped import holds_groups, ungroup_file, write_grouped
from promptcot_mamba.sampling.healing import take_out

T = TypeVar("T")
MISSING = -1
SPARED = -2  # missing, and not asked for
SAMPLE_FIELDS = tuple(Sample.__dataclass_fields__)
CHECKSUM = "completion_crc"  # of a journal line whose text stands in X.jsonl
_IN_THE_ROW: Row = {"completion": "", "finish_reason": STOP, "seconds": 0.0}  # what such a line leaves out
PROMPT_CRC = "prompt_crc"  # of what an attempt that was tried again had been sent
# What a row's `sent` has of how it was drawn, and what it means where it is left out (None: an older file's).
_DRAWN: Row = {"temperature": None, "top_p": None, "top_k": 0, "min_p": 0.0, "repetition_penalty": None,
               "max_tokens": None}  # fmt: skip
_JOURNAL_FIELDS = ("problem_id", "run", "attempt", "seed", "prompt_tokens", "completion_tokens", "format_valid")


def is_settled(sample: Sample, max_retries: int) -> bool:
    """Whether this attempt is the sample: a valid one, the last that may be made, or one no retry can mend."""
    no_room = sample.completion_tokens == 0 and sample.finish_reason == LENGTH  # its prompt fills the context
    final = no_room or sample.finish_reason == REFUSED
    return final or sample.format_valid or sample.attempt >= max_retries - 1


def _is_of(crc: int, text: str) -> bool:
    """Whether a journal's checksum is this text's. Older ones summed the halves of characters that a server had
    streamed apart, which the row has whole."""
    if crc == checksum(text):
        return True
    apart = re.sub("[\U00010000-\U0010ffff]", lambda whole: _halves(ord(whole[0]) - 0x10000), text)
    return crc == zlib.crc32(apart.encode("utf-8", "surrogatepass"))


def _halves(code: int) -> str:
    return chr(0xD800 + (code >> 10)) + chr(0xDC00 + (code & 0x3FF))


def parse_attempt(row: Row, path: Path, number: int) -> Sample:
    """A sample from a line of the journal; raises InputError naming what is missing or of another kind."""
    where = f"{path}:{number}"
    fields = _read_at(where, sample_fields, {name: row[name] for name in SAMPLE_FIELDS if name in row})
    if not isinstance(row.get(CHECKSUM, 0), int):
        raise InputError(f"{where}: {CHECKSUM!r} is {row[CHECKSUM]!r:.40}; move the line out of the file")
    try:
        return Sample(**(_IN_THE_ROW | fields if CHECKSUM in row else fields))
    except TypeError as error:
        missing = str(error).partition(":")[2].strip() or error
        raise InputError(f"{where}: no {missing}; not written by this program; move the line out of the file") from None


def count_settled(output: str | Path, max_retries: int) -> tuple[int, float | None]:
    """How many samples a rerun would find, and their mean length in tokens; reads only, locks nothing."""
    lengths: dict[tuple[str, int], int] = {}
    output, journal = Path(output), side_path(output, "attempts.jsonl")
    for line in read_lines(output):
        where = f"{output}:{line.number}"
        for row in _read_at(where, ungroup, line.row) if line.row is not None else ():
            sample = _read_at(where, Sample.from_row, row)
            lengths[sample.problem_id, sample.run] = sample.completion_tokens
    for line in read_lines(journal):
        if line.row is not None:
            sample = parse_attempt(line.row, journal, line.number)
            if "completion" in line.row and is_settled(sample, max_retries):  # an older journal's
                lengths.setdefault((sample.problem_id, sample.run), sample.completion_tokens)
    return len(lengths), sum(lengths.values()) / len(lengths) if lengths else None


def _read_at(where: str, read: Callable[[Row], T], row: Row) -> T:
    try:
        return read(row)
    except InputError as error:
        raise InputError(f"{where}: {error}; move the line out of the file") from None


class Ledger(AbstractContextManager["Ledger"]):
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
        prompt_of: Callable[[int], str] | None = None,
        base_seed: int = 0,
        sent: Row | None = None,
        most_tokens: Callable[[int], int] | None = None,
        limit: int | None = None,
        sync_seconds: float = 1.0,
    ):
        """`prompt_of` gives the prompt that is sent for a problem's index: rows must have been made from the same, and
        with `base_seed` and `sent` where that is given, whose `max_tokens` may be what `most_tokens` gives for an
        index. `limit` is the flag that made the problems few."""
        self.output = Path(output)
        self.problems = problems
        self.n = n
        self.max_retries = max_retries
        self.grouped = grouped
        self.units = n * len(problems)
        self.settled = 0
        self.spared = 0  # units of problems that are decided without them
        self.resumed_attempts: dict[int, int] = {}  # unit -> attempts already made, where not settled
        self._on_settled = on_settled
        self._prompt_of = prompt_of
        self._base_seed, self._sent, self._most_tokens, self._limit = base_seed, sent, most_tokens, limit
        self._index = {problem.id: index for index, problem in enumerate(problems)}
        self._offsets = array("q", [MISSING]) * self.units  # where in X.jsonl the sample stands
        self._sync_seconds = sync_seconds
        self._journal = self._open(side_path(output, "attempts.jsonl"))
        self._rows: DurableAppender | None = None  # X.jsonl while it grows
        self._last_unit = MISSING  # of the last row in X.jsonl, while it is in order
        self._in_order = True

    # -- opening ----------------------------------------------------------------------------------------------

    def _open(self, path: Path) -> DurableAppender:
        """Open for appending; a torn last line is moved aside, a second writer refused."""
        return DurableAppender(path, self._sync_seconds, torn_to=side_path(path, "damaged.jsonl"))

    def resume(self) -> None:
        """Read what earlier runs left, mend it, and open `X.jsonl` for appending."""
        if holds_groups(self.output):
            ungroup_file(self.output)
        journal = self._read_journal()
        if self.output.exists():
            self._open(self.output).close()
            self._read_rows(journal)
        self._rows = self._open(self.output)
        self._put_back(journal)

    def _read_journal(self) -> dict[int, Row]:
        """The settled attempts by unit, without their texts; unsettled ones are counted, unreadable lines taken out."""
        settled: dict[int, Row] = {}
        damaged, edited = set(), 0
        for line in read_lines(self._journal.path):
            if line.row is None:
                damaged.add(line.number)
                logger.warning("%s:%d: unreadable (%s)", self._journal.path, line.number, line.trouble)
                continue
            sample = parse_attempt(line.row, self._journal.path, line.number)
            unit = self._unit_asked(sample, f"{self._journal.path}:{line.number}")
            if is_settled(sample, self.max_retries):
                crc = line.row[CHECKSUM] if CHECKSUM in line.row else checksum(sample.completion)
                settled.setdefault(unit, {"attempt": sample.attempt, CHECKSUM: crc})
            elif line.row.get(PROMPT_CRC) in (None, self._prompt_crc(unit)):
                self.resumed_attempts[unit] = max(self.resumed_attempts.get(unit, 0), sample.attempt + 1)
            else:
                edited += 1
        if edited:
            logger.warning("%s: %d attempt(s) were sent another prompt; not counted", self._journal.path, edited)
        if damaged:
            self._rewrite_journal(damaged, keep=True)
        return settled

    def _rewrite_journal(self, numbers: set[int], *, keep: bool) -> None:
        old = self._journal
        old.sync()
        take_out(old.path, numbers, keep=keep)
        self._journal = self._open(old.path)  # before the old lock is given up
        old.close()

    def _read_rows(self, journal: dict[int, Row]) -> None:
        """Take the rows of `X.jsonl`; those the journal lacks are noted there, unreadable ones taken out."""
        damaged: dict[int, str] = {}
        offset = 0
        for line in read_lines(self.output):
            trouble = line.trouble or self._take_row(line, journal, offset)
            if trouble:
                damaged[line.number] = trouble
                logger.warning("%s:%d: unreadable (%s)", self.output, line.number, trouble)
            else:
                offset += len(line.raw)  # where it stands once the damaged ones before it are gone
        if damaged:
            take_out(self.output, damaged)

    def _take_row(self, line: Line, journal: dict[int, Row], offset: int) -> str:
        """Settle one unit by its row; returns what is wrong with a row that must go."""
        where = f"{self.output}:{line.number}"
        assert line.row is not None  # it has no trouble
        sample = _read_at(where, Sample.from_row, line.row)
        unit = self._unit_asked(sample, where)
        problem = self.problems[unit % len(self.problems)]
        if self._offsets[unit] != MISSING:
            return f"a second row of run {sample.run} of problem {problem.id!r}"
        self._refuse_changed(line.row, unit % len(self.problems), where)
        self._refuse_foreign(sample, unit % len(self.problems), where)
        known = journal.get(unit)
        if known is None:
            self._journal.append_lines(_journal_line(sample))
        elif not _is_of(known[CHECKSUM], sample.completion):
            raise InputError(
                f"{where}: its completion is not the one that was sampled (edited by hand?); put it back, or delete "
                "the line to have it sampled again"
            )
        self._note(unit, sample, offset)
        return ""

    def _put_back(self, journal: dict[int, Row]) -> None:
        """Settled samples whose row is lost: from an older journal's text, or to be drawn again from their seed."""
        lost: dict[int, Row] = {unit: row for unit, row in journal.items() if self._offsets[unit] == MISSING}
        stale = set()
        if lost:
            for line in read_lines(self._journal.path):
                assert line.row is not None  # `_read_journal` took the others out
                sample = parse_attempt(line.row, self._journal.path, line.number)
                unit = self._unit_asked(sample, self._journal.path)
                if unit not in lost or not is_settled(sample, self.max_retries):
                    continue
                if "completion" in line.row:
                    if self.is_missing(unit):  # not from a repeated line
                        self._write_row(unit, sample)
                elif sample.attempt == lost[unit]["attempt"]:
                    stale.add(line.number)
                    self.resumed_attempts[unit] = sample.attempt
        if stale:
            logger.warning("%s: %d sample(s) are lost; they are drawn again from their seeds", self.output, len(stale))
            self._rewrite_journal(stale, keep=False)

    def unit_of(self, identity: str, run: int) -> int | None:
        """The unit of a sample, or None where it is not asked for."""
        index = self._index.get(identity)
        return None if index is None or not 0 <= run < self.n else run * len(self.problems) + index

    def _unit_asked(self, sample: Sample, where: Any) -> int:
        unit = self.unit_of(sample.problem_id, sample.run)
        if unit is None:
            lacks = f"--n {self.n} excludes; raise --n to {sample.run + 1},"
            if sample.problem_id not in self._index:
                lacks = "--data_path no longer holds; put it back"
                if self._limit is not None:
                    lacks = f"--limit {self._limit} leaves out, or --data_path lacks; drop --limit, put it back"
            raise InputError(
                f"{where}: holds run {sample.run} of problem {sample.problem_id!r}, which {lacks} or use another "
                "--output_path"
            )
        return unit

    def _note(self, unit: int, sample: Sample, offset: int) -> None:
        """A sample is settled by the row at `offset`."""
        self.resumed_attempts.pop(unit, None)
        self._offsets[unit] = offset
        self.settled += 1
        self._in_order = self._in_order and unit > self._last_unit
        self._last_unit = unit
        self._on_settled(sample, self.problems[unit % len(self.problems)])

    def _refuse_changed(self, row: Row, index: int, where: str) -> None:
        """Raise InputError where a problem is not what its sample was made from; further keys are welcome."""
        problem = self.problems[index]
        wanted = {name: value for name, value in problem.fields.items() if name not in SAMPLE_FIELDS}
        if "sent" not in row:  # older than the field, or the problem's own prompt
            wanted |= {"prompt": problem.prompt} if problem.prompt is not None else {}
        elif self._prompt_of is not None:
            wanted["prompt"] = self._prompt_of(index)
        changed = next((name for name, value in wanted.items() if name in row and row[name] != value), None)
        was, now = ((sent or {}).get("template") for sent in (row.get("sent"), self._sent))
        if changed == "prompt" and was and now and was != now:
            raise InputError(
                f"{where}: problem {problem.id!r} was written by the chat template {was}, now {now}; put that back in "
                "the checkpoint or give it as --chat_template, or use another --output_path"
            )
        if changed is not None:
            raise InputError(
                f"{where}: problem {problem.id!r} had another {changed!r} when it was sampled; put that back in "
                "--data_path, or use another --output_path"
            )

    def _refuse_foreign(self, sample: Sample, index: int, where: str) -> None:
        """Raise InputError for a row of another run: drawn otherwise, or from another seed. Older rows tell neither."""
        if self._sent is None or sample.sent is None:
            return
        was = {name: sample.sent.get(name, self._sent.get(name) if none is None else none)
               for name, none in _DRAWN.items()}  # fmt: skip
        now = {name: self._sent.get(name, none) for name, none in _DRAWN.items()}
        if was["max_tokens"] != now["max_tokens"] and self._most_tokens is not None:  # its prompt left it less room
            now["max_tokens"] = self._most_tokens(index)
        was["seed"] = sample.seed
        now["seed"] = derive_seed(self._base_seed, sample.problem_id, sample.run, sample.attempt)
        changed = next((name for name in now if was[name] != now[name]), None)
        if changed is not None:
            raise InputError(
                f"{where}: a sample of another run ({changed} {was[changed]}, here {now[changed]}); move the line out "
                "of the file"
            )

    def _prompt_crc(self, unit: int) -> int | None:
        return None if self._prompt_of is None else checksum(self._prompt_of(unit % len(self.problems)))

    # -- running ----------------------------------------------------------------------------------------------

    def is_missing(self, unit: int) -> bool:
        return self._offsets[unit] == MISSING

    def spare(self, identity: str) -> list[int]:
        """Make no more samples of a problem; returns the units that were missing."""
        index, count = self._index[identity], len(self.problems)
        units = [unit for unit in range(index, self.units, count) if self.is_missing(unit)]
        for unit in units:
            self._offsets[unit] = SPARED
            self.resumed_attempts.pop(unit, None)
        self.spared += len(units)
        return units

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
        self.resumed_attempts.pop(unit, None)
        settled = is_settled(sample, self.max_retries)
        if settled:
            self._write_row(unit, sample)
            self._journal.append_lines(_journal_line(sample))
        else:
            row = vars(sample) | {PROMPT_CRC: self._prompt_crc(unit)}
            self._journal.append({name: value for name, value in row.items() if value is not None})
        return settled

    def _write_row(self, unit: int, sample: Sample) -> None:
        row = sample.to_row(self.problems[unit % len(self.problems)])
        assert self._rows is not None
        self._note(unit, sample, self._rows.append(row))

    def sync_if_due(self) -> None:
        self._journal.sync_if_due()
        if self._rows is not None:
            self._rows.sync_if_due()

    # -- closing ----------------------------------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        return self.settled + self.spared == self.units

    def finish(self) -> None:
        """Put a complete run's `X.jsonl` into its final order and format; no chain is left to be continued."""
        if not self.complete:
            return
        if self._rows is not None and not self._rows.is_untouched():
            raise InputError(
                f"{self.output}: was replaced or cut by another program while it was written; run the same command "
                "again, and what is lost is drawn again from its seed"
            )
        side_path(self.output, "partial.jsonl").unlink(missing_ok=True)
        if self._rows is not None:
            self._rows.close()
            self._rows = None
        if self.grouped:
            with self.output.open("rb") as file:
                write_grouped(self.output, self.problems, self.n, lambda unit: self._row(file, unit))
        elif not self._in_order:
            with self.output.open("rb") as old, replace_atomically(self.output, "wb") as new:
                new.writelines(self._line(old, unit) for unit in range(self.units) if self._offsets[unit] != SPARED)
            self._in_order = True

    def _row(self, file: IO[bytes], unit: int) -> Row | None:
        return None if self._offsets[unit] == SPARED else decode_json(self._line(file, unit))

    def _line(self, file: IO[bytes], unit: int) -> bytes:
        file.seek(self._offsets[unit])
        return file.readline()

    def close(self) -> None:
        for file in (self._rows, self._journal):
            if file is not None:
                file.close()

    def __exit__(self, *exc: object) -> None:
        self.close()


def _journal_line(sample: Sample) -> bytes:
    """A settled sample's line in the journal: which attempt it was, what it cost, and the checksum of its text.

    The rest stands in X.jsonl. What is not valid says how it ended: a refusal is settled, whatever may be retried.
    """
    row = {name: getattr(sample, name) for name in _JOURNAL_FIELDS}
    if not sample.format_valid:
        row["finish_reason"] = sample.finish_reason
    return dump_json(row | {CHECKSUM: checksum(sample.completion)}) + b"\n"
