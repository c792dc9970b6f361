"""Difficulty by model: how often each named model reaches the answer the teacher's chains agreed on.

Problems that a model always solves teach it nothing, those it never solves may be wrong. `keep` is the band of pass
rates in which a problem stays, by the model that is to be trained.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from promptcot_mamba.chat_format import frame_question
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row, write_jsonl
from promptcot_mamba.log import logger
from promptcot_mamba.records import derive_seed
from promptcot_mamba.run_info import side_path
from promptcot_mamba.synthesis.asking import Task
from promptcot_mamba.synthesis.distill import KEPT, check_band, place_in_band
from promptcot_mamba.synthesis.domains import find_domain
from promptcot_mamba.synthesis.judge import check_judges
from promptcot_mamba.synthesis.stage import Context, ask_model, content_key


@dataclass(frozen=True)
class Settings:
    """models: each tries every problem `samples` times; keep: pass rates in which a problem stays, both ends included.

    by: the model whose rate decides; by default the first. max_tokens: longer tries fail. workers: sandboxes, for code.
    """

    models: list[str]
    samples: int = 8
    keep: list[float] = field(default_factory=lambda: [0.1, 0.8])
    by: str | None = None
    max_tokens: int = 8192
    workers: int | None = None

    def __post_init__(self) -> None:
        check_judges("difficulty", self.models)
        check_band(self.keep)
        if not isinstance(self.samples, int) or self.samples < 1:
            raise InputError(f"samples {self.samples}: expected a whole number, at least 1")
        if self.by is not None and self.by not in self.models:
            raise InputError(f"by {self.by!r}: is none of the models {', '.join(self.models)}")


@dataclass(frozen=True)
class OneModel:
    """What of the settings changes one model's tries."""

    model: str
    samples: int
    max_tokens: int
    attempts: int = 1


def run(settings: Settings, context: Context) -> None:
    """distilled.jsonl -> tries_<model>.jsonl each, and in_band.jsonl: the same rows with `pass_rates` by model.

    The problems not kept, with their rates, are in in_band.rejected.jsonl.
    """
    rows = context.read("distilled")
    problems = {row["key"].rpartition("/")[0]: row for row in reversed(rows)}  # one chain of each
    problems = dict(reversed(problems.items()))
    rates: dict[str, dict[str, float]] = defaultdict(dict)
    for name in settings.models:
        for problem, rate in measure_model(context, OneModel(name, settings.samples, settings.max_tokens), problems,
                                           settings.workers).items():  # fmt: skip
            rates[problem][name] = rate
    inputs = {name: context.path(name) for name in ("distilled", *(f"tries_{each}" for each in settings.models))}
    output = context.output("in_band", settings, **inputs)
    if output.complete:
        return
    by = settings.by or settings.models[0]
    outcomes = {name: place_in_band(rates[name][by], settings.keep) for name in problems}
    counts = Counter(outcomes.values())
    logger.info("difficulty: by %s, problems: %s", by, dict(counts))
    lost = ({"id": name, "reason": outcomes[name], "pass_rates": rates[name]} for name in problems)
    write_jsonl(side_path(output.path, "rejected.jsonl"), (row for row in lost if row["reason"] != KEPT))
    kept = [
        {**row, "pass_rates": rates[name]} for row in rows if outcomes[name := row["key"].rpartition("/")[0]] == KEPT
    ]
    output.finish(kept, problems=len(problems), **{f"problems: {name}": count for name, count in counts.items()})


def measure_model(
    context: Context, settings: OneModel, problems: dict[str, Row], workers: int | None
) -> dict[str, float]:
    """Problem -> the share of one model's tries that reach its answer; a try that is cut or empty fails."""
    tasks = [
        Task(
            content_key(name, sample),
            frame_question(row["question"], find_domain(row["domain"]).instruction),
            {"id": name, "sample": sample},
        )
        for name, row in problems.items()
        for sample in range(settings.samples)
    ]
    output = f"tries_{settings.model}"
    ask_model(
        context,
        output,
        settings,
        tasks,
        lambda _, reply: {"reply": reply},
        {"distilled": context.path("distilled")},
        seed=derive_seed(context.seed, settings.model),
        keep_rejected=lambda reason: {"reason": reason},
        finalise=partial(check_tries, problems=problems, workers=workers),
    )
    passed: dict[str, list[bool]] = defaultdict(list)
    for row in context.read(output):
        passed[row["id"]].append(row["passed"])
    return {name: sum(own) / len(own) for name, own in passed.items()}


def check_tries(tries: Sequence[Row], problems: dict[str, Row], workers: int | None) -> list[Row]:
    """Tries with `passed`: whether they reach what the teacher's chains agreed on."""
    passed: dict[str, bool] = {}
    own: dict[str, list[Row]] = defaultdict(list)
    for row in tries:
        own[row["id"]].append(row)
    for name, rows in own.items():
        whole = [row for row in rows if "reason" not in row]
        verdicts = find_domain(problems[name]["domain"]).check(problems[name], [row["reply"] for row in whole], workers)
        passed |= {row["key"]: verdict for row, verdict in zip(whole, verdicts, strict=True)}
    return [{**row, "passed": passed.get(row["key"], False)} for row in tries]
