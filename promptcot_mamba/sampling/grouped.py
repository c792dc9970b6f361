"""The grouped format: one row a problem, with a list over runs for each field of a sample."""

from collections.abc import Callable, Iterator
from pathlib import Path

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row, iter_jsonl, read_lines, write_jsonl
from promptcot_mamba.log import logger
from promptcot_mamba.records import Problem, Sample, grouped_row, is_grouped, ungroup
from promptcot_mamba.sampling.healing import take_out


def holds_groups(output: Path) -> bool:
    """Whether a prediction file holds one row a problem."""
    if not output.exists():
        return False
    return is_grouped(next((line.row for line in read_lines(output) if line.row is not None), {}))


def ungroup_file(output: Path) -> None:
    """Write a grouped file anew with one row a sample; lines that cannot be read are moved aside.

    Raises InputError naming the line for one that is no group.
    """
    damaged = {line.number: line.trouble for line in read_lines(output) if line.row is None}
    for number, trouble in damaged.items():
        logger.warning("%s:%d: unreadable (%s)", output, number, trouble)
    if damaged:
        take_out(output, damaged)
    write_jsonl(output, _ungrouped_rows(output))
    logger.info("%s: held a row for each problem, and has one for each sample until the run is complete", output)


def _ungrouped_rows(output: Path) -> Iterator[Row]:
    for number, row in iter_jsonl(output):
        try:
            yield from ungroup(row)
        except InputError as error:
            raise InputError(f"{output}:{number}: {error}") from None


def write_grouped(output: Path, problems: list[Problem], n: int, row_of: Callable[[int], Row | None]) -> None:
    """Replace the rows of a complete file by grouped ones; `row_of` gives the row of a unit, None for one spared."""
    count = len(problems)

    def samples_of(index: int) -> list[Sample]:
        rows = (row_of(run * count + index) for run in range(n))
        return [Sample.from_row(row) for row in rows if row is not None]

    write_jsonl(output, (grouped_row(problem, samples_of(index)) for index, problem in enumerate(problems)))
