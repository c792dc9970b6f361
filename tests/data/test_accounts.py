"""Every row is accounted for: dropped with its reason, or in the shards with its origin and licence."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from promptcot_mamba.data.card import push_to_hub, write_card
from promptcot_mamba.data.conversation import Reading
from promptcot_mamba.data.decontaminate import BenchmarkText
from promptcot_mamba.data.prepare import DROPPED_FILE, prepare_shards
from promptcot_mamba.data.report import write_report
from promptcot_mamba.data.reread import ROWS_FILE
from promptcot_mamba.data.shards import ShardRows
from promptcot_mamba.data.tokens import build_store, open_store
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import read_jsonl
from tests.data.planted import BASE
from tests.data.test_prepare import make_recipe, shard_hashes
from tests.tiny import make_tokenizer

PROBLEM = "How many ordered pairs of positive integers $(a, b)$ satisfy $a^2 + b^2 = 2025$ with $a$ divisible by $9$?"


def traces(rng: random.Random, answer: str = "\\boxed{4}") -> str:
    return f"<think>\n{' '.join(rng.choices(BASE, k=30))}\n</think>\nIt is ${answer}$."


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """One folder of rows as people have them: a compressed ShareGPT file, an array, lines with a licence each."""
    folder, rng = tmp_path_factory.mktemp("raw"), random.Random(0)
    questions = [" ".join(rng.choices(BASE, k=20)) for _ in range(40)]
    chats = [
        {"conversations": [
            {"from": "system", "value": "Be exact."}, {"from": "human", "value": question},
            {"from": "gpt", "value": traces(rng)}, {"from": "human", "value": "And then?"},
            {"from": "gpt", "value": "Then nothing."},
        ]}
        for question in questions[:10]
    ]  # fmt: skip
    chats.append({"conversations": [{"from": "gpt", "value": "I begin."}]})
    with pa.output_stream(str(folder / "chats.jsonl.zst"), compression="zstd") as file:
        file.write("".join(json.dumps(chat) + "\n" for chat in chats).encode())
    alpaca = [{"instruction": question, "input": "", "output": "Short."} for question in questions[10:20]]
    (folder / "alpaca.json").write_text(json.dumps(alpaca, indent=1))
    lines = [
        {"prompt": question, "completion": traces(rng), "license": licence, "source": "forum"}
        for question, licence in zip(questions[20:], ["MIT", "CC-BY-4.0"] * 10, strict=True)
    ]
    twice = dict(lines[0], prompt=lines[0]["prompt"].upper(), completion=lines[0]["completion"].replace("\n", "\r\n "))
    lines += [
        twice,
        {"prompt": "-", "completion": traces(rng)},
        {"prompt": PROBLEM.replace("How many", "Count how many"), "completion": traces(rng)},
        {"prompt": "What is it?", "completion": traces(rng).replace("<think>\n", f"<think>\nWe are asked: {PROBLEM} ")},
        {"prompt": "Is </s> a tag?", "completion": traces(rng)},
    ]
    (folder / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


SOURCES = ("chats.jsonl.zst", "alpaca.json", "lines.jsonl")


def prepare(raw: Path, output: Path, workers: int = 1, jsonl: bool = False, **changes):
    sources = {name.split(".")[0]: {"adapter": "generic", "path": str(raw / name)} for name in SOURCES}
    problems = [BenchmarkText("bench", "1", PROBLEM)]
    recipe = make_recipe(sources, shard_tokens=4096, **changes)
    return prepare_shards(
        recipe, output, tokenizer=make_tokenizer(), tokenizer_path="t", problems=problems, workers=workers, jsonl=jsonl
    )


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    output = tmp_path_factory.mktemp("out")
    return prepare(raw, output), output


def test_every_row_is_in_the_shards_or_listed_with_its_reason(prepared):
    result, output = prepared
    counts = result.manifest["counts"]["sources"]
    listed = pq.read_table(output / DROPPED_FILE).to_pylist()
    for name, entry in counts.items():
        mine = Counter(row["reason"] for row in listed if row["source"] == name)
        assert mine == Counter(entry["dropped"])
        assert entry["read"] == mine.total() + entry["in_mixture"]
    assert counts["chats"]["read"] == 21  # two answers a conversation, and one that has no question
    reasons = {(row["reason"], row["place"]) for row in listed}
    assert reasons == {
        ("turn_order", "chats.jsonl.zst:11"), ("exact_duplicate", "lines.jsonl:21"), ("no_prompt", "lines.jsonl:22"),
        ("contaminated", "lines.jsonl:23"), ("contaminated", "lines.jsonl:24"),
    }  # fmt: skip
    assert [row["detail"] for row in listed if row["reason"] == "turn_order"] == [
        "turn 1 is assistant's, expected user's"
    ]


def test_removed_rows_name_the_problem_the_share_and_the_words(prepared):
    hits = read_jsonl(prepared[1] / "contaminated.jsonl")
    assert [(hit["benchmark"], hit["problem"], hit["kind"]) for hit in hits] == [
        ("bench", "1", "prompt"), ("bench", "1", "completion"),
    ]  # fmt: skip
    assert all(hit["share"] > 0.8 and "ordered pairs positive integers" in hit["shared"] for hit in hits)


def test_a_reader_can_overrule_by_id(raw, prepared, tmp_path):
    kept = read_jsonl(prepared[1] / "contaminated.jsonl")[0]["id"]
    result = prepare(raw, tmp_path, allowed=(kept,))
    assert result.manifest["counts"]["sources"]["lines"]["dropped"]["contaminated"] == 1
    rows = ShardRows(tmp_path)
    ids = [name for number in range(len(rows)) for name in rows[number]["example_ids"]]
    assert kept in ids


def test_origins_and_licences_are_in_the_shards_and_summed(prepared):
    result, output = prepared
    counts = result.manifest["counts"]
    assert counts["licences"]["MIT"]["documents"] == counts["licences"]["CC-BY-4.0"]["documents"] == 10
    assert counts["origins"]["forum"]["documents"] == 20
    with pa.memory_map(str(output / "shard-00000.arrow")) as source:
        table = pa.ipc.open_file(source).read_all()
    assert [len(row) for row in table["licences"].to_pylist()] == [len(row) for row in table["example_ids"].to_pylist()]
    assert sum(held["tokens"] for held in counts["licences"].values()) == counts["tokens"]


def test_notes_say_what_was_kept_and_how(prepared):
    notes = {name: tally["notes"] for name, tally in prepared[0].tallies.items()}
    assert notes["lines"]["control_text"] == 1
    assert (notes["alpaca"]["no_thought"], notes["chats"]["no_thought"]) == (10, 10)
    assert prepared[0].manifest["formats"]["counts"] == {"ours": 52}


def test_the_card_tells_counts_filters_licences_and_benchmarks(prepared):
    result, output = prepared
    text = write_card(result, output).read_text()
    assert text.startswith("---\nlicense: other\n")
    for line in ("| MIT | 10 |", "| forum | 20 |", "| bench | 1 | 2 |", "`turn_order`", "lines.jsonl"):
        assert line in text
    assert "| CC-BY-4.0 | 10 |" in write_report(result, output).read_text()


def test_bytes_do_not_depend_on_workers_also_for_packed_files(raw, prepared, tmp_path):
    prepare(raw, tmp_path, workers=2)
    assert shard_hashes(tmp_path) == shard_hashes(prepared[1])
    assert pq.read_table(tmp_path / DROPPED_FILE).equals(pq.read_table(prepared[1] / DROPPED_FILE))


def test_control_text_can_be_dropped_and_short_rows_come_first(raw, tmp_path):
    result = prepare(raw, tmp_path, control_text="drop", order="short_first", max_length=1024, max_tokens=1024)
    assert result.manifest["counts"]["sources"]["lines"]["dropped"]["control_text"] == 1
    rows = ShardRows(tmp_path)
    assert rows.ordered
    shards = [shard["tokens"] / shard["documents"] for shard in result.shards]
    assert shards == sorted(shards)


def test_the_rows_as_text_are_trained_on_as_the_shards_are(raw, tmp_path):
    """`rows.jsonl` through `train.py --data_path`'s reader: the same documents, token by token."""
    result = prepare(raw, tmp_path / "shards", jsonl=True)
    path = tmp_path / "shards" / ROWS_FILE
    rows = read_jsonl(path)
    assert len(rows) == result.manifest["counts"]["documents"]
    assert {row["licence"] for row in rows} >= {"MIT", "CC-BY-4.0"}
    build_store(tmp_path / "store", [path], make_tokenizer(), Reading())
    store = open_store(tmp_path / "store")
    texts = sorted((store.prompt_lengths[at], store.input_ids(at).tolist()) for at in range(len(store)))
    shards, packed = ShardRows(tmp_path / "shards"), []
    for row in (shards[number] for number in range(len(shards))):
        for stop, length in zip(np.cumsum(row["lengths"]), row["lengths"], strict=True):
            ids, labels = (row[name][stop - length : stop] for name in ("input_ids", "labels"))
            packed.append((int((labels == -100).sum()), ids.tolist()))
    assert texts == sorted(packed)


@pytest.mark.parametrize(("name", "value"), [("HF_HUB_OFFLINE", True), ("ENDPOINT", "http://127.0.0.1:9")])
def test_a_hub_that_cannot_be_reached_says_how_to_go_on(prepared, monkeypatch, name, value):
    monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    with pytest.raises(InputError, match=r"--push_to_hub me/data: .*the shards are whole in .*hf upload me/data"):
        push_to_hub(prepared[1], "me/data")
