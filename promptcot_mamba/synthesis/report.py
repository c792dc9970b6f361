"""What the stages made, to be read: yields, concepts, judges, difficulty, samples -> report.md, report.html, plots.

Uses whatever files the work folder holds, so that it can be rendered at any time; what is missing is not shown.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations
from typing import Any

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row, iter_jsonl
from promptcot_mamba.log import logger
from promptcot_mamba.records import derive_seed
from promptcot_mamba.report.document import Document, Excerpt, Paragraph, Plot, Section, write_document
from promptcot_mamba.report.plots import COLORS, Curve, draw_bars, draw_curves, draw_stacks
from promptcot_mamba.report.tables import Table
from promptcot_mamba.synthesis.agreement import cohen_kappa, fleiss_kappa
from promptcot_mamba.synthesis.cost_report import count_kept, describe_cost
from promptcot_mamba.synthesis.diversity import measure_diversity
from promptcot_mamba.synthesis.judgement import UNPARSEABLE
from promptcot_mamba.synthesis.ratings import VERDICTS
from promptcot_mamba.synthesis.spending import read_usage
from promptcot_mamba.synthesis.stage import Context, read_run_info

# Output -> what one row of it is, and the count in its run.json that it was made from.
STEPS = {
    "concepts": ("seed problems with concepts", "tasks"),
    "rationales": ("rationales of seeds", "tasks"),
    "chosen_rationales": ("seeds with a chosen rationale", "candidates"),
    "concept_sets": ("new concept sets", "wanted"),
    "problems": ("new problems", "tasks"),
    "judgements": ("judged problems", "problems"),
    "kept_problems": ("approved, unique, clean problems", "problems"),
    "code_inputs": ("code problems with inputs", "tasks"),
    "distilled": ("kept chains of these problems", "problems"),
    "in_band": ("chains of problems in the band", "problems"),
}
# Keys of a run.json that describe the run rather than count rows.
NO_COUNT = frozenset(
    ["command", "config", "commit", "versions", "python", "machine", "started", "complete", "rows", "draws"]
)
WITH_CONCEPTS = ("concepts", "concept_sets", "problems", "kept_problems")
VERDICT_COLORS = dict(zip((*VERDICTS, UNPARSEABLE), (COLORS[3], COLORS[5], COLORS[2], COLORS[0]), strict=True))
BINS = 10
LONGEST = 1200  # characters of a rationale or chain shown


@dataclass(frozen=True)
class Settings:
    """samples: problems of each kind to show."""

    samples: int = 5


def run(settings: Settings, context: Context) -> None:
    """Everything in the work folder -> report.md, report.html and report_*.svg beside them."""
    files = {path.stem: path for path in context.work_dir.glob("*.jsonl")}
    rows = {
        name: [row for _, row in iter_jsonl(files[name])] for name in (*STEPS, "chains", "calibration") if name in files
    }
    rejected = {name: [row for _, row in iter_jsonl(path)] for name, path in files.items() if ".rejected" in name}
    if not any(rows.values()):
        raise InputError(f"{context.work_dir}: holds no stage's output yet; nothing to report")
    infos = {name: read_run_info(context.path(name)) or {} for name in rows}
    sections = [
        describe_yield(rows, infos),
        describe_cost(read_usage(context.work_dir), *count_kept(rows), context.prices),
        describe_concepts(rows),
        describe_judges(rows.get("judgements", []), rows.get("calibration", [])),
        describe_difficulty(rows.get("distilled", []), rejected.get("distilled.rejected", []), rows),
        describe_rates(rows.get("in_band", []), rejected.get("in_band.rejected", [])),
        pick_samples(rows, rejected, settings.samples, context.seed),
    ]
    write_document(context.work_dir, Document("PromptCoT synthesis", [one for one in sections if one is not None]))
    logger.info("report: %s and report.html", context.work_dir / "report.md")


def _section(title: str, words: str, name: str, svg: str, *tables: Table) -> Section:
    return Section(title, [Paragraph(words), Plot(f"report_{name}", title, svg), *tables])


def describe_yield(rows: dict[str, list[Row]], infos: dict[str, dict[str, Any]]) -> Section:
    """Rows after each stage beside what went in, and why the rest did not come out."""
    names = [name for name in STEPS if rows.get(name)]
    lines = []
    for name in names:
        info, (title, source), count = infos[name], STEPS[name], len(rows[name])
        asked = info.get(source)
        beside = [
            f"{key.removeprefix('rejected: ').replace('_', ' ')} {value:,}"
            for key, value in info.items()
            if key not in NO_COUNT and key != source and isinstance(value, int) and value > 0
        ]
        beside += [] if info.get("complete", True) else ["unfinished"]
        share = [f"{asked:,}", f"{count:,}", f"{100 * count / asked:.1f}"] if asked else ["–", f"{count:,}", "–"]
        lines.append([title, *share, "; ".join(beside)])
    table = Table(("after the stage", "from", "rows", "%", "beside that"), lines, frozenset({0, 4}))
    labels = [f"{len(rows[name]):,}" for name in names]
    plot = draw_bars([STEPS[name][0] for name in names], [len(rows[name]) for name in names], labels, "rows")
    words = "Rows each stage left behind, and what was counted beside them."
    return _section("Yield", words, "yield", plot, table)


def describe_concepts(rows: dict[str, list[Row]]) -> Section | None:
    """How many concepts each stage uses, how evenly, and how many of the seeds' concepts it reaches."""
    if not rows.get("concepts"):
        return None
    seeds = sorted({concept for row in rows["concepts"] for concept in row["concepts"]})
    measured = {name: measure_diversity(rows[name], seeds) for name in WITH_CONCEPTS if rows.get(name)}
    lines = [
        [
            *(STEPS[name][0], f"{each.rows:,}", f"{each.concepts:,}", f"{100 * each.coverage:.1f}"),
            *(f"{each.effective:,.1f}", f"{each.pairs:,}"),
        ]
        for name, each in measured.items()
    ]
    header = ("in", "rows", "concepts", "% of the seeds'", "effective", "pairs")
    curves = []
    for (name, each), color in zip(measured.items(), COLORS, strict=False):
        uses = [0, *accumulate(n for _, n in each.counts.most_common())]
        ranks = [100 * i / each.concepts for i in range(len(uses))]
        curves.append(Curve(STEPS[name][0], ranks, [100 * n / uses[-1] for n in uses], color))
    plot = draw_curves(curves, "% of its concepts, the most used first", "% of all uses")
    top = Table(
        ("most used by the seeds", "seeds"), [[c, str(n)] for c, n in measured["concepts"].counts.most_common(10)]
    )
    words = (
        "Concepts in use. Effective: how many equally used concepts would be as diverse (exp of the entropy). "
        "Pairs: different pairs that stand together."
    )
    return _section("Concepts", words, "concepts", plot, Table(header, lines), top)


def describe_judges(judged: Sequence[Row], calibration: Sequence[Row] = ()) -> Section | None:
    """Each judge's verdicts and contradictions, how far judges agree beyond chance, how they did on known problems."""
    if not judged:
        return None
    names = list(judged[0]["verdicts"])
    by_judge = {name: [row["verdicts"][name] for row in judged] for name in names}
    kinds = (*VERDICTS, UNPARSEABLE)
    verdicts = Table(
        ("judge", *(f"{kind} %" for kind in kinds), "contradictions"),
        [
            [
                name,
                *(f"{100 * given.count(kind) / len(given):.1f}" for kind in kinds),
                str(sum(name in row.get("contradictions", ()) for row in judged)),
            ]
            for name, given in by_judge.items()
        ],
    )
    agreed = []
    for some in (*combinations(names, 2), *([names] if len(names) > 2 else [])):
        items = [[row["verdicts"][name] for name in some] for row in judged]
        same = f"{100 * sum(len(set(item)) == 1 for item in items) / len(items):.1f}"
        kappa = cohen_kappa(*zip(*items, strict=True)) if len(some) == 2 else fleiss_kappa(items)
        agreed.append([" and ".join(some) if len(some) == 2 else "all", same, _number(kappa)])
    tables = [verdicts, *([Table(("judges", "same verdict %", "kappa"), agreed)] if agreed else [])]
    if calibration:
        lines = [
            [
                *(row["judge"], f"{row['good_called_perfect']} of {row['good']}"),
                *(f"{row['bad_called_perfect']} of {row['bad']}", str(row["contradictions"]), f"{row['weight']:.2f}"),
            ]
            for row in calibration
        ]
        called = ("good ones called perfect", "bad ones called perfect")
        tables.append(Table(("judge, of known problems", *called, "contradictions", "weight"), lines))
    counts = {kind: [given.count(kind) for given in by_judge.values()] for kind in kinds}
    plot = draw_stacks(names, counts, VERDICT_COLORS, "judge", "problems")
    words = f"{len(judged):,} problems. Kappa: agreement beyond chance, 0 none, 1 full (Cohen's; Fleiss' for all)."
    return _section("Judges", words, "judges", plot, *tables)


def describe_difficulty(kept: Sequence[Row], lost: Sequence[Row], rows: dict[str, list[Row]]) -> Section | None:
    """How far a problem's chains agree: the nearer to one, the easier it is for the teacher."""
    agreement = {row["key"].rpartition("/")[0]: row["agreement"] for row in kept}
    of_lost = {row["id"]: row["agreement"] for row in lost}
    if not agreement and not of_lost:
        return None
    bins = [f"{100 * i // BINS}–{100 * (i + 1) // BINS}" for i in range(BINS)]
    parts = {"kept": _histogram(agreement.values()), "not kept": _histogram(of_lost.values())}
    plot = draw_stacks(
        bins, parts, {"kept": COLORS[3], "not kept": COLORS[2]}, "% of a problem's chains that agree", "problems"
    )
    levels = {row["id"]: row["level"] for row in rows.get("chains", [])}
    by_level: dict[str, list[float]] = {}
    for name, value in {**agreement, **of_lost}.items():
        by_level.setdefault(levels.get(name, "–"), []).append(value)
    lines = [
        [level, str(len(values)), f"{100 * sum(values) / len(values):.1f}", str(sum(value == 1 for value in values))]
        for level, values in sorted(by_level.items())
    ]
    table = Table(("level", "problems", "mean agreement %", "all chains agree"), lines)
    words = "Difficulty as the teacher shows it: the share of a problem's chains that give its majority answer."
    return _section("Difficulty", words, "difficulty", plot, table)


def describe_rates(kept: Sequence[Row], lost: Sequence[Row]) -> Section | None:
    """How often each model reaches the agreed answers, and how many problems that leaves."""
    rates = {row["key"].rpartition("/")[0]: row["pass_rates"] for row in kept}
    of_lost = {row["id"]: row["pass_rates"] for row in lost}
    if not rates and not of_lost:
        return None
    every = [*rates.values(), *of_lost.values()]
    lines = [
        [
            *(name, str(len(every)), f"{100 * sum(each[name] for each in every) / len(every):.1f}"),
            *(str(sum(each[name] == end for each in every)) for end in (0, 1)),
        ]
        for name in every[0]
    ]
    table = Table(("model", "problems", "mean pass rate %", "never solved", "always solved"), lines)
    plot = draw_stacks(
        [f"{100 * i // BINS}–{100 * (i + 1) // BINS}" for i in range(BINS)],
        {name: _histogram(each[name] for each in every) for name in every[0]},
        dict(zip(every[0], (COLORS * len(every[0]))[: len(every[0])], strict=True)),
        "% of a model's tries that reach the agreed answer",
        "problems",
    )
    reasons = Counter(row["reason"] for row in lost)
    words = f"{len(rates):,} problems in the band; " + "; ".join(f"{why} {n:,}" for why, n in reasons.items())
    return _section("Pass rates", words.rstrip("; "), "rates", plot, table)


def _histogram(values: Any) -> list[int]:
    counts = Counter(min(int(value * BINS), BINS - 1) for value in values)
    return [counts[i] for i in range(BINS)]


def pick_samples(rows: dict[str, list[Row]], rejected: dict[str, list[Row]], count: int, seed: int) -> Section | None:
    """Some problems that were kept and some that were not, each with all that is known of it."""
    answers = {row["key"].rpartition("/")[0]: row for row in rows.get("distilled", [])}
    answers |= {row["id"]: row for row in rejected.get("distilled.rejected", [])}
    kept = {row["key"] for row in rows.get("kept_problems", [])}
    judged = rows.get("judgements") or rows.get("problems", [])
    texts = []
    for wanted in (True, False):
        chosen = [row for row in judged if (row["key"] in kept) is wanted]
        chosen = sorted(chosen, key=lambda row: derive_seed(seed, row["key"]))[:count]
        texts += [_describe_problem(row, wanted, answers.get(row["key"])) for row in chosen]
    for name, lost in sorted(rejected.items()):
        said = [row for row in lost if row.get("reply")][: max(1, count // 2)]
        heading = f"{name.removesuffix('.rejected')}: a reply that could not be used"
        texts += [Excerpt(f"{heading} ({row['reason']})", _shorten(row["reply"])) for row in said]
    return Section("Samples", [Paragraph("Drawn at random, always the same ones."), *texts]) if texts else None


def _describe_problem(row: Row, kept: bool, answer: Row | None) -> Excerpt:
    verdicts = ", ".join(f"{judge} {verdict}" for judge, verdict in row.get("verdicts", {}).items())
    heading = f"{'Kept' if kept else 'Not kept'}, {row['level']}: {'; '.join(row['concepts'])}"
    text = [row["problem"], f"Rationale: {_shorten(row['rationale'])}"]
    text += [f"Verdicts: {verdicts}"] if verdicts else []
    if answer is not None:
        said = answer.get("reason") or answer.get("answer", "a program")
        text.append(f"Teacher: {said} ({100 * answer['agreement']:.0f} % agree)")
        text += [_shorten(answer["completion"])] if "completion" in answer else []
    return Excerpt(heading, "\n\n".join(text))


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text):,} characters)"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"
