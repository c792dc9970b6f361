"""The bench without engines: waves that take what known costs say must come out as they went in."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from promptcot_mamba.efficiency import measure, predict
from promptcot_mamba.efficiency.engine import Wave, take_turns
from promptcot_mamba.efficiency.models import LARGE_PAIR, SMALL_PAIR, Shape
from promptcot_mamba.efficiency.predict import Costs, Load, count_seconds, play_wave
from promptcot_mamba.efficiency.setup import MOST_TIMES, Setup
from promptcot_mamba.errors import InputError
from promptcot_mamba.gpus import Gpu
from scripts.bench import efficiency as bench_efficiency

PAIR = SMALL_PAIR
SETUP = Setup(PAIR, [24, 72], [1024, 8192, 65536], prompt=128, max_num_seqs=32)
NAMES = tuple(predict.COSTS)
COSTS: dict[bool, Costs] = {  # by whether it is Mamba-2
    True: dict(zip(NAMES, (2e-3, 2e-4, 0, 1e-3, 1e-4), strict=True)),
    False: dict(zip(NAMES, (4e-3, 1e-4, 1e-8, 2e-4, 5e-5), strict=True)),
}


class FakeEngines:
    """Stands in for `EngineProcess`: the arithmetic's own seconds, each wave in two turns."""

    def __init__(self):
        self.started: list[tuple[str, int]] = []
        self.failing_after: int | None = None  # turns
        self.turns = 0
        self.open = self.most_open = 0

    def __call__(self, shape: Shape, folder: Path, *, cache_bytes: int, max_num_seqs: int, context: int) -> FakeEngine:
        self.started.append((shape.name, cache_bytes))
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        return FakeEngine(self, shape, cache_bytes, max_num_seqs)


@dataclass
class FakeEngine:
    engines: FakeEngines
    shape: Shape
    cache_bytes: int
    max_num_seqs: int
    is_midway: bool = False

    def advance(self, load: Load, seconds: float) -> tuple[int, dict[str, float] | None]:
        self.engines.turns += 1
        if self.engines.turns == self.engines.failing_after:
            raise KeyboardInterrupt
        self.is_midway = not self.is_midway
        if self.is_midway:
            return load.tokens // 2, None
        first, rest = play_wave(self.shape, load, cache_bytes=self.cache_bytes, max_num_seqs=self.max_num_seqs)
        costs = COSTS[self.shape.is_mamba2]
        wave = Wave(
            **asdict(load), steps=1 + rest["steps"], preemptions=rest["preemptions"],
            seconds=count_seconds(costs, first + rest), first_seconds=count_seconds(costs, first),
            first_tokens=first["chains"],
        )  # fmt: skip
        return load.tokens, json.loads(json.dumps(wave.as_row()))

    def wait(self) -> None:
        pass

    def close(self) -> None:
        self.engines.open -= 1


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> FakeEngines:
    fake = FakeEngines()
    monkeypatch.setattr(measure, "EngineProcess", fake)
    monkeypatch.setattr(bench_efficiency, "choose_pair", lambda: PAIR)
    return fake


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *flags: object) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", ["bench_efficiency", "--output_dir", str(folder), *map(str, flags)])
    bench_efficiency.main()
    return json.loads((folder / "efficiency.json").read_text())


def test_only_a_budget_that_is_felt_has_an_engine_of_its_own():
    jobs = SETUP.jobs()
    assert list(jobs) == ["small Mamba-2, roomy", "small Qwen2, roomy", "small Qwen2, 24 GiB", "small Qwen2, 72 GiB"]
    assert jobs["small Qwen2, 24 GiB"].cache_bytes == PAIR.cache_bytes(PAIR.qwen2, 24)
    assert set(SETUP.waves()) <= set(jobs["small Mamba-2, roomy"].loads)  # it stands for both budgets
    assert SETUP.compared(24)[0].engines == ("small Mamba-2, roomy", "small Qwen2, 24 GiB")
    assert SETUP.engine(PAIR.mamba2, 24) == SETUP.engine(PAIR.mamba2, 72) == "small Mamba-2, roomy"
    wide = Setup(PAIR, [24], [1024], prompt=128, max_num_seqs=64)
    assert wide.engine(PAIR.mamba2, 24) == "small Mamba-2, 24 GiB"  # 41 chains fit


@pytest.mark.parametrize("name", ["small Mamba-2, roomy", "small Qwen2, roomy"])
def test_a_roomy_engine_is_roomy(name: str):
    job = SETUP.jobs()[name]
    for load in job.loads:
        free, tight = (
            play_wave(job.shape, load, cache_bytes=cache, max_num_seqs=32) for cache in (1 << 60, job.cache_bytes)
        )
        assert tight == free


def test_stages_come_in_rounds():
    """The shortest most often, the longest once, all spread over the run."""
    stages = SETUP.in_rounds()
    compared = SETUP.compared(24)
    counts = [stages.count(stage) for stage in compared]
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (MOST_TIMES, 1)
    assert (
        set(stages) == set(SETUP.stages()) == {*compared, *SETUP.compared(72), *SETUP.calibration(), *SETUP.singles()}
    )
    shortest = [place for place, stage in enumerate(stages) if stage == compared[0]]
    gaps = np.diff([-1, *shortest, len(stages)])
    assert gaps.max() <= 3 * len(stages) / MOST_TIMES


def test_engines_begin_and_end_together():
    """One is ten times as slow: it gets ten turns for each of the other's."""
    turns: list[str] = []

    class Counter:
        def __init__(self, name: str, rate: int):
            self.name, self.rate, self.tokens = name, rate, 0

        def advance(self, load: Load, seconds: float) -> tuple[int, dict[str, float] | None]:
            turns.append(self.name)
            self.tokens = min(load.tokens, self.tokens + int(seconds * self.rate))
            return self.tokens, {"chains": load.chains} if self.tokens == load.tokens else None

    engines = {"fast": Counter("fast", 100), "slow": Counter("slow", 10)}
    waves = list(take_turns(engines, Load(1, 1, 10_000), seconds=1))
    assert sorted(waves) == [("fast", {"chains": 1}), ("slow", {"chains": 1})]
    places = [place for place, name in enumerate(turns) if name == "fast"]
    assert (len(turns), places) == (1100, [11 * n for n in range(100)])


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
    assert len(record["tables"]) == 4


def test_engines_of_7b_come_one_after_the_other(engines: FakeEngines, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    small = run(monkeypatch, tmp_path / "small", "--lengths", 4096, 8192)
    assert (engines.open, engines.most_open) == (0, 3)  # 72 GiB hold all of these: the roomy engine stands for them
    engines.most_open = 0
    monkeypatch.setattr(bench_efficiency, "choose_pair", lambda: LARGE_PAIR)
    large = run(monkeypatch, tmp_path / "large", "--lengths", 4096, 8192, "--max_num_seqs", 4)
    assert (engines.open, engines.most_open) == (0, 1)
    waves = [waves for stages in large["results"]["tokens_per_second"].values() for waves in stages.values()]
    assert {len(each) for each in waves} == {1}
    assert count_waves(small["results"]["tokens_per_second"]) > 3 * len(waves)


def count_waves(stages: dict[str, dict[str, list]]) -> int:
    return sum(len(waves) for engines in stages.values() for waves in engines.values())


def test_an_interrupted_run_goes_on_and_other_settings_are_refused(
    engines: FakeEngines, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    flags = ["--lengths", 1024, 16384]
    whole = run(monkeypatch, tmp_path / "whole", *flags)
    started, engines.turns, engines.failing_after = len(engines.started), 0, 20
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, tmp_path, *flags)
    kept = json.loads((tmp_path / "measurements.json").read_text())["waves"]
    assert 5 < count_waves(kept) < 20
    engines.turns, engines.failing_after = 0, None
    assert run(monkeypatch, tmp_path, *flags)["results"] == whole["results"]
    missing = count_waves(whole["results"]["tokens_per_second"]) - count_waves(kept)
    assert engines.turns == 2 * missing, "a kept wave was measured again"
    before = len(engines.started)
    run(monkeypatch, tmp_path, *flags)
    assert len(engines.started) == before > started, "nothing is left to measure"
    with pytest.raises(InputError, match="measured with other settings"):
        run(monkeypatch, tmp_path, *flags, "--max_num_seqs", 16)


def test_waves_of_another_device_or_version_are_not_this_one_s(
    engines: FakeEngines, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """The record names the device it is written on: kept waves of another would go under its name."""
    flags, path = ["--lengths", 1024], tmp_path / "measurements.json"
    gpu = Gpu(0, "GPU-1", "NVIDIA A100-SXM4-80GB", 80 << 30, (8, 0), "580.82.07", False)
    monkeypatch.setattr(measure, "list_gpus", lambda: [gpu])
    run(monkeypatch, tmp_path, *flags)
    kept = json.loads(path.read_text())
    assert kept["measured_on"]["device"] == "1 x NVIDIA A100-SXM4-80GB"
    monkeypatch.setattr(measure, "list_gpus", lambda: [replace(gpu, name="NVIDIA H100 80GB HBM3")])
    message = r"measured on \{'device': '1 x NVIDIA A100.*\}, here it is \{'device': '1 x NVIDIA H100.*--output_dir"
    with pytest.raises(InputError, match=message):
        run(monkeypatch, tmp_path, *flags)
    monkeypatch.setattr(measure, "list_gpus", lambda: [gpu])
    monkeypatch.setattr(measure, "installed_versions", lambda _: {"torch": "2.0.0"})
    with pytest.raises(InputError, match=r"here it is \{.*'torch': '2.0.0'"):
        run(monkeypatch, tmp_path, *flags)
    path.write_text(json.dumps({name: value for name, value in kept.items() if name != "measured_on"}))
    run(monkeypatch, tmp_path, *flags)
    assert "does not say on what it was measured" in caplog.text


def test_too_short_a_chain_is_refused(engines: FakeEngines, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with pytest.raises(InputError, match="--lengths 30: less than two tokens of this pair; at least 62"):
        run(monkeypatch, tmp_path, "--lengths", 30, 1024)
