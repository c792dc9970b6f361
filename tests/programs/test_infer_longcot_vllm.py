"""The published line on the production engine: killed, on two servers of which one dies, on two replicas.

Every road must end in the same samples, which is what makes placement a free choice.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from promptcot_mamba.jsonl import read_jsonl
from promptcot_mamba.run_info import side_path
from promptcot_mamba.sampling.partial import read_partial
from promptcot_mamba.sampling.vllm_engine import EngineSettings, engine_arguments
from promptcot_mamba.sampling.vllm_server import VllmServer
from promptcot_mamba.token_scores import TokenScores
from tests.sampling.conftest import ROOT, comparable, write_problems
from tests.sampling.families import make_family
from tests.tiny import make_checkpoint

pytestmark = pytest.mark.slow
pytest.importorskip("vllm")
N = 8
KILLS = 10


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "tiny-mamba2")


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_problems(tmp_path_factory.mktemp("data") / "problems.jsonl", 6)


def command(problems: Path, output: Path, checkpoint: Path, *more: str) -> list[str]:
    """The published line, and `more`."""
    line = (
        f"--data_path {problems} --output_path {output} --model_path {checkpoint} --n_gpus 1 --temperature 0.8 "
        f"--repetition_penalty 1.1 --max_len 65536 --n {N} --max_retries 1 --use_mamba2 True"
    )
    return [sys.executable, "infer_longcot.py", *line.split(), *more]


def start(*arguments: object) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command(*arguments), cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> str:
    """Wait for a run to end well; return what it said."""
    said = process.communicate()[1]
    assert process.returncode == 0, said[-3000:]
    return said


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.fixture(scope="module")
def whole(problems: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """The samples of an uninterrupted run in one process."""
    output = tmp_path_factory.mktemp("whole") / "x.jsonl"
    finish(start(problems, output, checkpoint))
    rows = comparable(output)
    assert [(row["run"], row["idx"]) for row in rows] == [(run, index) for run in range(N) for index in range(6)]
    assert len({row["completion"] for row in rows}) == len(rows)
    return rows


def kill_at(process: subprocess.Popen, output: Path, count: int) -> None:
    """`kill -9` a run once its file has so many rows."""
    while process.poll() is None and lines(output) < count:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def assert_same_but_continued(output: Path, whole: list[dict]) -> None:
    """Chains that were old enough to be saved when they were cut went on with a seed of their own; others are equal."""
    rows = comparable(output)
    assert [(row["run"], row["idx"]) for row in rows] == [(row["run"], row["idx"]) for row in whole]
    for row, other in zip(rows, whole, strict=True):
        if "continued" not in row:
            assert row == other
        else:
            assert row["continued"][0] < row["completion_tokens"]


@pytest.mark.timeout(1800)
def test_ten_kills_change_nothing(problems: Path, checkpoint: Path, tmp_path: Path, whole: list[dict]):
    output = tmp_path / "x.jsonl"
    for count in sorted(random.Random(24).sample(range(len(whole)), KILLS)):
        kill_at(start(problems, output, checkpoint, "--max_num_seqs", "6"), output, count)
        assert count <= lines(output) < len(whole)
    finish(start(problems, output, checkpoint))
    assert_same_but_continued(output, whole)
    assert lines(side_path(output, "attempts.jsonl")) == len(whole)


SEGMENT = 64
SEGMENTS = ("--segment_len", str(SEGMENT), "--stop_on_loop", "True", "--save_logprobs", "True")


def assert_same_scores(output: Path, other: Path) -> None:
    """Log-probabilities and entropies of the same samples, whatever interrupted them: equal but for their rounding."""
    ours, theirs = (
        {
            (row["problem_id"], row["run"]): TokenScores.unpack(row)
            for row in read_jsonl(side_path(path, "logprobs.jsonl"))
        }
        for path in (output, other)
    )
    assert ours.keys() == theirs.keys()
    for key, scores in ours.items():
        assert scores.logprobs == pytest.approx(theirs[key].logprobs, abs=2e-2)
        assert scores.entropies == pytest.approx(theirs[key].entropies, abs=2e-2)
        assert max(scores.logprobs) < 0 < min(scores.entropies)


@pytest.fixture(scope="module")
def whole_in_segments(problems: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("segments") / "x.jsonl"
    finish(start(problems, output, checkpoint, *SEGMENTS))
    rows = comparable(output)
    assert sum(row["completion_tokens"] > 128 for row in rows) > 10
    scores = {(row["problem_id"], row["run"]): row["tokens"] for row in read_jsonl(side_path(output, "logprobs.jsonl"))}
    assert all(scores[f"made/{row['idx']}", row["run"]] == row["completion_tokens"] for row in rows)
    return output


def kill_within_segments(output: Path, most: int, *arguments: object) -> None:
    """Kill a run ten times while chains are under way, each time after up to `most` further segments, and let it end:
    whole segments are kept, and none that was is lost."""
    partial, numbers, before = side_path(output, "partial.jsonl"), random.Random(42), {}
    for _ in range(KILLS):
        process = start(*arguments)
        goal = lines(partial) + numbers.randrange(1, most)
        while process.poll() is None and lines(partial) < goal:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        settled = {(row["problem_id"], row["run"]) for row in whole_rows(side_path(output, "attempts.jsonl"))}
        saved = {key[:2]: len(each.ids) for key, each in read_partial(partial).items() if key[:2] not in settled}
        assert all(length % SEGMENT == 0 for length in saved.values())
        assert all(key in settled or saved[key] >= length for key, length in before.items())
        before = saved
    finish(start(*arguments))


def whole_rows(path: Path) -> list[dict]:
    """The rows of a file whose last one may be torn."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


@pytest.mark.timeout(1800)
def test_ten_kills_within_segments_change_no_letter(
    problems: Path, checkpoint: Path, tmp_path: Path, whole_in_segments: Path
):
    output = tmp_path / "x.jsonl"
    kill_within_segments(output, 15, problems, output, checkpoint, "--max_num_seqs", "6", *SEGMENTS)
    assert comparable(output) == comparable(whole_in_segments)
    assert_same_scores(output, whole_in_segments)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("family", ["qwen2", "nemotron_h"])
def test_ten_kills_within_segments_change_no_letter_of_attention(problems: Path, tmp_path: Path, family: str):
    """Which is read again beside other chains than before, in another order: alone, and beside states in a hybrid."""
    model = make_family(family, tmp_path / family)
    output, other = tmp_path / "x.jsonl", tmp_path / "other.jsonl"
    flags = (*SEGMENTS, "--use_mamba2", "False", "--max_len", "300", "--n", "4")
    kill_within_segments(output, 10, problems, output, model, "--max_num_seqs", "6", *flags)
    finish(start(problems, other, model, *flags))
    assert comparable(output) == comparable(other)
    assert_same_scores(output, other)
    assert sum(row["completion_tokens"] > 128 for row in comparable(other)) > 10


@pytest.fixture
def servers(checkpoint: Path, tmp_path: Path) -> Iterator[list[VllmServer]]:
    """Two real servers of the same checkpoint."""
    settings = EngineSettings(str(checkpoint), "float32", "float32", 69632, 8, on_cpu=True, cache_bytes=32 << 20)
    arguments = engine_arguments(settings, is_mamba2=True)
    both = [VllmServer(arguments, 1, tmp_path / f"server{index}.log", on_cpu=True) for index in range(2)]
    try:
        for server in both:
            server.start()
        yield both
    finally:
        for server in both:
            server.stop()


MANY = ("--n", "40", "--max_len", "600")


def await_rows(process: subprocess.Popen, output: Path, more: int) -> None:
    goal = lines(output) + more
    while process.poll() is None and lines(output) < goal:
        time.sleep(0.005)


def kill_servers(process: subprocess.Popen, servers: list[VllmServer], output: Path) -> str:
    """Kill one of the two at ten random points, have the other go on alone, start the dead one again; let the run end.

    Meanwhile all else stands still: beside a server that works, a start takes minutes of two cores.
    """
    numbers = random.Random(7)
    with ThreadPoolExecutor(1) as reader:  # of what the run says meanwhile
        said = reader.submit(finish, process)
        for _ in range(KILLS):
            await_rows(process, output, numbers.randrange(1, 9))
            victim, other = numbers.sample(servers, 2)
            victim.kill()
            await_rows(process, output, 4)
            assert process.poll() is None, "the run ended before its servers had died often enough"
            other.signal_group(signal.SIGSTOP)
            process.send_signal(signal.SIGSTOP)
            try:
                victim.start()
            finally:
                process.send_signal(signal.SIGCONT)
                other.signal_group(signal.SIGCONT)
        return said.result()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("segments", [(), SEGMENTS], ids=["streamed", "segments"])
def test_one_of_two_servers_dies_ten_times(
    problems: Path, checkpoint: Path, tmp_path: Path, servers: list[VllmServer], segments: tuple[str, ...]
):
    output, other = tmp_path / "x.jsonl", tmp_path / "other.jsonl"
    urls = [server.base_url for server in servers]
    running = start(problems, output, checkpoint, "--base_url", *urls, "--concurrency", "2", *MANY, *segments)
    said = kill_servers(running, servers, output)
    assert said.count("asked again in") >= KILLS  # each was noticed
    finish(start(problems, other, checkpoint, *MANY, *segments))
    whole = comparable(other)
    if segments:
        assert comparable(output) == whole
        assert_same_scores(output, other)
    else:
        assert_same_but_continued(output, whole)
        assert any("continued" in row for row in comparable(output))
    assert lines(side_path(output, "attempts.jsonl")) == len(whole)


def test_two_replicas(problems: Path, checkpoint: Path, tmp_path: Path, whole: list[dict]):
    output = tmp_path / "x.jsonl"
    said = finish(start(problems, output, checkpoint, "--n_gpus", "2", "--max_num_seqs", "8"))
    assert "vllm serve ready" in said
    assert comparable(output) == whole
    log = side_path(output, "server.log").read_text(encoding="utf-8")
    assert len(set(re.findall(r"EngineCore_DP\d", log))) == 2
    assert json.loads(side_path(output, "run.json").read_text())["complete"]
    for _ in range(600):  # nothing of the server outlives the run for long
        left = subprocess.run(["pgrep", "-f", str(checkpoint)], capture_output=True, text=True).stdout.split()
        if not left:
            return
        time.sleep(0.1)
    pytest.fail(f"processes {left} are still there")


def test_one_model_over_two_cores(problems: Path, checkpoint: Path, tmp_path: Path, whole: list[dict]):
    output = tmp_path / "x.jsonl"
    finish(start(problems, output, checkpoint, "--n_gpus", "2", "--tensor_parallel_size", "2"))
    assert comparable(output) == whole


LONG = 16_384


@pytest.fixture(scope="module")
def endless(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint, but its end of text is never drawn: every chain runs to --max_len."""
    folder = tmp_path_factory.mktemp("endless") / "tiny"
    shutil.copytree(checkpoint, folder)
    [weights] = folder.glob("*.safetensors")
    tensors = load_file(weights)
    tensors["backbone.embeddings.weight"][:, 0] = 9.0  # carried on by the residual stream to the head
    tensors["lm_head.weight"][:, 0] = 0.0
    tensors["lm_head.weight"][json.loads((folder / "config.json").read_text())["eos_token_id"], 0] = -50.0
    save_file(tensors, weights, metadata={"format": "pt"})
    return folder


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("segment_len", [None, 2048])
def test_a_chain_of_16k_tokens_outlives_its_machine(endless: Path, tmp_path: Path, segment_len: int | None):
    """Killed after more than half of it: a rerun goes on from what was saved, at most 10 s (or a segment) before."""
    data = write_problems(tmp_path / "one.jsonl", 1)
    more = ["--n", "1", "--max_len", str(LONG), *(["--segment_len", str(segment_len)] if segment_len else [])]
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    finish(start(data, whole, endless, *more))
    [uncut] = read_jsonl(whole)
    assert (uncut["completion_tokens"], uncut["finish_reason"]) == (LONG, "length")

    def saved() -> int:
        return max((len(each.ids) for each in read_partial(partial).values()), default=0)

    partial = side_path(killed, "partial.jsonl")
    process = start(data, killed, endless, *more)
    while saved() < LONG // 2:
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(2.0)
    os.kill(process.pid, signal.SIGKILL)
    age = time.time() - partial.stat().st_mtime
    process.communicate()
    kept = saved()
    finish(start(data, killed, endless, *more))
    [row] = read_jsonl(killed)
    print(f"{kept:,} tokens kept, saved {age:.1f} s before the kill; {row['seconds']} s, uncut {uncut['seconds']} s")
    assert (row["completion_tokens"], row["finish_reason"]) == (LONG, "length")
    if segment_len is not None:
        assert kept % segment_len == 0
        assert comparable(killed) == comparable(whole)
    else:
        assert kept >= LONG // 2  # what the file held when it was last looked at
        assert row["continued"] == [kept]
        third = len(row["completion"]) // 3  # of the letters: more than half of the tokens are the uncut chain's
        assert row["completion"][:third] == uncut["completion"][:third]
