"""The whole road in minutes: exercises, two SFT phases and a control, sampling, grading, a report.

    bash scripts/quickstart.sh            (or, in the environment: python -m scripts.quickstart.run)

Every stage is one of the project's own programs, run as its printed command line. A stage that is done is kept as
long as its command and the files it reads stay the same, so a rerun continues where the last one stopped.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from promptcot_mamba.bench_record import RecordTable, time_table, write_record
from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.quickstart.report import claim_table, share_table, write_report
from promptcot_mamba.quickstart.road import (
    Stage,
    count_processes,
    data_stage,
    grade_stages,
    run_stage,
    sample_stage,
    split_families,
    train_stage,
)
from promptcot_mamba.report.tables import render_markdown

MODELS = ("phase1", "phase2", "control")


@dataclass
class Args:
    recipes: str = flag("folder of the recipes", default="configs/quickstart", reads="folder")
    output_dir: str = flag("where everything goes", default="outputs/quickstart", writes="folder")
    record: str | None = flag("also write the record here (docs/records/X.json)", default=None, writes="file")
    processes: int | None = flag("training processes; default: 2, or 1 where there is one GPU", default=None, least=1)


def make_stages(args: Args) -> list[Stage]:
    """The road, in order."""
    recipes, output = Path(args.recipes), Path(args.output_dir)
    data, processes = output / "data", count_processes(args.processes)
    stages = [data_stage(recipes, data)]
    for model in MODELS:
        start = data / "base" if model == "phase1" else output / "phase1"
        recipe = recipes / ("phase1.yaml" if model == "phase1" else "phase2.yaml")
        stages.append(train_stage(model, recipe, start, [data / f"{model}.jsonl"], output / model, processes))
        problems, predictions = data / "problems.jsonl", output / "samples" / f"{model}.jsonl"
        stages.append(sample_stage(model, recipes / "sampling.yaml", output / model, problems, predictions))
        stages += grade_stages(model, predictions, data / "tests")
    return stages


def main() -> None:
    args = parse_args(Args, description=__doc__)
    started = time.monotonic()
    output = Path(args.output_dir)
    times = {}
    for stage in make_stages(args):
        times[stage.title] = run_stage(stage, output)
        if stage.name.startswith("sample_"):
            split_families(stage.outputs[0])
    results = write_report(output)
    print(f"\n{render_markdown(share_table(results))}\n\n{render_markdown(claim_table(results))}\n")
    print("\n".join(f"{seconds:7.0f} s  {title}" for title, seconds in times.items()))
    print(f"{time.monotonic() - started:7.0f} s  in all, this time")
    captions = {"What each model solves": share_table(results), "What phase 2 adds": claim_table(results)}
    tables = [RecordTable(caption, table.header, table.rows) for caption, table in captions.items()]
    tables.append(time_table(times, "Times, set-up apart"))
    title, figures = "Quickstart: two phases, one control", {"seconds": times}
    write_record(args.record, title=title, config=asdict(args), tables=tables, results=figures)
    print(f"report: {output / 'report.html'} and {output / 'report.md'}")


if __name__ == "__main__":
    run_program(main)
