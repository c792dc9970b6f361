r"""Rationales: how an author would have come from the concepts to a seed problem; the most plausible one is kept.

`rationales` asks for several candidates. `choose_rationales` keeps, for each problem, the candidate z that maximises

    log p(problem | z, concepts) + log p(z | concepts)

under a problem-generation model: by the chain rule the log-probability of rationale and problem in that model's own
form; with `keep`, only of the likeliest. `rationale_data` makes training rows of what was chosen, for the model that
writes rationales. Rounds of all this are `rounds.py`.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from tqdm import tqdm

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import DurableAppender, Row, iter_jsonl
from promptcot_mamba.sampling.decode import count_by_bytes
from promptcot_mamba.synthesis.asking import Model, Task
from promptcot_mamba.synthesis.replies import Rejected, read_rationale
from promptcot_mamba.synthesis.spending import USED
from promptcot_mamba.synthesis.stage import LATER, Context, ask_model, content_key
from promptcot_mamba.synthesis.templates import OURS, Format, load_format, number_lines


@dataclass(frozen=True)
class Settings:
    """model: writes the candidates; candidates: how many a problem; min_words: shorter replies are refused."""

    model: str
    candidates: int = 4
    max_tokens: int = 2048
    attempts: int = 2
    min_words: int = 10


@dataclass(frozen=True)
class ChoiceSettings:
    """model: the problem-generation model whose likelihood chooses; keep: the share of problems whose chosen
    rationales are kept, those of greatest log-likelihood, at least one."""

    model: str
    keep: float = field(default=1.0, metadata=LATER)

    def __post_init__(self) -> None:
        number = isinstance(self.keep, int | float) and not isinstance(self.keep, bool)
        if not number or not 0 < self.keep <= 1:
            raise InputError(f"keep: expected a share of the problems above 0 and up to 1, found {self.keep}")


@dataclass(frozen=True)
class DataSettings:
    """format: of the prompt, as the rationale model's; every chosen rationale becomes one training row."""

    format: str = field(default=OURS, metadata=LATER)


def run(settings: Settings, context: Context) -> None:
    """concepts.jsonl -> rationales.jsonl: `candidates` rows a problem, each with `rationale` and `candidate`."""
    rows = context.read("concepts")
    form = context.format(settings.model)
    tasks = [make_task(row, candidate, form) for row in rows for candidate in range(settings.candidates)]
    inputs = {"concepts": context.path("concepts")}
    ask_model(
        context, "rationales", settings, tasks, lambda _, reply: parse_rationale(reply, settings.min_words), inputs
    )


def make_task(row: Row, candidate: int, form: Format) -> Task:
    """One candidate's question; its key has the candidate number in it, so each has a seed of its own."""
    concepts, level, problem = row["concepts"], row["level"], row["problem"]
    prompt = form.render("rationale", problem=problem, concepts=number_lines(concepts), level=level)
    kept = {name: value for name, value in row.items() if name not in ("key", "attempt")}
    return Task(
        content_key(problem, concepts, level, candidate),
        prompt,
        {**kept, "problem_key": content_key(problem, concepts, level), "candidate": candidate},
    )


def parse_rationale(reply: str, min_words: int) -> Row | Rejected:
    """The rationale of a reply, as `read_rationale` finds it; refused if short."""
    text = read_rationale(reply)
    if isinstance(text, Rejected):
        return text
    if len(text.split()) < min_words:
        return Rejected(f"fewer than {min_words} words")
    return {"rationale": text}


def run_choice(settings: ChoiceSettings, context: Context) -> None:
    """rationales.jsonl -> chosen_rationales.jsonl, through likelihoods.jsonl where scores are kept as they come."""
    rows = context.read("rationales")
    model, form = context.model(settings.model), context.format(settings.model)
    output = context.output("chosen_rationales", settings, model, rationales=context.path("rationales"))
    if output.complete:
        return
    output.begin()
    spending = context.spending
    with DurableAppender(output.path) as file, spending.open(context.work_dir, "chosen_rationales") as usage:
        scored = {row["key"] for _, row in iter_jsonl(output.path)}
        todo = [row for row in rows if row["key"] not in scored]
        uses = [count_scored(row, settings.model, model, form) for row in todo]

        def pairs() -> Iterator[tuple[str, str]]:
            for row, use in zip(todo, uses, strict=True):
                if not spending.fits(use["prompt_tokens"]):
                    return  # what is under way is waited for first
                spending.take(use["prompt_tokens"])
                yield form.render_problem(row["concepts"], row["level"]), form.write(row["rationale"], row["problem"])

        done = 0
        scores = tqdm(model.score(pairs()), total=len(todo), desc="likelihoods", unit="pair")
        for row, use, score in zip(todo, uses, scores, strict=False):
            file.append({**row, "log_likelihood": score})
            spending.settle(usage, use["prompt_tokens"], use if score is not None else unasked(use))
            done += 1
        if done < len(todo):
            spending.fits(uses[done]["prompt_tokens"])
    place = {row["key"]: i for i, row in enumerate(rows)}
    scored_rows = sorted((row for _, row in iter_jsonl(output.path)), key=lambda row: place[row["key"]])
    chosen = keep_likely(choose_best(scored_rows), settings.keep)
    known = [row["log_likelihood"] for row in scored_rows if row["log_likelihood"] is not None]
    means = {"log_likelihood": [row["log_likelihood"] for row in chosen], "log_likelihood_of_candidates": known}
    output.finish(chosen, candidates=len(rows), **{name: fmean(values) for name, values in means.items() if values})


def run_data(settings: DataSettings, context: Context) -> None:
    """chosen_rationales.jsonl -> rationale_sft.jsonl: (problem, concepts, level) -> rationale, for `train.py`."""
    rows, form = context.read("chosen_rationales"), load_format(settings.format)
    inputs = {"chosen_rationales": context.path("chosen_rationales")}
    context.output("rationale_sft", settings, **inputs).finish(
        [
            {"prompt": make_task(row, 0, form).prompt, "completion": row["rationale"], "source": "rationale"}
            for row in rows
        ]
    )


def count_scored(row: Row, name: str, model: Model, form: Format) -> Row:
    """Usage of one likelihood, as `Model.score` asks for it: all its tokens are the prompt's, one that ends the text
    among them; nothing is drawn. A pair longer than the context is never asked."""
    prompt = model.render(form.render_problem(row["concepts"], row["level"]))
    continuation = form.write(row["rationale"], row["problem"])
    start, rest, special = model.encode(prompt), model.encode(continuation), model.encode("")
    if start is None or rest is None or special is None:
        tokens = count_by_bytes(prompt + continuation) + 1
    else:
        tokens = len(start) + len(rest) - len(special) + 1  # what begins a text begins it once
    said = {"model": name, "prompt_tokens": tokens, "completion_tokens": 0, "outcome": USED}
    use = {"key": row["key"], "attempt": 0, **said}
    is_long = start is not None and model.context is not None and tokens >= model.context
    return unasked(use) if is_long else use


def unasked(use: Row) -> Row:
    """Usage of a likelihood that there is no room for."""
    return {**use, "prompt_tokens": 0, "outcome": "over the context"}


def choose_best(rows: Sequence[Row]) -> list[Row]:
    """For each problem the candidate of highest log-likelihood, the first of equals; `chosen_from` counts them.

    A candidate too long for the model has no likelihood, and a problem with no other has no choice.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["log_likelihood"] is not None:
            groups[row["problem_key"]].append(row)
    return [
        {**max(group, key=lambda row: row["log_likelihood"]), "chosen_from": len(group)} for group in groups.values()
    ]


def keep_likely(rows: Sequence[Row], share: float) -> list[Row]:
    """This share of the rows, rounded down but at least one: those of greatest log-likelihood, in their order."""
    most = max(1, int(share * len(rows)))
    kept = sorted(range(len(rows)), key=lambda place: (-rows[place]["log_likelihood"], place))[:most]
    return [rows[place] for place in sorted(kept)]
