"""Names of the hub where folders are expected: single files are fetched, the cache serves, refusals say the way on."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from promptcot_mamba.hub import is_hub_name, match, match_first
from promptcot_mamba.jsonl import write_jsonl
from tests.fake_hub import serve_hub
from tests.tiny import make_checkpoint

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    {"prompt": f"Add 2 and {number}.", "completion": f"<think>\n2\n</think>\nIt is {number}."} for number in range(9)
]


def run(command: list[object], cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    hub = {"HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
        env={**{name: value for name, value in os.environ.items() if not name.startswith("HF_")}, **hub},
    )  # fmt: skip


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    model = make_checkpoint(root / "models/maker/tiny-model")
    (model / "consolidated.safetensors").write_bytes(b"the same weights in another layout")
    (model / "pytorch_model.bin").write_bytes(b"and in a third")
    (model / "original").mkdir()
    (model / "original/model.safetensors").write_bytes(b"and in a fourth")
    rows = root / "datasets/maker/rows"
    write_jsonl(rows / "train.jsonl", ROWS)
    write_jsonl(rows / "test.jsonl", ROWS[:1])
    (rows / "README.md").write_text("---\nlicense: mit\n---\n")
    return root


def train(out: Path, model: str, data: str) -> list[object]:
    return [
        "train.py", "--model_name_or_path", model, "--data_path", data, "--output_dir", out, "--max_length", 64,
        "--max_steps", 1, "--per_device_train_batch_size", 1, "--deepspeed=", "--bf16", "False", "--report_to", "none",
    ]  # fmt: skip


def test_a_model_and_a_data_set_are_trained_by_their_names_and_again_without_the_hub(hub: Path, tmp_path: Path):
    with serve_hub(hub) as (address, asked):
        done = run(train(tmp_path / "a", "maker/tiny-model", "maker/rows"), tmp_path / "cache", HF_ENDPOINT=address)
        assert done.returncode == 0, done.stderr
        fetched = set(asked)
    assert {"config.json", "model.safetensors", "tokenizer.json", "train.jsonl"} <= fetched
    others = {"consolidated.safetensors", "pytorch_model.bin", "original/model.safetensors", "test.jsonl", "README.md"}
    assert not fetched & others
    assert (tmp_path / "a/model.safetensors").is_file()
    again = run(
        [*prepare(tmp_path / "b", "maker/tiny-model", hub / "datasets/maker/rows/train.jsonl")], tmp_path / "cache"
    )
    assert again.returncode == 0, again.stderr  # nobody answers any more


def prepare(out: Path, tokenizer: str, rows: Path) -> list[object]:
    sources = json.dumps({"a": {"adapter": "generic", "path": str(rows)}})
    return [
        "-m", "scripts.prepare_sft_data", "--sources", sources, "--tokenizer_path", tokenizer, "--output_dir", out,
        "--benchmarks", "none", "--max_length", 64, "--min_tokens", 1, "--shard_tokens", 64, "--workers", 1,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "words", "environment"),
    [
        (
            train(Path("out"), "maker/absent", "x.jsonl"),
            ("--model_name_or_path maker/absent", "hf download maker/absent --local-dir FOLDER", "pass --model_name"),
            {"HF_ENDPOINT": "http://127.0.0.1:9"},
        ),
        (
            ["infer_longcot.py", "--data_path", "x.jsonl", "--output_path", "y.jsonl", "--model_path", "maker/absent"],
            ("--model_path maker/absent", "hf download maker/absent --local-dir FOLDER) and pass --model_path FOLDER"),
            {"HF_ENDPOINT": "http://127.0.0.1:9"},
        ),
        (
            ["-m", "scripts.chat", "--model_path", "maker/absent"],
            ("--model_path maker/absent", "hf download maker/absent --local-dir FOLDER) and pass --model_path FOLDER"),
            {"HF_HUB_OFFLINE": "1"},
        ),
        (
            prepare(Path("out"), "maker/absent", Path("x.jsonl")),
            ("--tokenizer_path maker/absent", "and pass --tokenizer_path FOLDER"),
            {"HF_HUB_OFFLINE": "1"},
        ),
    ],
    ids=["train", "infer", "chat", "prepare"],
)  # fmt: skip
def test_without_the_hub_a_name_is_refused_in_one_line_that_says_the_way_on(
    command, words, environment, tmp_path: Path
):
    write_jsonl(tmp_path / "x.jsonl", [{"idx": 0, "prompt": "1+1?"}])
    command = [str(tmp_path / part) if part in ("x.jsonl", "out", "y.jsonl") else part for part in map(str, command)]
    done = run(command, tmp_path / "cache", **environment)
    assert done.returncode == 2, done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "Traceback" not in done.stderr
    assert "the hub cannot be reached" in line
    for word in words:
        assert word in line
    assert not (tmp_path / "out").exists()


def test_a_repository_that_is_not_there_is_said_so(hub: Path, tmp_path: Path):
    with serve_hub(hub) as (address, _):
        done = run(["-m", "scripts.chat", "--model_path", "maker/absent"], tmp_path / "cache", HF_ENDPOINT=address)
    assert done.returncode == 2, done.stderr
    assert "the hub refuses" in done.stderr
    assert "Traceback" not in done.stderr


FETCH = """
import sys
from promptcot_mamba.errors import InputError
from promptcot_mamba.hub import fetch
try:
    print(*(path.read_text() for path in fetch("maker/old", "model", lambda names: [n for n in names if n[0] == "c"])))
except InputError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("environment", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_a_cache_that_an_older_client_filled_serves(environment: dict[str, str], tmp_path: Path):
    """It has no list of the repository's files beside their snapshot."""
    repo, commit = tmp_path / "hub/models--maker--old", "0123456789abcdef0123456789abcdef01234567"
    for name, text in (("refs/main", commit), (f"snapshots/{commit}/config.json", '{"model_type": "mamba2"}')):
        (repo / name).parent.mkdir(parents=True)
        (repo / name).write_text(text)
    done = run(["-c", FETCH], tmp_path, **environment)
    assert (done.returncode, done.stdout) == (0, '{"model_type": "mamba2"}\n'), done.stderr


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((404, "RepoNotFound", "Repository not found"), "the hub refuses (Repository not found); see its name, and"),
        ((403, "GatedRepo", "Access to model maker/old is restricted"), "is restricted); accept its terms on its page"),
        ((401, "", "Invalid credentials in Authorization header"), "the hub refuses (Invalid credentials in"),
        ((403, "", "Forbidden: your token may not read it"), "the hub refuses (Forbidden: your token may not read it)"),
        ((400, "", "We had to rate limit you"), "the hub answers 400 (We had to rate limit you); the same command"),
    ],
)  # fmt: skip
def test_what_the_hub_says_is_passed_on(answer: tuple[int, str, str], words: str, tmp_path: Path):
    with serve_hub(tmp_path, answer) as (address, _):
        done = run(["-c", FETCH], tmp_path / "cache", HF_ENDPOINT=address, HF_TOKEN="hf_wrong")
    assert words in done.stderr
    assert "Request ID" not in done.stderr.splitlines()[-1]
    assert done.returncode == 1


@pytest.mark.parametrize(("code", "words"), [(errno.EROFS, "Read-only file system"), (errno.ENOSPC, "No space left")])
def test_a_cache_that_cannot_be_written_is_said_so(code: int, words: str, hub: Path, tmp_path: Path):
    broken = f"""
import huggingface_hub
def fail(*_, **__): raise OSError({code}, {os.strerror(code)!r}, "/read/only")
huggingface_hub.snapshot_download = fail
"""
    with serve_hub(hub) as (address, _):
        done = run(["-c", broken + FETCH.replace("old", "tiny-model")], tmp_path, HF_ENDPOINT=address)
    assert f"the hub's cache {tmp_path / 'hub'} cannot be written ({words}" in done.stderr
    assert "set HF_HOME" in done.stderr


def test_mistyped_paths_are_no_names(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    assert is_hub_name("mistralai/Mamba-Codestral-7B-v0.1")
    for path in ("outputs/phase1", "/models/x", "./a/b", "a/b/c", "model", "../a", "outputs"):
        assert not is_hub_name(path), path


def test_patterns_match_as_in_a_folder():
    names = ["data/train-0.parquet", "data/test-0.parquet", "a/b/train-0.parquet", "x.jsonl", "[1].jsonl"]
    assert match(names, "*.parquet") == []
    assert match(names, "data/train-*.parquet") == ["data/train-0.parquet"]
    assert match(names, "**/train-*.parquet") == ["a/b/train-0.parquet", "data/train-0.parquet"]
    assert match_first(names, ["*.arrow", "*.jsonl", "data/*"]) == ["[1].jsonl", "x.jsonl"]
