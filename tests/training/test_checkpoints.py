"""What checkpoints promise: the best one is kept and exported, a run goes on where it is told to, or says why not."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from promptcot_mamba.cli import parse_args
from promptcot_mamba.errors import InputError
from promptcot_mamba.training.arguments import DataArguments, SftArguments
from tests.programs.train_helpers import losses, write_examples
from train import train

STEPS = 6


@pytest.fixture
def flags(tmp_path: Path, checkpoint: Path) -> dict[str, object]:
    return {
        "model_name_or_path": checkpoint, "data_path": write_examples(tmp_path / "sums.jsonl", 12),
        "output_dir": tmp_path / "out", "token_cache": tmp_path / "cache", "max_length": 256, "report_to": "none",
        "learning_rate": 1e-3, "warmup_steps": 0, "max_steps": STEPS, "save_steps": 2,
    }  # fmt: skip


def run(flags: dict[str, object], **changes: object) -> None:
    words = [f"--{name}={value}" for name, value in {**flags, **changes}.items()]
    train(*parse_args([SftArguments, DataArguments], words))


def unfinish(output: Path, *steps: int) -> None:
    """As a run killed before these checkpoints."""
    for step in steps:
        shutil.rmtree(output / f"checkpoint-{step}")
    run_file = output / "run.json"
    run_file.write_text(json.dumps(json.loads(run_file.read_text()) | {"finished": None}))


def steps_of(output: Path) -> list[int]:
    return sorted(int(folder.name.split("-")[1]) for folder in output.glob("checkpoint-*"))


def validations(output: Path) -> list[dict]:
    rows = map(json.loads, (output / "train_log.jsonl").read_text().splitlines())
    return [row for row in rows if "eval_loss" in row]


def test_best_checkpoint_is_kept_and_exported(flags, tmp_path: Path):
    """A rate that grows until the loss rises: the lowest validation loss is neither the first nor the last."""
    flags |= {"learning_rate": 0.3, "warmup_steps": 60, "eval_data_path": flags["data_path"], "save_total_limit": 1}
    run(flags, load_best_model_at_end=True)
    output = Path(flags["output_dir"])
    by_step = {row["step"]: row["eval_loss"] for row in validations(output)}
    best = min(by_step, key=by_step.get)
    assert by_step.keys() == {2, 4, 6}  # data was given: validated whenever a checkpoint was saved
    assert steps_of(output) == sorted({best, STEPS})
    exported, kept = (load_file(folder / "model.safetensors") for folder in (output, output / f"checkpoint-{best}"))
    assert all((exported[name] == kept[name]).all() for name in kept)
    assert json.loads((output / "run.json").read_text())["exported"] == best
    # Killed between the last checkpoint and the export: the same model is exported.
    (output / "model.safetensors").unlink()
    unfinish(output)
    run(flags, load_best_model_at_end=True)
    again = load_file(output / "model.safetensors")
    assert all((again[name] == kept[name]).all() for name in kept)


def test_best_is_one_of_the_steps_that_were_saved(flags):
    """Validated at every step, saved at every third: the lowest loss of all lies between two checkpoints."""
    flags |= {"learning_rate": 1.0, "warmup_steps": 50, "eval_data_path": flags["data_path"]}
    run(flags, load_best_model_at_end=True, eval_strategy="steps", eval_steps=1, save_steps=3)
    output = Path(flags["output_dir"])
    by_step = {row["step"]: row["eval_loss"] for row in validations(output)}
    assert by_step.keys() == set(range(1, STEPS + 1))
    assert min(by_step, key=by_step.get) not in (3, 6), "or nothing is shown"
    best = min((3, 6), key=by_step.get)
    assert json.loads((output / "run.json").read_text())["exported"] == best
    exported, kept = (load_file(folder / "model.safetensors") for folder in (output, output / f"checkpoint-{best}"))
    assert all((exported[name] == kept[name]).all() for name in kept)


def test_best_is_a_loss_that_validation_computes(flags):
    flags["eval_data_path"] = flags["data_path"]
    with pytest.raises(InputError, match="--metric_for_best_model accuracy: validation computes loss, add_loss"):
        run(flags, load_best_model_at_end=True, metric_for_best_model="accuracy")
    run(flags, load_best_model_at_end=True, metric_for_best_model="add_loss")


def test_validation_strategy_that_is_asked_for_wins(flags, tmp_path: Path):
    run(flags, eval_data_path=flags["data_path"], eval_strategy="steps", eval_steps=3)
    assert [row["step"] for row in validations(Path(flags["output_dir"]))] == [3, 6]


def test_model_only_checkpoints_refuse_to_continue(flags):
    """Before, such a run went on without its optimizer: a step at rate 0, then the warm-up again."""
    run(flags, save_only_model=True)
    output = Path(flags["output_dir"])
    unfinish(output, 6)
    with pytest.raises(InputError, match=r"checkpoint-4: holds no optimizer \(--save_only_model True\)"):
        run(flags, save_only_model=True)
    run(flags, output_dir=output.with_name("next"), model_name_or_path=output / "checkpoint-4", max_steps=1)


def test_run_continues_at_the_checkpoint_it_is_told(flags, tmp_path: Path):
    run(flags)
    output, other = Path(flags["output_dir"]), tmp_path / "other"
    start = output / "checkpoint-2"
    run(flags, output_dir=other, resume_from_checkpoint=start)
    assert losses(other) == losses(output)[2:]
    unfinish(other, 6)
    run(flags, output_dir=other, resume_from_checkpoint=start)  # killed: goes on from its own last one
    assert losses(other) == losses(output)[2:]
    unfinish(output)
    with pytest.raises(InputError, match=r"checkpoint-6 is later; name another --output_dir"):
        run(flags, resume_from_checkpoint=start)
    unfinish(output, 6)
    run(flags, resume_from_checkpoint=output / "checkpoint-4")
    assert losses(output)[4:] == losses(other)[2:]


def test_start_of_another_run_or_a_torn_one_is_refused(flags, tmp_path: Path):
    run(flags)
    start = Path(flags["output_dir"]) / "checkpoint-2"
    new = {"output_dir": tmp_path / "new", "resume_from_checkpoint": start}
    with pytest.raises(InputError, match=r"is another run's.*--seed: 42 there, 7 now"):
        run(flags, **new, seed=7)
    (start / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(InputError, match="no whole checkpoint of this program there"):
        run(flags, **new)
    with pytest.raises(InputError, match="its run ended there; nothing is left to train"):
        run(flags, **new | {"resume_from_checkpoint": Path(flags["output_dir"]) / "checkpoint-6"})
    assert not (tmp_path / "new").exists()


def test_wandb_is_written_offline_where_no_account_is(flags, tmp_path: Path, monkeypatch):
    """A stand-in for the package shows what the run would ask of it."""
    from promptcot_mamba.training import checks

    (tmp_path / "wandb.py").write_text("class api:\n    api_key = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "online")  # so that what is set below is undone
    monkeypatch.delenv("WANDB_MODE")
    args, _ = parse_args(
        [SftArguments, DataArguments], [f"--{k}={v}" for k, v in (flags | {"report_to": "wandb"}).items()]
    )
    checks.check_reporters(args)
    del sys.modules["wandb"]
    assert checks.os.environ["WANDB_MODE"] == "offline"
