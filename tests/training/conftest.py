"""A tiny checkpoint, its tokenizer and encoded sums, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from promptcot_mamba.data.rows import find_row_files
from promptcot_mamba.data.tokens import TokenStore, build_store, open_store
from promptcot_mamba.training.arguments import SftArguments
from tests.programs.train_helpers import write_examples
from tests.tiny import make_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"), n_groups=2)


@pytest.fixture(scope="session")
def tokenizer(checkpoint: Path):
    return AutoTokenizer.from_pretrained(checkpoint)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, tokenizer) -> TokenStore:
    folder = tmp_path_factory.mktemp("data")
    data = write_examples(folder / "sums.jsonl", 14, sources=("add", "sum"))
    build_store(folder / "store", find_row_files(data), tokenizer)
    return open_store(folder / "store")


@pytest.fixture
def one_world(monkeypatch: pytest.MonkeyPatch):
    """Let a test say how many processes a step has."""
    monkeypatch.setattr(SftArguments, "world_size", property(lambda self: self.__dict__.get("world_size", 1)))
