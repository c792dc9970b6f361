"""Reading rows: formats, folders and globs, and every kind of bad row by file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptcot_mamba.chat_format import extract_question
from promptcot_mamba.data.adapters import get_adapter
from promptcot_mamba.data.canonical import UnusableRowError
from promptcot_mamba.data.filters import REASONS
from promptcot_mamba.data.row_files import Chunk, iter_rows, unpack
from promptcot_mamba.data.rows import find_row_files, hash_files, iter_examples
from promptcot_mamba.errors import InputError

EMPTY = "<think>\n\n</think>\n\n"
ROWS = [{"id": "a", "source": "s", "prompt": "p1", "completion": "c1"}, {"prompt": "p2", "completion": "c2"}]


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_jsonl_and_parquet_give_the_same_examples(tmp_path: Path):
    write_rows(tmp_path / "x.jsonl", ROWS)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "x.parquet")
    lines = list(iter_examples([tmp_path / "x.jsonl"]))
    table = list(iter_examples([tmp_path / "x.parquet"]))
    assert [extract_question(e.prompt) for e in lines] == ["p1", "p2"]
    assert [e.completion for e in lines] == ["<think>\n\n</think>\n\nc1", "<think>\n\n</think>\n\nc2"]
    assert [(e.prompt, e.completion, e.source) for e in lines] == [(e.prompt, e.completion, e.source) for e in table]
    assert [e.id for e in lines] == ["a", "x.jsonl:2"]
    assert [e.source for e in lines] == ["s", "x"]


def test_folder_glob_and_list(tmp_path: Path):
    for name in ("b.jsonl", "a.jsonl", "deep/c.jsonl", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_rows(tmp_path / name, ROWS)
    assert [file.name for file in find_row_files(tmp_path)] == ["a.jsonl", "b.jsonl", "c.jsonl"]
    assert [file.name for file in find_row_files(str(tmp_path / "*.jsonl"))] == ["a.jsonl", "b.jsonl"]
    assert [file.name for file in find_row_files([tmp_path / "b.jsonl", tmp_path / "a.jsonl"])] == [
        "b.jsonl",
        "a.jsonl",
    ]


def test_hash_sees_contents_and_order_only(tmp_path: Path):
    one, two = write_rows(tmp_path / "1.jsonl", ROWS), write_rows(tmp_path / "2.jsonl", ROWS[:1])
    copy = write_rows(tmp_path / "copy.jsonl", ROWS)
    assert hash_files([one, two]) == hash_files([copy, two])
    assert hash_files([one, two]) != hash_files([two, one])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"prompt": "p", "completion": "c"}\n{"prompt": "p"\n', r"x\.jsonl:2: malformed JSON"),
        ('{"prompt": "p"}\n', r"x\.jsonl:1: missing key 'completion'; found prompt"),
        ('{"completion": "c"}\n', r"x\.jsonl:1: missing key 'prompt'"),
        ('{"prompt": " ", "completion": "c"}\n', r"x\.jsonl:1: 'prompt' must be a non-empty text"),
        ('{"prompt": "p", "completion": ""}\n', r"x\.jsonl:1: 'completion' must be a non-empty text"),
        ('{"prompt": "p", "completion": ["c"]}\n', r"x\.jsonl:1: 'completion' must be"),
        ("[1]\n", r"x\.jsonl: item 1: expected a JSON object, found int"),
        ("[1]\n[2]\n", r"x\.jsonl:1: expected a JSON object, found list"),
        ("\n", r"x\.jsonl: the file is empty"),
        ("", r"x\.jsonl: the file is empty"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, text: str, complaint: str):
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(InputError, match=complaint):
        list(iter_examples([tmp_path / "x.jsonl"]))


def test_bad_paths_are_named(tmp_path: Path):
    (tmp_path / "x.xlsx").write_text("a,b\n")
    (tmp_path / "bad.parquet").write_bytes(b"not parquet")
    with pytest.raises(InputError, match=r"missing\.jsonl: no such file"):
        find_row_files(tmp_path / "missing.jsonl")
    with pytest.raises(InputError, match=r"x\.xlsx: unknown format"):
        find_row_files(tmp_path / "x.xlsx")
    with pytest.raises(InputError, match=r"bad\.parquet: not a readable Parquet"):
        list(iter_examples([tmp_path / "bad.parquet"]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no \.jsonl"):
        find_row_files(tmp_path / "empty")


def test_tables_beside_rows_are_notes(tmp_path: Path):
    (tmp_path / "loss.csv").write_text("step,loss\n1,2\n")
    assert find_row_files(tmp_path) == [tmp_path / "loss.csv"]
    (tmp_path / "a.jsonl").write_text('{"prompt": "p", "completion": "c"}\n')
    assert find_row_files(tmp_path) == [tmp_path / "a.jsonl"]


SAID = [{"role": "user", "content": "p2"}, {"role": "assistant", "content": "c2"}]
MIXED = [
    {"prompt": "p1", "completion": "c1", "messages": None, "label": None},
    {"prompt": None, "completion": None, "messages": SAID, "label": None},
    {"prompt": "a title", "completion": None, "messages": SAID, "label": True},
]


def test_null_columns_of_a_table_say_no_shape(tmp_path: Path):
    """Tables of several shapes put together: every row has all of their columns."""
    pq.write_table(pa.Table.from_pylist(MIXED), tmp_path / "x.parquet")
    read = [(extract_question(one.prompt), one.completion) for one in iter_examples([tmp_path / "x.parquet"])]
    convert = get_adapter("generic").convert
    assert read == [("p1", EMPTY + "c1"), *[("p2", EMPTY + "c2")] * 2]
    prepared = [row for _, raw in iter_rows(Chunk(tmp_path / "x.parquet")) for row in convert(raw, None)]
    assert [(row.prompt, row.completion) for row in prepared] == [("p1", "c1"), ("p2", "c2"), ("p2", "c2")]
    empty = write_rows(tmp_path / "y.jsonl", [MIXED[0], {**MIXED[0], "completion": None}])
    with pytest.raises(InputError, match=r"y\.jsonl:2: 'completion' must be a non-empty text"):
        list(iter_examples([empty]))


@pytest.mark.parametrize("text", ["{}\n{}\n", "[{},\n{}]", '{{"data": [{}, {}]}}'])
def test_what_pandas_writes_where_nothing_is_reads_as_null(tmp_path: Path, text: str):
    rows = (
        '{"instruction": "p1", "input": NaN, "output": "c1"}',
        '{"instruction": "p2", "input": "", "output": "c2", "score": -Infinity}',
    )
    (tmp_path / "x.json").write_text(text.format(*rows))
    read = [(extract_question(one.prompt), one.completion) for one in iter_examples([tmp_path / "x.json"])]
    assert read == [("p1", EMPTY + "c1"), ("p2", EMPTY + "c2")]
    unpack(tmp_path / "x.json", tmp_path / "unpacked.jsonl")  # as preparation does
    assert [row["output"] for _, row in iter_rows(Chunk(tmp_path / "unpacked.jsonl"))] == ["c1", "c2"]


@pytest.mark.parametrize("verdict", ["label", "kto_tag"])
def test_an_answer_that_people_turned_down_is_not_learned(tmp_path: Path, verdict: str):
    """Unpaired preferences: TRL's, and LLaMA-Factory's. What else is called a label is none."""
    pair = {"prompt": "p", "completion": "c"}
    kept = [{**pair, verdict: value} for value in (True, 0, 1, "false", "entailment", None)]
    assert len(list(iter_examples([write_rows(tmp_path / "x.jsonl", kept)]))) == len(kept)
    for turned_down in ({**pair, verdict: False}, {"messages": SAID, verdict: False}):
        path = write_rows(tmp_path / "y.jsonl", [pair, turned_down])
        with pytest.raises(InputError, match=rf"y\.jsonl:2: '{verdict}' is false"):
            list(iter_examples([path]))
        with pytest.raises(UnusableRowError) as dropped:
            get_adapter("generic").convert(turned_down, None)
        assert dropped.value.reason == "rejected_answer"
        assert dropped.value.reason in REASONS
    gold = get_adapter("generic", {"prompt": "prompt", "completion": "completion", "gold": verdict})
    assert gold.convert({**pair, verdict: False}, None)[0].gold == "False"  # what the recipe names is the reference
