"""Corpora in the publishers' raw shapes with known numbers of every fault, for tests and for the stopwatch.

Clean rows are random words, so that nothing is alike by chance; every planted fault is counted as it is written.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from promptcot_mamba.data.decontaminate import BenchmarkText
from promptcot_mamba.data.dedup import jaccard, make_shingles

BASE = [a + b + c for a in "bdfglmnprst" for b in ("a", "e", "i", "o", "u", "ai", "ou") for c in "bdgklmnprstz"]
LONG_TOKENS = 2000  # words of an over-long completion
TEACHER_HEAD = (
    "<\uff5cbegin\u2581of\u2581sentence\uff5c>Please reason step by step, and put your final answer within \\boxed{{}}."
)
SOURCES = ("opencodereasoning_0", "opencodereasoning_1", "openthoughts2", "promptcot_ds", "synthesis", "generic")


def make_problems(rng: random.Random, count: int = 60) -> list[BenchmarkText]:
    """Benchmark problems with LaTeX, some shorter than 13 words and some shorter than 8."""
    problems = []
    for number in range(count):
        size = (40, 40, 10, 5)[number % 4]
        words = rng.choices(BASE, k=size)
        if size == 40:
            text = f"{' '.join(words[:12])} $\\frac{{{number}}}{{7}} + x_{{1}}$ {' '.join(words[12:])}."
        else:
            text = f"{' '.join(words)}?"
        problems.append(BenchmarkText("bench", str(number), text.capitalize()))
    return problems


def disguise(text: str, rng: random.Random) -> str:
    """The same question in other case, spacing, punctuation and LaTeX spacing."""
    text = text.replace("\\frac", rng.choice(["\\dfrac", "\\tfrac", "\\frac"]))
    text = text.replace(" + ", rng.choice(["+", "\\, + \\;", " \\left. + \\right. "]))
    if "$" in text:
        text = text.replace("$", rng.choice(["$", "$$"]))
    words = [rng.choice([str.upper, str.lower, str.title])(word) if word.isalpha() else word for word in text.split()]
    return "".join(word + rng.choice([" ", "  ", ",  ", " \n", " -- "]) for word in words).strip(" ,-\n")


def nearly(words: list[str], rng: random.Random, low: float, high: float) -> list[str]:
    """The words with some replaced, such that the Jaccard index of the shingles lies in [low, high]."""
    for _ in range(1000):
        other = list(words)
        for position in rng.sample(range(len(words)), rng.randint(1, max(1, int(len(words) * (1 - low))))):
            other[position] = rng.choice(BASE)
        if low <= jaccard(make_shingles(" ".join(words)), make_shingles(" ".join(other))) <= high:
            return other
    raise AssertionError(f"no edit gives a Jaccard index in [{low}, {high}]")


@dataclass
class Corpus:
    """Where the raw files are and what is wrong with them: `expected[source][reason]`, `clean[source]`."""

    folder: Path
    problems: list[BenchmarkText]
    expected: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))
    clean: Counter = field(default_factory=Counter)
    rows: Counter = field(default_factory=Counter)
    close_prompts: Counter = field(default_factory=Counter)  # prompts of Jaccard 0.9 and more to an earlier one


def _trace(rng: random.Random, domain: str, words: int) -> str:
    thought = " ".join(rng.choices(BASE, k=words))
    if domain == "code":
        answer = f"Read, then print.\n```python\nprint({rng.randrange(1 << 60)})\n```"
    else:
        answer = f"So it is $\\boxed{{{rng.randrange(1 << 60)}}}$."
    return f"<think>\n{thought}\n</think>\n\n{answer}"


def _before_end(extra: Callable[[random.Random], str]) -> Callable[[str, random.Random], str]:
    """Something more at the end of the thought."""
    return lambda text, rng: text.replace("\n</think>", f" {extra(rng)}\n</think>")


def _after_thought(answer: str) -> Callable[[str, random.Random], str]:
    return lambda text, rng: text.partition("</think>")[0] + "</think>\n" + answer


def _broken_pair(text: str, rng: random.Random) -> str:
    return rng.choice([
        text.replace("<think>\n", ""),
        text.replace("</think>", ""),
        text.replace("</think>", "</think>\n</think>"),
        text.replace("<think>\n", "<think>\n<think>\n"),
        "</think>" + text.replace("</think>", ""),
    ])  # fmt: skip


FOREIGN = "\u6211\u4eec\u6765\u770b\u8fd9\u9053\u9898" * 20
FAULTS: dict[str, Callable[[str, random.Random], str]] = {
    "think_pair": _broken_pair,
    "empty_thought": lambda text, rng: "<think>\n \n</think>" + text.partition("</think>")[2],
    "empty_answer": _after_thought(" \n"),
    "no_boxed_answer": _after_thought("So it is that."),
    "no_program": _after_thought("So it is that."),
    "unfinished": lambda text, rng: text[: text.rindex("```" if "```" in text else "}")],
    "encoding": _before_end(lambda rng: rng.choice(["\ufffd", "\x00", "\u00c3\u00a9 \u00c3\u00a8 \u00c3\u00aa"])),
    "language": lambda text, rng: f"<think>\n{FOREIGN}" + text[text.index("\n</think>") :],
    "repetition_loop": _before_end(lambda rng: f"wait, {rng.choice(BASE)} again. " * 60),
    "chat_markers": _before_end(lambda rng: "<|im_end|>"),
    "too_long": _before_end(lambda rng: " ".join(rng.choices(BASE, k=LONG_TOKENS))),
}


class _Writer:
    """Raw rows of one source in its publisher's shape."""

    def __init__(self, source: str, domain: str):
        self.source, self.domain = source, domain
        self.rows: list[dict] = []
        self.questions: list[str] = []  # of split_1, which ships without them

    def add(self, prompt: str, completion: str) -> None:
        number = len(self.rows)
        if self.source.startswith("opencodereasoning"):
            row = {
                "id": f"q{number}", "input": prompt, "output": completion, "source": "made", "license": "cc-by-4.0",
                "dataset": "taco", "split": "train", "difficulty": "EASY", "solution": "",
            }  # fmt: skip
            if self.source.endswith("_1"):
                row |= {"input": "-", "index": str(len(self.questions))}
                self.questions.append(prompt)
        elif self.source == "openthoughts2":
            turns = [{"from": "user", "value": prompt}, {"from": "assistant", "value": completion}]
            row = {"conversations": turns, "question": prompt, "source": "math", "id": number}
        elif self.source == "promptcot_ds":
            row = {
                "prompt": f"{TEACHER_HEAD}<\uff5cUser\uff5c>{prompt}<\uff5cAssistant\uff5c>",
                "completion": completion,
            }
        elif self.source == "synthesis":
            row = {"idx": number, "question": prompt, "completion": completion, "finish_reason": "stop", "run": 0}
        else:
            row = {"problem": prompt, "trace": completion, "kind": self.domain}
        self.rows.append(row)


def plant(folder: Path, per_source: int, seed: int = 0, words: tuple[int, int] = (20, 60)) -> Corpus:
    """Write a corpus of about `per_source` rows a source under `folder`, laid out as `--source_dir` expects."""
    rng = random.Random(seed)
    corpus = Corpus(folder, make_problems(rng))
    for source in SOURCES:
        domain = "code" if source.startswith("opencode") else "math"
        writer = _Writer(source, domain)
        _fill(writer, corpus, per_source, rng, words)
        _write(writer, folder)
        corpus.rows[source] = len(writer.rows)
    return corpus


def _fill(writer: _Writer, corpus: Corpus, count: int, rng: random.Random, words: tuple[int, int]) -> None:
    source, domain, expected = writer.source, writer.domain, corpus.expected[writer.source]
    per_fault = max(2, count // 100)
    clean: list[tuple[str, str]] = []

    def question() -> str:
        return " ".join([*rng.choices(BASE, k=rng.randint(20, 50)), str(rng.randrange(1 << 40))])

    def trace() -> str:
        return _trace(rng, domain, rng.randint(*words))

    for _ in range(count - per_fault * (len(FAULTS) + 6)):
        clean.append((question(), trace()))
    for pair in clean:
        writer.add(*pair)
    corpus.clean[source] = len(clean)
    for reason, spoil in FAULTS.items():
        if reason == ("no_program" if domain == "math" else "no_boxed_answer"):
            continue
        for _ in range(per_fault):
            writer.add(question(), spoil(trace(), rng))
            expected[reason] += 1
    for prompt, completion in rng.sample(clean, per_fault):
        writer.add(prompt, completion)
        expected["exact_duplicate"] += 1
    for _ in range(per_fault):
        problem = rng.choice(corpus.problems)
        text = disguise(problem.text, rng)
        if len(problem.text.split()) > 12:
            text = f"{question()} {text} {question()}"
        writer.add(text, trace())
        expected["contaminated"] += 1
    for prompt, _ in rng.sample(clean, per_fault):
        writer.add(prompt.upper(), trace())  # the same prompt: one more answer to it
        corpus.clean[source] += 1
    for low, high in ((0.9, 0.99), (0.2, 0.49)):
        for _ in range(per_fault):
            first = rng.choices(BASE, k=rng.randint(60, 120))
            writer.add(" ".join(first), trace())
            writer.add(" ".join(nearly(first, rng, low, high)), trace())
            corpus.clean[source] += 1 if low > 0.5 else 2
            corpus.close_prompts[source] += 1 if low > 0.5 else 0


def _write(writer: _Writer, folder: Path) -> None:
    places = {
        "opencodereasoning_0": "nvidia/OpenCodeReasoning/split_0/train-00000-of-00001.parquet",
        "opencodereasoning_1": "nvidia/OpenCodeReasoning/split_1/train-00000-of-00001.parquet",
        "openthoughts2": "open-thoughts/OpenThoughts2-1M/data/train-00000-of-00001.parquet",
        "promptcot_ds": "xl-zhao/PromptCoT-DS-Dataset/data/train-00000-of-00001.parquet",
        "synthesis": "synthesis/traces.jsonl",
        "generic": "generic/rows.jsonl",
    }
    path = folder / places[writer.source]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(writer.rows), path, row_group_size=1000)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in writer.rows))
    if writer.questions:
        taco = folder / "BAAI/TACO/ALL"
        taco.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"question": writer.questions}), taco / "train-00000-of-00001.parquet")
        pq.write_table(pa.table({"question": ["of the test split"]}), taco / "test-00000-of-00001.parquet")
        apps = folder / "codeparrot/apps"
        apps.mkdir(parents=True, exist_ok=True)
        for split in ("train", "test"):
            (apps / f"{split}.jsonl").write_text(json.dumps({"question": f"apps {split}"}) + "\n")


def recipe_sources(corpus: Corpus) -> dict[str, dict]:
    """The `sources` of a recipe over all of a corpus."""
    hub = {name: {"adapter": name} for name in SOURCES if name not in ("synthesis", "generic")}
    columns = {"prompt": "problem", "completion": "trace", "domain": "kind"}
    return {
        **hub,
        "synthesis": {"adapter": "synthesis", "path": str(corpus.folder / "synthesis/traces.jsonl")},
        "generic": {"adapter": "generic", "path": str(corpus.folder / "generic/rows.jsonl"), "columns": columns},
    }
