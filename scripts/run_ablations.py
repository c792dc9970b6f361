"""The curriculum's ablations at quickstart scale: arms of equal steps, several seeds, paired differences.

    python -m scripts.run_ablations --config configs/quickstart/ablations.yaml

Each arm trains two phases with the project's own programs and is scored on the quickstart's composed problems, maths
and code. Arms that share a phase 1 share its checkpoint. A rerun continues where the last one stopped. The same arms
for the 7B recipe are data recipes: `configs/ablations/README.md`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from promptcot_mamba.bench_record import RecordTable, render_record_table, write_record
from promptcot_mamba.benchmarks.quickstart.splits import draw_training_rows
from promptcot_mamba.cli import parse_args, run_program
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.metrics import Estimate, clustered_mean, compare_paired
from promptcot_mamba.jsonl import read_jsonl, write_jsonl
from promptcot_mamba.run_info import side_path
from scripts.make_quickstart import read_counts
from scripts.quickstart import Stage, StageFailedError, grade_stages, run_stage, sample_stage
from scripts.road import python, split_families, train_command

FAMILIES = ("maths", "code")
COMPOSED = {
    "maths": ("quickstart_composed", "quickstart_unseen"),
    "code": ("quickstart_code_composed", "quickstart_code_unseen"),
}
PHASES = ("phase1", "phase2")


@dataclass
class Arguments:
    """Flags of scripts.run_ablations."""

    arms: str = field(metadata={"help": "in a recipe a mapping: arm -> phase1, phase2 -> rows by source"})
    seeds: list[int] = field(default_factory=lambda: [20, 21, 22], metadata={"help": "one run of every arm each"})
    phase1_steps: int = 200
    phase2_steps: int = 167
    recipes: str = field(default="configs/quickstart", metadata={"help": "folder of the quickstart's recipes"})
    output_dir: str = "outputs/ablations"
    processes: int = field(default=2, metadata={"help": "training processes"})
    record: str | None = field(default=None, metadata={"help": "also write the record here (docs/records/X.json)"})


@dataclass(frozen=True)
class Arm:
    """One curriculum: rows by source in each phase."""

    name: str
    phase1: dict[str, int]
    phase2: dict[str, int]


def read_arms(text: str) -> list[Arm]:
    """Raises InputError naming the arm, phase or source that is wrong."""
    try:
        values = json.loads(text)
        arms = [Arm(name, **phases) for name, phases in values.items()]
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise InputError(f"--arms: expected a mapping of arms to phase1 and phase2 ({error})") from None
    if len(arms) < 2:
        raise InputError("--arms: at least two arms are needed; the first is what the others are compared with")
    for arm in arms:
        for phase in PHASES:
            read_counts(f"arms: {arm.name}, {phase}", json.dumps(getattr(arm, phase)))
    return arms


def slug(name: str) -> str:
    """An arm's name as a folder's."""
    return "".join(char if char.isalnum() else "_" for char in name)


class Road:
    """The stages of one seed."""

    def __init__(self, args: Arguments, seed: int):
        self.args, self.seed = args, seed
        self.recipes = Path(args.recipes)
        self.folder = Path(args.output_dir) / f"seed_{seed}"
        self.data = self.folder / "data"

    def run(self, stage: Stage) -> None:
        run_stage(stage, self.folder)

    def make_base(self) -> None:
        """Tests, tokenizer and random weights, the same for all arms of a seed."""
        recipe = self.recipes / "data.yaml"
        flags = ["--config", recipe, "--output_dir", self.data, "--seed", str(self.seed)]
        command = python("-m", "scripts.make_quickstart", *flags)
        self.run(Stage("data", f"seed {self.seed}: exercises and untrained model", command, (recipe,), (self.data,)))

    def train(self, arm: Arm) -> Path:
        """Both phases; a phase 1 that another arm has trained on the same rows is not trained again."""
        first = self._train_phase("phase1", arm.phase1, self.data / "base", self.args.phase1_steps)
        return self._train_phase("phase2", arm.phase2, first, self.args.phase2_steps)

    def _train_phase(self, phase: str, parts: dict[str, int], start: Path, steps: int) -> Path:
        name = "_".join([phase, *(f"{source.removeprefix('quickstart_')}{rows}" for source, rows in parts.items())])
        if phase == "phase2":
            name = f"{start.name}_then_{name}"
        rows = self.folder / "rows" / f"{name}.jsonl"
        if not rows.exists():
            write_jsonl(rows, draw_training_rows(parts, phase, self.seed))
        recipe, output = self.recipes / f"{phase}.yaml", self.folder / name
        command = train_command(self.args.processes, recipe, start, rows, output)
        command += [f"--max_steps={steps}", f"--seed={self.seed}", "--save_strategy=no"]
        inputs = (recipe, self.recipes / "deepspeed.json", start, rows)
        self.run(Stage(name, f"seed {self.seed}: train {name}", command, inputs, (output,)))
        return output

    def evaluate(self, arm: Arm, checkpoint: Path) -> dict[str, dict[str, bool]]:
        """{family: {problem id: right}} on composed problems."""
        name = slug(arm.name)
        predictions = self.folder / "samples" / f"{name}.jsonl"
        self.run(
            sample_stage(name, self.recipes / "sampling.yaml", checkpoint, self.data / "problems.jsonl", predictions)
        )
        split_families(predictions)
        for stage in grade_stages(name, predictions, self.data / "tests"):
            self.run(stage)
        return {family: read_verdicts(predictions.with_name(f"{name}_{family}.jsonl"), family) for family in FAMILIES}


def read_verdicts(predictions: Path, family: str) -> dict[str, bool]:
    """Right or not, by problem, of the composed problems."""
    wanted = {f"{row['source']}/{row['idx']}" for row in read_jsonl(predictions) if row["source"] in COMPOSED[family]}
    grades = read_jsonl(side_path(predictions, "grades.jsonl"))
    return {row["problem_id"]: row["correct"] for row in grades if row["problem_id"] in wanted}


Verdicts = dict[str, dict[str, dict[str, list[float]]]]  # [arm][family][problem] -> one score a seed


def collect(args: Arguments, arms: Sequence[Arm]) -> Verdicts:
    """Run everything; problems of different seeds are different clusters."""
    found: Verdicts = {arm.name: {family: {} for family in FAMILIES} for arm in arms}
    for seed in args.seeds:
        road = Road(args, seed)
        road.make_base()
        for arm in arms:
            for family, verdicts in road.evaluate(arm, road.train(arm)).items():
                scores = found[arm.name][family]
                scores.update({f"{seed}/{problem}": [float(right)] for problem, right in verdicts.items()})
    return found


def by_seed(scores: dict[str, list[float]], seeds: Sequence[int]) -> list[float]:
    """Accuracy of each seed."""
    return [
        float(np.mean([value[0] for problem, value in scores.items() if problem.startswith(f"{seed}/")]))
        for seed in seeds
    ]


def make_tables(args: Arguments, arms: Sequence[Arm], found: Verdicts) -> list[RecordTable]:
    """Shares with intervals, and each arm's paired difference from the first."""
    reference = arms[0].name
    rows = []
    for arm in arms:
        cells = [arm.name]
        for family in FAMILIES:
            scores = found[arm.name][family]
            runs = by_seed(scores, args.seeds)
            cells.append(
                f"{format_estimate(clustered_mean(scores))}, seeds {' '.join(f'{100 * run:.0f}' for run in runs)}"
            )
            if arm.name == reference:
                cells.append("–")
            else:
                paired = compare_paired(found[reference][family], scores)
                cells.append(format_estimate(paired.difference, signed=True))
        rows.append(cells)
    problems = " + ".join(str(len(found[reference][family])) for family in FAMILIES)
    caption = (
        f"Composed problems solved, percent, with 95 % intervals clustered by problem ({problems} problems over "
        f"{len(args.seeds)} seeds, {args.phase1_steps} + {args.phase2_steps} steps in every arm); differences are "
        f"paired with “{reference}”. The interval covers problems, not seeds: those stand beside it."
    )
    header = ["arm", "math", "difference", "code", "difference"]
    return [RecordTable(caption, header, rows)]


def format_estimate(estimate: Estimate, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{100 * estimate.mean:{sign}.1f} [{100 * estimate.low:{sign}.1f}, {100 * estimate.high:{sign}.1f}]"


def main() -> int | None:
    args = parse_args(Arguments, description=__doc__)
    arms = read_arms(args.arms)
    try:
        found = collect(args, arms)
    except StageFailedError as error:
        print(error, file=sys.stderr)
        return 1
    tables = make_tables(args, arms, found)
    print(render_record_table(tables[0]))
    results: dict[str, Any] = {
        arm.name: {**asdict(arm), **{family: by_seed(found[arm.name][family], args.seeds) for family in FAMILIES}}
        for arm in arms
    }
    for path in filter(None, (str(Path(args.output_dir) / "ablations.json"), args.record)):
        title = "Ablations of the curriculum at quickstart scale"
        write_record(path, title=title, config=asdict(args), tables=tables, results=results)
    return None


if __name__ == "__main__":
    run_program(main)
