"""The sample browser: a page's worth of graded chains, filtered, searched, folded and compared in the reader's browser.

All text is a model's and hostile: it reaches the page as JSON that the script puts in as text, or as MathML rebuilt
from known tags. A content security policy allows this page's own script and nothing else.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from promptcot_mamba.chat_format import extract_question, split
from promptcot_mamba.errors import InputError
from promptcot_mamba.grading.predictions import Prediction, read_predictions
from promptcot_mamba.jsonl import Row
from promptcot_mamba.report.evaluations import Evaluation
from promptcot_mamba.report.mathml import render_text

SCRIPT = (Path(__file__).parent / "samples.js").read_text(encoding="utf-8")
MAX_SAMPLES = 1000
PAGE_BYTES = 4_300_000  # of samples; the rest of the page has its room below five megabytes
THOUGHT_CHARS = 2400  # head and tail of a longer thought
ANSWER_CHARS = 1200
QUESTION_CHARS = 3000


@dataclass(frozen=True)
class Browser:
    """The markup of the browser and the hash its script is allowed by."""

    markup: str
    script_hash: str


def shorten(text: str, most: int) -> str:
    """Head and tail of a text that is too long, with what is left out counted."""
    if len(text) <= most:
        return text
    head = most * 2 // 3
    tail = most - head
    return f"{text[:head]}\n[… {len(text) - most:,} characters left out …]\n{text[-tail:]}"


def collect_samples(evaluations: Sequence[Evaluation], most: int) -> dict[str, Any]:
    """Problems and samples of all evaluations, at most `most`, the first runs of every problem first.

    Raises InputError, naming file and line, for a sample that is not the text its grade was given for.
    """
    problems: dict[tuple[str, str], int] = {}
    questions: list[dict[str, str]] = []
    samples: list[dict[str, Any]] = []
    for model, evaluation in enumerate(evaluations):
        for benchmark, grades in evaluation.grades.items():
            wanted = {(row["problem_id"], row["run"]): row for row in grades}
            path = evaluation.predictions[benchmark]
            for one in read_predictions(path) if path.exists() else ():
                grade = wanted.get((one.problem_id, one.run))
                if grade is None:
                    continue
                if not one.is_graded_by(grade):
                    where = f"{path}:{one.line}: problem {one.problem_id!r}, run {one.run}"
                    raise InputError(f"{where}: changed since it was graded; grade the file again (scripts.calc_acc)")
                key = (benchmark, grade["problem_id"])
                if key not in problems:
                    problems[key] = len(questions)
                    asked = one.row.get("question")
                    text = asked if asked and isinstance(asked, str) else extract_question(one.row.get("prompt") or "")
                    questions.append({"id": grade["problem_id"], "html": shorten(text, QUESTION_CHARS)})
                samples.append(describe_sample(one, grade, model, problems[key]))
    samples.sort(key=lambda sample: (sample["run"], sample["problem"], sample["model"]))
    data = {
        "models": [evaluation.model for evaluation in evaluations],
        "problems": questions,
        "samples": samples[:most],
        "left_out": max(0, len(samples) - most),
    }
    render_within(data, PAGE_BYTES)
    return data


def render_within(data: dict[str, Any], most_bytes: int) -> None:
    """Turn questions and answers from text into markup; what takes most room stays text until the page is small enough.

    MathML is ten times its LaTeX. If text alone is too much, thoughts lose their middles.
    """
    texts = [(problem, "html", problem["html"]) for problem in data["problems"]]
    texts += [(sample, "answer", sample["answer"]) for sample in data["samples"]]
    for holder, key, text in texts:
        holder[key] = render_text(text)
    excess = len(embed_json(data)) - most_bytes
    for holder, key, text in sorted(texts, key=lambda one: -len(one[0][one[1]])):
        if excess <= 0:
            return
        plain = escape(text)
        excess -= len(embed_json(holder[key])) - len(embed_json(plain))
        holder[key] = plain
    if excess > 0:
        kept = max(0.0, 1 - excess / sum(len(embed_json(sample["thought"])) for sample in data["samples"]))
        for sample in data["samples"]:
            sample["thought"] = shorten(sample["thought"], int(kept * len(sample["thought"])))


def describe_sample(one: Prediction, grade: Row, model: int, problem: int) -> dict[str, Any]:
    """One sample as the script reads it, but for its answer, still text; `verdict` is what the filter offers."""
    parts, tokens = split(one.completion), one.row.get("completion_tokens")
    if grade["correct"]:
        verdict = "right"
    else:
        ending = grade.get("ending") or grade["reason"]
        verdict = {"truncated": "truncated", "no_answer": "no answer"}.get(ending, "wrong")
    return {
        "model": model,
        "benchmark": grade["benchmark"],
        "problem": problem,
        "run": grade["run"],
        "verdict": verdict,
        "reason": grade["reason"],
        "extracted": shorten(str(grade.get("extracted") or ""), 300),
        "gold": shorten(str(grade.get("gold") or ""), 300),
        "graders": _both_verdicts(grade),
        "tokens": tokens if isinstance(tokens, int) else None,
        "thought": shorten(parts.thought, THOUGHT_CHARS),
        "answer": shorten(parts.answer.strip(), ANSWER_CHARS),
    }


def _both_verdicts(grade: Row) -> str:
    """What the two maths graders said, and the rule that decided; empty for code."""
    if "strict" not in grade or "paper" not in grade:
        return ""
    words = {True: "right", False: "wrong"}
    decided = f"; decided by {grade['decided_by']}" if grade.get("decided_by") else ""
    return f"strict: {words[bool(grade['strict'])]}, paper: {words[bool(grade['paper'])]}{decided}"


def embed_json(value: Any) -> str:
    """JSON that cannot end the element it stands in, and that a browser reads: no NaN."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def render_browser(evaluations: Sequence[Evaluation], most: int = MAX_SAMPLES) -> Browser:
    """The browser's markup; empty where there is nothing to show."""
    data = collect_samples(evaluations, most)
    if not data["samples"]:
        return Browser("", "")
    markup = (
        '<div id="browser"></div>\n'
        f'<script type="application/json" id="samples">{embed_json(data)}</script>\n'
        f"<script>{SCRIPT}</script>"
    )
    return Browser(markup, base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode())
