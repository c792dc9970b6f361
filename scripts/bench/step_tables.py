"""The tables of scripts.bench.step_7b: what was measured, and, apart and labelled, what follows from it."""

from promptcot_mamba.bench_record import RecordTable
from promptcot_mamba.training.plan import PlanArguments
from scripts.bench.device_common import Row, profile_table

TITLES = {
    "step": "One 7B training step on one device: the published recipe and ours",
    "lengths": "Our 7B forward and backward over row lengths",
}
DEVICES, ROWS_PER_DEVICE = 8, 8  # the paper's step: 8 GPUs x 1 example x 8 accumulated
SECONDS_PER_DAY = 86_400
HEADER = [
    *("variant", "layers", "tokens", "forward + backward s", "lowest-highest", "tokens/s", "MFU", "update s"),
    *("step tokens/s", "step MFU", "peak GB", "host GB", "layers kept"),
]


def step_seconds(row: Row) -> float:
    """A whole step of one micro-batch: its passes and its update."""
    return row["passes"]["median_s"] + row.get("update", {"median_s": 0.0})["median_s"]


def describe_row(row: Row) -> str:
    """A row in one line, for the terminal."""
    if "failed" in row:
        return row["failed"]
    rate = row["length"] / row["passes"]["median_s"]
    update = f", update {row['update']['median_s']:.2f} s" if "update" in row else ""
    return f"{rate:,.0f} tokens/s{update}, peak {row['peak_bytes'] / 1e9:.1f} GB, {row['kept_layers']} layers kept"


def list_tables(part: str, rows: dict[str, Row]) -> list[RecordTable]:
    """The record's tables of a part."""
    caption = (
        "bf16, random weights, one row of random tokens; medians. A step here is one micro-batch and one update. MFU = "
        "tokens/s x 3 x forward FLOPs a token (recomputation not counted) / dense bf16 peak of the data sheet."
    )
    tables = [RecordTable(caption, HEADER, [_measured(row) for row in rows.values()])]
    if part == "step":
        tables += [table for table in (_ratios(rows), _derived(rows)) if table]
    for key, row in rows.items():
        if "profile" in row and part == "step":
            tables.append(profile_table(f"One micro-batch of {key}", row["profile"]))
    return tables


def _measured(row: Row) -> list[str]:
    named = [row["variant"], str(row["layers"]), f"{row['length']:,}"]
    if "failed" in row:
        return [*named, row["failed"], *["-"] * (len(HEADER) - 4)]
    passes = row["passes"]

    def speed(seconds: float) -> list[str]:
        rate = row["length"] / seconds
        mfu = f"{rate * row['flops_per_token'] / row['peak_flops']:.1%}" if row["peak_flops"] else "-"
        return [f"{rate:,.0f}", mfu]

    updated = ["-", "-", "-"]
    if "update" in row:
        updated = [f"{row['update']['median_s']:.3f}", *speed(step_seconds(row))]
    return [
        *named, f"{passes['median_s']:.3f}", f"{passes['lowest_s']:.3f}-{passes['highest_s']:.3f}",
        *speed(passes["median_s"]), *updated, f"{row['peak_bytes'] / 1e9:.1f}", f"{row['host_bytes'] / 1e9:.1f}",
        str(row["kept_layers"]),
    ]  # fmt: skip


def _find(rows: dict[str, Row], variant: str, layers: int) -> Row | None:
    found = [row for row in rows.values() if (row["variant"], row["layers"]) == (variant, layers)]
    return found[0] if found and "failed" not in found[0] else None


def _ratios(rows: dict[str, Row]) -> RecordTable | None:
    """Times faster than the recipe, at equal depth."""
    cells = []
    for ours, theirs, what in (
        ("ours_passes", "recipe_passes", "forward and backward"),
        ("ours_offload", "recipe_offload", "step, both optimizers on the host"),
        ("ours", "recipe_offload", "step, ours on the device, theirs on the host"),
    ):
        for layers in sorted({row["layers"] for row in rows.values()}, reverse=True):
            mine, peer = _find(rows, ours, layers), _find(rows, theirs, layers)
            if mine and peer:
                cells.append([what, str(layers), f"{step_seconds(peer) / step_seconds(mine):.2f}x"])
    return RecordTable("Ours over the published recipe.", ["what", "layers", "times faster"], cells) if cells else None


def _derived(rows: dict[str, Row]) -> RecordTable | None:
    """Days of the paper's two phases on 8 such devices, from the passes and an eighth of the update."""
    plan, cells = PlanArguments(), []
    layers = max((row["layers"] for row in rows.values()), default=0)
    for passes_of, update_of in (("recipe_passes", "recipe_offload"), ("ours_passes", "ours")):
        passes = _find(rows, passes_of, layers)
        updates = [row for row in rows.values() if row["variant"] == update_of and "update" in row]
        if not passes or not updates or not passes["peak_flops"]:  # a rehearsal's sizes say nothing about days
            continue
        update = max(updates, key=lambda row: row["layers"])
        scaled = update["update"]["median_s"] * passes["parameters"] / update["parameters"] / DEVICES
        seconds = ROWS_PER_DEVICE * passes["passes"]["median_s"] + scaled
        rate = DEVICES * ROWS_PER_DEVICE * passes["length"] / seconds
        tokens = [examples * plan.plan_tokens_per_example for examples in plan.plan_examples]
        days = [f"{count / rate / SECONDS_PER_DAY:.1f}" for count in tokens]
        cells.append([passes_of, update_of, f"{seconds:.2f}", f"{rate:,.0f}", *days])
    if not cells:
        return None
    caption = (
        f"Derived, not measured: {DEVICES} devices, {ROWS_PER_DEVICE} rows each a step, rows full, the passes above "
        "and an eighth of the update (in proportion to parameters), communication left out; phases of "
        f"{plan.plan_examples[0]:,.0f} and {plan.plan_examples[1]:,.0f} examples of "
        f"{plan.plan_tokens_per_example:,.0f} tokens (an assumption)."
    )
    header = ["passes of", "update of", "step s", "tokens/s on 8", "phase 1 days", "phase 2 days"]
    return RecordTable(caption, header, cells)
