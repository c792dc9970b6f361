"""Grade a prediction file of final-answer maths by both graders in one pass."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from promptcot_mamba.benchmarks.benchmark import Benchmark
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.math import paper as math_paper
from promptcot_mamba.grading.math import strict as math_strict
from promptcot_mamba.grading.math.answers import Extraction, extract_answer, extract_boxed
from promptcot_mamba.grading.math.gold import Gold
from promptcot_mamba.grading.predictions import Prediction
from promptcot_mamba.log import logger
from promptcot_mamba.records import Grade

GRADERS = ("strict", "paper")
VERSIONS = {"strict": math_strict.VERSION, "paper": math_paper.VERSION}
EXCERPT = 300  # characters of a completion's end that the audit shows
MAX_AUDITED = 500


def grade_math(
    predictions: Sequence[Prediction], benchmarks: Sequence[Benchmark], path: str | Path, grader: str = "strict"
) -> list[Grade]:
    """One grade a prediction, in order; `benchmarks` holds each prediction's own.

    Both verdicts stand in `Grade.extra`; `grader` chooses which is `correct`. Raises InputError, naming the line, for
    a row without gold answer; golds that can only be compared as text are counted and listed in a warning.
    """
    golds: dict[str, Gold] = {}
    unread: Counter[str] = Counter()
    grades = []
    for prediction, benchmark in zip(predictions, benchmarks, strict=True):
        if prediction.problem_id not in golds:
            gold = _read_gold(prediction, benchmark, path)
            golds[prediction.problem_id] = gold
            if not is_readable(gold):
                unread[gold.answer] += 1
        grades.append(grade_sample(prediction, benchmark, golds[prediction.problem_id], grader))
    if unread:
        texts = ", ".join(repr(text) for text in unread)
        logger.warning("%s: %d golds cannot be read as mathematics, compared as text: %s", path, len(unread), texts)
    cast_votes(grades, golds)
    return grades


def cast_votes(grades: Sequence[Grade], golds: Mapping[str, Gold]) -> None:
    """Write into each grade the class of equal answers that it votes for, in `extra["vote"]`.

    Answers to one problem vote together where strict calls them equal, right and wrong ones alike. A class is named by
    its first answer, and an answer joins the first class it equals. What the paper grader calls right may be several.
    """
    classes: dict[str, list[str]] = {}
    for grade in grades:
        found = classes.setdefault(grade.problem_id, [])
        grade.extra["vote"] = cast_vote(grade, found, golds[grade.problem_id])


def cast_vote(grade: Grade, found: list[str], gold: Gold) -> str | None:
    """The class that one grade votes for, None without an answer; `found`, the classes so far, grows by a new one."""
    if not grade.extracted:
        return None
    if grade.correct and grade.grader == "strict":
        return "right"
    name = next((name for name in found if same_answers(name, grade.extracted, gold)), None)
    if name is None:
        name = grade.extracted
        found.append(name)
    return f"={name}"


def same_answers(first: str, second: str, gold: Gold) -> bool:
    """Whether two answers are the same under a gold's rules, whichever of them were the gold."""
    if "".join(first.split()) == "".join(second.split()):
        return True
    return any(
        math_strict.grade(replace(gold, answer=one), other).equal for one, other in ((first, second), (second, first))
    )


@lru_cache(maxsize=4096)
def is_readable(gold: Gold) -> bool:
    """`math_strict.is_readable`, asked once a gold."""
    return math_strict.is_readable(gold)


def _read_gold(prediction: Prediction, benchmark: Benchmark, path: str | Path) -> Gold:
    assert benchmark.read_gold is not None  # maths has one
    try:
        return benchmark.read_gold(prediction.row)
    except InputError as error:
        raise InputError(f"{path}:{prediction.line}: {error}") from None


def grade_sample(prediction: Prediction, benchmark: Benchmark, gold: Gold, grader: str = "strict") -> Grade:
    """Both verdicts on one sample. Without an answer, one that the server refused is `refused`; strictly, a
    cut thought is `truncated` and a missing box `no_answer`."""
    readable = is_readable(gold)
    started = time.perf_counter()
    whole = prediction.row.get("thinking") == "none"  # no thought: all of it is the answer
    found = extract_boxed(prediction.completion) if whole else extract_answer(prediction.completion)
    strict, strict_reason = _strict_verdict(found, gold, prediction)
    paper, paper_answer = math_paper.grade_completion(gold, prediction.completion, minerva=benchmark.minerva)
    silent = "refused" if prediction.refused else "no_answer"
    verdicts = {
        "strict": (strict.equal, found.answer, strict_reason),
        "paper": (paper.equal, paper_answer, "right" if paper.equal else "wrong" if paper_answer else silent),
    }
    correct, extracted, reason = verdicts[grader]
    extra = {
        "source": prediction.source or benchmark.sources[0],
        "gold": gold.answer,
        "strict": strict.equal,
        "paper": paper.equal,
        "ending": "answered" if found.answer is not None else strict_reason,
        "decided_by": strict.reason if grader == "strict" else paper.reason,
        "paper_extracted": paper_answer,
        "gold_readable": readable,
        "completion_tokens": prediction.row.get("completion_tokens"),
        "completion_chars": len(prediction.completion),
        "completion_hash": prediction.completion_hash,
        "format_valid": prediction.row.get("format_valid"),
        "thinking": prediction.row.get("thinking"),
        "grader_version": VERSIONS[grader],
    }
    seconds = round(time.perf_counter() - started, 6)
    return Grade(
        prediction.problem_id, prediction.run, benchmark.name, grader, correct, extracted, reason, seconds, extra
    )


def _strict_verdict(found: Extraction, gold: Gold, prediction: Prediction) -> tuple[math_strict.Verdict, str]:
    if found.answer is None:
        reason = "truncated" if prediction.cut_short else found.reason or "no_answer"
        reason = "refused" if prediction.refused else reason
        return math_strict.Verdict(False, reason), reason
    verdict = math_strict.grade(gold, found.answer, found.listed)
    return verdict, "right" if verdict.equal else "wrong"


def write_audit(path: Path, predictions: Sequence[Prediction], grades: Sequence[Grade]) -> int:
    """Write where the two graders disagree, for a person to read; returns how many samples that is."""
    differing = [
        pair for pair in zip(predictions, grades, strict=True) if pair[1].extra["strict"] != pair[1].extra["paper"]
    ]
    lines = [f"# Where strict and paper grader disagree: {len(differing)} of {len(grades)} samples", ""]
    for prediction, grade in differing[:MAX_AUDITED]:
        strict = grade.extra["strict"]
        lines += [
            f"## {grade.problem_id} · run {grade.run} · only {'strict' if strict else 'paper'} says right",
            "",
            f"- gold: `{grade.extra['gold']}`",
            f"- last box after the thought: `{extract_answer(prediction.completion).answer}`",
            f"- the published rules read: `{grade.extra['paper_extracted']}`",
            f"- line {prediction.line}, {grade.extra['completion_chars']:,} characters, ends in:",
            "",
            *(f"    {line}" for line in prediction.completion[-EXCERPT:].splitlines()),
            "",
        ]
    if len(differing) > MAX_AUDITED:
        lines.append(
            f"{len(differing) - MAX_AUDITED} more are in the grades file: rows whose `strict` and `paper` differ."
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")
    return len(differing)
