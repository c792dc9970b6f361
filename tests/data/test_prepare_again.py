"""The preparation typed again: after a kill before its end, and with flags that it did not have before."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from promptcot_mamba.data import prepare
from promptcot_mamba.jsonl import read_jsonl, write_jsonl
from scripts.prepare_sft_data import main
from tests.tiny import make_tokenizer

NOTES = {"report.md", "README.md", "run.json"}


@pytest.fixture
def prepare_here(tmp_path: Path, monkeypatch):
    """Run the program in this process on three rows, one of them an answer that people turned down."""
    make_tokenizer().save_pretrained(tmp_path / "tokenizer")
    rows = [
        {
            "prompt": f"What is {number} + {number}?",
            "completion": f"<think>\nso\n</think>\nIt is {2 * number}.",
            "label": good,
        }
        for number, good in ((11, True), (24, True), (5, False))
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    sources = {"a": {"adapter": "generic", "path": str(tmp_path / "rows.jsonl"), "near_duplicates": False}}

    def run(*flags: str, **changes) -> Path:
        arguments = [
            "prepare_sft_data", "--sources", json.dumps({"a": {**sources["a"], **changes}}), "--output_dir",
            str(tmp_path / "out"), "--tokenizer_path", str(tmp_path / "tokenizer"), "--benchmarks", "none",
            "--max_length", "256", "--min_tokens", "1", "--shard_tokens", "256", "--workers", "1", *flags,
        ]  # fmt: skip
        monkeypatch.setattr(sys, "argv", arguments)
        main()
        return tmp_path / "out"

    return run


def shards(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.glob("shard-*.arrow")}


@pytest.mark.parametrize("broken", ["promptcot_mamba.data.report.write_report", "promptcot_mamba.data.card.write_card"])
def test_what_a_kill_before_the_notes_left_out_is_written_by_the_next_run(prepare_here, monkeypatch, broken: str):
    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(broken, die)
        with pytest.raises(Killed):
            prepare_here()
    output = Path(sys.argv[sys.argv.index("--output_dir") + 1])
    assert not (output / "manifest.json").exists()  # training refuses the folder
    made = shards(output)
    chunks = {path: path.stat().st_mtime_ns for path in output.glob(".work/*/chunks/*.json")}
    assert made
    assert chunks
    prepare_here("--keep_work", "True")
    assert {path: path.stat().st_mtime_ns for path in output.glob(".work/*/chunks/*.json")} == chunks
    assert {path.name for path in output.iterdir()} >= {*NOTES, "manifest.json", *made}
    assert shards(output) == made
    counts = json.loads((output / "manifest.json").read_text())["counts"]
    assert counts["sources"]["a"]["dropped"] == {"rejected_answer": 1}
    assert "`rejected_answer`" in (output / "report.md").read_text()


def test_a_finished_folder_is_uploaded_when_asked_and_tidied_where_a_kill_left_it(prepare_here, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(prepare, "remove_work", lambda output: None)  # killed before
        output = prepare_here()
    assert (output / ".work").is_dir()
    before = {path: path.stat().st_mtime_ns for path in output.iterdir() if path.is_file()}
    uploaded = []
    monkeypatch.setattr("promptcot_mamba.data.card.push_to_hub", lambda *told: uploaded.append(told) or "there")
    prepare_here("--push_to_hub", "me/mine")
    assert uploaded == [(output, "me/mine")]
    assert not (output / ".work").exists()
    assert {path: path.stat().st_mtime_ns for path in output.iterdir() if path.is_file()} == before


def test_a_report_of_likeness_is_made_of_finished_shards(prepare_here, monkeypatch):
    output = prepare_here()
    made = shards(output)
    told = [{"question": "q"}]
    monkeypatch.setattr("promptcot_mamba.data.similar.require_package", lambda: None)
    monkeypatch.setattr(prepare, "load_embedder", lambda folder: folder)
    monkeypatch.setattr(prepare, "find_similar", lambda questions, problems, embed: told)
    prepare_here("--embedding_model", str(output.parent / "tokenizer"))
    assert read_jsonl(output / "similar_benchmark.jsonl") == told
    assert shards(output) == made
    monkeypatch.setattr(prepare, "find_similar", lambda *_: pytest.fail("made twice"))
    prepare_here("--embedding_model", str(output.parent / "tokenizer"))


def test_rows_as_text_do_not_outlive_their_shards(prepare_here):
    output = prepare_here("--jsonl", "True")
    assert len(read_jsonl(output / "rows.jsonl")) == 2
    prepare_here("--overwrite", "True", epochs=2)
    assert not (output / "rows.jsonl").exists()
    prepare_here("--jsonl", "True", "--overwrite", "True", examples=1)
    assert len(read_jsonl(output / "rows.jsonl")) == 1
