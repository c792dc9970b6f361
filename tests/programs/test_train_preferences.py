"""`train.py --objective dpo` as a user runs it: alone, under DeepSpeed in two processes, stopped and continued."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.programs.train_helpers import (
    HANG_SECONDS,
    ZERO2,
    flags_for,
    losses,
    make_work,
    read_curve,
    run_train,
    start_train,
    wait_for_step,
)
from tests.tiny import make_checkpoint
from tests.training.test_preference import write_pairs


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = make_work(tmp_path_factory.mktemp("work"))
    write_pairs(work / "pairs.jsonl", 40)
    return work


def dpo_flags(work: Path, output: str, **changes) -> dict[str, object]:
    return flags_for(
        work, output, **{"data_path": work / "pairs.jsonl", "objective": "dpo", "max_length": 400, **changes}
    )


@pytest.fixture(scope="module")
def alone(work: Path) -> Path:
    result = run_train(dpo_flags(work, "alone"))
    assert result.returncode == 0, result.stderr[-3000:]
    return work / "alone"


def test_the_model_learns_to_prefer(alone: Path):
    curve = read_curve(alone)
    assert curve[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)  # it is its own reference
    assert curve[0]["rewards/margins"] == pytest.approx(0, abs=1e-6)
    assert curve[-1]["loss"] < 0.6
    assert curve[-1]["rewards/accuracies"] > 0.7
    assert curve[-1]["rewards/margins"] == pytest.approx(
        curve[-1]["rewards/chosen"] - curve[-1]["rewards/rejected"], abs=1e-6
    )


def test_two_processes_under_zero2_learn_the_same(work: Path, alone: Path):
    """The reference too, which each scores a part of."""
    result = run_train(dpo_flags(work, "two", deepspeed=ZERO2, gradient_accumulation_steps=1), processes=2)
    assert result.returncode == 0, result.stderr[-3000:]
    with np.load(alone / "reference.npz") as one, np.load(work / "two" / "reference.npz") as two:
        assert one["identity"] == two["identity"]
        np.testing.assert_allclose(two["logps"], one["logps"], rtol=1e-6)
    for one, two in zip(read_curve(alone), read_curve(work / "two"), strict=True):
        for name in ("loss", "rewards/margins", "rewards/accuracies", "kl"):
            assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-5), name


def test_a_stopped_run_goes_on_with_its_reference(work: Path, alone: Path):
    flags = dpo_flags(work, "stopped", save_steps=1000)
    process = start_train(flags)
    wait_for_step(work / "stopped", 2, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 75
    result = run_train(flags)
    assert result.returncode == 0, result.stderr[-3000:]
    assert losses(work / "stopped") == losses(alone)


def test_another_models_reference_is_refused(work: Path, alone: Path):
    make_checkpoint(work / "other", seed=7)
    flags = dpo_flags(work, "other_run", model_name_or_path=work / "other", reference_path=alone / "reference.npz")
    result = run_train(flags)
    assert result.returncode == 2
    assert "reference.npz: log-probabilities under another --model_name_or_path than this run's" in result.stderr


def test_rows_without_preferences_are_named(work: Path):
    rows = work / "none.jsonl"
    rows.write_text(json.dumps({"prompt": "Find 1 plus 1.", "completion": "2"}) + "\n")
    result = run_train(dpo_flags(work, "none", data_path=rows))
    assert result.returncode == 2
    assert "none.jsonl:1: missing key 'chosen'; found prompt, completion" in result.stderr
    assert not (work / "none").exists()
