"""What a stopwatch leaves behind: one JSON record in one form, so that the report shows it without knowing the script.

`tables` hold the cells as they were printed; `results` the figures behind them.
"""

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from promptcot_mamba.gpus import list_gpus
from promptcot_mamba.jsonl import write_json
from promptcot_mamba.run_info import describe_run

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class RecordTable:
    """A caption, column titles and rows of text."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.is_file() else ""


def processor_name() -> str:
    """The processor's model, without a look at any GPU."""
    named = [line.partition(":")[2].strip() for line in _cpuinfo().splitlines() if line.startswith("model name")]
    return named[0] if named else platform.machine()


def device_name() -> str:
    """The CUDA devices and their driver, or the processor, the threads used and the vector and matrix units it has."""
    import torch

    if torch.cuda.is_available():
        driver = next((gpu.driver for gpu in list_gpus()), "unknown")
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, driver {driver}"
    text = _cpuinfo()
    units = [name for flag, name in (("avx2", "AVX2"), ("avx512f", "AVX-512"), ("amx_bf16", "AMX")) if flag in text]
    return f"{processor_name()}, {torch.get_num_threads()} threads, {' '.join(units) or 'no vector units known'}"


def render_record_table(table: RecordTable) -> str:
    """The table in Markdown, under its caption."""
    lines = [table.header, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([f"{table.caption}\n", rows[0], rule, *rows[1:]])


def tabulate(
    caption: str, columns: Sequence[tuple[str, str]], rows: Iterable[Mapping[str, Any]], **shared: Any
) -> RecordTable:
    """A table of rows of figures: a column is its title and its cells' format, as in `("tokens", "{length:,}")`.

    `shared` values may stand in any cell or title.
    """
    titles = [title.format(**shared) for title, _ in columns]
    return RecordTable(caption, titles, [[cell.format(**shared, **row) for _, cell in columns] for row in rows])


def time_table(times: Mapping[str, float], caption: str = "Times") -> RecordTable:
    """Seconds by stage, and in all."""
    rows = [[title, f"{seconds:.0f}"] for title, seconds in {**times, "in all": sum(times.values())}.items()]
    return RecordTable(caption, ["stage", "seconds"], rows)


def report_record(args: Any, *more: str | Path, title: str, tables: Sequence[RecordTable], results: Any) -> None:
    """Print what a program measured, and write its record where its flags (`--record`) and the program want it."""
    print("\n\n".join(map(render_record_table, tables)))
    write_record(getattr(args, "record", None), *more, title=title, config=asdict(args), tables=tables, results=results)


def write_record(
    *paths: str | Path | None, title: str, config: dict[str, Any], tables: Sequence[RecordTable], results: Any
) -> None:
    """Write a record to each path that is one: what was measured, on what, by which command, versions and commit."""
    if not any(paths):
        return
    record = {
        "title": title,
        "device": device_name(),
        **describe_run(config),
        "tables": [asdict(table) for table in tables],
        "results": results,
    }
    for path in [path for path in paths if path]:
        write_json(path, record)
