"""Decontamination measured: every kind of disguise against four rules, and what each takes from clean questions.

    python -m scripts.bench.decontaminate --benchmark_dir data/published --record docs/records/decontamination.json

The files are those that the PromptCoT release and Qwen2.5-Math ship; LiveCodeBench's prompts have their frame there.
Recall is over problems planted as prompts (and, last, inside answers); loss is over problems compared with the others
only (a quarter left out at a time; parts of one problem are not compared with one another) and over templates with
random numbers. The three other rules are those in use: any 13 words in a row, any 8, and 8-grams covering half.
"""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from promptcot_mamba.bench_record import RecordTable, report_record
from promptcot_mamba.chat_format import extract_question
from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.data.decontaminate import BenchmarkText, Decontaminator
from promptcot_mamba.data.words import gist_words
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import read_jsonl
from scripts.bench.paraphrase import KINDS, make_template

FOLDS = 4
FILES = ("math500.jsonl", "aime_test.jsonl", "olympiadbench_oe_to_maths_en.jsonl", "livecodebench_test.jsonl")
WORD = re.compile(r"[^\W_]+")
Finder = Callable[[str], bool]
Rule = Callable[[Sequence[BenchmarkText], Sequence[str]], Finder]


@dataclass
class BenchArguments:
    benchmark_dir: str = flag("Folder of problem files (JSONL).", default="data/published")
    files: list[str] = flag(
        "Problem files to plant; rows with `question`, or `prompt` as chat text.", factory=lambda: list(FILES)
    )
    planted: int = flag("Problems planted in each kind.", default=300)
    templates: int = flag("Clean questions from templates.", default=300)
    record: str | None = flag("JSON file that the figures are written to.", default=None)
    seed: int = flag("Of the disguises.", default=0)


def grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = WORD.findall(text.lower())
    return [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]


def any_gram(n: int) -> Rule:
    """A text is a problem's that holds any of its n-grams."""

    def make(problems: Sequence[BenchmarkText], _sample: Sequence[str]) -> Finder:
        known = {gram for problem in problems for gram in grams(problem.text, n)}
        return lambda text: any(gram in known for gram in grams(text, n))

    return make


def half_of_grams(n: int) -> Rule:
    """A text is a problem's whose n-grams it holds half of."""

    def make(problems: Sequence[BenchmarkText], _sample: Sequence[str]) -> Finder:
        owners, sizes = defaultdict(set), []
        for number, problem in enumerate(problems):
            own = set(grams(problem.text, n))
            sizes.append(len(own))
            for gram in own:
                owners[gram].add(number)

        def find(text: str) -> bool:
            held = Counter(number for gram in set(grams(text, n)) for number in owners.get(gram, ()))
            return any(2 * count >= sizes[number] for number, count in held.items())

        return find

    return make


def ours(problems: Sequence[BenchmarkText], sample: Sequence[str]) -> Finder:
    checker = Decontaminator(problems, sample)
    return lambda text: (
        (checker.check_completion(text) if text.startswith("<think>") else checker.check(text)[0]) is not None
    )


RULES: dict[str, Rule] = {
    "any 13-gram": any_gram(13), "any 8-gram": any_gram(8), "half of the 8-grams": half_of_grams(8), "coverage": ours,
}  # fmt: skip


def read_problems(folder: Path, files: Sequence[str]) -> list[BenchmarkText]:
    """Raises InputError where one of the files is missing: shares of fewer problems would be other figures."""
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise InputError(f"--benchmark_dir {folder}: {', '.join(missing)} missing; --files names those that are there")
    return [
        BenchmarkText(name.removesuffix(".jsonl"), str(number), row.get("question") or extract_question(row["prompt"]))
        for name in files
        for number, row in enumerate(read_jsonl(folder / name))
    ]


def setting_of(problem: BenchmarkText) -> tuple[str, ...] | None:
    """What the parts of one olympiad problem share word for word, None for texts that have no such setting."""
    words = tuple(gist_words(problem.text)[10:24])
    return words if len(words) >= 10 and "code" not in problem.benchmark else None


def restate(text: str, rng: random.Random) -> str:
    filler = " ".join(rng.choices([make_template(rng) for _ in range(20)], k=60))
    return f"<think>\nThe problem says: {text}\n{filler}\n</think>\nDone."


def measure_recall(finders: dict[str, Finder], problems: list[BenchmarkText], args: BenchArguments) -> list[list[str]]:
    """One row a kind: the share of planted problems that each rule finds."""
    rng = random.Random(args.seed)
    chosen = rng.sample(problems, min(args.planted, len(problems)))
    rows = []
    for kind, change in {**KINDS, "restated in the answer": restate}.items():
        planted = [change(problem.text, rng) for problem in chosen]
        shares = [sum(map(find, planted)) / len(planted) for find in finders.values()]
        rows.append([f"found: {kind}", *(f"{share:.2f}" for share in shares)])
    return rows


def measure_loss(problems: list[BenchmarkText], sample: list[str], clean: list[str]) -> list[list[str]]:
    """Rows of clean questions: the share that each rule takes, of code, of maths, of templates."""
    lost: dict[str, Counter[str]] = {rule: Counter() for rule in RULES}
    sizes: Counter[str] = Counter()
    for fold in range(FOLDS):
        rest = [problem for number, problem in enumerate(problems) if number % FOLDS != fold]
        settings = {setting_of(problem) for problem in rest} - {None}
        held = [problem for problem in problems[fold::FOLDS] if setting_of(problem) not in settings]
        kinds = ["code" if "code" in problem.benchmark else "maths" for problem in held]
        sizes.update(kinds)
        for rule, make in RULES.items():
            find = make(rest, sample)
            lost[rule].update(kind for kind, problem in zip(kinds, held, strict=True) if find(problem.text))
            if fold == 0:
                lost[rule]["templates"] = sum(map(find, clean))
    sizes["templates"] = len(clean)
    return [
        [f"clean lost: {kind} ({size})", *(f"{lost[rule][kind] / size:.3f}" for rule in RULES)]
        for kind, size in sizes.items()
    ]


def main() -> None:
    args = parse_args(BenchArguments, description=__doc__)
    problems = read_problems(Path(args.benchmark_dir), args.files)
    rng = random.Random(args.seed + 1)
    sample = [make_template(rng) for _ in range(1000)]
    finders = {name: make(problems, sample) for name, make in RULES.items()}
    rows = measure_recall(finders, problems, args)
    rows += measure_loss(problems, sample, [make_template(rng) for _ in range(args.templates)])
    caption = f"Shares of {min(args.planted, len(problems))} planted problems found, and of clean questions lost."
    table = RecordTable(caption, ["kind", *RULES], rows)
    report_record(args, title="Decontamination", tables=[table], results=rows)


if __name__ == "__main__":
    run_program(main)
