"""Cells and tables: every number goes with its counts and its 95 % interval."""

from collections.abc import Sequence
from dataclasses import dataclass

from promptcot_mamba.grading.metrics import Estimate


@dataclass(frozen=True)
class Table:
    """A header, rows of text (a page keeps a cell's line ends, Markdown does not), which columns hold text (aligned
    left; figures go to the right), which rows are ours among others', and which a page folds away.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: frozenset[int] = frozenset({0})
    own_rows: frozenset[int] = frozenset()
    folded_rows: frozenset[int] = frozenset()
    caption: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) == len(self.header), f"{len(row)} cells under {len(self.header)} titles: {row}"

    def numbered(self, *, shown: bool) -> list[tuple[int, Sequence[str]]]:
        """The rows that a page shows, or those it folds, with their places."""
        return [(place, row) for place, row in enumerate(self.rows) if (place not in self.folded_rows) == shown]


def format_share(share: Estimate) -> str:
    """`84.0 % [78.3, 88.4] 168/200`: a share of problems, its interval, its counts."""
    if share.problems == 0:
        return "–"
    right = round(share.mean * share.problems)
    return f"{100 * share.mean:.1f} % {format_interval(share)} {right}/{share.problems}"


def format_difference(difference: Estimate) -> str:
    """`+68.0 [61.2, 73.9]`, in points."""
    return f"{100 * difference.mean:+.1f} {format_interval(difference)}"


def format_interval(estimate: Estimate, sign: str = "") -> str:
    return f"[{100 * estimate.low:{sign}.1f}, {100 * estimate.high:{sign}.1f}]"


def render_markdown(table: Table) -> str:
    """A Markdown table; a `|` inside a cell is escaped."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    marks = [":--" if column in table.text_columns else "--:" for column in range(len(table.header))]
    return "\n".join([line(table.header), "|" + "|".join(marks) + "|", *map(line, table.rows)])
