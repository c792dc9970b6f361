"""`docs/RESULTS.md`: the paper's tables with our runs, then every measured record. Generated; nothing is typed in."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from promptcot_mamba.errors import InputError
from promptcot_mamba.report.cost import cost_section
from promptcot_mamba.report.evaluations import Evaluation, figures_table
from promptcot_mamba.report.paper import SCALING, TABLES, THROUGHPUT_RATIOS
from promptcot_mamba.report.published import NOT_MEASURED, Section, render_further, render_published
from promptcot_mamba.report.tables import Table, render_markdown

Record = dict[str, Any]
REQUIRED = ("title", "device", "versions", "command", "tables")


def load_records(folder: Path) -> list[Record]:
    """Every `*.json` of a folder, by name; raises InputError if one is not a record (`bench_record.write_record`)."""
    records = []
    for path in sorted(folder.glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: malformed JSON ({error}); measure it again") from None
        missing = [name for name in REQUIRED if name not in record]
        if missing:
            raise InputError(f"{path}: not a record, lacks {', '.join(missing)}; measure it again")
        records.append({**record, "name": path.stem})
    return records


def paper_sections(
    evaluations: Sequence[Evaluation], records: Sequence[Record], logs: Mapping[str, Path] | None = None
) -> list[Section]:
    """The paper's tables, ours beside them, then what we ran of benchmarks that the papers do not have.

    `logs` are those of training runs, by name.
    """
    published = [render_published(table, evaluations) for table in TABLES]
    further = render_further(evaluations)
    cost = cost_section(evaluations, logs)
    return [*published, throughput_section(records), cost, *([further] if further else [])]


def throughput_section(records: Sequence[Record]) -> Section:
    """The paper's two ratios beside ours at the longest chains measured; the curves are with their records."""
    found = {pair: find_ratios(records, pair) for pair in ("7B", "small")}
    rows = [
        [f"{budget} GB", f"{ratio}x", *(ratios.get(budget, NOT_MEASURED) for ratios in found.values())]
        for budget, ratio in THROUGHPUT_RATIOS.items()
    ]
    notes = [
        f"Published values: {SCALING}; at which lengths is not published.",
        "The 7B pair needs a GPU; the small pair has its proportions and runs on a CPU (docs/efficiency.md).",
    ]
    header = ["budget", "Mamba-2 7B over S1.1-7B (paper)", "7B pair on CUDA (here)", "small pair (here)"]
    return Section("Throughput under a memory budget", Table(header, rows), notes)


def find_ratios(records: Sequence[Record], pair: str) -> dict[float, str]:
    """By budget, what the last record of a pair of models holds for its longest chains."""
    ratios = {}
    for record in records:
        results = record.get("results")
        if isinstance(results, dict) and results.get("pair") == pair:
            for comparison in results["comparisons"]:
                row = comparison["rows"][-1]
                ratios[comparison["budget_gib"]] = f"{row['ratio']:.2f}x at {row['length']:,} tokens"
    return ratios


def record_tables(record: Record) -> list[Table]:
    """A record's tables with their captions."""
    return [Table(table["header"], table["rows"], caption=table["caption"]) for table in record["tables"]]


def describe_conditions(record: Record) -> str:
    """Device, versions, commit, date and command of a record, in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    command = " ".join(Path(word).name if word.startswith("/") else word for word in record["command"])
    parts = [record["device"], versions, record.get("commit"), record.get("started"), f"`{command}`"]
    return " · ".join(str(part) for part in parts if part)


def render_results(
    evaluations: Sequence[Evaluation], records: Sequence[Record], logs: Mapping[str, Path] | None = None
) -> str:
    """The whole document."""
    lines = [
        "# Results",
        "",
        "Written by `python -m scripts.make_report` from graded predictions and `docs/records/*.json`; do not edit.",
        f'Every number was measured as stated beside it; "{NOT_MEASURED}" means just that.',
        "",
        "## The paper's tables",
        "",
        "Ours as `avg@n [95 % interval, clustered by problem] n grader`.",
    ]
    for section in paper_sections(evaluations, records, logs):
        lines += ["", f"### {section.title}", "", render_markdown(section.table), ""]
        lines += [f"{note}  " for note in section.notes]
    if evaluations:
        lines += ["", "### Everything graded", "", render_markdown(figures_table(evaluations))]
    if records:
        lines += ["", "## Measured here"]
    for record in records:
        lines += ["", f"### {record['title']}", "", describe_conditions(record)]
        for table in record_tables(record):
            lines += ["", table.caption, "", render_markdown(table)]
    return "\n".join(lines) + "\n"
