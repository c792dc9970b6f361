"""`python -m scripts.prepare_sft_data`: killed and continued, refused in one line, explained."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from promptcot_mamba.jsonl import write_jsonl
from scripts.prepare_sft_data import main
from tests.data.planted import plant, recipe_sources
from tests.tiny import make_tokenizer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return make_place(tmp_path_factory.mktemp("place"))


def make_place(folder: Path) -> Path:
    """Planted sources, their recipe, a tokenizer and a benchmark."""
    corpus = plant(folder / "raw", 400, seed=3)
    make_tokenizer().save_pretrained(folder / "tokenizer")
    (folder / "sources.json").write_text(json.dumps(recipe_sources(corpus)))
    write_jsonl(folder / "bench/gsm8k_test.jsonl", ({"id": p.problem, "question": p.text} for p in corpus.problems))
    return folder


def command(place: Path, output: Path, *flags: str) -> list[str]:
    return [
        sys.executable, "-m", "scripts.prepare_sft_data", "--sources", (place / "sources.json").read_text(),
        "--tokenizer_path", str(place / "tokenizer"), "--source_dir", str(place / "raw"), "--output_dir", str(output),
        "--max_length", "4096", "--shard_tokens", "40000", "--benchmarks", "gsm8k",
        "--benchmark_dir", str(place / "bench"), "--workers", "2", *flags,
    ]  # fmt: skip


def run(arguments: list[str], **environment: str) -> subprocess.CompletedProcess:
    everything = {**os.environ, **environment}
    return subprocess.run(arguments, cwd=ROOT, env=everything, capture_output=True, text=True, timeout=300, check=False)


def hashes(folder: Path) -> dict[str, str]:
    paths = [*folder.glob("shard-*.arrow"), *folder.glob("*.json*")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.name != "run.json"}


# The program as `-m` runs it, but that its whole group is killed, workers in the midst of their chunks, at the moment
# when its first process hears of the third part done under a title.
KILLED = """
import os, runpy, signal, sys
from promptcot_mamba.data import workers

def bar(results, *, desc, **rest):
    for done, result in enumerate(results, start=1):
        if desc == TITLE and done == 3:
            os.killpg(0, signal.SIGKILL)
        yield result

workers.tqdm = bar
runpy.run_module("scripts.prepare_sft_data", {}, "__main__", alter_sys=True)
"""


def run_here(arguments: list[str], monkeypatch) -> None:
    """The program in this process, by one worker: what two processes leave must be what one makes."""
    monkeypatch.setattr(sys, "argv", arguments[2:])
    for name in ("TOKENIZERS_PARALLELISM", "RAYON_NUM_THREADS", "OMP_NUM_THREADS", "ARROW_NUM_THREADS"):
        monkeypatch.setenv(name, "1" if name != "TOKENIZERS_PARALLELISM" else "false")
    main()


@pytest.mark.parametrize("title", ["reading and tokenising", pytest.param("packing shards", marks=pytest.mark.slow)])
def test_killed_and_continued_gives_the_same_bytes(place, tmp_path, monkeypatch, title):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_here(command(place, whole, "--workers", "1"), monkeypatch)
    assert (whole / "report.md").exists()
    assert not (whole / ".work").exists()
    arguments = [sys.executable, "-c", KILLED.replace("TITLE", repr(title)), *command(place, broken)[3:]]
    killed = subprocess.run(arguments, cwd=ROOT, start_new_session=True, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (broken / "manifest.json").exists()
    chunks = {path: path.stat().st_mtime_ns for path in broken.glob(".work/*/chunks/*.json")}
    assert len(chunks) >= 3
    run_here(command(place, broken, "--keep_work", "True", "--workers", "1"), monkeypatch)
    assert hashes(broken) == hashes(whole)
    again = {path: path.stat().st_mtime_ns for path in broken.glob(".work/*/chunks/*.json")}
    assert chunks.items() <= again.items()  # finished chunks were not done again


def refuse(arguments: list[str], *messages: str, **environment: str) -> str:
    done = run(arguments, **environment)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for message in messages:
        assert message in done.stderr
    return done.stderr


def test_no_internet_says_what_to_download_and_where(place, tmp_path):
    sources = json.dumps({"a": {"adapter": "openthoughts2"}})
    arguments = command(place, tmp_path / "out", "--sources", sources)
    at = arguments.index("--source_dir")
    del arguments[at : at + 2]
    refuse(
        arguments, "cannot be reached", "huggingface.co/datasets/open-thoughts/OpenThoughts2-1M", "--source_dir DIR",
        HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "cache"),
    )  # fmt: skip


def test_missing_benchmark_is_refused_unless_allowed(place, tmp_path):
    arguments = command(place, tmp_path / "out", "--benchmarks", "gsm8k,aime24")
    mend = "scripts.prepare_problems --benchmark aime24"
    refuse(arguments, "aime_test.jsonl: missing", mend, "--allow_missing_benchmark")
    done = run([*arguments, "--allow_missing_benchmark", "True", "--workers", "1"])
    assert done.returncode == 0, done.stderr
    assert "aime24 is NOT kept out" in done.stderr


def test_readmes_data_step_works_from_a_folder(place, tmp_path):
    """`prepare_problems --benchmark all`, then shards that keep every one of its problems out."""
    if "PROMPTCOT_BENCHMARKS" not in os.environ:
        pytest.skip("PROMPTCOT_BENCHMARKS is not set: no published problem files")
    prepare = [
        sys.executable,
        "-m",
        "scripts.prepare_problems",
        "--benchmark",
        "all",
        "--output_dir",
        tmp_path / "data",
    ]
    done = run([*map(str, prepare), "--source_dir", os.environ["PROMPTCOT_BENCHMARKS"]])
    assert done.returncode == 0, done.stderr
    done = run(command(place, tmp_path / "out", "--benchmarks", "all", "--benchmark_dir", str(tmp_path / "data")))
    assert done.returncode == 0, done.stderr
    kept_out = json.loads((tmp_path / "out/manifest.json").read_text())["benchmarks"]["problems"]
    assert kept_out == {
        "aime24": 30, "aime25": 30, "math500": 500, "olympiadbench": 675, "gsm8k": 1319, "humaneval": 164,
        "humanevalplus": 164, "livecodebench": 279,
    }  # fmt: skip
    for further in ("hmmt25", "aime26"):
        assert f"{further} is NOT kept out" in done.stderr


def test_a_full_disk_is_one_line(place, tmp_path):
    """A file-size limit makes every write beyond it fail as a full disk does; chunks of this corpus are larger."""
    limit = 'export PYTHONDONTWRITEBYTECODE=1; ulimit -f 100; trap "" XFSZ; exec "$@"'  # as tests/small_disk.py
    limited = ["bash", "-c", limit, "limited", *command(place, tmp_path / "out")]
    refuse(limited, "the disk is full", "run the same command again")


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--workers", "-3"), "--workers -3: must be at least 0"),
        (("--order", "long_first"), "--order long_first: must be one of shuffled, short_first"),
        (("--prompt_format", "raw"), "--prompt_format raw: expected one of auto, rendered, bare"),
        (("--keep_rows", "17"), "--keep_rows 17: no row id (32 hexadecimal digits), and no such file"),
        (("--total_tokens", "9", "--total_examples", "9"), "--total_examples, --total_tokens: give one of them"),
    ],
)
def test_flags_that_mean_nothing_are_refused_in_one_line(place, tmp_path, flags, complaint):
    done = run(command(place, tmp_path / "out", *flags))
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
