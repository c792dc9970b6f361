"""A scripted server, and the tokenizer that speaks its tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from promptcot_mamba.jsonl import write_jsonl
from tests.sampling.conftest import ServerProcess, started_servers
from tests.tiny import make_tokenizer


@pytest.fixture
def start_server() -> Iterator[Callable[..., ServerProcess]]:
    """Start scripted servers; all are killed at the end of the test."""
    yield from started_servers("tests.synthesis.server")


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    path = tmp_path / "seeds.jsonl"
    write_jsonl(path, [{"problem": f"Compute number {i}.", "level": "easy"} for i in range(10)])
    return path
