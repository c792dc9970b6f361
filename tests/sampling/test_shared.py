"""One engine for many files: every file is the one that a run of its own would have left."""

from __future__ import annotations

from pathlib import Path

import pytest

import infer_longcot
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import read_jsonl
from promptcot_mamba.sampling.plan import Plan
from scripts import sample_all
from tests.sampling.conftest import ROOT, comparable, write_problems
from tests.sampling.scripted import ScriptedBackend

BENCHMARKS = ("first", "second", "third")


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
def folders(tmp_path: Path) -> list[str]:
    """Three files of different sizes; the recipes differ in temperature, the last in length."""
    (tmp_path / "recipes").mkdir()
    for place, (name, count) in enumerate(zip(BENCHMARKS, (2, 9, 3), strict=True)):
        write_problems(tmp_path / f"{name}_test.jsonl", count)
        recipe = f"n: 2\nmax_retries: 2\ntemperature: 0.{5 + place}\nmax_len: {200 if place == 2 else 100}\n"
        (tmp_path / "recipes" / f"{name}.yaml").write_text(recipe)
    return ["--data_dir", str(tmp_path), "--recipes", str(tmp_path / "recipes")]


def test_files_are_those_of_single_runs(folders: list[str], checkpoint: Path, tmp_path: Path):
    make = CountingMaker()
    flags = ["--benchmarks", *BENCHMARKS, *folders, "--output_dir", str(tmp_path / "all")]
    assert sample_all.main([*flags, "--", "--model_path", str(checkpoint), "--seed", "3"], make) == 0
    assert make.temperatures == [0.5, 0.6, 0.7]
    assert (len(make.made), make.closed) == (2, 2)  # the third file's chains may be longer: another engine
    assert make.chains == [18, 18]  # the largest file's samples
    for name in BENCHMARKS:
        alone = tmp_path / "alone" / f"{name}.jsonl"
        own = ["--config", tmp_path / "recipes" / f"{name}.yaml", "--data_path", tmp_path / f"{name}_test.jsonl"]
        own += ["--output_path", alone, "--model_path", checkpoint, "--seed", "3"]
        assert infer_longcot.main(list(map(str, own)), lambda _: ScriptedBackend(64)) == 0
        assert comparable(tmp_path / "all" / f"{name}.jsonl") == comparable(alone)


def test_a_rerun_samples_only_what_is_missing(folders: list[str], checkpoint: Path, tmp_path: Path):
    flags = ["--benchmarks", "first", "second", *folders, "--output_dir", str(tmp_path / "all")]
    flags += ["--", "--model_path", str(checkpoint)]
    make = CountingMaker()
    assert sample_all.main(flags, make) == 0
    assert sample_all.main(flags, make) == 0
    assert len(make.made) == 1
    rows = (tmp_path / "all" / "second.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "all" / "second.jsonl").write_text("".join(rows[:5]))
    (tmp_path / "all" / "second.attempts.jsonl").unlink()
    assert sample_all.main(flags, make) == 0
    assert len(make.made) == 2
    assert len(read_jsonl(tmp_path / "all" / "second.jsonl")) == 18


@pytest.mark.parametrize(
    ("name", "complaint"), [("aime", "no recipe"), ("fourth", "prepare_problems writes it")], ids=str
)
def test_what_is_not_there_is_named(folders: list[str], tmp_path: Path, name: str, complaint: str):
    (tmp_path / "recipes" / "fourth.yaml").write_text("n: 1\n")
    with pytest.raises(InputError, match=complaint):
        sample_all.main(["--benchmarks", "first", name, *folders, "--output_dir", str(tmp_path), "--"])


def test_the_recipes_of_all_benchmarks_are_found():
    args = sample_all.Arguments(["aime"], "out", data_dir="/nowhere")
    with pytest.raises(InputError, match=r"no /nowhere/aime_test\.jsonl"):
        sample_all.sampling_flags(args, "aime", [])
    assert (ROOT / args.recipes).is_dir()
