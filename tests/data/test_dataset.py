"""Token stores as rows: what max_length drops or cuts, what packing keeps, what a batch holds."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from promptcot_mamba.data.collate import collate_packed, collate_padded
from promptcot_mamba.data.dataset import UnpackedRows, make_rows
from promptcot_mamba.data.rows import find_row_files, iter_examples
from promptcot_mamba.data.tokens import TokenStore, build_store, open_store
from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.linear_cross_entropy import IGNORE_INDEX
from tests.programs.train_helpers import write_examples
from tests.tiny import encode_example, make_tokenizer

TOKENIZER = make_tokenizer()
MAX_LENGTH = 110


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_examples(tmp_path_factory.mktemp("rows") / "sums.jsonl", 40, sources=("add", "sum"))


@pytest.fixture(scope="module")
def store(data: Path) -> TokenStore:
    folder = data.parent / "store"
    build_store(folder, find_row_files(data), TOKENIZER)
    return open_store(folder)


def documents_of(rows) -> dict[str, tuple[list[int], list[int]]]:
    """id -> (input_ids, labels) of every document in a dataset of rows."""
    found = {}
    for number in range(len(rows)):
        row, start = rows[number], 0
        for length, identity in zip(row["lengths"], row["example_ids"], strict=True):
            assert identity not in found
            part = slice(start, start + length)
            found[identity] = (row["input_ids"][part].tolist(), row["labels"][part].tolist())
            start += length
        assert start == len(row["input_ids"])
    return found


@pytest.mark.parametrize("packing", [False, True])
def test_rows_hold_every_document_as_encoded(data: Path, store: TokenStore, packing: bool):
    rows = make_rows(store, 512, packing=packing)
    expected = {e.id: encode_example(TOKENIZER, e.prompt, e.completion) for e in iter_examples([data])}
    assert documents_of(rows) == expected
    assert rows.selection.dropped == rows.selection.truncated == 0


def test_packed_rows_stay_within_max_length(store: TokenStore):
    rows = make_rows(store, 200, packing=True)
    assert len(rows) < len(rows.selection.documents)
    assert max(len(rows[number]["input_ids"]) for number in range(len(rows))) <= 200


def test_overlong_documents_are_dropped_or_cut_and_counted(store: TokenStore):
    lengths = store.lengths
    overlong = int((lengths > MAX_LENGTH).sum())
    assert 0 < overlong < len(lengths)
    dropped = make_rows(store, MAX_LENGTH, packing=False)
    assert dropped.selection.dropped == overlong
    assert "over-long dropped" in dropped.selection.describe()
    cut = make_rows(store, MAX_LENGTH, packing=False, overlong="truncate")
    assert (cut.selection.dropped, cut.selection.truncated) == (0, overlong)
    whole, kept = documents_of(make_rows(store, 512, packing=False)), documents_of(cut)
    for identity, (ids, labels) in kept.items():
        full_ids, full_labels = whole[identity]
        if len(full_ids) <= MAX_LENGTH:
            assert (ids, labels) == (full_ids, full_labels)
        else:  # ends in the end of text, which carries no loss: thought did not end there
            assert ids == [*full_ids[: MAX_LENGTH - 1], TOKENIZER.eos_token_id]
            assert labels == [*full_labels[: MAX_LENGTH - 1], IGNORE_INDEX]


def test_prompts_that_leave_nothing_to_learn_are_dropped_even_when_cutting(store: TokenStore):
    shortest_prompt = int(store.prompt_lengths.min())
    with pytest.raises(InputError, match=rf"--max_length {shortest_prompt}: no usable example; the shortest of 40 has"):
        make_rows(store, shortest_prompt, packing=True, overlong="truncate")


def test_split_by_source(store: TokenStore):
    parts = make_rows(store, 512, packing=False).split_by_source()
    assert {source: len(rows) for source, rows in parts.items()} == {"add": 20, "sum": 20}
    assert all(int(identity[2:]) % 2 == 0 for identity in documents_of(parts["add"]))


def test_unpacking_gives_the_documents_back(store: TokenStore):
    packed = make_rows(store, 512, packing=True)
    apart = UnpackedRows(packed)
    assert all(len(apart[number]["lengths"]) == 1 for number in range(len(apart)))
    assert documents_of(apart) == documents_of(packed)


def test_store_is_whole_or_absent(tmp_path: Path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "p", "completion": "c"}\n{"prompt": "p"}\n')
    with pytest.raises(InputError, match=r"bad\.jsonl:2"):
        build_store(tmp_path / "cache" / "store", [bad], TOKENIZER)
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_a_killed_process_left_goes_once_nobody_can_be_writing_it(data: Path, tmp_path: Path):
    """An hour is longer than any pause between two batches; a younger one may be another process's."""
    old, young = tmp_path / ".store.1.tmp", tmp_path / ".store.2.tmp"
    for folder in (old, young):
        folder.mkdir()
        (folder / "tokens.bin").write_bytes(b"half")
    for path in (old / "tokens.bin", old):
        os.utime(path, (0, 0))
    build_store(tmp_path / "store", find_row_files(data), TOKENIZER)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".store.2.tmp", "store"]


def test_packed_batch(store: TokenStore):
    rows = make_rows(store, MAX_LENGTH, packing=True)
    batch = collate_packed([rows[0], rows[1]], pad_id=0)
    total = len(rows[0]["input_ids"]) + len(rows[1]["input_ids"])
    assert batch["input_ids"].shape == batch["labels"].shape == (1, total)
    edges = batch["cu_seqlens"].tolist()
    assert (edges[0], edges[-1]) == (0, total)
    assert np.diff(edges).tolist() == [*rows[0]["lengths"], *rows[1]["lengths"]]
    assert len(batch["example_ids"]) == len(edges) - 1
    assert all(batch["labels"][0, edge] == IGNORE_INDEX for edge in edges[:-1])


def test_padded_batch(store: TokenStore):
    rows = make_rows(store, 512, packing=False)
    batch = collate_padded([rows[0], rows[1]], pad_id=7)
    widths = [len(rows[0]["input_ids"]), len(rows[1]["input_ids"])]
    assert batch["attention_mask"].sum(1).tolist() == widths
    shorter = int(np.argmin(widths))
    assert (batch["input_ids"][shorter, min(widths) :] == 7).all()
    assert (batch["labels"][shorter, min(widths) :] == IGNORE_INDEX).all()


@pytest.mark.parametrize("collate", [collate_packed, collate_padded])
def test_empty_batch_adds_nothing(collate):
    batch = collate([], pad_id=3)
    assert batch["input_ids"].tolist() == [[3]]
    assert (batch["labels"] == IGNORE_INDEX).all()
    assert batch["example_ids"] == []
    assert batch["input_ids"].dtype == torch.int64
