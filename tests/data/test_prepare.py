"""The whole preparation on planted corpora: every fault counted exactly, no clean row lost, the same bytes always."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import pytest

from promptcot_mamba.data.adapters import get_adapter
from promptcot_mamba.data.conversation import render_row
from promptcot_mamba.data.encode import hash_tokenizer
from promptcot_mamba.data.prepare import Recipe, prepare_shards, remove_work
from promptcot_mamba.data.report import write_report
from promptcot_mamba.data.row_files import Chunk, iter_rows
from promptcot_mamba.data.shards import ShardRows
from promptcot_mamba.data.sources import parse_sources
from promptcot_mamba.errors import InputError
from tests.data.planted import SOURCES, Corpus, plant, recipe_sources
from tests.tiny import encode_example, make_tokenizer

MAX_LENGTH = 4096


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    return plant(tmp_path_factory.mktemp("raw"), 300, seed=7)


def make_recipe(sources: dict, **changes) -> Recipe:
    values = {
        "max_length": MAX_LENGTH, "min_tokens": 8, "max_tokens": MAX_LENGTH, "near_duplicate_threshold": 0.8,
        "total_examples": None, "shard_tokens": 200_000, "seed": 0,
    }  # fmt: skip
    return Recipe(sources=parse_sources(sources), **{**values, **changes})


def prepare(recipe: Recipe, output: Path, tokenizer, corpus: Corpus, **flags):
    return prepare_shards(
        recipe,
        output,
        tokenizer=tokenizer,
        tokenizer_path="tiny",
        problems=flags.pop("problems", corpus.problems),
        source_dir=str(corpus.folder),
        **flags,
    )


@pytest.fixture(scope="module")
def prepared(corpus, tokenizer, tmp_path_factory):
    output = tmp_path_factory.mktemp("shards")
    return prepare(make_recipe(recipe_sources(corpus)), output, tokenizer, corpus), output


def shard_hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("shard-*.arrow"))}


def test_every_fault_is_found_and_counted_and_no_clean_row_is_lost(prepared, corpus):
    counts = prepared[0].manifest["counts"]["sources"]
    for source in SOURCES:
        expected = corpus.expected[source] + Counter(near_duplicate=corpus.close_prompts[source])
        assert counts[source]["dropped"] == dict(expected), source
        assert counts[source]["read"] == corpus.rows[source]
        assert counts[source]["in_mixture"] == corpus.clean[source]


def test_shards_hold_each_example_once_as_the_encoder_makes_it(prepared, corpus, tokenizer):
    result, output = prepared
    rows = ShardRows(output)
    seen: Counter[str] = Counter()
    documents = {}
    for row in (rows[number] for number in range(len(rows))):
        assert row["lengths"].sum() == len(row["input_ids"]) == len(row["labels"]) <= MAX_LENGTH
        seen.update(row["example_ids"])
        end = 0
        for name, length in zip(row["example_ids"], row["lengths"], strict=True):
            documents[name] = (
                row["input_ids"][end : end + length].tolist(),
                row["labels"][end : end + length].tolist(),
            )
            end += length
    assert sum(seen.values()) == sum(corpus.clean.values()) == result.manifest["counts"]["documents"]
    assert set(seen.values()) == {1}
    adapter, checked = get_adapter("openthoughts2"), 0
    for _, raw in iter_rows(Chunk(next((corpus.folder / "open-thoughts").rglob("*.parquet")))):
        row = adapter.convert(raw, None)
        if row.id.hex() in documents:
            assert documents[row.id.hex()] == encode_example(tokenizer, *render_row(row))
            checked += 1
    assert checked >= corpus.clean["openthoughts2"]


def test_bytes_do_not_depend_on_the_number_of_workers(prepared, corpus, tokenizer, tmp_path):
    prepare(make_recipe(recipe_sources(corpus)), tmp_path, tokenizer, corpus, workers=3)
    assert shard_hashes(tmp_path) == shard_hashes(prepared[1])
    assert len(shard_hashes(tmp_path)) > 1


def test_a_second_run_has_nothing_to_do_and_another_recipe_is_refused(prepared, corpus, tokenizer):
    output = prepared[1]
    before = {path: path.stat().st_mtime_ns for path in output.iterdir() if path.is_file()}
    assert prepare(make_recipe(recipe_sources(corpus)), output, tokenizer, corpus) is None
    assert before == {path: path.stat().st_mtime_ns for path in output.iterdir() if path.is_file()}
    with pytest.raises(InputError, match="another recipe"):
        prepare(make_recipe(recipe_sources(corpus), seed=1), output, tokenizer, corpus)


def test_another_mixture_reuses_the_tokenised_rows_and_overwrites_when_told(corpus, tokenizer, tmp_path):
    sources = {"a": {"adapter": "openthoughts2", "weight": 3}, "b": {"adapter": "promptcot_ds", "weight": 1}}
    first = prepare(make_recipe(sources, total_examples=100), tmp_path, tokenizer, corpus)
    assert [first.manifest["counts"]["sources"][name]["in_mixture"] for name in "ab"] == [75, 25]
    sources["a"]["weight"] = 1
    chunks = {path: path.stat().st_mtime_ns for path in (tmp_path / ".work").rglob("*.tokens")}
    second = prepare(make_recipe(sources, total_examples=100), tmp_path, tokenizer, corpus, overwrite=True)
    assert [second.manifest["counts"]["sources"][name]["in_mixture"] for name in "ab"] == [50, 50]
    assert chunks == {path: path.stat().st_mtime_ns for path in (tmp_path / ".work").rglob("*.tokens")}
    remove_work(tmp_path)
    assert len(ShardRows(tmp_path)) == second.manifest["counts"]["rows"]


def test_epochs_repeat_whole_passes_and_a_seeded_part(corpus, tokenizer, tmp_path):
    sources = {"a": {"adapter": "openthoughts2", "epochs": 2.5}}
    result = prepare(make_recipe(sources), tmp_path, tokenizer, corpus)
    rows = ShardRows(tmp_path)
    seen = Counter(name for number in range(len(rows)) for name in rows[number]["example_ids"])
    clean = corpus.clean["openthoughts2"]
    assert Counter(seen.values()) == {2: clean - round(clean / 2), 3: round(clean / 2)}
    assert result.manifest["counts"]["documents"] == sum(seen.values()) == round(2.5 * clean)


def test_answers_beyond_k_per_prompt_are_dropped(corpus, tokenizer, tmp_path):
    sources = {"a": {"adapter": "openthoughts2", "max_answers_per_prompt": 1, "near_duplicates": False}}
    result = prepare(make_recipe(sources), tmp_path, tokenizer, corpus)
    dropped = result.manifest["counts"]["sources"]["a"]["dropped"]
    assert dropped["too_many_answers"] == 3  # the prompts planted twice, in capitals the second time
    assert "near_duplicate" not in dropped


def test_a_source_with_nothing_left_is_refused(corpus, tokenizer, tmp_path):
    sources = {"a": {"adapter": "openthoughts2"}}
    with pytest.raises(InputError, match=r"sources\.a: no row is left"):
        prepare(make_recipe(sources, max_tokens=9, min_tokens=9), tmp_path, tokenizer, corpus)


def test_report_shows_counts_plots_and_hits(prepared):
    result, output = prepared
    text = write_report(result, output).read_text()
    for source in SOURCES:
        assert f"| {source} |" in text
    assert "`contaminated`" in text
    assert "| bench | 60 | 18 |" in text
    for name in ("lengths", "drops", "fill"):
        assert (output / "plots" / f"{name}.png").stat().st_size > 5_000


def test_shards_refuse_another_length_tokenizer_or_missing_file(prepared, tokenizer, tmp_path):
    rows = ShardRows(prepared[1])
    rows.check(max_length=MAX_LENGTH, tokenizer_hash=hash_tokenizer(tokenizer))
    with pytest.raises(InputError, match="max_length"):
        rows.check(max_length=2048, tokenizer_hash=hash_tokenizer(tokenizer))
    with pytest.raises(InputError, match="another tokenizer"):
        rows.check(max_length=MAX_LENGTH, tokenizer_hash="0" * 32)
    with pytest.raises(InputError, match=r"no manifest\.json"):
        ShardRows(tmp_path)


def test_rows_are_views_of_the_mapped_file(prepared):
    row = ShardRows(prepared[1])[0]
    for name in ("input_ids", "labels"):
        assert not row[name].flags.owndata
        assert not row[name].flags.writeable
