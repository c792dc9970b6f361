"""Every input that cannot be used is refused in one line that names it and the mend."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptcot_mamba.data.prepare import prepare_shards, save_tokenizer
from promptcot_mamba.data.row_files import Chunk, iter_rows, plan_chunks, read_columns
from promptcot_mamba.data.sources import find_source, parse_sources
from promptcot_mamba.errors import InputError
from tests.data.planted import plant, recipe_sources
from tests.data.test_prepare import make_recipe
from tests.tiny import make_tokenizer

TRACE = "<think>\nso\n</think>\nIt is $\\boxed{1}$."


def prepare(tmp_path, entry: dict, **changes):
    return prepare_shards(
        make_recipe({"a": entry}, **changes),
        tmp_path / "out",
        tokenizer=make_tokenizer(),
        tokenizer_path="t",
        problems=[],
    )


def lines(path, *rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_missing_columns_are_named_with_the_ones_found(tmp_path):
    pq.write_table(pa.table({"question": ["q"], "answer": ["a"]}), tmp_path / "a.parquet")
    spec = parse_sources({"a": {"adapter": "opencodereasoning_0", "path": str(tmp_path / "a.parquet")}})[0]
    with pytest.raises(
        InputError, match=r"a\.parquet: missing column input, output, dataset, split .*found question, answer"
    ):
        find_source(spec, None)


def test_files_that_a_folder_lacks_are_named_and_no_others_read(tmp_path):
    row = {"prompt": "p", "completion": TRACE}
    for name in ("hard.jsonl", "train.jsonl", "test.jsonl"):
        lines(tmp_path / name, row)
    entry = {"adapter": "generic", "path": str(tmp_path)}
    for files in (["test.jsonl"], ["easy*.jsonl", "hard*.jsonl"]):
        found = find_source(parse_sources({"a": entry | {"files": files}})[0], None).files
        assert [path.name for path in found] == [files[-1].replace("*", "")]
    spec = parse_sources({"a": entry | {"files": ["easy*.jsonl"]}})[0]
    with pytest.raises(InputError, match=r"sources\.a\.files: .* has none of easy\*\.jsonl"):
        find_source(spec, None)


def test_a_later_row_without_a_column_is_named(tmp_path):
    path = lines(tmp_path / "a.jsonl", {"prompt": "p", "completion": TRACE}, {"prompt": "p"})
    with pytest.raises(InputError, match=r"a\.jsonl:2: missing key 'completion'; found prompt"):
        prepare(tmp_path, {"adapter": "generic", "path": path})


@pytest.mark.parametrize(
    ("adapter", "row", "message"),
    [
        ("openthoughts2", {"conversations": "a text"}, "must be a list of {from, value}; did the schema change"),
        ("openthoughts2", {"conversations": [{"role": "user", "content": "q"}]}, "must be a list of {from, value}"),
        ("promptcot_ds", {"prompt": "p", "completion": ["x"]}, "column 'completion' must be text, found list"),
    ],
)
def test_a_changed_schema_is_refused(tmp_path, adapter, row, message):
    with pytest.raises(InputError, match=r"a\.jsonl:1") as refused:
        prepare(tmp_path, {"adapter": adapter, "path": lines(tmp_path / "a.jsonl", row)})
    assert message in str(refused.value)


def test_truncated_and_corrupt_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"prompt": [f"p{number}" for number in range(20_000)], "completion": [TRACE] * 20_000})
    pq.write_table(table, path, compression="snappy")
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(InputError, match=r"a\.parquet: not a readable Parquet file, download it again"):
        plan_chunks(path)
    path.write_bytes(whole[:1000] + bytes(3000) + whole[4000:])
    with pytest.raises(InputError, match=r"a\.parquet: corrupt, download it again"):
        list(iter_rows(Chunk(path)))


def test_truncated_gzip_and_arrow(tmp_path):
    packed = gzip.compress(b'{"prompt": "p"}\n' * 1000)
    (tmp_path / "a.jsonl.gz").write_bytes(packed[:-20])
    with pytest.raises(InputError, match=r"not a readable gzip file, download it again"):
        list(iter_rows(Chunk(tmp_path / "a.jsonl.gz")))
    (tmp_path / "a.arrow").write_bytes(b"no arrow at all")
    with pytest.raises(InputError, match=r"not a readable Arrow file"):
        read_columns(tmp_path / "a.arrow")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"prompt": "p"}\n{"prompt": "q', r"a\.jsonl:2: malformed JSON .*ends in the middle of a line"),
        (b'{"prompt": "p"}\n\n[1]\n', r"a\.jsonl:3: expected a JSON object, found list"),
        (b'{"prompt": "p"}\n{"prompt": "\xe9"}\n', r"a\.jsonl:2: not UTF-8 .*iconv"),
    ],
)
def test_bad_jsonl_lines_are_named_also_far_into_a_file(tmp_path, content, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(iter_rows(Chunk(path)))
    with pytest.raises(InputError, match=message):
        list(iter_rows(Chunk(path, 5)))


def test_bad_lines_are_counted_where_the_recipe_drops_them(tmp_path):
    path = tmp_path / "a.jsonl"
    good = [json.dumps({"prompt": f"What is {number}?", "completion": TRACE}).encode() for number in range(3)]
    path.write_bytes(b"\n".join([good[0], b"{broken", good[1], b"\xff", good[2]]) + b"\n")
    entry = {"adapter": "generic", "path": str(path), "bad_rows": "drop", "near_duplicates": False}
    result = prepare(tmp_path, entry)
    assert result.manifest["counts"]["sources"]["a"]["dropped"] == {"unreadable": 2}
    assert result.manifest["counts"]["documents"] == 3


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({}, "expected at least one"),
        ({"a": {"path": "x"}}, r"sources\.a: expected '{adapter"),
        ({"a": {"adapter": "nemotron"}}, "unknown adapter 'nemotron'; known: opencodereasoning_0"),
        ({"a": {"adapter": "generic", "colums": {}}}, "unknown key 'colums'"),
        ({"a": {"adapter": "generic", "columns": {"question": "q"}}}, "unknown field 'question'"),
        ({"a": {"adapter": "promptcot_ds", "columns": {"prompt": "q"}}}, "knows its columns"),
        ({"a": {"adapter": "generic", "epochs": 0}}, "must be positive"),
        ({"a": {"adapter": "generic", "examples": 0}}, "must be positive"),
        ({"a": {"adapter": "generic", "examples": "9"}}, "expected int"),
        ({"a": {"adapter": "generic", "epochs": 1, "weight": 1}}, "one of epochs, examples and weight"),
        ({"a": {"adapter": "generic", "weight": 1}, "b": {"adapter": "generic"}}, "give every source a weight or none"),
        ({"a": {"adapter": "generic", "bad_rows": "skip"}}, "expected one of refuse, drop"),
        ({"a": {"adapter": "generic", "domain": "physics"}}, "unknown domain 'physics'"),
        ({"a": {"adapter": "openthoughts2", "domains": ["maths"]}}, "unknown domain 'maths'"),
    ],
)
def test_recipes_with_mistakes(recipe, message):
    with pytest.raises(InputError, match=message):
        parse_sources(recipe)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"adapter": "generic"}, "has no home on the hub; give 'path' or 'repo'"),
        ({"adapter": "generic", "path": "/nowhere/*.jsonl"}, "no such file, folder of rows or glob"),
        ({"adapter": "openthoughts2"}, "hf download open-thoughts/OpenThoughts2-1M --repo-type dataset --local-dir"),
    ],
)
def test_sources_that_are_not_there(tmp_path, entry, message):
    with pytest.raises(InputError) as refused:
        find_source(parse_sources({"a": entry})[0], tmp_path)
    assert message in str(refused.value)


def test_unknown_formats_and_empty_files(tmp_path):
    (tmp_path / "a.xlsx").write_text("a,b\n")
    with pytest.raises(InputError, match="unknown format"):
        plan_chunks(tmp_path / "a.xlsx")
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(InputError, match="the file is empty"):
        plan_chunks(tmp_path / "a.jsonl")


def test_a_tokenizer_without_end_of_text_is_refused(tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="no eos_token"):
        save_tokenizer(tokenizer, "t", tmp_path)


def test_a_mistyped_question_set_index_is_named(tmp_path):
    corpus = plant(tmp_path / "raw", 60)
    path = next((tmp_path / "raw/nvidia/OpenCodeReasoning/split_1").glob("*.parquet"))
    rows = pq.read_table(path).to_pylist()
    rows[3]["index"] = "100000"
    pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(InputError, match=r"row group 0, row 4: question '100000' of taco/train does not exist"):
        prepare_shards(
            make_recipe({"a": recipe_sources(corpus)["opencodereasoning_1"]}),
            tmp_path / "out",
            tokenizer=make_tokenizer(),
            tokenizer_path="t",
            problems=[],
            source_dir=str(tmp_path / "raw"),
        )
