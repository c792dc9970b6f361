"""Throughput against chain length under one memory budget: Mamba-2 and attention in vLLM with dummy weights.

    python -m scripts.bench.efficiency                      # 24 and 72 GiB; on a CPU their derived images
    python -m scripts.bench.efficiency --budget_gib 24 --lengths 1024 4096

On CUDA the models are the 7B pair itself. On a CPU they are small ones whose proportions are derived from that pair in
advance (`promptcot_mamba/efficiency/models.py`); lengths and budgets are always given, and shown, in 7B units.
Each engine runs in a process of its own. The small ones take turns, so that a machine whose speed drifts is the same to
all; an interrupted run keeps the waves it has measured: delete `--output_dir` to measure them again.
"""

import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from promptcot_mamba.bench_record import RecordTable, render_record_table, tabulate, write_record
from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.efficiency.calibrate import fit_pair, median_wave
from promptcot_mamba.efficiency.measure import Measured, measure_all
from promptcot_mamba.efficiency.models import LARGE_PAIR, SMALL_PAIR, Pair, derivation_table
from promptcot_mamba.efficiency.predict import Load, count_seconds, find_crossover, play_wave
from promptcot_mamba.efficiency.setup import Setup
from promptcot_mamba.report.paper import THROUGHPUT_RATIOS

COLUMNS = (
    ("length", "{length:,}"),
    ("Mamba-2 tok/s", "{mamba2_tokens_per_second:,.0f}"),
    ("chains at once", "{mamba2_running:.1f}"),
    ("attention tok/s", "{attention_tokens_per_second:,.0f}"),
    ("chains at once", "{attention_running:.1f}"),
    ("preempted", "{attention_preemptions:.0f}"),
    ("ratio", "{ratio:.2f}x"),
    ("ratio by arithmetic", "{ratio_predicted:.2f}x"),
)
SHOWN = ("tokens_per_second", "running", "preemptions", "steps", "seconds", "first_seconds")


@dataclass
class Arguments:
    budget_gib: list[float] = flag("memory budgets, 7B units", factory=lambda: [24, 72])
    lengths: list[int] = flag("tokens a chain, 7B units", factory=lambda: [1 << k for k in range(10, 17)], least=1)
    prompt: int = flag("tokens of a prompt, 7B units; a competition problem's", default=128, least=1)
    max_num_seqs: int = flag("chains at once, and chains a wave, for both models", default=32, least=1)
    output_dir: str = flag("measurements and the record", default="outputs/efficiency")
    record: str | None = flag("also write the record here (docs/records/X.json)", default=None)


def choose_pair() -> Pair:
    """The 7B pair on CUDA, its small image elsewhere."""
    import torch

    return LARGE_PAIR if torch.cuda.is_available() else SMALL_PAIR


def waves_of(setup: Setup, done: Measured, load: Load, engine: str) -> list[dict[str, float]]:
    """All that one engine did under one load: one that stands for several budgets was measured for each."""
    stages = [stage for stage in setup.stages() if stage.load == load and engine in stage.engines]
    return [wave for stage in stages for wave in done[stage.name][engine]]


def compare(setup: Setup, done: Measured, budget: float) -> dict[str, Any]:
    """Measured and predicted tokens/s of both models under one budget, their ratio and where they cross."""
    rows = []
    shapes = dict(zip(("mamba2", "attention"), setup.shapes, strict=True))
    costs = dict(zip(shapes, fit_pair(setup, done), strict=True))
    for tokens, stage in zip(setup.lengths, setup.compared(budget), strict=True):
        load = stage.load
        row: dict[str, Any] = {"budget_gib": budget, "length": tokens, "small_length": load.length}
        waves = [done[stage.name][engine] for engine in stage.engines]
        for (name, shape), engine in zip(shapes.items(), stage.engines, strict=True):
            wave = median_wave(waves_of(setup, done, load, engine))
            cache = setup.pair.cache_bytes(shape, budget)
            _, work = play_wave(shape, load, cache_bytes=cache, max_num_seqs=setup.max_num_seqs)
            row |= {f"{name}_{key}": getattr(wave, key) for key in SHOWN}
            row[f"{name}_predicted"] = work["chains"] / count_seconds(costs[name], work)
        row["ratio"] = statistics.median(
            a["tokens_per_second"] / b["tokens_per_second"] for a, b in zip(*waves, strict=True)
        )
        row["ratio_predicted"] = row["mamba2_predicted"] / row["attention_predicted"]
        rows.append(row)
    crossover = {
        kind: find_crossover(setup.lengths, [row[key] for row in rows])
        for kind, key in (("measured", "ratio"), ("predicted", "ratio_predicted"))
    }
    paper = THROUGHPUT_RATIOS.get(round(budget))
    return {"budget_gib": budget, "rows": rows, "crossover": crossover, "costs": costs, "paper_ratio": paper}


def budget_table(comparison: dict[str, Any]) -> RecordTable:
    """One budget's comparison."""
    ahead = {kind: "nowhere" if value is None else f"{value:,.0f}" for kind, value in comparison["crossover"].items()}
    caption = (
        f"Budget {comparison['budget_gib']:g} GiB. Mamba-2 is ahead from a length of {ahead['measured']} tokens as "
        f"measured, {ahead['predicted']} by arithmetic. Tokens/s count from the first tokens on; medians over "
        "rounds, the ratio's over pairs of waves side by side."
    )
    if comparison["paper_ratio"]:
        caption += f" The paper reports {comparison['paper_ratio']}x (7B, its own hardware and lengths)."
    return tabulate(caption, COLUMNS, comparison["rows"])


def single_table(setup: Setup, done: Measured) -> RecordTable:
    """One chain alone: milliseconds a token and bytes held at its end."""
    rows, (constant, growing) = [], setup.shapes
    for stage in setup.singles():
        load, waves = stage.load, done[stage.name]
        medians = [median_wave(waves[setup.engine(shape)]) for shape in setup.shapes]
        times = [f"{1000 / wave.tokens_per_second:.2f}" for wave in medians]
        held = [f"{constant.sequence_bytes:,}", f"{load.length * growing.token_bytes:,}"]
        rows.append([f"{load.length * setup.pair.length_divisor:,.0f}", times[0], held[0], times[1], held[1]])
    header = ["one chain of", "Mamba-2 ms/token", "bytes held", "attention ms/token", "bytes held"]
    return RecordTable("One chain alone, its cache never short.", header, rows)


def main() -> None:
    args = parse_args(Arguments, description=__doc__)
    pair = choose_pair()
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    derivation = derivation_table(pair, args.budget_gib)
    print(render_record_table(derivation), end="\n\n")
    setup = Setup(pair, args.budget_gib, sorted(args.lengths), args.prompt, args.max_num_seqs)
    # One device holds one engine of 7B at a time; and nothing drifts there, so nothing is measured twice.
    done = measure_all(setup, folder, at_once=pair is not LARGE_PAIR)
    comparisons = [compare(setup, done, budget) for budget in args.budget_gib]
    measured = [*map(budget_table, comparisons), single_table(setup, done)]
    print("\n\n".join(map(render_record_table, measured)))
    speeds = {
        stage: {engine: [round(wave["tokens_per_second"], 1) for wave in waves] for engine, waves in engines.items()}
        for stage, engines in done.items()
    }
    results = {"pair": "7B" if pair is LARGE_PAIR else "small", "comparisons": comparisons, "tokens_per_second": speeds}
    title, tables = "Throughput under a memory budget", [derivation, *measured]
    paths = folder / "efficiency.json", args.record
    write_record(*paths, title=title, config=asdict(args), tables=tables, results=results)


if __name__ == "__main__":
    run_program(main)
