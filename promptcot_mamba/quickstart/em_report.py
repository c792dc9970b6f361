"""What the rounds came to: sound problems, their variety, the workings that were chosen, majorities, students."""

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from promptcot_mamba.bench_record import RecordTable
from promptcot_mamba.grading.metrics import Estimate, t_interval
from promptcot_mamba.jsonl import Row, read_jsonl
from promptcot_mamba.quickstart.closed_loop_report import measure_majorities
from promptcot_mamba.quickstart.em import LONGER, WITHOUT, SeedRun
from promptcot_mamba.quickstart.solver import solve
from promptcot_mamba.report.tables import format_difference, format_interval
from promptcot_mamba.synthesis.judgement import PERFECT
from promptcot_mamba.synthesis.stage import read_run_info

TITLE = "PromptCoT 2.0's rounds at quickstart scale: sound problems, variety and students, round by round"
ENOUGH = 100  # sound problems whose pairs of concepts are counted, so that more problems are not more variety
DRAWS = 200

Verdicts = Mapping[str, Mapping[int, Mapping[str, bool]]]  # [arm][seed][problem]


def count_pairs(problems: Iterable[Row]) -> int:
    """Different unordered pairs of concepts that problems join."""
    return len({pair for row in problems for pair in combinations(sorted(set(row["concepts"])), 2)})


def pairs_among(problems: Sequence[Row], enough: int = ENOUGH) -> float:
    """Pairs of concepts to be expected among so many of the problems; among all where there are fewer."""
    if len(problems) <= enough:
        return count_pairs(problems)
    rng = random.Random(0)
    return float(np.mean([count_pairs(rng.sample(list(problems), enough)) for _ in range(DRAWS)]))


def measure_arm(seed_run: SeedRun, arm: str) -> Row:
    """One generator's problems, and what the teacher's majority says of them."""
    folder = seed_run.arms[arm]
    sound = [row for row in read_jsonl(folder / "judgements.jsonl") if set(row["verdicts"].values()) == {PERFECT}]
    different = list({row["problem"]: row for row in sound}.values())
    asked = (read_run_info(folder / "problems.jsonl") or {})["tasks"]
    majorities = measure_majorities(read_jsonl(folder / "chains.jsonl"), seed_run.args.threshold)
    kept = next(one for one in majorities if one.chosen)
    unanimous = majorities[-1]
    return {
        "asked": asked,
        "sound": len(sound) / asked,
        "different": len(different),
        "pairs": count_pairs(different),
        "pairs_among": pairs_among(different),
        "kept": kept.kept,
        "kept_right": kept.right,
        "unanimous": unanimous.kept,
        "unanimous_right": unanimous.right,
        "teacher_problems": kept.problems,
    }


def measure_choice(folder: Path) -> Row:
    """Of one round: workings that are right to the letter, of all that were written and of those chosen, and the
    generator's mean log-likelihood of the chosen (natural logarithm)."""
    chosen = read_jsonl(folder / "chosen_rationales.jsonl")
    told = read_run_info(folder / "chosen_rationales.jsonl") or {}
    return {
        "written": share_right(read_jsonl(folder / "rationales.jsonl")),
        "chosen": share_right(chosen),
        "log_likelihood": told["log_likelihood"],
        "problems": len(chosen),
    }


def share_right(rows: Sequence[Row]) -> float:
    return float(np.mean([row["rationale"] == solve(row["problem"]).thought for row in rows]))


def measure(seed_runs: Sequence[SeedRun]) -> dict[int, Row]:
    """Everything but students, by seed."""
    return {
        seed_run.seed: {
            "arms": {arm: measure_arm(seed_run, arm) for arm in seed_run.arms},
            "choices": {
                arm: measure_choice(folder) for arm, folder in seed_run.arms.items() if arm not in ("round 0", LONGER)
            },
            "steps": seed_run.args.generator_steps,
            "steps_round": seed_run.args.round_generator_steps,
            "steps_longer": seed_run.count_longer(),
            "seconds": stage_seconds(seed_run.folder),
            "shared_seconds": stage_seconds(seed_run.base.folder),
            "jobs": seed_run.args.jobs,
        }
        for seed_run in seed_runs
    }


def stage_seconds(folder: Path) -> float:
    """What the stages under a folder took, each the last time that it ran."""
    return sum(
        json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in sorted((folder / "stages").glob("*.json"))
    )


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean, with an interval over seeds (Student's t)."""
    return t_interval(np.array(values, dtype=float), len(values))


def as_share(values: Sequence[float]) -> str:
    """Percent."""
    estimate = over_seeds(values)
    return f"{100 * estimate.mean:.1f} {format_interval(estimate)}"


def as_count(values: Sequence[float]) -> str:
    estimate = over_seeds(values)
    return f"{estimate.mean:.0f} [{estimate.low:.0f}, {estimate.high:.0f}]"


def share_of(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} ({part} of {whole})" if whole else "–"


def problem_table(told: Mapping[int, Row]) -> RecordTable:
    arms = list(next(iter(told.values()))["arms"])

    def column(arm: str, form: Callable[[Sequence[float]], str], name: str) -> str:
        return form([own["arms"][arm][name] for own in told.values()])

    rows = []
    for arm in arms:
        sound, first = (sum(own["arms"][each]["sound"] for own in told.values()) for each in (arm, "round 0"))
        counts = ("kept", "kept_right", "unanimous", "unanimous_right")
        kept, right, all_kept, all_right = (sum(own["arms"][arm][name] for own in told.values()) for name in counts)
        cells = [arm, column(arm, as_share, "sound"), f"{sound / first:.2f}" if first else "–"]
        gaps = [one["arms"][arm]["sound"] - one["arms"][LONGER]["sound"] for one in told.values()]
        cells.append("–" if arm == LONGER else format_difference(over_seeds(gaps)))
        cells += [column(arm, as_count, name) for name in ("different", "pairs", "pairs_among")]
        rows.append([*cells, share_of(right, kept), share_of(all_right, all_kept)])
    own = next(iter(told.values()))
    asked = own["arms"]["round 0"]["asked"]
    longer = round(float(np.mean([own["steps_longer"] for own in told.values()])))
    caption = (
        f"Problems of each round's generator, means over {len(told)} seeds with 95 % intervals over seeds ({asked:,} "
        f"asked for; round 0's trained for {own['steps']} steps, each round's for {own['steps_round']} more; "
        f"“{LONGER}”: {longer:,}). "
        "Sound: by the exact solver; pairs are those of different sound problems, which may be fewer than "
        f"{ENOUGH}; kept answers are those that enough of the teacher's chains agree on"
    )
    among = f"pairs among {ENOUGH} problems"
    header = ["generator", "sound, percent", "times round 0", f"– {LONGER}", "different", "pairs of concepts", among]
    header += ["kept answers right, percent", "where all chains agree"]
    if all(row[-1] == row[-2] for row in rows):  # none are kept where one chain differs
        header, rows = header[:-1], [row[:-1] for row in rows]
    return RecordTable(caption, header, rows)


def choice_table(told: Mapping[int, Row]) -> RecordTable:
    rounds = list(next(iter(told.values()))["choices"])
    rows = [
        [
            arm,
            *(as_share([own["choices"][arm][name] for own in told.values()]) for name in ("written", "chosen")),
            f"{np.mean([own['choices'][arm]['log_likelihood'] for own in told.values()]):.1f}",
        ]
        for arm in rounds
    ]
    caption = (
        "E-steps: workings of known problems that are right to the letter, percent, among all that the writer wrote "
        "in its form and among those that the generator's likelihood chose; mean log-likelihood of the chosen"
    )
    return RecordTable(caption, ["choice in", "written", "chosen", "log-likelihood"], rows)


def student_shares(verdicts: Verdicts, arm: str) -> list[float]:
    return [float(np.mean(list(own.values()))) for own in verdicts[arm].values()]


def student_table(verdicts: Verdicts) -> RecordTable:
    rows = []
    for arm in verdicts:
        shares = student_shares(verdicts, arm)
        cells = [arm, as_share(shares), " ".join(f"{100 * share:.1f}" for share in shares)]
        for other in (WITHOUT, "round 0"):
            gaps = [one - base for one, base in zip(shares, student_shares(verdicts, other), strict=True)]
            cells.append("–" if arm == other else format_difference(over_seeds(gaps)))
        rows.append(cells)
    caption = (
        "Students: composed problems of the test solved, percent, one greedy chain each, with 95 % intervals over "
        "seeds (of one phase 1 and one teacher); all take as many steps and see as many rows of composed problems"
    )
    return RecordTable(caption, ["learned from", "solved", "each seed", f"– {WITHOUT}", "– round 0"], rows)


def time_table(told: Mapping[int, Row]) -> RecordTable:
    own = next(iter(told.values()))
    shared, jobs = own["shared_seconds"], own["jobs"]
    seeds = [each["seconds"] for each in told.values()]
    rows = [
        ["phase 1 and teacher, once", f"{shared / 60:.0f}"],
        ["a seed", f"{np.mean(seeds) / 60:.0f} ({min(seeds) / 60:.0f} to {max(seeds) / 60:.0f})"],
        *([f"{count} seeds, {jobs} at once", f"{(shared + np.mean(seeds) * count / jobs) / 60:.0f}"]
          for count in sorted({min(4, len(seeds)), len(seeds)})),
    ]  # fmt: skip
    return RecordTable("Time of all stages", ["", "minutes"], rows)


def make_tables(told: Mapping[int, Row], verdicts: Verdicts) -> list[RecordTable]:
    return [problem_table(told), choice_table(told), student_table(verdicts), time_table(told)]


def figures(told: Mapping[int, Row], verdicts: Verdicts) -> dict[str, Any]:
    """The numbers behind the tables, as JSON."""
    return {
        "seeds": {str(seed): own for seed, own in told.items()},
        "students": {arm: asdict(over_seeds(student_shares(verdicts, arm))) for arm in verdicts},
        "students_by_seed": {arm: student_shares(verdicts, arm) for arm in verdicts},
    }
