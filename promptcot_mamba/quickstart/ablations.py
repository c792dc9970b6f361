"""The curriculum's ablations at quickstart scale: arms of equal steps, several seeds, paired differences."""

import json
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from promptcot_mamba.bench_record import RecordTable
from promptcot_mamba.cli import flag
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.metrics import Estimate, compare_paired, share_interval
from promptcot_mamba.jsonl import write_jsonl
from promptcot_mamba.quickstart.road import (
    COMPOSED,
    Stage,
    data_stage,
    evaluate,
    run_stage,
    sample_stage,
    slug,
    train_stage,
)
from promptcot_mamba.quickstart.splits import draw_training_rows, read_counts
from promptcot_mamba.report.tables import format_interval

FAMILIES = tuple(COMPOSED)
PHASES = ("phase1", "phase2")
ROWS_LOCK = threading.Lock()


@dataclass
class Arguments:
    arms: str = flag("in a recipe a mapping: arm -> phase1, phase2 -> rows by source")
    test: str = flag("in a recipe a mapping: problems by source, composed ones")
    seeds: list[int] = flag("one run of every arm each", factory=lambda: [20, 21, 22], least=0)
    phase1_steps: int = flag("of every arm", default=300, least=1)
    phase2_steps: int = flag("of every arm", default=267, least=1)
    rows_per_step: int = flag("packed rows in a batch, as in the quickstart's two ranks", default=8, least=1)
    recipes: str = flag("folder of the quickstart's recipes", default="configs/quickstart", reads="folder")
    output_dir: str = flag("where everything goes", default="outputs/ablations", writes="folder")
    jobs: int = flag("stages at once, each with its share of the cores", default=2, least=1)
    record: str | None = flag("also write the record here (docs/records/X.json)", default=None, writes="file")


@dataclass(frozen=True)
class Arm:
    """One curriculum: rows by source in each phase."""

    name: str
    phase1: dict[str, int]
    phase2: dict[str, int]

    @property
    def slug(self) -> str:
        """The arm's name as a folder's."""
        return slug(self.name)


def read_arms(text: str) -> list[Arm]:
    """Raises InputError naming the arm, phase or source that is wrong."""
    try:
        values = json.loads(text)
        arms = [Arm(name, **phases) for name, phases in values.items()]
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise InputError(f"--arms: expected a mapping of arms to phase1 and phase2 ({error})") from None
    if len(arms) < 2:
        raise InputError("--arms: at least two arms are needed; the first is what the others are compared with")
    if len({arm.slug for arm in arms}) < len(arms):
        raise InputError("--arms: two names differ in punctuation alone, and would share a folder")
    for arm in arms:
        for phase in PHASES:
            if not read_counts(f"arms: {arm.name}, {phase}", json.dumps(getattr(arm, phase))):
                raise InputError(f"--arms: {arm.name}, {phase}: no exercises to train on")
    return arms


def check_test(text: str) -> None:
    """Raises InputError where a family would have no composed problem to be scored on."""
    counts = read_counts("test", text)
    for family, sources in COMPOSED.items():
        if not any(counts.get(source) for source in sources):
            raise InputError(f"--test: no {family} problems; expected some of {', '.join(sources)}")


def name_parts(parts: dict[str, int]) -> str:
    """A short name of one phase's exercises, the same for the same exercises."""
    return "_".join(f"{source.removeprefix('quickstart_')}{rows}" for source, rows in parts.items())


class SeedRun:
    """The stages of one seed."""

    def __init__(self, args: Arguments, seed: int):
        self.args, self.seed = args, seed
        self.recipes = Path(args.recipes)
        self.folder = Path(args.output_dir) / f"seed_{seed}"
        self.data = self.folder / "data"

    def run(self, stage: Stage) -> None:
        run_stage(replace(stage, title=f"seed {self.seed}: {stage.title}"), self.folder, to_log=True)

    def make_base(self, tokenizer_text: dict[str, int]) -> None:
        """Tests, random weights, and a tokenizer of these exercises, the same for all arms of a seed."""
        flags = {"phase1": json.dumps(tokenizer_text), "phase2": "{}", "control": "{}", "test": self.args.test}
        flags["seed"] = str(self.seed)
        self.run(data_stage(self.recipes, self.data, flags, title="problems and untrained model"))

    def train_phase1(self, parts: dict[str, int]) -> Path:
        """One checkpoint for all arms that begin with these exercises."""
        return self._train("phase1", name_parts(parts), parts, self.data / "base", self.args.phase1_steps)

    def _train(self, phase: str, name: str, parts: dict[str, int], start: Path, steps: int) -> Path:
        rows = self.folder / "rows" / phase / f"{name_parts(parts)}.jsonl"
        with ROWS_LOCK:  # two arms of one seed may share a phase's exercises
            if not rows.exists():
                write_jsonl(rows, draw_training_rows(parts, phase, self.seed))
        recipe, output = self.recipes / f"{phase}.yaml", self.folder / phase / name
        flags = {"seed": self.seed, "max_steps": steps, "save_strategy": "no"}
        flags["per_device_train_batch_size"] = self.args.rows_per_step
        # One process without a launcher: several stages share the machine better than several ranks would.
        self.run(train_stage(f"{phase}/{name}", recipe, start, [rows], output, None, flags))
        return output

    def evaluate(self, arm: Arm) -> dict[str, dict[str, bool]]:
        """Train, sample and grade one arm: {family: {problem id: right}} on composed problems."""
        start, recipe = self.folder / "phase1" / name_parts(arm.phase1), self.recipes / "sampling.yaml"
        checkpoint = self._train("phase2", arm.slug, arm.phase2, start, self.args.phase2_steps)
        predictions = self.folder / "samples" / arm.slug / "predictions.jsonl"
        sample = sample_stage(arm.slug, recipe, checkpoint, self.data / "problems.jsonl", predictions)
        return evaluate(self.run, sample, self.data, FAMILIES)


Verdicts = dict[str, dict[str, dict[str, list[float]]]]  # [arm][family][problem] -> its one score


def collect(args: Arguments, arms: Sequence[Arm]) -> Verdicts:
    """Run everything, `args.jobs` stages at a time; problems of different seeds are different clusters."""
    seed_runs = [SeedRun(args, seed) for seed in args.seeds]
    starts = {name_parts(arm.phase1): arm.phase1 for arm in arms}
    with ThreadPoolExecutor(args.jobs) as pool:
        work_through(pool, lambda seed_run: seed_run.make_base(arms[0].phase1), [(seed_run,) for seed_run in seed_runs])
        work_through(
            pool, SeedRun.train_phase1, [(seed_run, parts) for seed_run in seed_runs for parts in starts.values()]
        )
        pairs = [(seed_run, arm) for seed_run in seed_runs for arm in arms]
        scored = work_through(pool, SeedRun.evaluate, pairs)
    found: Verdicts = {arm.name: {family: {} for family in FAMILIES} for arm in arms}
    for (seed_run, arm), families in zip(pairs, scored, strict=True):
        for family, verdicts in families.items():
            scores = {f"{seed_run.seed}/{problem}": [float(right)] for problem, right in verdicts.items()}
            found[arm.name][family].update(scores)
    return found


def work_through(pool: ThreadPoolExecutor, do: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> list[Any]:
    """The results in order; after the first failure nothing new is begun."""
    futures = [pool.submit(do, *arguments) for arguments in calls]
    try:
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()  # what is done or running stays as it is


def by_seed(scores: dict[str, list[float]], seeds: Sequence[int]) -> list[float]:
    """Accuracy of each seed."""
    return [
        float(np.mean([value[0] for problem, value in scores.items() if problem.startswith(f"{seed}/")]))
        for seed in seeds
    ]


def share_of(scores: dict[str, list[float]]) -> Estimate:
    """Problems solved, of all seeds together."""
    return share_interval(round(sum(value[0] for value in scores.values())), len(scores))


def make_table(args: Arguments, arms: Sequence[Arm], found: Verdicts) -> RecordTable:
    """Shares with intervals, and each arm's paired difference from the first."""
    reference = arms[0].name
    rows = []
    for arm in arms:
        cells = [arm.name]
        for family in FAMILIES:
            scores, base = found[arm.name][family], found[reference][family]
            runs, base_runs = by_seed(scores, args.seeds), by_seed(base, args.seeds)
            cells.append(f"{format_estimate(share_of(scores))} ({format_runs(runs)})")
            paired = compare_paired(base, scores).difference
            gaps = [run - base_run for run, base_run in zip(runs, base_runs, strict=True)]
            cells.append("–" if arm.name == reference else f"{format_estimate(paired, '+')} ({format_runs(gaps, '+')})")
        rows.append(cells)
    problems = " and ".join(f"{len(found[reference][family])} {family}" for family in FAMILIES)
    caption = (
        f"Composed problems solved, percent, with 95 % intervals over problems and, in brackets, every seed by itself "
        f"({problems} problems over {len(args.seeds)} seeds; {args.phase1_steps} + {args.phase2_steps} steps in every "
        f"arm). Differences, in points, are paired with “{reference}”, problem by problem and seed by seed."
    )
    return RecordTable(caption, ["arm", "math", "difference", "code", "difference"], rows)


def format_estimate(estimate: Estimate, sign: str = "") -> str:
    return f"{100 * estimate.mean:{sign}.1f} {format_interval(estimate, sign)}"


def format_runs(runs: Sequence[float], sign: str = "") -> str:
    return " ".join(f"{100 * run:{sign}.0f}" for run in runs)


def share_cores(jobs: int) -> None:
    """Stages side by side get equal parts of the cores, unless OMP_NUM_THREADS says otherwise."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // jobs)))


def describe_results(args: Arguments, arms: Sequence[Arm], found: Verdicts) -> dict[str, Any]:
    """The figures behind the table, as JSON."""
    shares = {name: {family: asdict(share_of(own[family])) for family in FAMILIES} for name, own in found.items()}
    seeds = {name: {family: by_seed(own[family], args.seeds) for family in FAMILIES} for name, own in found.items()}
    return {"arms": {arm.name: asdict(arm) for arm in arms}, "by_seed": seeds, "shares": shares}
