"""Phase 3 at quickstart scale: what does a model gain from its own verified chains, at equal compute?

Phase 2's checkpoint samples new problems of the training side, the graders tell right from wrong, and every arm goes on
from the same weights: preferences between the samples, right samples alone, or another pass over phase 2's exercises.
A quarter of the right answers of maths come by wrong working (a remainder, the larger of two numbers); one more arm has
preferences in which the family's exact solver checks the working too, as nobody could elsewhere. A seed is all that
follows phase 2: its problems, its samples and the order of training.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from promptcot_mamba.chat_format import extract_question, split
from promptcot_mamba.cli import flag, read_recipe
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row, read_jsonl, write_json, write_jsonl
from promptcot_mamba.quickstart.ablations import check_test, share_cores, work_through
from promptcot_mamba.quickstart.road import (
    GRADERS,
    Stage,
    data_stage,
    evaluate,
    family_file,
    grade_stages,
    python,
    run_stage,
    sample_stage,
    slug,
    split_families,
    train_stage,
)
from promptcot_mamba.quickstart.solver import solve
from promptcot_mamba.quickstart.splits import draw_selfplay_rows, read_counts
from promptcot_mamba.run_info import side_path

START, DPO, WORKED = "phase 2", "preferences", "preferences, workings checked"
RIGHT, MORE = "right samples", "more phase 2"
ARMS = (DPO, WORKED, RIGHT, MORE)
FORWARD_AND_BACKWARD = 3  # a trained token in forward passes

Verdicts = dict[str, dict[int, dict[str, dict[str, bool]]]]  # [arm][seed][family][problem]


@dataclass
class Arguments:
    """Flags of scripts.quickstart.selfplay; the recipe holds the numbers."""

    problems: str = flag("in a recipe a mapping: source -> problems that a seed samples")
    test: str = flag("in a recipe a mapping: source -> problems of the test")
    seeds: list[int] = flag("one run of every arm each", factory=lambda: list(range(20, 28)), least=0)
    steps: int = flag("of preferences; the other arms take as many as the same compute pays for", default=60, least=1)
    right_rate: float = flag("learning rate of right samples", default=0.002, above=0)
    more_rate: float = flag("learning rate of more phase 2", default=0.004, above=0)
    rows_per_step: int = flag("packed rows of phase 2 in a batch, as in the quickstart's two ranks", default=8, least=1)
    quickstart: str = flag("folder of a finished quickstart", default="outputs/quickstart", elsewhere=True)
    recipes: str = flag("folder of the recipes", default="configs/quickstart", reads="folder")
    output_dir: str = flag("where everything goes", default="outputs/selfplay_study", writes="folder")
    jobs: int = flag("seeds at once, each with its share of the cores", default=2, least=1)
    record: str | None = flag("also write the record here (docs/records/X.json)", default=None, writes="file")

    def __post_init__(self) -> None:
        if not any(read_counts("problems", self.problems).values()):
            raise InputError("--problems: none to sample")
        check_test(self.test)
        if len(self.seeds) < 2 or len(set(self.seeds)) < len(self.seeds):
            raise InputError("--seeds: at least two, all different, or nothing can be said of another seed")

    @property
    def start(self) -> Path:
        """The weights that every arm goes on from. Raises InputError where the quickstart has not left them."""
        found = Path(self.quickstart) / "phase2"
        if not (found / "model.safetensors").is_file():
            raise InputError(
                f"--quickstart {self.quickstart}: holds no trained phase2; run scripts/quickstart.sh first"
            )
        return found


@dataclass(frozen=True)
class Compute:
    """What an arm of preferences costs, in tokens of one forward pass."""

    sampled: int  # prompts and completions
    reference: int  # both sides of every pair, once
    trained: int  # tokens of packed rows

    @property
    def whole(self) -> int:
        return self.sampled + self.reference + FORWARD_AND_BACKWARD * self.trained

    def steps_for(self, arm: str, tokens_per_step: int) -> int:
        """Steps of supervised training that cost what preferences did; right samples had to be sampled too."""
        left = self.whole - (self.sampled if arm == RIGHT else 0)
        return max(1, round(left / (FORWARD_AND_BACKWARD * tokens_per_step)))


def count_compute(samples: list[Row], pairs: list[Row], trained: int) -> Compute:
    """The cost of these samples, of a pass over these pairs and of `trained` tokens of rows."""
    length = {
        (f"{row['source']}/{row['idx']}", row["run"]): row["prompt_tokens"] + row["completion_tokens"]
        for row in samples
    }
    sides = [(row["problem_id"], row[f"{side}_run"]) for row in pairs for side in ("chosen", "rejected")]
    return Compute(sum(length.values()), sum(length[side] for side in sides), trained)


class SeedRun:
    """The stages of one seed."""

    def __init__(self, args: Arguments, seed: int):
        self.args, self.seed = args, seed
        self.recipes, self.start = Path(args.recipes), args.start
        self.folder = Path(args.output_dir) / f"seed_{seed}"
        self.samples = self.folder / "samples.jsonl"
        self.pairs, self.right = self.folder / "pairs.jsonl", self.folder / "right.jsonl"
        self.worked = self.folder / "pairs_worked.jsonl"

    def run(self, stage: Stage) -> None:
        run_stage(replace(stage, title=f"seed {self.seed}: {stage.title}"), self.folder, to_log=True)

    def prefer(self) -> None:
        """New problems, samples of them, verdicts, and rows to learn from."""
        problems, samples = self.folder / "problems.jsonl", self.samples
        write_jsonl(problems, draw_selfplay_rows(read_counts("problems", self.args.problems), self.seed))
        stage = sample_stage("its_own", self.recipes / "selfplay_sample.yaml", self.start, problems, samples)
        self.run(replace(stage, command=[*stage.command, "--seed", str(self.seed)]))
        families = split_families(samples)
        for stage in grade_stages("its_own", samples, None, families):
            self.run(stage)
        files = [family_file(samples, family) for family in families]
        grades = [side_path(file, "grades.jsonl") for file in files]
        self.run(self.prefer_stage("prefer", files, grades, self.pairs, self.right))
        checked = [self.folder / f"worked_{path.name}" for path in grades]
        for file, path, target in zip(files, grades, checked, strict=True):
            write_jsonl(target, check_workings(read_jsonl(file), read_jsonl(path)))
        self.run(self.prefer_stage("prefer_worked", files, checked, self.worked))

    def prefer_stage(
        self, name: str, files: list[Path], grades: list[Path], pairs: Path, right: Path | None = None
    ) -> Stage:
        recipe = self.recipes / "selfplay_pairs.yaml"
        command = python("-m", "scripts.make_preferences", "--config", recipe, "--input_path", *files)
        command += ["--grades_path", *map(str, grades), "--output_path", str(pairs), "--seed", str(self.seed)]
        command += ["--sft_path", str(right)] if right else []
        outputs = (pairs, right) if right else (pairs,)
        return Stage(name, name.replace("_", ", "), command, (recipe, *files, *grades), outputs)

    def count(self) -> Compute:
        recipe = read_recipe(self.recipes / "selfplay.yaml")
        trained = self.args.steps * recipe["per_device_train_batch_size"] * recipe["max_length"]
        return count_compute(read_jsonl(self.samples), read_jsonl(self.pairs), trained)

    def train(self, arm: str) -> Path:
        """One arm from phase 2's weights; one process without a launcher, so that seeds share the machine well."""
        name, flags = slug(arm), {"seed": self.seed, "save_strategy": "no"}
        if arm in (DPO, WORKED):
            rows, recipe = self.pairs if arm == DPO else self.worked, "selfplay.yaml"
            flags |= {"max_steps": self.args.steps}
        else:
            recipe = "phase2.yaml"
            tokens = self.args.rows_per_step * read_recipe(self.recipes / recipe)["max_length"]
            flags |= {"max_steps": self.count().steps_for(arm, tokens), "warmup_steps": 10}
            flags |= {"per_device_train_batch_size": self.args.rows_per_step}
            flags |= {"learning_rate": self.args.right_rate if arm == RIGHT else self.args.more_rate}
            rows = self.right if arm == RIGHT else Path(self.args.quickstart) / "data" / "phase2.jsonl"
        output = self.folder / name
        self.run(train_stage(name, self.recipes / recipe, self.start, [rows], output, None, flags))
        return output

    def score(self, arm: str) -> dict[str, dict[str, bool]]:
        """Train an arm and give it the test: {family: {problem: right}}."""
        return evaluate_model(self.args, self.run, slug(arm), self.train(arm), self.folder)


def check_workings(samples: list[Row], grades: list[Row]) -> list[Row]:
    """The grades with maths right only where the exact solver would have written the same thought."""
    right = {
        (f"{row['source']}/{row['idx']}", row["run"]): "tests" in row
        or split(row["completion"]).thought.strip() == solve(extract_question(row["prompt"])).thought
        for row in samples
    }
    checked = []
    for grade in grades:
        correct = grade.get("strict", grade["correct"]) and right[grade["problem_id"], grade["run"]]
        checked.append({**grade, "correct": correct} | ({"strict": correct} if "strict" in grade else {}))
    return checked


def evaluate_model(args: Arguments, run: Any, name: str, checkpoint: Path, folder: Path) -> dict[str, dict[str, bool]]:
    """One greedy chain of every problem of the test."""
    data, predictions = Path(args.output_dir) / "data", folder / "test" / name / "predictions.jsonl"
    recipe = Path(args.recipes) / "sampling.yaml"
    return evaluate(run, sample_stage(name, recipe, checkpoint, data / "problems.jsonl", predictions), data, GRADERS)


def run_study(args: Arguments) -> tuple[Verdicts, dict[int, Row]]:
    """Run every stage, `args.jobs` seeds at a time; verdicts, and what each seed learned from and paid."""
    start, folder = args.start, Path(args.output_dir)
    share_cores(args.jobs)

    def run(stage: Stage) -> None:
        run_stage(stage, folder, to_log=True)

    flags = {"phase1": '{"quickstart_single": 200}', "phase2": "{}", "control": "{}", "test": args.test}
    run(data_stage(Path(args.recipes), folder / "data", flags, title="problems of the test"))
    seed_runs = [SeedRun(args, seed) for seed in args.seeds]

    def work(seed_run: SeedRun) -> dict[str, dict[str, dict[str, bool]]]:
        seed_run.prefer()
        return {arm: seed_run.score(arm) for arm in ARMS}

    before = evaluate_model(args, run, slug(START), start, folder)
    with ThreadPoolExecutor(args.jobs) as pool:
        scored = work_through(pool, work, [(seed_run,) for seed_run in seed_runs])
    found: Verdicts = {START: dict.fromkeys(args.seeds, before)}
    found |= {arm: {seed_run.seed: arms[arm] for seed_run, arms in zip(seed_runs, scored, strict=True)} for arm in ARMS}
    told = {seed_run.seed: describe_seed(seed_run) for seed_run in seed_runs}
    write_json(folder / "verdicts.json", found)
    return found, told


def describe_seed(seed_run: SeedRun) -> Row:
    """Counts of a seed: its problems, its rows, its compute in millions of forward tokens, steps of every arm."""
    compute = seed_run.count()
    tokens = seed_run.args.rows_per_step * read_recipe(seed_run.recipes / "phase2.yaml")["max_length"]
    told = json.loads(side_path(seed_run.pairs, "run.json").read_text(encoding="utf-8"))
    return {
        "problems": told["problems"],
        "samples": told["samples"],
        "pairs": told["rows"],
        "compute": vars(compute) | {"whole": compute.whole},
        "right_by_wrong_working": share_of_luck(seed_run),
        "steps": dict.fromkeys((DPO, WORKED), seed_run.args.steps)
        | {arm: compute.steps_for(arm, tokens) for arm in (RIGHT, MORE)},
    }


def share_of_luck(seed_run: SeedRun) -> float:
    """Of the right answers of maths, the share that wrong working reached."""
    path = side_path(family_file(seed_run.samples, "maths"), "grades.jsonl")
    answered, worked = (
        sum(row["correct"] for row in read_jsonl(file)) for file in (path, seed_run.folder / f"worked_{path.name}")
    )
    return 1 - worked / answered if answered else 0.0
