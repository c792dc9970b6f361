"""The tables of phase 3's study: shares by arm, and differences with intervals over problems and over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from promptcot_mamba.bench_record import RecordTable
from promptcot_mamba.grading.metrics import Comparison, Estimate, clustered_mean, compare_paired, t_interval
from promptcot_mamba.jsonl import Row
from promptcot_mamba.quickstart.road import COMPOSED
from promptcot_mamba.quickstart.selfplay import ARMS, DPO, MORE, RIGHT, START, WORKED, Verdicts
from promptcot_mamba.report.tables import format_difference, format_interval

TITLE = "Phase 3 at quickstart scale: preferences between a model's own verified chains, at equal compute"
GROUPS = {
    "maths, composed": ("maths", COMPOSED["maths"]),
    "– maths, pairs shown in training": ("maths", COMPOSED["maths"][:1]),
    "– maths, a pair never shown": ("maths", COMPOSED["maths"][1:]),
    "code, composed": ("code", COMPOSED["code"]),
    "– code, pairs shown in training": ("code", COMPOSED["code"][:1]),
    "– code, a pair never shown": ("code", COMPOSED["code"][1:]),
}
COMPARED = (
    *((DPO, MORE), (WORKED, MORE), (RIGHT, MORE), (WORKED, DPO)),
    *((DPO, START), (WORKED, START), (RIGHT, START), (MORE, START)),
)
Scores = dict[str, list[float]]  # [problem] -> one score a seed


def scores_of(verdicts: Verdicts, arm: str, group: str) -> Scores:
    """What started all seeds was scored once."""
    family, sources = GROUPS[group]
    scores: Scores = {}
    for by_family in list(verdicts[arm].values())[: 1 if arm == START else None]:
        for problem, right in by_family[family].items():
            if problem.partition("/")[0] in sources:
                scores.setdefault(problem, []).append(float(right))
    return scores


def by_seed(verdicts: Verdicts, arm: str, group: str) -> dict[int, float]:
    family, sources = GROUPS[group]
    return {
        seed: float(np.mean([right for name, right in own[family].items() if name.partition("/")[0] in sources]))
        for seed, own in verdicts[arm].items()
    }


def over_problems(verdicts: Verdicts, arm: str, other: str, group: str) -> Comparison:
    return compare_paired(scores_of(verdicts, other, group), scores_of(verdicts, arm, group))


def over_seeds(verdicts: Verdicts, arm: str, other: str, group: str) -> Estimate:
    """Of the seeds' differences: what another seed would do on the same problems."""
    ours, theirs = (by_seed(verdicts, name, group) for name in (arm, other))
    return t_interval(np.array([ours[seed] - theirs[seed] for seed in ours]), len(ours))


def share_table(verdicts: Verdicts) -> RecordTable:
    rows = []
    for group in GROUPS:
        shares = [clustered_mean(scores_of(verdicts, arm, group)) for arm in (START, *ARMS)]
        rows.append([group, *(f"{100 * share.mean:.1f} {format_interval(share)}" for share in shares)])
    seeds = len(verdicts[DPO])
    sizes = " and ".join(f"{len(scores_of(verdicts, DPO, name))} {name}" for name in GROUPS if name[0] != "–")
    caption = (
        f"Problems of the test solved, percent, one greedy chain each, with 95 % intervals over problems ({sizes} "
        f"problems; means over {seeds} seeds; every arm at the compute of the preferences, their samples included)"
    )
    return RecordTable(caption, ["problems", START, *ARMS], rows)


def difference_table(verdicts: Verdicts) -> RecordTable:
    rows = []
    for group in GROUPS:
        for arm, other in COMPARED:
            seeds = over_seeds(verdicts, arm, other, group)
            ours, theirs = (by_seed(verdicts, name, group) for name in (arm, other))
            each = " ".join(f"{100 * (ours[seed] - theirs[seed]):+.1f}" for seed in ours)
            problems = format_difference(over_problems(verdicts, arm, other, group).difference)
            rows.append([group, f"{arm} – {other}", problems, format_difference(seeds), each])
    caption = "Differences in points, with 95 % intervals over problems (paired) and over seeds, and every seed's own"
    return RecordTable(caption, ["problems", "arms", "over problems", "over seeds", "each seed"], rows)


def material_table(told: Mapping[int, Row]) -> RecordTable:
    rows = []
    for seed, row in told.items():
        cost, problems = row["compute"], row["problems"]
        rows.append(
            [
                *(str(seed), f"{sum(problems.values()):,}", f"{problems['with a pair']:,}", f"{row['pairs']:,}"),
                f"{100 * row['right_by_wrong_working']:.1f} %",
                *(f"{cost[part] / 1e6:.2f}" for part in ("sampled", "reference", "trained", "whole")),
                *(str(row["steps"][arm]) for arm in ARMS),
            ]
        )
    header = [
        "seed",
        "problems",
        "with a pair",
        "pairs",
        "right by wrong working",
        "sampled",
        "reference",
        "trained",
        "compute",
    ]
    caption = (
        "What each seed learned from, its compute in millions of tokens of one forward pass (a trained one is three), "
        "and the steps of each arm"
    )
    return RecordTable(caption, [*header, *(f"steps, {arm}" for arm in ARMS)], rows)


def make_tables(verdicts: Verdicts, told: Mapping[int, Row]) -> list[RecordTable]:
    return [share_table(verdicts), difference_table(verdicts), material_table(told)]


def figures(verdicts: Verdicts, told: Mapping[int, Row]) -> dict[str, Any]:
    """The numbers behind the tables, as JSON."""
    groups: Sequence[str] = list(GROUPS)
    return {
        "by_seed": {arm: {group: by_seed(verdicts, arm, group) for group in groups} for arm in verdicts},
        "differences": {
            f"{arm} - {other}": {
                group: {
                    "over_problems": asdict(over_problems(verdicts, arm, other, group)),
                    "over_seeds": asdict(over_seeds(verdicts, arm, other, group)),
                }
                for group in groups
            }
            for arm, other in COMPARED
        },
        "seeds": {str(seed): row for seed, row in told.items()},
    }
