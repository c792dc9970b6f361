"""The quickstart's report: what each model solves, what phase 2 adds, how the losses fell, what chains look like."""

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptcot_mamba.chat_format import TURN_END, USER_START, split
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.metrics import Estimate, compare_paired, share_interval
from promptcot_mamba.jsonl import Row, read_jsonl
from promptcot_mamba.report.document import (
    Chain,
    Chains,
    Document,
    Paragraph,
    Plot,
    Section,
    Tile,
    Tiles,
    write_document,
)
from promptcot_mamba.report.plots import COLORS, Curve, draw_curves, draw_shares
from promptcot_mamba.report.tables import Table, format_difference, format_interval, format_share
from promptcot_mamba.run_info import describe_run

MODELS = {"phase1": "phase 1", "control": "control", "phase2": "phase 2"}
MODEL_COLORS = dict(zip(MODELS.values(), COLORS, strict=False))


@dataclass(frozen=True)
class Group:
    """Problems whose share of right answers is one figure."""

    label: str
    sources: tuple[str, ...]


MATHS_COMPOSED = Group("maths, composed", ("quickstart_composed", "quickstart_unseen"))
CODE_COMPOSED = Group("code, composed", ("quickstart_code_composed", "quickstart_code_unseen"))
GROUPS = (
    Group("maths, one concept", ("quickstart_single",)),
    MATHS_COMPOSED,
    Group("– of pairs shown in training", ("quickstart_composed",)),
    Group("– with a pair never shown", ("quickstart_unseen",)),
    Group("code, one step", ("quickstart_code_single",)),
    CODE_COMPOSED,
    Group("– of pairs shown in training", ("quickstart_code_composed",)),
    Group("– with a pair never shown", ("quickstart_code_unseen",)),
)


@dataclass(frozen=True)
class Claim:
    """A difference the quickstart is meant to show, and the points it should reach."""

    group: Group
    first: str
    second: str
    aim: float

    @property
    def meaning(self) -> str:
        return f"points on {self.group.label} problems, {MODELS[self.second]} over {MODELS[self.first]}"

    def verdict(self, difference: Estimate) -> str:
        return "reached" if 100 * difference.mean >= self.aim else "missed"


CLAIMS = (
    Claim(MATHS_COMPOSED, "phase1", "phase2", 25.0),
    Claim(MATHS_COMPOSED, "control", "phase2", 20.0),
    Claim(CODE_COMPOSED, "phase1", "phase2", 50.0),
)


@dataclass(frozen=True)
class Results:
    """What the stages left: predictions with grades, training logs, stage times."""

    sampled: dict[str, list[Row]]  # [model]: its prediction rows, each with its `grade`
    logs: dict[str, list[Row]]  # [model]
    stages: list[dict[str, Any]]

    def share(self, model: str, group: Group) -> Estimate:
        verdicts = self.verdicts(model, group).values()
        return share_interval(sum(right for (right,) in verdicts), len(verdicts))

    def difference(self, claim: Claim) -> Estimate:
        """Second minus first, paired: both models answered the same problems."""
        return compare_paired(*(self.verdicts(model, claim.group) for model in (claim.first, claim.second))).difference

    def verdicts(self, model: str, group: Group) -> dict[str, list[bool]]:
        """The one verdict on each problem of a group, by the problem's name."""
        sampled = [row for row in self.sampled[model] if row["source"] in group.sources]
        return {f"{row['source']}/{row['idx']}": [row["grade"]["correct"]] for row in sampled}


def read_results(folder: Path) -> Results:
    """Read a quickstart's output folder. Raises InputError for a missing file or a prediction without a grade."""
    sampled: dict[str, list[Row]] = {model: [] for model in MODELS}
    for model in MODELS:
        for family in ("maths", "code"):
            predictions = folder / "samples" / f"{model}_{family}.jsonl"
            grades_path = predictions.with_suffix(".grades.jsonl")
            grades = {grade["problem_id"]: grade for grade in read_jsonl(grades_path)}
            for row in read_jsonl(predictions):
                identity = f"{row['source']}/{row['idx']}"
                if identity not in grades:
                    raise InputError(f"{grades_path}: no grade for problem {identity}; grade {predictions} again")
                sampled[model].append({**row, "grade": grades[identity]})
    logs = {model: read_jsonl(folder / model / "train_log.jsonl") for model in MODELS}
    stages = [json.loads(path.read_text(encoding="utf-8")) for path in (folder / "stages").glob("*.json")]
    return Results(sampled, logs, sorted(stages, key=lambda stage: stage["started"]))


def share_table(results: Results) -> Table:
    header = ["problems solved, 95 % interval, counts", *MODELS.values()]
    rows = [[group.label, *(format_share(results.share(model, group)) for model in MODELS)] for group in GROUPS]
    return Table(header, rows)


def claim_table(results: Results) -> Table:
    header = ["difference, points", "observed, 95 % interval", "aim", ""]
    rows = []
    for claim in CLAIMS:
        difference = results.difference(claim)
        name = f"{claim.group.label}: {MODELS[claim.second]} over {MODELS[claim.first]}"
        rows.append([name, format_difference(difference), f"+{claim.aim:.0f}", claim.verdict(difference)])
    return Table(header, rows)


def failure_table(results: Results) -> Table:
    """How the graders ended each sample: no answer is not a wrong answer."""
    counts = {model: Counter(row["grade"]["reason"] for row in own) for model, own in results.sampled.items()}
    reasons = sorted(set().union(*counts.values()))
    rows = [[MODELS[model], *(str(counts[model][reason]) for reason in reasons)] for model in MODELS]
    return Table(["samples by ending", *reasons], rows)


def time_table(results: Results) -> Table:
    rows = [[stage["title"], f"{stage['seconds']:.0f}"] for stage in results.stages]
    total = sum(stage["seconds"] for stage in results.stages)
    return Table(["stage", "seconds"], [*rows, ["in all, set-up apart", f"{total:.0f}"]])


def loss_curves(results: Results) -> list[Curve]:
    """Loss by step; phase 2 and the control go on where phase 1 ended."""
    logs = {model: [row for row in results.logs[model] if "loss" in row] for model in MODELS}
    end = max((row["step"] for row in logs["phase1"]), default=0)
    return [
        Curve(
            name,
            [row["step"] + (0 if model == "phase1" else end) for row in logs[model]],
            [row["loss"] for row in logs[model]],
            MODEL_COLORS[name],
        )
        for model, name in MODELS.items()
    ]


def question_of(row: Row) -> str:
    """The question inside a prompt's chat marks, without the instruction line."""
    body = row["prompt"].removeprefix(USER_START).partition(TURN_END)[0]
    return body.rpartition("\n")[0] or body


Problem = dict[str, Row]  # [model]


def choose_chains(results: Results) -> list[tuple[str, Problem]]:
    """Problems to show, by rule and not by taste: the first of the file that fits each of CHAIN_RULES and is new."""
    by_problem: dict[str, Problem] = defaultdict(dict)
    for model, sampled in results.sampled.items():
        for row in sampled:
            by_problem[row["grade"]["problem_id"]][model] = row
    chosen: list[tuple[str, Problem]] = []
    for why, fits in CHAIN_RULES.items():
        shown = [problem for _, problem in chosen]
        problem = next((one for one in by_problem.values() if fits(one) and one not in shown), None)
        chosen += [(why, problem)] if problem else []
    return chosen


def is_right(problem: Problem, model: str) -> bool:
    return problem[model]["grade"]["correct"]


def only_phase2_solves(problem: Problem, source: str) -> bool:
    others = any(is_right(problem, model) for model in MODELS if model != "phase2")
    return problem["phase2"]["source"] == source and is_right(problem, "phase2") and not others


CHAIN_RULES = {
    "the first maths problem with a pair never shown": lambda p: p["phase2"]["source"] == "quickstart_unseen",
    "the first such that phase 2 alone solves": lambda p: only_phase2_solves(p, "quickstart_unseen"),
    "the first program with a pair never shown that phase 2 alone solves": lambda p: only_phase2_solves(
        p, "quickstart_code_unseen"
    ),
    "the first that phase 2 gets wrong": lambda p: not is_right(p, "phase2"),
}
SUMMARY = (
    "A Mamba-2 of half a million parameters learns seven integer concepts and small list programs one by one "
    "(phase 1), then also composed of two or three (phase 2). The control takes as many more steps as phase 2, "
    "from the same weights, on fresh problems of phase 1's kinds alone: what it lacks is the composition, not the "
    "training."
)
METHOD = (
    "Every problem was held out by a hash of its text, and the rows marked “never shown” ask for a pair of concepts "
    "or steps that no training problem combines. One greedy chain a problem, sampled by vLLM; maths graded on the "
    "boxed answer, programs run against six tests in the sandbox. Shares and their differences, paired by problem, "
    "carry a 95 % interval. Only the answer is graded, so a model that works on the last sentence alone solves some "
    "composed problems by luck. All runs start from one seed: another seed gives somewhat other numbers."
)


def render_provenance() -> str:
    run = describe_run({})
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return f"Commit {run['commit']}, Python {run['python']}, {run['machine']}; {versions}. Written {run['started']}."


def make_document(results: Results) -> Document:
    shares = {name: [results.share(model, group) for group in GROUPS] for model, name in MODELS.items()}
    solved = draw_shares([group.label for group in GROUPS], shares, MODEL_COLORS)
    loss = draw_curves(loss_curves(results), "optimizer step", "loss per token", log_y=True)
    what = "What each model solves"
    chains = [show_chains(why, problem) for why, problem in choose_chains(results)]
    sections = [
        Section(what, [Plot("solved", what, solved), share_table(results), Paragraph(METHOD)]),
        Section("Loss", [Plot("loss", "Loss", loss)]),
        Section("Sampled chains", [Paragraph("Chosen by rule, in the order of the file."), *chains]),
        Section("How samples ended", [failure_table(results)]),
        Section("Times", [time_table(results)]),
    ]
    tiles = Tiles([make_tile(claim, results.difference(claim)) for claim in CLAIMS])
    title = "Quickstart: two phases, one control"
    return Document(title, sections, [Paragraph(SUMMARY, "lead"), tiles], render_provenance())


def make_tile(claim: Claim, difference: Estimate) -> Tile:
    verdict = claim.verdict(difference)
    aim = f"aim +{claim.aim:.0f}: {verdict}; 95 % interval {format_interval(difference)}"
    return Tile(f"{100 * difference.mean:+.1f}", claim.meaning, aim, verdict == "reached")


def show_chains(why: str, problem: Problem) -> Chains:
    """A problem with the chains of phase 1 and phase 2, and for maths the right answer."""
    chains = []
    for model in ("phase1", "phase2"):
        parts = split(problem[model]["completion"])
        chains.append(Chain(MODELS[model], parts.thought, parts.answer.strip(), is_right(problem, model)))
    row = problem["phase2"]
    _, mark, gold = row.get("reference_solution", "").rpartition("#### ")
    return Chains(why[0].upper() + why[1:], question_of(row), chains, gold if mark and "tests" not in row else "")


def write_report(folder: Path) -> Results:
    """Write `report.md`, its two plots and the self-contained `report.html` into a quickstart's output folder."""
    results = read_results(folder)
    write_document(folder, make_document(results))
    return results
