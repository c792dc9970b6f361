"""Adapters against full fine-tuning: the quickstart's phase 2 once more, with phase 1's weights frozen.

    python -m scripts.quickstart.adapters            after bash scripts/quickstart.sh, in its folder

Phase 2's rows, for as many steps as the recipe says; the merged model is sampled by vLLM and graded as phase 2's is. A
rerun keeps what is done.
"""

from dataclasses import dataclass
from pathlib import Path

from promptcot_mamba.bench_record import RecordTable, report_record, time_table
from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.metrics import compare_paired, share_interval
from promptcot_mamba.quickstart.road import (
    GRADERS,
    Stage,
    count_processes,
    evaluate,
    family_file,
    read_verdicts,
    run_stage,
    sample_stage,
    train_stage,
)
from promptcot_mamba.report.tables import format_difference, format_share

NAME = "adapters"


@dataclass
class Args:
    quickstart: str = flag("folder of a finished quickstart", default="outputs/quickstart", elsewhere=True)
    recipes: str = flag("folder of the recipes", default="configs/quickstart", reads="folder")
    record: str | None = flag("also write the record here (docs/records/X.json)", default=None, writes="file")
    processes: int | None = flag("training processes; default: 2, or 1 where there is one GPU", default=None, least=1)


def compare(full: dict[str, dict[str, bool]], adapters: dict[str, dict[str, bool]]) -> RecordTable:
    """Composed problems solved by both ways of training, by family, with 95 % intervals."""
    rows = []
    for family, ours in adapters.items():
        pair = [share_interval(sum(found.values()), len(found)) for found in (full[family], ours)]
        verdicts = ({name: [right] for name, right in found.items()} for found in (full[family], ours))
        difference = compare_paired(*verdicts).difference
        rows.append([f"{family}, composed", *map(format_share, pair), format_difference(difference)])
    return RecordTable("Composed problems solved", ["", "all weights", "adapters, merged", "points"], rows)


def main() -> None:
    args = parse_args(Args, description=__doc__)
    output, recipes = Path(args.quickstart), Path(args.recipes)
    samples = output / "samples"
    if not (samples / "phase2.jsonl").exists():
        raise InputError(f"--quickstart {output}: holds no sampled phase 2; run scripts/quickstart.sh first")
    times: dict[str, float] = {}

    def run(stage: Stage) -> None:
        times[stage.title] = run_stage(stage, output)

    data, start = output / "data", output / "phase1"
    processes = count_processes(args.processes)
    run(train_stage(NAME, recipes / "adapters.yaml", start, [data / "phase2.jsonl"], output / NAME, processes))
    sampling = (recipes / "sampling.yaml", output / NAME, data / "problems.jsonl", samples / f"{NAME}.jsonl")
    adapters = evaluate(run, sample_stage(NAME, *sampling), data, tuple(GRADERS))
    full = {family: read_verdicts(family_file(samples / "phase2.jsonl", family), family) for family in GRADERS}
    table = compare(full, adapters)
    shares = {
        name: {family: sum(found.values()) / len(found) for family, found in verdicts.items()}
        for name, verdicts in (("all weights", full), (NAME, adapters))
    }
    title = "Adapters against full fine-tuning, at quickstart scale"
    report_record(args, title=title, tables=[table, time_table(times)], results=shares)


if __name__ == "__main__":
    run_program(main)
