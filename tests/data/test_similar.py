"""The search by embeddings: what is near is reported, nothing is removed, and no package is needed without it."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest

from promptcot_mamba.data.decontaminate import BenchmarkText
from promptcot_mamba.data.prepare import prepare_shards
from promptcot_mamba.data.similar import SIMILAR_FILE, load_embedder, require_package
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import read_jsonl, write_jsonl
from tests.data.test_prepare import make_recipe
from tests.tiny import make_tokenizer

PROBLEMS = [
    BenchmarkText("b", "cats", "How many cats sit on the wall of the old garden by the river at noon today?"),
    BenchmarkText("b", "sum", "What is the sum of all the integers from 1 to 100 that are divisible by seven?"),
]
ASKED = {  # question -> the topic that a reader sees in it
    "Wieviele Katzen sitzen mittags auf der Mauer?": "cats",
    "Add up the multiples of 7 below one hundred and one.": "sum",
    "Name the capital of France.": "else",
}


class FakeModel:
    """A sentence-transformers model that knows what these texts are about."""

    def __init__(self, folder: str, **_: object):
        if not Path(folder, "modules.json").is_file():
            raise OSError(f"{folder}: no modules.json\nand more")

    def encode(self, texts: list[str], *, normalize_embeddings: bool, show_progress_bar: bool) -> np.ndarray:
        topics = [ASKED.get(text) or next(p.problem for p in PROBLEMS if p.text == text) for text in texts]
        axes = {"cats": [1.0, 0.1], "sum": [0.1, 1.0], "else": [-1.0, -1.0]}
        return np.array([axes[one] for one in topics])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    module = types.ModuleType("sentence_transformers")
    module.SentenceTransformer = FakeModel  # type: ignore[attr-defined]
    module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "modules.json").write_text("[]")
    return tmp_path / "model"


def test_what_means_the_same_is_reported_and_stays(folder: Path, tmp_path: Path):
    answer = "<think>\nso\n</think>\nIt is \\boxed{7}."
    rows = [{"prompt": question, "completion": answer} for question in (*ASKED, *ASKED)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    recipe = make_recipe({"mine": {"adapter": "generic", "path": str(tmp_path / "rows.jsonl")}})
    arguments = {"tokenizer": make_tokenizer(), "tokenizer_path": "t", "problems": PROBLEMS}
    plain = prepare_shards(recipe, tmp_path / "plain", **arguments)
    told = prepare_shards(recipe, tmp_path / "told", **arguments, embedding_model=str(folder))
    assert told.manifest == plain.manifest
    assert not (tmp_path / "plain" / SIMILAR_FILE).exists()
    found = [(row["row"], row["problem"], row["question"]) for row in read_jsonl(tmp_path / "told" / SIMILAR_FILE)]
    german, spoken, _ = ASKED
    assert found == [("rows.jsonl:1", "cats", german), ("rows.jsonl:2", "sum", spoken)]


def test_a_folder_without_a_model_is_named(folder: Path, tmp_path: Path):
    with pytest.raises(InputError, match=rf"--embedding_model {tmp_path}: .*no modules.json\)$"):
        load_embedder(str(tmp_path))


def test_a_missing_package_is_said_in_one_line(monkeypatch):
    monkeypatch.setattr("promptcot_mamba.data.similar.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install sentence-transformers.*it only reports"):
        require_package()
