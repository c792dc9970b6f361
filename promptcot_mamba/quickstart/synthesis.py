"""Stages for the quickstart's maths problems, where the family's exact solver is the oracle.

It stands in for the models that have to know better than the one being taught: it names the concepts of the seed
problems and works out their rationales, and it judges what the generator wrote. Generator and teacher are real.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row, iter_jsonl
from promptcot_mamba.log import logger
from promptcot_mamba.quickstart.arithmetic import HELD_OUT_LINKS
from promptcot_mamba.quickstart.exercise import links_of
from promptcot_mamba.quickstart.solver import Chain, UnreadableProblemError, UnsolvableProblemError, solve
from promptcot_mamba.quickstart.splits import is_held_out
from promptcot_mamba.synthesis.concept_sets import Settings as OneSizeSettings
from promptcot_mamba.synthesis.concept_sets import build_table, draw_rows
from promptcot_mamba.synthesis.judgement import BAD, PERFECT
from promptcot_mamba.synthesis.stage import LATER, Context, content_key

LEVEL = "numbers of two digits"
JUDGE = "exact solver"

# A step's concept, by its kind; a factor or divisor is part of it, since each is a table of its own to learn.
CONCEPT_NAMES = {
    "add": "addition",
    "subtract": "subtraction",
    "multiply": "multiplication by {}",
    "mod": "remainder after division by {}",
    "digit_sum": "digit sum",
    "larger": "larger of two numbers",
    "smaller": "smaller of two numbers",
}

# What is wrong with a problem, in the order it is looked for: PromptCoT's five criteria, then what the loop adds.
FLAWS = {
    "format": "the problem cannot be read",
    "solvability": "it has no answer in whole numbers",
    "difficulty": "a step is not needed, or a number is beyond two digits",
    "coverage": "its concepts are not those asked for",
    "accuracy": "the rationale works something out wrongly",
    "reserved": "its question or a pair of its concepts is kept for the test",
    "copy": "it is a seed problem",
}


def name_concepts(chain: Chain) -> list[str]:
    """The concepts of a chain's steps, in order; one that works twice is named twice."""
    return [CONCEPT_NAMES[step.kind].format(step.numbers[-1]) for step in chain.steps]


@dataclass(frozen=True)
class SeedSettings:
    """seeds: JSONL of problems of the family, with `problem`."""

    seeds: str


def run_seeds(settings: SeedSettings, context: Context) -> None:
    """seeds -> concepts.jsonl and chosen_rationales.jsonl: the worked solution is the rationale.

    An author settles the numbers by working through them, so that every value stays within the level's reach.
    """
    path = Path(settings.seeds)
    rows = [make_seed_row(number, row, path) for number, row in iter_jsonl(path)]
    for name in ("concepts", "chosen_rationales"):
        output = context.output(name, settings, seeds=path)
        if not output.complete:
            output.finish(rows)


def make_seed_row(number: int, row: Row, path: Path) -> Row:
    """Raises InputError naming the line of a problem that is none of the family."""
    try:
        chain = solve(row["problem"])
    except (UnreadableProblemError, UnsolvableProblemError, KeyError) as error:
        raise InputError(f"{path}:{number}: not a problem of the quickstart's maths family ({error})") from None
    concepts = name_concepts(chain)
    return {
        "key": content_key(row["problem"]),
        "problem": row["problem"],
        "level": LEVEL,
        "concepts": concepts,
        "rationale": chain.thought,
    }


@dataclass(frozen=True)
class SetSettings:
    """count: sets of each size; see `concept_sets` for the rest. Order matters here: it is the order of the steps."""

    count: int
    sizes: list[int] = field(default_factory=lambda: [2, 3])
    temperature: float = 1.0


def run_sets(settings: SetSettings, context: Context) -> None:
    """concepts.jsonl -> concept_sets.jsonl, of several sizes."""
    lists = [row["concepts"] for row in context.read("concepts")]
    output = context.output("concept_sets", settings, concepts=context.path("concepts"))
    if output.complete:
        return
    rows: list[Row] = []
    for size in settings.sizes:
        one = OneSizeSettings(settings.count, size, settings.temperature, levels=[LEVEL])
        table = build_table(lists, one, context.path("concept_embeddings"))
        rows += draw_rows(table, one, context.seed, [])
    known = {frozenset(concepts) for concepts in lists}
    new = sum(frozenset(row["concepts"]) not in known for row in rows)
    output.finish(rows, unlike_the_seeds=new)


@dataclass(frozen=True)
class JudgeSettings:
    """known: JSONL of problems, with `problem`, that are as little new as the seeds."""

    known: str | None = field(default=None, metadata=LATER)


def run_judge(settings: JudgeSettings, context: Context) -> None:
    """problems.jsonl -> judgements.jsonl, with `flaw` beside the verdict; counts of flaws in judgements.run.json."""
    rows = context.read("problems")
    seeds = {row["problem"] for row in context.read("concepts")}
    inputs = {name: context.path(name) for name in ("problems", "concepts")}
    if settings.known is not None:
        inputs["known"] = Path(settings.known)
        seeds |= {row["problem"] for _, row in iter_jsonl(inputs["known"])}
    output = context.output("judgements", settings, **inputs)
    if output.complete:
        return
    judged = [judge_row(row, seeds) for row in rows]
    flaws = Counter(row["flaw"] for row in judged if row["flaw"])
    logger.info("exact judge: %d of %d problems are perfect; flaws: %s", len(rows) - flaws.total(), len(rows), flaws)
    output.finish(judged, problems=len(rows), flaws=flaws)


def judge_row(row: Row, seeds: Collection[str]) -> Row:
    flaw = find_flaw(row["problem"], row["rationale"], row["concepts"], seeds)
    return {**row, "verdicts": {JUDGE: BAD if flaw else PERFECT}, "flaw": flaw}


def find_flaw(problem: str, rationale: str, concepts: Collection[str], seeds: Collection[str]) -> str | None:
    """The first of FLAWS that a generated problem has."""
    try:
        chain = solve(problem)
    except UnreadableProblemError:
        return "format"
    except UnsolvableProblemError:
        return "solvability"
    checks = {
        "difficulty": chain.is_linked and chain.in_reach,
        "coverage": Counter(name_concepts(chain)) == Counter(concepts),
        "accuracy": rationale == chain.thought,
        "reserved": not is_held_out(problem) and not links_of(chain.kinds) & HELD_OUT_LINKS,
        "copy": problem not in seeds,
    }
    return next((flaw for flaw, passed in checks.items() if not passed), None)
