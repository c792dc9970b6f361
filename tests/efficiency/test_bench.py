"""The bench without engines: waves that take what known costs say must come out as they went in."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from promptcot_mamba.efficiency.derive_small import LARGE_PAIR, derive_small_pair
from promptcot_mamba.efficiency.predict import Costs, play_wave
from promptcot_mamba.efficiency.setup import Setup
from promptcot_mamba.efficiency.shapes import Shape
from promptcot_mamba.efficiency.throughput import Load, Wave, describe
from promptcot_mamba.errors import InputError
from scripts import bench_efficiency

PAIR = derive_small_pair()
SETUP = Setup(PAIR, [24, 72], [1024, 8192, 65536], prompt=128, max_num_seqs=32)
COSTS = {True: Costs(2e-3, 2e-4, 0, 1e-4), False: Costs(4e-3, 1e-4, 1e-8, 5e-5)}  # by whether it is Mamba-2


class FakeEngines:
    """Stands in for `measure_in_child`: the arithmetic's own seconds."""

    def __init__(self):
        self.started: list[tuple[str, int]] = []

    def __call__(self, shape: Shape, folder: Path, *, cache_bytes: int, max_num_seqs: int, loads: list[Load]) -> Any:
        self.started.append((shape.name, cache_bytes))
        waves = []
        for load in loads:
            work = play_wave(shape, cache_bytes=cache_bytes, max_num_seqs=max_num_seqs, **asdict(load))
            seconds = COSTS[shape.is_mamba2].seconds(work)
            wave = Wave(**asdict(load), tokens=work.chains, seconds=seconds, steps=work.steps, preemptions=0)
            waves.append(describe(wave))
        return json.loads(json.dumps(waves))


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> FakeEngines:
    fake = FakeEngines()
    monkeypatch.setattr(bench_efficiency, "measure_in_child", fake)
    monkeypatch.setattr(bench_efficiency, "choose_pair", lambda: PAIR)
    return fake


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *flags: object) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", ["bench_efficiency", "--output_dir", str(folder), *map(str, flags)])
    bench_efficiency.main()
    return json.loads((folder / "efficiency.json").read_text())


def test_only_a_budget_that_is_felt_has_an_engine_of_its_own():
    jobs = SETUP.jobs()
    assert list(jobs) == ["small Mamba-2, roomy", "small Qwen2, 24 GiB", "small Qwen2, 72 GiB", "small Qwen2, roomy"]
    assert jobs["small Qwen2, 24 GiB"].cache_bytes == PAIR.cache_bytes(PAIR.qwen2, 24)
    assert set(SETUP.waves()) <= set(jobs["small Mamba-2, roomy"].loads)  # it stands for both budgets
    assert SETUP.engine(PAIR.mamba2, 24) == SETUP.engine(PAIR.mamba2, 72) == "small Mamba-2, roomy"
    wide = Setup(PAIR, [24], [1024], prompt=128, max_num_seqs=64)
    assert wide.engine(PAIR.mamba2, 24) == "small Mamba-2, 24 GiB"  # 41 chains fit


@pytest.mark.parametrize("name", ["small Mamba-2, roomy", "small Qwen2, roomy"])
def test_a_roomy_engine_is_roomy(name: str):
    job = SETUP.jobs()[name]
    for load in job.loads:
        free, tight = (
            play_wave(job.shape, cache_bytes=cache, max_num_seqs=32, **asdict(load))
            for cache in (1 << 60, job.cache_bytes)
        )
        assert tight == free


def test_a_budget_below_the_weights_is_refused():
    for pair in (PAIR, LARGE_PAIR):
        with pytest.raises(InputError, match=r"--budget_gib 14: the weights of .*7B|small .* alone need 1[34]\.\d GiB"):
            Setup(pair, [14], [1024], prompt=128, max_num_seqs=8).jobs()


def test_prediction_and_measurement_meet(engines: FakeEngines, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    lengths = ["--lengths", 1024, 4096, 16384]
    record = run(monkeypatch, tmp_path, *lengths, "--record", tmp_path / "record.json")
    results = record["results"]
    assert (results["pair"], json.loads((tmp_path / "record.json").read_text())["results"]) == ("small", results)
    tight, wide = results["comparisons"]
    assert (tight["paper_ratio"], wide["paper_ratio"]) == (3.66, 1.69)
    for comparison in (tight, wide):
        for row in comparison["rows"]:
            for name in ("mamba2", "attention"):
                assert row[f"{name}_predicted"] == pytest.approx(row[f"{name}_tokens_per_second"], rel=1e-3)
    assert tight["crossover"]["measured"] == pytest.approx(tight["crossover"]["predicted"], rel=0.01)
    assert wide["crossover"] == {"measured": None, "predicted": None}
    for name in ("efficiency.md", "efficiency.csv", "efficiency.png"):
        assert (tmp_path / name).stat().st_size > 500


def test_an_interrupted_run_goes_on_and_other_settings_are_refused(
    engines: FakeEngines, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    lengths = ["--lengths", 1024, 16384]
    first = run(monkeypatch, tmp_path, *lengths)
    kept = json.loads((tmp_path / "measurements.json").read_text())
    del kept["waves"]["small Qwen2, roomy"]
    (tmp_path / "measurements.json").write_text(json.dumps(kept))
    before = len(engines.started)
    assert run(monkeypatch, tmp_path, *lengths)["tables"] == first["tables"]
    assert [name for name, _ in engines.started[before:]] == ["small Qwen2"]
    with pytest.raises(InputError, match="measured with other settings"):
        run(monkeypatch, tmp_path, *lengths, "--max_num_seqs", 16)
