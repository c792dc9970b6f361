"""The whole road in minutes: exercises, two SFT phases and a control, sampling, grading, a report.

    bash scripts/quickstart.sh            (or, in the environment: python -m scripts.quickstart.run)

Every stage is one of the project's own programs, run as its printed command line. A stage that is done is kept as
long as its command and the files it reads stay the same, so a rerun continues where the last one stopped.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from promptcot_mamba.bench_record import RecordTable, write_record
from promptcot_mamba.cli import parse_args, run_program
from promptcot_mamba.jsonl import write_json
from promptcot_mamba.quickstart.report import Results, claim_table, share_table, write_report
from promptcot_mamba.report.tables import render_markdown
from promptcot_mamba.run_info import side_path
from scripts.quickstart.road import (
    GRADERS,
    PORT_FLAG,
    ROOT,
    family_file,
    grade_command,
    python,
    sample_command,
    split_families,
    train_command,
)

MODELS = ("phase1", "phase2", "control")


@dataclass
class Args:
    recipes: str = field(default="configs/quickstart", metadata={"help": "folder of the recipes"})
    output_dir: str = field(default="outputs/quickstart", metadata={"help": "where everything goes"})
    record: str | None = field(default=None, metadata={"help": "also write the record here (docs/records/X.json)"})
    processes: int | None = field(
        default=None, metadata={"help": "training processes; default: 2, or 1 where there is one GPU"}
    )


@dataclass(frozen=True)
class Stage:
    """One program run: it reads `inputs`, leaves `outputs`."""

    name: str
    title: str
    command: list[str]
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]


class StageFailedError(Exception):
    """A program of the road ended with an error, which it has printed."""


def hash_inputs(stage: Stage) -> str:
    """A hash of the command (but its free port) and of all it reads; of a model folder, its weights and config."""
    command = [word for word in stage.command if not word.startswith(PORT_FLAG)]
    digest = hashlib.blake2b(json.dumps(command).encode(), digest_size=16)
    for path in stage.inputs:
        files = [*sorted(path.glob("*.safetensors")), path / "config.json"] if path.is_dir() else [path]
        for file in files:
            digest.update(file.name.encode() + b"\0" + hashlib.blake2b(file.read_bytes()).digest())
    return digest.hexdigest()


def set_aside(paths: tuple[Path, ...], folder: Path) -> None:
    """Move what another version of a stage left, so that nothing is mixed and nothing is lost."""
    for path in paths:
        if path.exists():
            target = folder / f"{path.name}-{time.time_ns()}"
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)


def run_stage(stage: Stage, output_dir: Path, *, to_log: bool = False) -> float:
    """Run a stage unless it is done; return the seconds it took, now or then. Raises StageFailedError.

    What the program says goes to the terminal or, `to_log`, to `<output_dir>/logs/<stage>.log`: stages that run side
    by side would speak at once.
    """
    record_path = output_dir / "stages" / f"{stage.name}.json"
    record = json.loads(record_path.read_text(encoding="utf-8")) if record_path.exists() else {}
    inputs = hash_inputs(stage)
    if record.get("inputs") == inputs and "seconds" in record and all(path.exists() for path in stage.outputs):
        print(f"== {stage.title}: done before, in {record['seconds']:.0f} s", flush=True)
        return record["seconds"]
    if record and record["inputs"] != inputs:
        set_aside(stage.outputs, output_dir / "set_aside")
    record = {"title": stage.title, "command": stage.command, "inputs": inputs, "started": time.time()}
    write_json(record_path, record)
    started = time.monotonic()
    if to_log:
        status, where = run_to_log(stage, output_dir / "logs" / f"{stage.name}.log")
    else:
        print(f"== {stage.title}\n$ {shlex.join(stage.command)}", flush=True)
        status, where = subprocess.run(stage.command, cwd=ROOT).returncode, ""
    if status:
        ended = f"{stage.title}: ended with status {status}{where}"
        raise StageFailedError(f"{ended}; mend the cause and run the same command")
    seconds = time.monotonic() - started
    write_json(record_path, record | {"seconds": round(seconds, 1)})
    print(f"== {stage.title}: {seconds:.0f} s", flush=True)
    return seconds


def run_to_log(stage: Stage, log: Path) -> tuple[int, str]:
    """Run a stage with its words going to a file; return its status and where to read why."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        print(f"$ {shlex.join(stage.command)}", file=file, flush=True)
        status = subprocess.run(stage.command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT).returncode
    return status, f" (see {log})"


def count_processes(wanted: int | None) -> int:
    """Two processes show data parallelism on any machine but one with a single GPU."""
    if wanted is not None:
        return wanted
    import torch

    return 1 if torch.cuda.device_count() == 1 else 2


def make_stages(args: Args) -> list[Stage]:
    """The road, in order."""
    recipes, output = Path(args.recipes), Path(args.output_dir)
    data, samples = output / "data", output / "samples"
    problems = data / "problems.jsonl"
    stages = [
        Stage(
            "data",
            "exercises, tokenizer, untrained model",
            python("-m", "scripts.quickstart.make_data", "--config", recipes / "data.yaml", "--output_dir", data),
            (recipes / "data.yaml",),
            (data,),
        )
    ]
    for model in MODELS:
        start = data / "base" if model == "phase1" else output / "phase1"
        recipe = recipes / ("phase1.yaml" if model == "phase1" else "phase2.yaml")
        stages.append(train_stage(args, model, recipe, start, data / f"{model}.jsonl", output / model))
        predictions = samples / f"{model}.jsonl"
        stages.append(sample_stage(model, recipes / "sampling.yaml", output / model, problems, predictions))
        stages += grade_stages(model, predictions, data / "tests")
    return stages


def train_stage(args: Args, model: str, recipe: Path, start: Path, data: Path, output: Path) -> Stage:
    command = train_command(count_processes(args.processes), recipe, start, data, output)
    deepspeed = recipe.parent / "deepspeed.json"
    return Stage(f"train_{model}", f"train {model}", command, (recipe, deepspeed, start, data), (output,))


def sample_stage(model: str, recipe: Path, checkpoint: Path, problems: Path, predictions: Path) -> Stage:
    command = sample_command(recipe, checkpoint, problems, predictions)
    inputs, outputs = (recipe, checkpoint, problems), (predictions, side_path(predictions, "attempts.jsonl"))
    return Stage(f"sample_{model}", f"sample {model}", command, inputs, outputs)


def grade_stages(model: str, predictions: Path, tests: Path) -> list[Stage]:
    stages = []
    for family in GRADERS:
        command = grade_command(family, predictions, tests, expected_runs=1)
        rows = family_file(predictions, family)
        outputs = (side_path(rows, "grades.jsonl"),)
        stages.append(Stage(f"grade_{model}_{family}", f"grade {model}, {family}", command, (rows,), outputs))
    return stages


def write_quickstart_record(args: Args, results: Results, times: dict[str, float]) -> None:
    """What the report shows, in the common form."""
    captions = {"What each model solves": share_table(results), "What phase 2 adds": claim_table(results)}
    tables = [RecordTable(caption, table.header, table.rows) for caption, table in captions.items()]
    rows = [[title, f"{seconds:.0f}"] for title, seconds in times.items()]
    rows.append(["in all", f"{sum(times.values()):.0f}"])
    tables.append(RecordTable("Times, set-up apart", ["stage", "seconds"], rows))
    title = "Quickstart: two phases, one control"
    write_record(args.record, title=title, config=asdict(args), tables=tables, results={"seconds": times})


def main() -> int | None:
    args = parse_args(Args, description=__doc__)
    started = time.monotonic()
    output = Path(args.output_dir)
    times = {}
    try:
        for stage in make_stages(args):
            times[stage.title] = run_stage(stage, output)
            if stage.name.startswith("sample_"):
                split_families(stage.outputs[0])
    except StageFailedError as error:
        print(error, file=sys.stderr)
        return 1
    results = write_report(output)
    print(f"\n{render_markdown(share_table(results))}\n\n{render_markdown(claim_table(results))}\n")
    print("\n".join(f"{seconds:7.0f} s  {title}" for title, seconds in times.items()))
    print(f"{time.monotonic() - started:7.0f} s  in all, this time")
    if args.record:
        write_quickstart_record(args, results, times)
    print(f"report: {output / 'report.html'} and {output / 'report.md'}")
    return None


if __name__ == "__main__":
    run_program(main)
