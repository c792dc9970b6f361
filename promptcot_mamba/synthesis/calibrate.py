"""Calibration: every judge rates problems whose quality is known, and its weight is how well it tells them apart.

Known problems are seeds (good) and seeds that somebody broke (bad): a condition dropped, a number that contradicts
another, the answer written into it. A judge that calls everything perfect has the weight 0, as has one that guesses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row, iter_jsonl
from promptcot_mamba.log import logger
from promptcot_mamba.synthesis.concepts import DEFAULT_LEVEL
from promptcot_mamba.synthesis.judge import OneJudge, ask_judge, check_judges
from promptcot_mamba.synthesis.judgement import UNPARSEABLE
from promptcot_mamba.synthesis.ratings import PERFECT
from promptcot_mamba.synthesis.stage import Context, content_key
from promptcot_mamba.synthesis.templates import mark_up

GOOD, BAD = "good", "bad"
NO_RATIONALE = "(The author handed in none; judge the problem by itself.)"


@dataclass(frozen=True)
class Settings:
    """known: JSONL of `problem`, `quality` (good or bad) and, if known, `concepts`, `level`, `rationale`.

    models: names of the judges.
    """

    known: str
    models: list[str]
    max_tokens: int = 2048
    attempts: int = 2


def run(settings: Settings, context: Context) -> None:
    """known problems -> calibration_<judge>.jsonl each, and calibration.jsonl: a row a judge with its `weight`."""
    check_judges("calibrate", settings.models)
    path = Path(settings.known)
    rows = read_known(path)
    for name in settings.models:
        judge = OneJudge(name, settings.max_tokens, settings.attempts)
        ask_judge(context, f"calibration_{name}", judge, rows, {"known": path})
    qualities = {row["key"]: row["quality"] for row in rows}
    paths = {f"calibration_{name}": context.path(f"calibration_{name}") for name in settings.models}
    output = context.output("calibration", settings, known=path, **paths)
    if output.complete:
        return
    measured = [measure(name, context.read(f"calibration_{name}"), qualities) for name in settings.models]
    for each in measured:
        logger.info("calibrate: %s", ", ".join(f"{key} {value}" for key, value in each.items()))
    output.finish(measured, known=len(rows))


def read_known(path: Path) -> list[Row]:
    """Problems of known quality, as judges are shown problems; raises InputError for a bad line or a missing kind."""
    rows: dict[str, Row] = {}
    for number, row in iter_jsonl(path):
        problem, quality = row.get("problem"), row.get("quality")
        if not isinstance(problem, str) or not problem.strip() or quality not in (GOOD, BAD):
            raise InputError(f"{path}:{number}: expected a 'problem' and a 'quality' of {GOOD} or {BAD}")
        concepts = row.get("concepts") or ["(not given)"]
        if not isinstance(concepts, list) or not all(isinstance(each, str) for each in concepts):
            raise InputError(f"{path}:{number}: concepts: expected a list of texts")
        key = content_key(problem)
        if key in rows:
            raise InputError(f"{path}:{number}: the same problem stood in the file before; deduplicate it")
        text = mark_up(row.get("rationale") or NO_RATIONALE, problem)
        level = row.get("level") or DEFAULT_LEVEL
        rows[key] = {"key": key, "concepts": concepts, "level": level, "text": text, "quality": quality}
    for kind in (GOOD, BAD):
        if not any(row["quality"] == kind for row in rows.values()):
            raise InputError(f"{path}: no {kind} problem; a judge is measured by both kinds")
    return list(rows.values())


def measure(judge: str, judgements: Sequence[Row], qualities: dict[str, str]) -> Row:
    """What one judge called perfect of the good and of the bad; weight: the difference of the two rates, at least 0.

    Rates are smoothed, (called perfect + 1) / (problems + 2), so that three lucky guesses weigh little.
    """
    rates: dict[str, float] = {}
    row: Row = {"judge": judge}
    for kind in (GOOD, BAD):
        verdicts = [each["verdict"] for each in judgements if qualities[each["key"]] == kind]
        perfect = verdicts.count(PERFECT)
        rates[kind] = (perfect + 1) / (len(verdicts) + 2)
        row |= {kind: len(verdicts), f"{kind}_called_perfect": perfect}
    return {
        **row,
        "unparseable": sum(each["verdict"] == UNPARSEABLE for each in judgements),
        "contradictions": sum(bool(each.get("contradicts")) for each in judgements),
        "weight": max(0.0, rates[GOOD] - rates[BAD]),
    }
