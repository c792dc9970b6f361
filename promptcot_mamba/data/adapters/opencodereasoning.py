"""nvidia/OpenCodeReasoning: R1's programs for contest problems, 567,850 + 167,405 rows (CC-BY-4.0).

split_1 ships without its questions (`input` is "-"): they are the rows `index` of the `split` of TACO or APPS, as
the data set's card describes. Those two are read once into one Arrow file that every worker maps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from promptcot_mamba.data.adapters.adapter import Adapter, text_of
from promptcot_mamba.data.canonical import CanonicalRow, UnusableRowError
from promptcot_mamba.data.row_files import iter_rows, whole_file
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row

NO_QUESTION = "-"
# name in the `dataset` column -> repository, and where each split's files may lie (the first pattern that matches)
QUESTION_SETS = {
    "taco": ("BAAI/TACO", ("ALL/{split}-*.parquet", "{split}/*.arrow", "{split}*.parquet", "{split}*.jsonl")),
    "apps": ("codeparrot/apps", ("{split}.jsonl", "{split}*.parquet", "*/{split}*.parquet")),
}
SPLITS = ("train", "test")
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


def _questions(files: Sequence[Path]) -> Iterator[str | None]:
    for file in files:
        for where, row in iter_rows(whole_file(file), columns=("question",)):
            if "question" not in row:
                raise InputError(f"{where}: missing column 'question'; found {', '.join(row)}")
            yield row["question"]


def open_questions(find: Callable[[str, Sequence[str]], list[Path]], folder: Path) -> None:
    """Write the questions of TACO and APPS to `folder`, in the order their rows have."""
    if (folder / OFFSETS_FILE).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    schema, offsets, total = pa.schema([("question", pa.large_string())]), {}, 0
    with pa.OSFile(str(folder / QUESTIONS_FILE), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for name, (repo, patterns) in QUESTION_SETS.items():
            for split in SPLITS:
                start, batch = total, []
                for question in _questions(find(repo, [pattern.format(split=split) for pattern in patterns])):
                    batch.append(question)
                    total += 1
                    if len(batch) == BATCH_ROWS:
                        writer.write_batch(pa.record_batch([pa.array(batch, pa.large_string())], schema=schema))
                        batch = []
                writer.write_batch(pa.record_batch([pa.array(batch, pa.large_string())], schema=schema))
                offsets[f"{name}/{split}"] = (start, total - start)
    (folder / OFFSETS_FILE).write_text(json.dumps(offsets))


def convert(raw: Row, questions: QuestionLookup | None) -> CanonicalRow:
    question = raw.get("input")
    if question is None or (isinstance(question, str) and question.strip() in ("", NO_QUESTION)):
        if "index" not in raw or questions is None:
            raise UnusableRowError("no_prompt")
        question = questions.find(str(raw["dataset"]), str(raw["split"]), str(raw["index"]))
        if not question or not question.strip():
            raise UnusableRowError("no_prompt")
    elif not isinstance(question, str):
        raise InputError(f"column 'input' must be text, found {type(question).__name__}; did the schema change?")
    completion = text_of(raw, "output", "no_completion")
    meta = {key: raw[key] for key in ("id", "source", "dataset", "difficulty") if raw.get(key) is not None}
    return CanonicalRow(
        prompt=question.strip(),
        completion=completion.strip(),
        domain="code",
        meta=meta,
    )


def _split(number: int) -> Adapter:
    joined = number == 1
    return Adapter(
        name=f"opencodereasoning_{number}",
        repo="nvidia/OpenCodeReasoning",
        files=(f"split_{number}/*.parquet", f"split_{number}/*.jsonl"),
        columns=("input", "output", "dataset", "split", *(("index",) if joined else ())),
        optional=("id", "source", "license", "difficulty", "solution"),
        licence="CC-BY-4.0",
        convert=convert,
        open_context=open_questions if joined else None,
        load_context=QuestionLookup if joined else None,
    )


SPLIT_0 = _split(0)
SPLIT_1 = _split(1)
