"""What the closed loop's files say: yield from sets to training rows, what a majority is worth, what students gain."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from promptcot_mamba.bench_record import RecordTable, time_table
from promptcot_mamba.grading.math.answers import extract_answer
from promptcot_mamba.grading.math.gold import Gold
from promptcot_mamba.grading.math.strict import grade
from promptcot_mamba.grading.metrics import (
    Comparison,
    Estimate,
    clustered_mean,
    compare_paired,
    share_interval,
    t_interval,
)
from promptcot_mamba.jsonl import Row, read_jsonl
from promptcot_mamba.quickstart.closed_loop import ARMS, TEACHER, WITH, WITHOUT
from promptcot_mamba.quickstart.solver import solve
from promptcot_mamba.quickstart.synthesis import FLAWS
from promptcot_mamba.report.document import Block, Document, Excerpt, Paragraph, Section, Tile, Tiles, write_document
from promptcot_mamba.report.tables import Table, format_difference, format_interval, format_share
from promptcot_mamba.sampling.backend import STOP
from promptcot_mamba.synthesis.distill import Settings as DistillSettings
from promptcot_mamba.synthesis.distill import distill
from promptcot_mamba.synthesis.stage import read_run_info

TITLE = "The closed loop: problems written, judged, solved and learned at quickstart scale"
GROUPS = {
    "composed": ("quickstart_composed", "quickstart_unseen"),
    "– of pairs shown in training": ("quickstart_composed",),
    "– with a pair never shown": ("quickstart_unseen",),
}
SAMPLES = 4  # problems to read
SECTIONS = ("What students gain", "Yield", "What the judge refused", "What a majority is worth", "Times")

Verdicts = Mapping[str, Mapping[int, Mapping[str, bool]]]  # [arm][seed][problem]
Scores = dict[str, list[float]]  # [problem] -> one score a seed


@dataclass(frozen=True)
class Majority:
    """What agreement of a share of the chains keeps, and how much of it is right."""

    threshold: float
    chosen: bool  # the threshold the loop trained on
    kept: int
    right: int
    problems: int

    @property
    def precision(self) -> Estimate:
        return share_interval(self.right, self.kept)


@dataclass(frozen=True)
class Results:
    """All figures of a finished loop."""

    funnel: list[tuple[str, int]]
    flaws: dict[str, int]
    single_chain: Estimate
    majorities: list[Majority]
    verdicts: Verdicts
    times: dict[str, float]
    samples: list[Row]

    def scores(self, arm: str, group: str) -> Scores:
        scores: Scores = {}
        for by_problem in self.verdicts[arm].values():
            for problem, right in by_problem.items():
                if problem.partition("/")[0] in GROUPS[group]:
                    scores.setdefault(problem, []).append(float(right))
        return scores

    def compare(self, group: str) -> Comparison:
        return compare_paired(self.scores(WITHOUT, group), self.scores(WITH, group))

    def by_seed(self, arm: str) -> dict[int, float]:
        return {seed: sum(right.values()) / len(right) for seed, right in self.verdicts[arm].items()}

    def over_seeds(self) -> Estimate | None:
        """The mean of the seeds' differences, with an interval over seeds; None where there is one alone."""
        before, after = self.by_seed(WITHOUT), self.by_seed(WITH)
        gains = np.array([after[seed] - before[seed] for seed in before])
        return t_interval(gains, len(before)) if len(before) > 1 else None

    def figures(self) -> dict[str, Any]:
        """The numbers behind the tables, as JSON."""
        return {
            "funnel": dict(self.funnel),
            "flaws": self.flaws,
            "single_chain": asdict(self.single_chain),
            "majorities": [asdict(majority) for majority in self.majorities],
            "accuracy_by_seed": {arm: self.by_seed(arm) for arm in self.verdicts},
            "comparison": {group: asdict(self.compare(group)) for group in GROUPS},
            "difference_over_seeds": asdict(over_seeds) if (over_seeds := self.over_seeds()) else None,
            "seconds": self.times,
        }


def read_results(work: Path, verdicts: Verdicts, times: Mapping[str, float], threshold: float) -> Results:
    """Read the synthesis folder of a finished loop."""
    judged, chains = read_jsonl(work / "judgements.jsonl"), read_jsonl(work / "chains.jsonl")
    info = {name: read_run_info(work / f"{name}.jsonl") or {} for name in ("concept_sets", "problems", "kept_problems")}
    flaws = Counter(row["flaw"] for row in judged)
    majorities = measure_majorities(chains, threshold)
    chosen = next(majority for majority in majorities if majority.chosen)
    funnel = [
        ("concept sets", info["concept_sets"]["rows"]),
        ("– not among the seeds'", info["concept_sets"]["unlike_the_seeds"]),
        ("problems asked for", info["problems"]["tasks"]),
        ("in the markup", len(judged)),
        ("perfect by the exact solver", flaws[None]),
        ("different", flaws[None] - info["kept_problems"]["duplicate"]),
        ("not of the benchmark", info["kept_problems"]["rows"]),
        ("solved by a majority", chosen.kept),
    ]
    by_problem: dict[str, list[Row]] = defaultdict(list)
    for chain in chains:
        by_problem[chain["id"]].append(chain)
    outcome = {problem: right_chains(own) for problem, own in by_problem.items()}
    samples = [{**row, "right_chains": outcome.get(row["key"])} for row in read_jsonl(work / "kept_problems.jsonl")]
    return Results(
        funnel=funnel,
        flaws={name: flaws[name] for name in FLAWS},
        single_chain=clustered_mean({name: list(map(float, right)) for name, right in outcome.items()}),
        majorities=majorities,
        verdicts=verdicts,
        times=dict(times),
        samples=samples[:SAMPLES],
    )


def is_right(question: str, answer: str | None) -> bool:
    """By the exact solver."""
    return answer is not None and grade(Gold(str(solve(question).answer)), answer).equal


def right_chains(chains: Sequence[Row]) -> list[bool]:
    """Chain by chain; one that did not finish is wrong."""
    return [
        chain["finish_reason"] == STOP and is_right(chain["question"], extract_answer(chain["completion"]).answer)
        for chain in chains
    ]


def measure_majorities(chains: Sequence[Row], threshold: float) -> list[Majority]:
    """Every threshold that these many chains tell apart, and the chosen one, from half upwards."""
    counts = Counter(chain["id"] for chain in chains)
    most = max(counts.values())
    thresholds = {count / most for count in range(1, most + 1) if 2 * count >= most} | {threshold}
    found = []
    for one in sorted(thresholds):
        rows, _ = distill(chains, DistillSettings(threshold=one))
        right = sum(is_right(row["question"], row["answer"]) for row in rows)
        found.append(Majority(one, one == threshold, len(rows), right, len(counts)))
    return found


def make_tables(results: Results) -> list[RecordTable]:
    """The tables of SECTIONS."""
    funnel = [[name, str(count)] for name, count in results.funnel]
    flaws = [[name, FLAWS[name], str(count)] for name, count in results.flaws.items()]
    refused = "What the exact solver refused, by the first flaw found"
    return [
        accuracy_table(results),
        RecordTable("From concept sets to training rows", ["what is left", "count"], funnel),
        RecordTable(refused, ["flaw", "meaning", "problems"], flaws),
        majority_table(results),
        time_table(results.times),
    ]


def accuracy_table(results: Results) -> RecordTable:
    rows = []
    for group in GROUPS:
        shares = [clustered_mean(results.scores(arm, group)) for arm in ARMS]
        without, with_, teacher = (f"{100 * share.mean:.1f} {format_interval(share)}" for share in shares)
        comparison = results.compare(group)
        difference = format_difference(comparison.difference)
        rows.append([group, without, with_, difference, f"{comparison.p_value:.3f}", teacher])
    before, after, teachers = (results.by_seed(arm) for arm in ARMS)
    for seed in before:
        cells = [f"{100 * before[seed]:.1f}", f"{100 * after[seed]:.1f}", f"{100 * (after[seed] - before[seed]):+.1f}"]
        teacher = f"{100 * teachers[seed]:.1f}" if seed in teachers else ""
        rows.append([f"composed, seed {seed}", *cells, "", teacher])
    if (over_seeds := results.over_seeds()) is not None:
        rows.append(["interval over the seeds' differences", "", "", format_difference(over_seeds), "", ""])
    problems = len(results.scores(WITH, "composed"))
    caption = (
        f"Composed problems of the test solved, percent, one greedy chain each ({problems} problems, {len(before)} "
        "seeds of phase 2, one of the teacher's; as many steps and rows of composed problems for all). Intervals of "
        "95 % cluster by problem; differences are paired by problem."
    )
    header = ["problems", ARMS[WITHOUT], ARMS[WITH], "difference", "p", ARMS[TEACHER]]
    return RecordTable(caption, header, rows)


def majority_table(results: Results) -> RecordTable:
    single = results.single_chain
    rows = [["a single chain", f"{single.samples} chains", f"{100 * single.mean:.1f} % {format_interval(single)}"]]
    for majority in results.majorities:
        name = f"{100 * majority.threshold:.1f} % agree" + (" (trained on)" if majority.chosen else "")
        share = f"{majority.kept} of {majority.problems} problems"
        rows.append([name, share, format_share(majority.precision)])
    caption = "What the teacher's majority is worth, by the exact solver"
    return RecordTable(caption, ["answers", "kept", "right, 95 % interval"], rows)


def write_report(folder: Path, tables: Sequence[RecordTable], results: Results) -> None:
    """`report.md` and `report.html`: the tables, and a few problems to read."""
    sections = [
        Section(name, [Table(table.header, table.rows, caption=table.caption)])
        for name, table in zip(SECTIONS, tables, strict=True)
    ]
    samples: list[Block] = [Paragraph("The first that passed every filter, as the generator wrote them.")]
    for row in results.samples:
        concepts, right = ", ".join(row["concepts"]), row["right_chains"]
        samples.append(Excerpt(f"{concepts} ({sum(right)} of {len(right)} chains right)", row["text"]))
    sections.append(Section("Problems to read", samples))
    write_document(folder, Document(TITLE, sections, [Tiles(make_tiles(results))]))


def make_tiles(results: Results) -> list[Tile]:
    difference = results.compare("composed").difference
    gain = f"95 % interval {format_interval(difference)} over problems"
    is_gain, meaning = difference.low > 0, "points on composed problems by the synthesized ones, at equal steps"
    if (over_seeds := results.over_seeds()) is not None:
        gain += f", {format_interval(over_seeds)} over seeds"
        is_gain = is_gain and over_seeds.low > 0
    precision = next(majority.precision for majority in results.majorities if majority.chosen)
    met, single = precision.mean >= 0.95, f"{100 * results.single_chain.mean:.0f} % of single chains are"
    aim = f"aim 95 %: {'reached' if met else 'missed'}"
    return [
        Tile(f"{100 * difference.mean:+.1f}", meaning, gain, is_gain),
        Tile(f"{100 * precision.mean:.1f} %", f"of the majority's answers are right, where {single}", aim, met),
    ]
