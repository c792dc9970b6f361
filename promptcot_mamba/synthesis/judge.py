"""Judging: each problem is rated by every judge model on five criteria, and the verdict must agree with the ratings.

The criteria, as in PromptCoT (arXiv 2503.02324, rejection sampling): format, factual accuracy, difficulty alignment,
concept coverage, solvability. A reply that holds no verdict is `unparseable`, its own outcome, asked again once and
counted; it is never read as one of the others. What is judged stands between two lines that it cannot hold.
"""

from dataclasses import dataclass, field

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row
from promptcot_mamba.records import derive_seed
from promptcot_mamba.synthesis.asking import Task
from promptcot_mamba.synthesis.judgement import UNPARSEABLE, Judgement, check_weights, parse_judgement
from promptcot_mamba.synthesis.ratings import VERDICTS
from promptcot_mamba.synthesis.replies import Rejected
from promptcot_mamba.synthesis.stage import LATER, Context, ask_model
from promptcot_mamba.synthesis.templates import Format, mark_for, number_lines


@dataclass(frozen=True)
class Settings:
    """models: names of the judges, each asked about every problem; attempts: 2 asks an unparseable reply again.

    weights: of criteria in a judgement's score, 1 where none is given; `filter` may ask for a score.
    """

    models: list[str]
    max_tokens: int = 2048
    attempts: int = 2
    weights: dict[str, float] = field(default_factory=dict, metadata=LATER)

    def __post_init__(self) -> None:
        check_weights(self.weights)


def run(settings: Settings, context: Context) -> None:
    """problems.jsonl -> judgements_<model>.jsonl for each judge, then judgements.jsonl with all of a problem.

    There each row has `verdicts`, `scores` (None where there is no verdict) and `contradictions` (names of judges).
    """
    rows = context.read("problems")
    inputs = {"problems": context.path("problems")}
    check_judges("judge", settings.models)
    for name in settings.models:
        ask_judge(context, f"judgements_{name}", OneJudge(name, settings.max_tokens, settings.attempts), rows, inputs)
    judged = {name: {row["key"]: row for row in context.read(f"judgements_{name}")} for name in settings.models}
    paths = {f"judgements_{name}": context.path(f"judgements_{name}") for name in settings.models}
    output = context.output("judgements", settings, **inputs, **paths)
    if not output.complete:
        together = [
            combine(row, {name: judged[name][row["key"]] for name in settings.models}, settings) for row in rows
        ]
        output.finish(together, problems=len(rows), contradictions=sum(len(row["contradictions"]) for row in together))


def check_judges(stage: str, models: list[str]) -> None:
    if not isinstance(models, list) or not models or len(set(models)) != len(models):
        raise InputError(f"{stage}: models {models}: expected a list of one or more different models")


@dataclass(frozen=True)
class OneJudge:
    """What of the settings changes one judge's replies; other judges may come and go."""

    model: str
    max_tokens: int
    attempts: int


def ask_judge(context: Context, output: str, judge: OneJudge, rows: list[Row], inputs: dict) -> None:
    """Every row's judgement by one judge, in a file of its own."""
    form = context.format(judge.model)
    ask_model(
        context,
        output,
        judge,
        [make_task(row, form) for row in rows],
        lambda _, reply: read_row(reply),
        inputs,
        seed=derive_seed(context.seed, judge.model),  # two judges of one model are not to be each other's copies
        keep_rejected=lambda reason: {"verdict": UNPARSEABLE, "reason": reason},
    )


def make_task(row: Row, form: Format) -> Task:
    """The question about one problem; the judgement has the problem's key."""
    values = {"concepts": number_lines(row["concepts"]), "level": row["level"], "text": row["text"]}
    return Task(row["key"], form.render("judge", mark=mark_for(row["text"]), **values), {})


def read_row(reply: str) -> Row | Rejected:
    """The verdict and ratings, with the reply they came from; `stated` where the judge's own word was another."""
    found = parse_judgement(reply)
    if isinstance(found, Rejected):
        return found
    row = {"verdict": found.verdict, "ratings": found.ratings, "contradicts": found.contradicts, "reply": reply}
    return row if found.stated == found.verdict else {**row, "stated": found.stated}


def combine(row: Row, judgements: dict[str, Row], settings: Settings) -> Row:
    """A problem with all that was said of it. Judgements of before ratings were read have a verdict alone."""
    verdicts = {name: each["verdict"] for name, each in judgements.items()}
    scores = {name: score_of(each, settings.weights) for name, each in judgements.items()}
    contradictions = [name for name, each in judgements.items() if each.get("contradicts")]
    return {**row, "verdicts": verdicts, "scores": scores, "contradictions": contradictions}


def score_of(judgement: Row, weights: dict[str, float]) -> float | None:
    """A judgement's score; None without a verdict."""
    if judgement["verdict"] not in VERDICTS:
        return None
    return Judgement(judgement["verdict"], None, judgement.get("ratings", {})).score(weights)
