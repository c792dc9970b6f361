"""What a recipe will ask of its models, before anything is asked: requests, tokens and money by stage, at most.

Rows that are there are counted and measured; rows that are not are taken to survive every stage, texts not yet written
to be as long as their stage lets them, and every task to be asked as often as it may be, its repair included. Of what a
folder has asked before, the mean tells what to expect.
Tokens are estimated from bytes, no model is loaded and nothing is written.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptcot_mamba.jsonl import Row, iter_jsonl
from promptcot_mamba.report.tables import Table, render_markdown
from promptcot_mamba.run_info import side_path
from promptcot_mamba.sampling.decode import count_by_bytes
from promptcot_mamba.synthesis.calibrate import read_known
from promptcot_mamba.synthesis.concepts import read_seeds
from promptcot_mamba.synthesis.spending import TEACHER, Price, Used, read_usage
from promptcot_mamba.synthesis.stage import Context, read_run_info
from promptcot_mamba.synthesis.templates import load_format

CONCEPT_TOKENS = 10  # of one concept that nobody has named yet, its number and line included


@dataclass(frozen=True)
class Asked:
    """What one stage asks one model: tasks, tokens of one prompt, the longest completion, requests a task at most.

    repair: what a repair's prompt, the last of a task's requests, has beyond its question; 0 where none is asked for.
    """

    output: str
    model: str
    tasks: int
    prompt: float
    completion: int
    most: int = 1
    repair: float = 0.0

    def at_most(self, tasks: int) -> tuple[float, float]:
        """Tokens of prompts and of completions that so many of its tasks may take."""
        return tasks * (self.most * self.prompt + self.repair), float(tasks * self.most * self.completion)


@dataclass
class Folder:
    """Rows by output, those on disk or as many as there will be at most; tokens of a text by what it is."""

    context: Context
    rows: dict[str, int]
    texts: dict[str, float]

    def prompt(self, model: str, name: str, *texts: str) -> float:
        """Tokens of a prompt with these texts in it."""
        form = load_format() if model == TEACHER else self.context.format(model)
        return count_by_bytes(form.prompts[name]) + sum(self.texts.get(text, 0.0) for text in texts)

    def asked(self, output: str, model: str, tasks: int, settings: Any, name: str, *texts: str) -> Asked:
        """What is asked by prompts with these texts: attempts, and a repair where the model is asked for one."""
        form = self.context.format(model)
        repair = count_by_bytes(form.prompts["repair"]) + settings.max_tokens if form.repairs else 0.0
        prompt, most = self.prompt(model, name, *texts), settings.attempts + form.repairs
        return Asked(output, model, tasks, prompt, settings.max_tokens, most, repair)


Plan = Callable[[Any, Folder], list[Asked]]


def plan_concepts(settings: Any, folder: Folder) -> list[Asked]:
    seeds = read_seeds(Path(settings.seeds))
    folder.texts["problem"] = sum(count_by_bytes(row["problem"]) for row in seeds) / len(seeds)
    folder.texts.setdefault("concepts", settings.k * CONCEPT_TOKENS)
    folder.rows.setdefault("concepts", len(seeds))
    return [folder.asked("concepts", settings.model, len(seeds), settings, "concepts", "problem")]


def plan_rationales(settings: Any, folder: Folder) -> list[Asked]:
    tasks = folder.rows.get("concepts", 0) * settings.candidates
    folder.rows.setdefault("rationales", tasks)
    folder.texts.setdefault("rationale", settings.max_tokens)
    return [folder.asked("rationales", settings.model, tasks, settings, "rationale", "problem", "concepts")]


def plan_choice(settings: Any, folder: Folder) -> list[Asked]:
    folder.rows.setdefault("chosen_rationales", folder.rows.get("concepts", 0))
    prompt = folder.prompt(settings.model, "problem", "concepts", "rationale", "problem")
    return [Asked("chosen_rationales", settings.model, folder.rows.get("rationales", 0), prompt, 0)]


def plan_sets(settings: Any, folder: Folder) -> list[Asked]:
    folder.rows.setdefault("concept_sets", settings.count)
    folder.texts.setdefault("concept_sets", settings.size * CONCEPT_TOKENS)
    return []


def plan_problems(settings: Any, folder: Folder) -> list[Asked]:
    tasks = folder.rows.get("concept_sets", 0) * settings.candidates
    folder.rows.setdefault("problems", tasks)
    folder.texts.setdefault("new", settings.max_tokens)
    return [folder.asked("problems", settings.model, tasks, settings, "problem", "concept_sets")]


def plan_judge(settings: Any, folder: Folder) -> list[Asked]:
    tasks = folder.rows.get("problems", 0)
    folder.rows.setdefault("judgements", tasks)
    texts = ("concept_sets", "new")
    return [folder.asked(f"judgements_{name}", name, tasks, settings, "judge", *texts) for name in settings.models]


def plan_calibrate(settings: Any, folder: Folder) -> list[Asked]:
    known = read_known(Path(settings.known))
    folder.texts["known"] = sum(count_by_bytes(row["text"]) for row in known) / len(known)
    return [
        folder.asked(f"calibration_{name}", name, len(known), settings, "judge", "known") for name in settings.models
    ]


def plan_inputs(settings: Any, folder: Folder) -> list[Asked]:
    tasks = folder.rows.get("kept_problems", 0)
    folder.rows.setdefault("code_inputs", tasks)
    return [folder.asked("code_inputs", settings.model, tasks, settings, "inputs", "new")]


def plan_chains(settings: Any, folder: Folder) -> list[Asked]:
    tasks = folder.rows.get("teacher_problems", 0) * settings.number("n")
    prompt, most = folder.texts.get("new", 0.0), settings.number("max_retries")
    return [Asked("chains", TEACHER, tasks, prompt, settings.number("max_len"), most)]


def plan_difficulty(settings: Any, folder: Folder) -> list[Asked]:
    tasks = folder.rows.get("distilled", 0) * settings.samples
    prompt = folder.texts.get("new", 0.0)
    return [Asked(f"tries_{name}", name, tasks, prompt, settings.max_tokens) for name in settings.models]


PLANS: dict[str, Plan] = {
    "concepts": plan_concepts,
    "rationales": plan_rationales,
    "choose_rationales": plan_choice,
    "concept_sampling": plan_sets,
    "problems": plan_problems,
    "calibrate": plan_calibrate,
    "judge": plan_judge,
    "code_inputs": plan_inputs,
    "chains": plan_chains,
    "difficulty": plan_difficulty,
}
# Output -> the output it is as long as, where every row survives.
FOLLOWS = {
    "kept_problems": "judgements", "teacher_problems": "kept_problems", "distilled": "teacher_problems",
    "in_band": "distilled",
}  # fmt: skip
# Output -> what its rows tell the length of.
MEASURED = {
    "concepts": {"concepts": "concepts"},
    "rationales": {"rationale": "rationale"},
    "concept_sets": {"concept_sets": "concepts"},
    "problems": {"new": "text"},
}


def plan_run(stages: Mapping[str, Any], context: Context) -> list[Asked]:
    """What these stages (name -> settings, in order) would ask, all of it, done or not.

    Raises InputError for inputs that are missing and models that there are not.
    """
    return plan_stages(stages, measure(Folder(context, {}, {}), sorted(context.work_dir.glob("*.jsonl"))))


def measure(folder: Folder, paths: Iterable[Path]) -> Folder:
    """Count and measure the rows of these outputs, of those that are finished."""
    for path in paths:
        info = read_run_info(path)
        if info is None or not info.get("complete"):
            continue
        rows = [row for _, row in iter_jsonl(path)]
        folder.rows[path.stem] = (
            len({row["key"].rpartition("/")[0] for row in rows}) if path.stem == "distilled" else len(rows)
        )
        for text, key in MEASURED.get(path.stem, {}).items():
            folder.texts[text] = _mean_tokens(rows, key)
    return folder


def plan_stages(stages: Mapping[str, Any], folder: Folder) -> list[Asked]:
    """As `plan_run`, from what a folder holds; each stage adds what it will leave."""
    asked = []
    for name, settings in stages.items():
        for output, source in FOLLOWS.items():
            if source in folder.rows:
                folder.rows.setdefault(output, folder.rows[source])
        if name in PLANS:
            asked += PLANS[name](settings, folder)
    return asked


def _mean_tokens(rows: Sequence[Row], key: str) -> float:
    texts = ["\n".join(row[key]) if isinstance(row[key], list) else row[key] for row in rows]
    return sum(map(count_by_bytes, texts)) / max(1, len(texts))


def count_done(context: Context, each: Asked) -> int:
    """Tasks that are settled already."""
    path = context.path(each.output)
    if (read_run_info(path) or {}).get("complete") and each.model != TEACHER:  # a raised n goes on with whole chains
        return each.tasks
    return sum(1 for file in (path, side_path(path, "rejected.jsonl")) if file.exists() for _ in iter_jsonl(file))


def describe_plan(asked: Sequence[Asked], context: Context, budget: int | None) -> str:
    """The plan as a table, with its totals and what to expect of what was asked before, ready to print."""
    usage = read_usage(context.work_dir)
    header = ["for", "model", "requests", "at most", "prompt tokens, at most"]
    header += ["completion tokens, at most", "money, at most", "expected"]
    lines, totals, unpriced = [], [0, 0, 0.0, 0.0, 0.0], set()
    for each in asked:
        left = max(0, each.tasks - count_done(context, each))
        prompt, completion = each.at_most(left)
        price = context.prices.get(each.model)
        money = None if price is None else (prompt * price.prompt + completion * price.completion) / 1e6
        unpriced |= {each.model} if price is None and left else set()
        before = usage.get(each.output, {}).get(each.model)
        lines.append(
            [
                *(each.output, each.model, f"{left:,}", f"{left * each.most:,}", f"{prompt:,.0f}"),
                *(f"{completion:,.0f}", _money(money), _expect(before, left, price)),
            ]
        )
        for i, value in enumerate((left, left * each.most, prompt, completion, money or 0.0)):
            totals[i] += value
    money = None if unpriced and not totals[4] else totals[4]  # a sum of nothing would read as free
    lines.append(["all", "", *(f"{total:,.0f}" for total in totals[:4]), _money(money), ""])
    words = [render_markdown(Table(header, lines, frozenset({0, 1})))]
    spent = context.spending.spent
    words.append(f"spent so far: {spent:,} tokens; these at most {totals[2] + totals[3]:,.0f}")
    if budget is not None:
        room = budget - spent - totals[2] - totals[3]
        words.append(
            f"--budget_tokens {budget:,}: " + (f"{room:,.0f} to spare" if room >= 0 else f"may be {-room:,.0f} short")
        )
    if unpriced:
        words.append(
            f"no price for: {', '.join(sorted(unpriced))} (prices: a mapping of models to prompt and completion)"
        )
    return "\n".join(words)


def _expect(before: Used | None, left: int, price: Price | None) -> str:
    """Tokens of what is left as what went before took them, by settled task."""
    settled = before.requests - before.again if before is not None else 0
    if before is None or not settled or not left:
        return "–"
    tokens, money = left * before.tokens / settled, before.money(price)
    return f"{tokens:,.0f} tokens" + ("" if money is None else f", {_money(left * money / settled)}")


def _money(value: float | None) -> str:
    return "–" if value is None else f"{value:,.2f}"
