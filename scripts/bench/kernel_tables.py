"""The tables and lines of scripts.bench.kernels: cells made from recorded rows, nothing else."""

from promptcot_mamba.bench_record import RecordTable
from scripts.bench.device_common import Row, profile_table

TITLES = {
    "correctness": "Kernels on the device: correctness",
    "step": "A packed training step: the device against the CPU",
    "sanitizer": "Kernels under compute-sanitizer",
    "speed": "Kernels on the device: speed",
    "profile": "Kernels on the device: where the time goes",
}
SPEED_HEADER = [
    *("kernel", "tokens", "pass", "ours ms", "lowest-highest", "TB/s", "of a copy", "TFLOP/s", "of a product"),
    *("upstream", "upstream ms", "times ours", "plain torch ms", "times ours"),
]


def list_tables(part: str, rows: dict[str, Row]) -> list[RecordTable]:
    """The record's tables of a part."""
    if part in ("correctness", "step"):
        return [_errors_table(part, rows)]
    if part == "sanitizer":
        cells = [[key, _summary(row), _verdict(row)] for key, row in rows.items()]
        return [RecordTable("Every kernel once, at 130 tokens, fp32 and bf16, packed and not.",
                            ["tool and op", "what it said", "passed"], cells)]  # fmt: skip
    if part == "speed":
        return _speed_tables(rows)
    return [profile_table(f"Forward and backward of {key}", row) for key, row in rows.items()]


def describe_row(part: str, row: Row) -> str:
    """A row in one line, for the terminal."""
    if "errors" in row:
        name, error = worst(row["errors"])
        plain = max(row["plain_torch_errors"].values())
        return f"worst {name} {error:.1e}, plain torch {plain:.1e}, floor {row['floor']:.0e}"
    if part == "sanitizer":
        return _summary(row)
    if part == "profile":
        return row.get("failed") or f"{row['total_ms']:.2f} ms in {row['launches']} launches"
    if "ours" not in row:
        return ", ".join(f"{name} {value:.2f}" for name, value in row.items() if isinstance(value, float))
    return " | ".join(
        f"{line[2]} {line[3]} ms, upstream {line[11]}, plain {line[13]}" for line in _speed_rows(row, None)
    )


def worst(errors: dict[str, float]) -> tuple[str, float]:
    """The largest error and whose it is."""
    return max(errors.items(), key=lambda item: item[1])


def _summary(row: Row) -> str:
    return row["summary"] if "summary" in row else row.get("failed", "")


def _verdict(row: Row) -> str:
    return {True: "yes", False: "NO", None: "-"}[row.get("passed")]


def _errors_table(part: str, rows: dict[str, Row]) -> RecordTable:
    cells = []
    for key, row in rows.items():
        (name, error), (plain_name, plain) = worst(row["errors"]), worst(row["plain_torch_errors"])
        loss = [f"{row['errors']['loss']:.1e}"] if part == "step" else []
        cells.append(
            [key, str(len(row["errors"])), *loss, f"{error:.1e}", name, f"{plain:.1e}", plain_name,
             f"{row['floor']:.0e}", _verdict(row)]
        )  # fmt: skip
    loss = ["loss"] if part == "step" else []
    header = ["case", "tensors", *loss, "worst error", "of", "plain torch's worst", "of", "floor", "passed"]
    against = "the fp64 definition" if part == "correctness" else "the CPU's fp32 reference"
    return RecordTable(
        f"Errors relative to the norm, output and every gradient, against {against}; uninitialised memory poisoned.",
        header, cells,
    )  # fmt: skip


def _speed_tables(rows: dict[str, Row]) -> list[RecordTable]:
    ceilings = rows.get("ceilings")
    tables = []
    if ceilings:
        cells = [
            ["copy of 1 GiB, TB/s read and written", f"{ceilings['copy_terabytes_per_second']:.2f}"],
            ["bf16 product of 8192 x 8192, TFLOP/s", f"{ceilings['matmul_teraflops']:.0f}"],
        ]
        tables.append(RecordTable("What the device reaches, in the same run.", ["ceiling", "measured"], cells))
    timed = [row for row in rows.values() if "ours" in row]
    if timed:
        cells = [line for row in timed for line in _speed_rows(row, ceilings)]
        caption = (
            "bf16, b=1, Mamba-Codestral-7B's shapes; medians of device time. Bytes and FLOPs are arithmetic (what the "
            "algorithm needs, tensors once a launch), the rates follow from the measured time."
        )
        tables.append(RecordTable(caption, SPEED_HEADER, cells))
    return tables


def _speed_rows(row: Row, ceilings: Row | None) -> list[list[str]]:
    lines = []
    for side, ours in row["ours"].items():
        median = ours["median_ms"]
        line = [
            row["op"], f"{row['length']:,}", side.replace("_", " + "), f"{median:.3f}",
            f"{ours['lowest_ms']:.3f}-{ours['highest_ms']:.3f}",
        ]  # fmt: skip
        for work, ceiling in (("moved_bytes", "copy_terabytes_per_second"), ("flops", "matmul_teraflops")):
            if not row.get(work):
                line += ["-", "-"]
                continue
            rate = row[work][side] / median / 1e9
            line += [f"{rate:.3g}", f"{rate / ceilings[ceiling]:.0%}" if ceilings else "-"]
        for kind in ("upstream", "plain"):
            peer = row[kind]
            named = [peer["name"]] if kind == "upstream" else []
            if "failed" in peer:
                line += [*named, peer["failed"], "-"]
            else:
                line += [*named, f"{peer[side]['median_ms']:.3f}", f"{peer[side]['median_ms'] / median:.2f}x"]
        lines.append(line)
    return lines
