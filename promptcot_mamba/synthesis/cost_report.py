"""The report's page on cost: what every stage asked of every model, for each problem that was kept."""

import re
from collections.abc import Mapping

from promptcot_mamba.jsonl import Row
from promptcot_mamba.report.document import Paragraph, Section
from promptcot_mamba.report.tables import Table
from promptcot_mamba.synthesis import STAGES
from promptcot_mamba.synthesis.spending import USED, Price, Used

MOST_REASONS = 3


def count_kept(rows: Mapping[str, list[Row]]) -> tuple[int, str]:
    """Problems that came through, and the output that says so: the last there is."""
    for name, what in (("in_band", "in the band"), ("distilled", "with agreed chains"), ("kept_problems", "approved")):
        if rows.get(name):
            keys = {row["key"].rpartition("/")[0] or row["key"] for row in rows[name]}
            return len(keys), what
    return 0, ""


def describe_cost(
    usage: Mapping[str, Mapping[str, Used]], kept: int, what: str, prices: Mapping[str, Price]
) -> Section | None:
    """Requests, those asked again among them, tokens and money by stage and model; the same by kept problem."""
    asked = [(output, model, usage[output][model]) for output in sorted(usage, key=_place) for model in usage[output]]
    if not asked:
        return None
    total = Used()
    lines = [[output, model, *_figures(used, used.money(prices.get(model)), kept)] for output, model, used in asked]
    monies = [money for _, model, used in asked if (money := used.money(prices.get(model))) is not None]
    for _, _, used in asked:
        total += used
    lines.append(["all", "", *_figures(total, sum(monies) if monies else None, kept)])
    header = ["for", "model", "requests", "again", "repairs", "prompt tokens", "completion tokens", "money"]
    header += ["requests a kept problem", "tokens a kept problem", "money a kept problem"]
    reasons = [
        [output, model, "; ".join(f"{reason} {count:,}" for reason, count in _lost(used))]
        for output, model, used in asked
        if _lost(used)
    ]
    tables = [Table(header, lines, frozenset({0, 1}))]
    if reasons:
        tables.append(Table(["for", "model", "answered and not used"], reasons, frozenset({0, 1, 2})))
    counted = f"{kept:,} problems kept ({what})" if kept else "No problem is kept yet"
    missing = sorted({model for _, model, _ in asked} - set(prices))
    words = f"{counted}. Every answered request counts, used or not; what a killed run was waiting for does not."
    if missing:
        words += f" Without a price, so not in the money: {', '.join(missing)}."
    return Section("Cost", [Paragraph(words), *tables])


def _place(output: str) -> tuple[str, int]:
    """Rounds after one another, in each the outputs as their stages come: `judgements_a` with `judgements`."""
    folder, _, name = output.rpartition("/")
    writes = ["tries" if stage.writes == "in_band" else stage.writes for stage in STAGES.values()]
    return folder, next((i for i, own in enumerate(writes) if own and re.match(rf"{own}(_|$)", name)), len(writes))


def _figures(used: Used, money: float | None, kept: int) -> list[str]:
    def each(value: float | None, form: str) -> str:
        return "–" if value is None or not kept else format(value / kept, form)

    return [
        *(f"{used.requests:,}", f"{used.again:,}", f"{used.repairs:,}"),
        *(f"{used.prompt_tokens:,}", f"{used.completion_tokens:,}", "–" if money is None else f"{money:,.4f}"),
        *(each(used.requests, ",.1f"), each(used.tokens, ",.0f"), each(money, ",.6f")),
    ]


def _lost(used: Used) -> list[tuple[str, int]]:
    return [(reason, count) for reason, count in used.outcomes.most_common() if reason != USED][:MOST_REASONS]
