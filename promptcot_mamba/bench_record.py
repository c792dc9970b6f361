"""What a stopwatch leaves behind: one JSON record in one form, so that the report shows it without knowing the script.

`tables` hold the cells as they were printed; `results` the figures behind them.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from promptcot_mamba.jsonl import write_json
from promptcot_mamba.run_info import describe_run

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class RecordTable:
    """A caption, column titles and rows of text."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def device_name() -> str:
    """The CUDA device, or the processor, its cores and what it can multiply with."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    model = platform.processor() or platform.machine()
    for line in _cpuinfo():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"CPU: {model}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def render_record_table(table: RecordTable) -> str:
    """The table in Markdown, under its caption."""
    lines = [list(table.header), *map(list, table.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]
    rows = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([f"{table.caption}\n", rows[0], rule, *rows[1:]])


def write_record(
    path: str | Path, *, title: str, config: dict[str, Any], tables: Sequence[RecordTable], results: Any
) -> None:
    """Write a record: what was measured, on what, with which command, versions and commit."""
    record = {
        "title": title,
        "device": device_name(),
        **describe_run(config),
        "tables": [asdict(table) for table in tables],
        "results": results,
    }
    write_json(path, record)
