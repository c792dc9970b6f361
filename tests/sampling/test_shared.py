"""One engine for many files: every file is the one that a run of its own would have left."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import infer_longcot
from promptcot_mamba.benchmarks import BENCHMARKS
from promptcot_mamba.benchmarks.benchmark import Benchmark, Publisher
from promptcot_mamba.cli import parse_args
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import read_jsonl, write_jsonl
from promptcot_mamba.sampling.arguments import SamplingArguments
from promptcot_mamba.sampling.backend import FAILED, BackendFailedError, Generated
from promptcot_mamba.sampling.plan import Plan
from promptcot_mamba.sampling.recipes import read_problems, take_out
from promptcot_mamba.sampling.shared import EXIT_LEFT
from tests.sampling.conftest import comparable, write_problems
from tests.sampling.scripted import ScriptedBackend

NAMES = ("first", "second", "third")


class CountingMaker:
    """Makes scripted back ends that note how they are laid out and drawn from."""

    def __init__(self):
        self.made: list[ScriptedBackend] = []
        self.chains: list[int] = []
        self.temperatures: list[float] = []
        self.closed = 0

    def __call__(self, plan: Plan) -> ScriptedBackend:
        backend = ScriptedBackend(4)
        backend.set_sampling = lambda sampling: self.temperatures.append(sampling.temperature)
        backend.close = lambda: setattr(self, "closed", self.closed + 1)
        backend.set_sampling(plan.sampling())
        self.made.append(backend)
        self.chains.append(plan.capacity.max_num_seqs)
        return backend


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three benchmarks of different sizes; their recipes differ in temperature, the last in length."""
    publisher = Publisher("none", "https://made.test", ())
    for place, (name, count) in enumerate(zip(NAMES, (2, 9, 3), strict=True)):
        write_problems(tmp_path / f"{name}_test.jsonl", count)
        sampling = {"max_retries": 2, "temperature": 0.5 + place / 10, "max_len": 200 if place == 2 else 100}
        made = Benchmark(name, name, "math", (f"{name}'s",), count, 2, publisher, sampling=sampling)
        monkeypatch.setitem(BENCHMARKS, name, made)
    return ["--data_dir", str(tmp_path)]


def test_files_are_those_of_single_runs(folders: list[str], checkpoint: Path, tmp_path: Path):
    make = CountingMaker()
    flags = ["--benchmark", *NAMES, *folders, "--output_dir", str(tmp_path / "all")]
    flags += ["--model_path", str(checkpoint), "--seed", "3"]
    assert infer_longcot.main(flags, make) == 0
    assert make.temperatures == [0.5, 0.6, 0.7]
    assert (len(make.made), make.closed) == (2, 2)  # the third file's chains may be longer: another engine
    assert make.chains == [18, 18]  # the largest file's samples
    for place, name in enumerate(NAMES):
        alone = tmp_path / "alone" / f"{name}.jsonl"
        own = ["--data_path", tmp_path / f"{name}_test.jsonl", "--output_path", alone, "--model_path", checkpoint]
        own += ["--seed", 3, "--n", 2, "--max_retries", 2, "--temperature", 0.5 + place / 10]
        own += ["--max_len", 200 if place == 2 else 100]
        assert infer_longcot.main(list(map(str, own)), lambda _: ScriptedBackend(64)) == 0
        assert comparable(tmp_path / "all" / f"{name}.jsonl") == comparable(alone)


def test_a_rerun_samples_only_what_is_missing(folders: list[str], checkpoint: Path, tmp_path: Path):
    flags = ["--benchmark", "first", "second", *folders, "--output_dir", str(tmp_path / "all")]
    flags += ["--model_path", str(checkpoint)]
    make = CountingMaker()
    assert infer_longcot.main(flags, make) == 0
    assert infer_longcot.main(flags, make) == 0
    assert len(make.made) == 1
    rows = (tmp_path / "all" / "second.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "all" / "second.jsonl").write_text("".join(rows[:5]))
    (tmp_path / "all" / "second.attempts.jsonl").unlink()
    assert infer_longcot.main(flags, make) == 0
    assert len(make.made) == 2
    assert len(read_jsonl(tmp_path / "all" / "second.jsonl")) == 18


class OneLeft(ScriptedBackend):
    """A server that one request is too much for."""

    def poll(self, timeout: float) -> list[Generated]:
        return [
            replace(each, finish_reason=FAILED, note="EngineCore died") if each.unit == 1 else each
            for each in super().poll(timeout)
        ]


def test_a_sample_that_is_left_keeps_no_other_benchmark_waiting(
    folders: list[str], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    flags = ["--benchmark", *NAMES, *folders, "--output_dir", str(tmp_path / "all"), "--model_path", str(checkpoint)]
    flags += ["--base_url", "http://127.0.0.1:9"]  # servers, which are not shared
    left = iter([OneLeft(8), ScriptedBackend(8), OneLeft(8)])
    assert infer_longcot.main(flags, lambda _: next(left)) == EXIT_LEFT
    rows = [len(read_jsonl(tmp_path / "all" / f"{name}.jsonl")) for name in NAMES]
    assert rows == [2 * 2 - 1, 9 * 2, 3 * 2 - 1]
    assert capsys.readouterr().err.count("1 sample(s) could not be made (EngineCore died)") == 2


def test_servers_that_are_gone_end_all_benchmarks(folders: list[str], checkpoint: Path, tmp_path: Path):
    def gone(plan: Plan) -> ScriptedBackend:
        asked.append(plan)
        raise BackendFailedError("no server has answered for 600 s")

    asked: list[Plan] = []
    flags = ["--benchmark", *NAMES, *folders, "--output_dir", str(tmp_path / "all"), "--model_path", str(checkpoint)]
    assert infer_longcot.main([*flags, "--base_url", "http://127.0.0.1:9"], gone) == infer_longcot.EXIT_FAILED
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (
            ["--benchmark", "first", "fifth", "--output_dir", "out"],
            "unknown benchmark 'fifth'; known: all, paper, aime24",
        ),
        (["--benchmark", "first", "fourth", "--output_dir", "out"], "prepare_problems --benchmark fourth writes it"),
        (["--benchmark", "fourth", "--output_dir", "out"], "prepare_problems --benchmark fourth writes it"),
        (["--benchmark", "first", "second"], "--output_dir: say where"),
        (["--benchmark", "first", "second", "--output_path", "x.jsonl"], "--output_path: with several benchmarks use"),
        (["--benchmark", "quickstart_single", "--output_dir", "out"], "quickstart.make_data writes it"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_there_is_named(
    folders: list[str],
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    complaint: str,
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(BENCHMARKS, "fourth", replace(BENCHMARKS["first"], name="fourth", problem_file="fourth.jsonl"))
    with pytest.raises(InputError, match=re.escape(complaint)):
        infer_longcot.main([*flags, *folders, "--model_path", str(checkpoint)])
    assert not (tmp_path / "out").exists()


def test_a_benchmark_is_a_recipe_over_which_typed_flags_win(tmp_path: Path):
    def parsed(*flags: str) -> SamplingArguments:
        return parse_args(SamplingArguments, ["--model_path=m", "--output_dir=out", *flags])

    args = parsed("--benchmark", "hmmt25")
    assert (args.data_path, args.output_path) == ("data/hmmt25_test.jsonl", "out/hmmt25.jsonl")
    assert (args.n, args.temperature, args.max_len) == (16, 0.8, 65536)
    args = parsed("--n", "4", "--benchmark=math500", "--data_path", "mine.jsonl", "--output_path", "x.jsonl")
    assert (args.n, args.data_path, args.output_path) == (4, "mine.jsonl", "x.jsonl")
    (tmp_path / "r.yaml").write_text("benchmark: aime\nn: 2\n")
    args = parsed("--config", str(tmp_path / "r.yaml"))
    assert (args.n, args.data_path) == (2, "data/aime_test.jsonl")
    assert parsed("--config", str(tmp_path / "r.yaml"), "--benchmark", "gsm8k").data_path == "data/gsm8k_test.jsonl"


def test_one_of_two_benchmarks_in_a_file_and_a_look_at_the_first(tmp_path: Path):
    rows = [{"idx": n, "prompt": "p", "source": source} for source in ("aime2024", "aime2025") for n in range(3)]
    write_jsonl(tmp_path / "aime_test.jsonl", rows)
    path = str(tmp_path / "aime_test.jsonl")
    assert [problem.source for problem in read_problems(path, ["aime25"])] == ["aime2025"] * 3
    assert len(read_problems(path, ["aime"])) == len(read_problems(path, [])) == 6
    assert [problem.id for problem in read_problems(path, ["aime"], 1)] == ["aime2024/0", "aime2025/0"]
    write_jsonl(tmp_path / "aime_test.jsonl", rows[:3])
    with pytest.raises(InputError, match="the file is empty"):
        read_problems(path, ["aime25"])


@given(st.lists(st.sampled_from(["--benchmark", "--benchmark=c", "--other", "--other=x", "a", "b", "a,b"]), max_size=8))
def test_values_are_those_that_argparse_takes(flags: list[str]):
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--benchmark", nargs="+", default=[])
    parser.add_argument("--other", nargs="+")
    try:
        args, loose = parser.parse_known_args(flags)
    except argparse.ArgumentError:
        return  # a flag without a value: the program's own parser refuses it
    if not loose:
        values, kept = take_out(flags, "--benchmark")
        assert values == [part for value in args.benchmark for part in value.split(",")]
        assert parser.parse_args(kept).other == args.other
        assert not take_out(kept, "--benchmark")[0]
