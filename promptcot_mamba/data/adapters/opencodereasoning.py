"""nvidia/OpenCodeReasoning and -2: R1's programs for contest problems (CC-BY-4.0).

The first: 567,850 + 167,405 rows `input, output`. The second: 1,398,166 in Python and 1,174,475 in C++, `question,
r1_generation`, with a critique of each. split_1 of the first and all of the second ship without their questions ("-"):
they are the rows `index` of the `split` of TACO, APPS, CodeContests or open-r1/codeforces. Those are read once into one
Arrow file that every worker maps.

Checked: both against their cards (columns, all of them texts, splits and counts, 2025); the second also against its
publisher's own reader (NVIDIA/NeMo-Skills, recipes/opencodereasoning/scripts/prepare_questions.py: "-" as question,
names of the four sets, how a Codeforces question is put together). Its files are train/python/train-* and
train/cpp/train-*, its columns question, r1_generation, qwq_critique, solution, judgement, pass_rate, source, license,
dataset, split, difficulty, index, id and question_id.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import itemgetter
from pathlib import Path

import pyarrow as pa

from promptcot_mamba.data.adapters.adapter import Adapter, text_of
from promptcot_mamba.data.canonical import CanonicalRow, UnusableRowError
from promptcot_mamba.data.row_files import Chunk, iter_rows
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row, replace_atomically, write_json

NO_QUESTION = "-"


def _codeforces_question(row: Row) -> str | None:
    """A problem of open-r1/codeforces, whose parts are columns."""
    if not row.get("description"):
        return None
    parts = [row["description"]]
    for title, column in (("Input", "input_format"), ("Output", "output_format")):
        parts += [title, row[column]] if row.get(column) else []
    parts += ["Examples"] if row.get("examples") else []
    for example in row.get("examples") or ():
        for name in ("input", "output"):
            parts += [name.title(), example[name]] if example.get(name) else []
    parts += ["Note", row["note"]] if row.get("note") else []
    return "\n\n".join(parts)


@dataclass(frozen=True)
class QuestionSet:
    """Where the questions of one published set lie, for each of its splits, and how one is read from a row."""

    repo: str
    patterns: tuple[str, ...]  # the first that matches; {split} is the split's name
    splits: tuple[str, ...] = ("train", "test")
    columns: tuple[str, ...] = ("question",)
    read: Callable[[Row], str | None] = itemgetter("question")


# By the name in the `dataset` column.
QUESTION_SETS = {
    "taco": QuestionSet(
        "BAAI/TACO", ("ALL/{split}-*.parquet", "{split}/*.arrow", "{split}*.parquet", "{split}*.jsonl")
    ),
    "apps": QuestionSet("codeparrot/apps", ("{split}.jsonl", "{split}*.parquet", "*/{split}*.parquet")),
    "code_contests": QuestionSet(
        "deepmind/code_contests", ("data/{split}-*.parquet", "{split}*.parquet", "{split}*.jsonl"),
        ("train", "valid", "test"), ("description",), itemgetter("description"),
    ),
    "open-r1/codeforces": QuestionSet(
        "open-r1/codeforces", ("data/{split}-*.parquet", "{split}*.parquet", "{split}*.jsonl"), ("train", "test"),
        ("description", "input_format", "output_format", "examples", "note"), _codeforces_question,
    ),
}  # fmt: skip
BATCH_ROWS = 1024
QUESTIONS_FILE = "questions.arrow"
OFFSETS_FILE = "questions.json"


class QuestionLookup:
    """`(dataset, split, index) -> question`, over a memory-mapped Arrow file."""

    def __init__(self, folder: Path):
        self._column = pa.ipc.open_file(pa.memory_map(str(folder / QUESTIONS_FILE))).read_all()["question"]
        self._offsets = json.loads((folder / OFFSETS_FILE).read_text())

    def find(self, dataset: str, split: str, index: str) -> str | None:
        key = f"{dataset}/{split}"
        if key not in self._offsets:
            raise InputError(f"question set {key!r} is unknown to this adapter; known: {', '.join(self._offsets)}")
        start, count = self._offsets[key]
        if not str(index).isdigit() or int(index) >= count:
            raise InputError(f"question {index!r} of {key} does not exist: {count:,} rows were found there")
        return self._column[start + int(index)].as_py()


def _questions(known: QuestionSet, files: Sequence[Path]) -> Iterator[str | None]:
    for file in files:
        for where, row in iter_rows(Chunk(file), columns=known.columns):
            if known.columns[0] not in row:
                raise InputError(f"{where}: missing column {known.columns[0]!r}; found {', '.join(row)}")
            yield known.read(row)


def open_questions(names: Sequence[str], find: Callable[[str, Sequence[str]], list[Path]], folder: Path) -> None:
    """Write the questions of these sets to `folder`, in the order their rows have; the offsets come last."""
    if (folder / OFFSETS_FILE).exists():
        return
    schema, offsets, total = pa.schema([("question", pa.large_string())]), {}, 0
    with replace_atomically(folder / QUESTIONS_FILE, "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for name in names:
            known = QUESTION_SETS[name]
            for split in known.splits:
                start = total
                files = find(known.repo, [pattern.format(split=split) for pattern in known.patterns])
                questions = _questions(known, files)
                while batch := list(islice(questions, BATCH_ROWS)):
                    writer.write_batch(pa.record_batch([pa.array(batch, pa.large_string())], schema=schema))
                    total += len(batch)
                offsets[f"{name}/{split}"] = (start, total - start)
    write_json(folder / OFFSETS_FILE, offsets)


def find_question(raw: Row, column: str, questions: QuestionLookup | None) -> str:
    """A row's question, looked up where its column holds "-"; raises UnusableRowError if there is none."""
    question = raw.get(column)
    if question is not None and not isinstance(question, str):
        raise InputError(f"column {column!r} must be text, found {type(question).__name__}; did the schema change?")
    if question is None or question.strip() in ("", NO_QUESTION):
        if "index" not in raw or questions is None:
            raise UnusableRowError("no_prompt")
        question = questions.find(str(raw["dataset"]), str(raw["split"]), str(raw["index"]))
    if not question or not question.strip():
        raise UnusableRowError("no_prompt")
    return question.strip()


def _meta(raw: Row) -> Row:
    kept = {key: raw[key] for key in ("id", "source", "dataset", "difficulty", "judgement") if raw.get(key) is not None}
    return kept | ({"licence": raw["license"]} if raw.get("license") else {})


def convert(asked: str, told: str, raw: Row, questions: QuestionLookup | None) -> CanonicalRow:
    question = find_question(raw, asked, questions)
    completion = text_of(raw, told, "no_completion")
    return CanonicalRow(prompt=question, completion=completion.strip(), domain="code", meta=_meta(raw))


def _split(number: int) -> Adapter:
    joined = number == 1
    return Adapter(
        name=f"opencodereasoning_{number}",
        repo="nvidia/OpenCodeReasoning",
        files=(f"split_{number}/*.parquet", f"split_{number}/*.jsonl"),
        columns=("input", "output", "dataset", "split", *(("index",) if joined else ())),
        optional=("id", "source", "license", "difficulty", "solution"),
        licence="CC-BY-4.0",
        convert=partial(convert, "input", "output"),
        open_context=partial(open_questions, ("taco", "apps")) if joined else None,
        load_context=QuestionLookup if joined else None,
    )


SPLIT_0 = _split(0)
SPLIT_1 = _split(1)


def _second(language: str) -> Adapter:
    return Adapter(
        name=f"opencodereasoning2_{language}",
        repo="nvidia/OpenCodeReasoning-2",
        files=(f"train/{language}/*.parquet", f"train/{language}/*.jsonl"),
        columns=("question", "r1_generation", "dataset", "split", "index"),
        optional=("id", "source", "license", "difficulty", "judgement"),
        licence="CC-BY-4.0",
        convert=partial(convert, "question", "r1_generation"),
        open_context=partial(open_questions, tuple(QUESTION_SETS)),
        load_context=QuestionLookup,
    )


PYTHON_2 = _second("python")
CPP_2 = _second("cpp")
