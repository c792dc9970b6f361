"""`docs/RESULTS.md`: the paper's tables with our runs, then every measured record. Generated; nothing is typed in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from promptcot_mamba.errors import InputError
from promptcot_mamba.report.evaluations import Evaluation, figures_table
from promptcot_mamba.report.paper import SCALING, TABLES, THROUGHPUT_RATIOS
from promptcot_mamba.report.published import NOT_MEASURED, Section, render_published
from promptcot_mamba.report.tables import Table, render_markdown

REQUIRED = ("title", "device", "versions", "command", "tables")


def load_records(folder: Path) -> list[dict[str, Any]]:
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


def paper_sections(evaluations: Sequence[Evaluation]) -> list[Section]:
    """The paper's tables, ours beside them."""
    return [*(render_published(table, evaluations) for table in TABLES), throughput_section()]


def throughput_section() -> Section:
    """The paper's two ratios; our measured curves are records below."""
    rows = [[f"{budget} GB", f"{ratio}x", NOT_MEASURED] for budget, ratio in THROUGHPUT_RATIOS.items()]
    notes = [
        f"Published values: {SCALING}.",
        "The 7B pair needs a GPU; a derived small pair is measured by scripts.bench_efficiency on a CPU.",
    ]
    table = Table(["budget", "Mamba-2 7B over S1.1-7B (paper)", "7B on CUDA (here)"], rows)
    return Section("Throughput under a memory budget", table, notes)


def record_tables(record: dict[str, Any]) -> list[tuple[str, Table]]:
    """A record's tables with their captions."""
    return [(table["caption"], Table(table["header"], table["rows"])) for table in record["tables"]]


def describe_conditions(record: dict[str, Any]) -> str:
    """Device, versions, commit, date and command of a record, in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    command = " ".join(Path(word).name if word.startswith("/") else word for word in record["command"])
    parts = [record["device"], versions, record.get("commit"), record.get("started"), f"`{command}`"]
    return " · ".join(str(part) for part in parts if part)


def render_results(evaluations: Sequence[Evaluation], records: Sequence[dict[str, Any]]) -> str:
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
    for section in paper_sections(evaluations):
        lines += ["", f"### {section.title}", "", render_markdown(section.table), ""]
        lines += [f"{note}  " for note in section.notes]
    if evaluations:
        lines += ["", "### Everything graded", "", render_markdown(figures_table(evaluations))]
    if records:
        lines += ["", "## Measured here"]
    for record in records:
        lines += ["", f"### {record['title']}", "", describe_conditions(record)]
        for caption, table in record_tables(record):
            lines += ["", caption, "", render_markdown(table)]
    return "\n".join(lines) + "\n"
