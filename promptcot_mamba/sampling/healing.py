"""Lines of our own files that cannot be read: named, moved aside, and made good from the file beside them."""

from collections.abc import Collection
from pathlib import Path

from promptcot_mamba.jsonl import read_lines, replace_atomically
from promptcot_mamba.log import logger
from promptcot_mamba.run_info import side_path
from promptcot_mamba.token_scores import scores_row


def take_out(path: Path, numbers: Collection[int], *, keep: bool = True) -> None:
    """Write a file anew without some of its lines, atomically; with `keep` they go to `X.damaged.jsonl` first."""
    damaged = side_path(path, "damaged.jsonl")
    if keep:
        with damaged.open("ab") as aside:
            aside.writelines(line.raw.rstrip(b"\n") + b"\n" for line in read_lines(path) if line.number in numbers)
    with replace_atomically(path, "wb") as file:
        file.writelines(line.raw for line in read_lines(path) if line.number not in numbers)
    if keep:
        logger.warning("%s: %d unreadable line(s) moved to %s", path, len(numbers), damaged.name)


def heal_scores(path: Path) -> set[tuple[str, int]]:
    """Take out of X.logprobs.jsonl what cannot be read, which is named and moved aside, and what was drawn once more
    since; returns problem and run of what stays."""
    last: dict[tuple[str, int, int], int] = {}
    damaged, repeated = set(), set()
    for line in read_lines(path):
        try:
            row, _ = scores_row(line)
        except ValueError as error:
            logger.warning("%s:%d: unreadable (%s)", path, line.number, error)
            damaged.add(line.number)
            continue
        key = (row["problem_id"], row["run"], row["attempt"])
        if key in last:
            repeated.add(last[key])
        last[key] = line.number
    if damaged:
        take_out(path, damaged)
        return heal_scores(path)  # its lines have other numbers now
    if repeated:
        take_out(path, repeated, keep=False)
    return {key[:2] for key in last}
