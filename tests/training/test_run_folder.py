"""An output folder's owner, and which of its checkpoints count."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from promptcot_mamba.errors import InputError
from promptcot_mamba.training import run_folder

IDENTITY = {"--learning_rate": 1e-5, "--data_path (contents)": "abc"}


def write_checkpoint(output_dir: Path, step: int) -> Path:
    writing = run_folder.writing_folder(output_dir, step)
    (writing / "deep").mkdir(parents=True)
    (writing / "model.safetensors").write_bytes(b"w" * 100)
    (writing / "deep" / "optimizer.pt").write_bytes(b"o" * 50)
    (writing / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": 30}))
    return run_folder.seal(writing, step, devices=2)


@pytest.fixture
def output_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    run_folder.claim(folder, IDENTITY, {})
    return folder


def test_same_run_is_welcome_and_others_are_named(output_dir: Path):
    run_folder.check_owner(output_dir, IDENTITY)
    with pytest.raises(InputError, match=r"--learning_rate: 1e-05 there, 0\.1 now$"):
        run_folder.check_owner(output_dir, {**IDENTITY, "--learning_rate": 0.1})
    with pytest.raises(InputError, match=r"contents\): abc there, other now"):
        run_folder.check_owner(output_dir, {**IDENTITY, "--data_path (contents)": "other"})


def test_foreign_model_folder_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="did not write"):
        run_folder.check_owner(tmp_path, IDENTITY)


def test_unwritable_and_damaged(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file, not a folder"):
        run_folder.check_owner(tmp_path / "file" / "run", IDENTITY)
    (tmp_path / run_folder.RUN_FILE).write_text("{")
    with pytest.raises(InputError, match=r"run\.json: unreadable"):
        run_folder.check_owner(tmp_path, IDENTITY)


def test_second_process_is_refused(output_dir: Path):
    with run_folder.hold(output_dir), pytest.raises(InputError, match="another process is training into it"):
        run_folder.hold(output_dir)
    run_folder.hold(output_dir).close()


def test_a_requeued_job_waits_for_the_lock_of_a_lost_node(output_dir: Path, monkeypatch):
    lost = run_folder.hold(output_dir)
    waited = []
    monkeypatch.setattr(run_folder.time, "sleep", lambda seconds: (waited.append(seconds), lost.close()))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    with pytest.raises(InputError, match="another process is training into it"):
        run_folder.hold(output_dir)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    run_folder.hold(output_dir).close()
    assert waited == [run_folder.LOCK_POLL_SECONDS]


@pytest.mark.parametrize("tear", ["missing file", "cut file", "no seal", "half a seal"])
def test_torn_checkpoints_are_skipped(output_dir: Path, tear: str):
    whole, torn = write_checkpoint(output_dir, 10), write_checkpoint(output_dir, 20)
    assert [step for step, _ in run_folder.find_checkpoints(output_dir)] == [10, 20]
    if tear == "missing file":
        (torn / "deep" / "optimizer.pt").unlink()
    elif tear == "cut file":
        (torn / "model.safetensors").write_bytes(b"w" * 99)
    elif tear == "no seal":
        (torn / run_folder.SEAL_FILE).unlink()
    else:
        (torn / run_folder.SEAL_FILE).write_text('{"step": 2')
    assert run_folder.find_checkpoints(output_dir) == [(10, whole)]
    assert write_checkpoint(output_dir, 20) == torn  # the same step, trained again, takes the torn one's place
    assert [step for step, _ in run_folder.find_checkpoints(output_dir)] == [10, 20]


def test_unfinished_writing_is_removed(output_dir: Path):
    writing = run_folder.writing_folder(output_dir, 30)
    writing.mkdir()
    (writing / "model.safetensors").write_bytes(b"half")
    assert run_folder.find_checkpoints(output_dir) == []
    torn = output_dir / f".{run_folder.RUN_FILE}.1.tmp"
    torn.touch()
    run_folder.remove_unfinished(output_dir)
    assert not writing.exists()
    assert not torn.exists()


def test_only_the_latest_are_kept(output_dir: Path):
    for step in (2, 10, 9):
        write_checkpoint(output_dir, step)
    run_folder.keep_latest(output_dir, None)
    run_folder.keep_latest(output_dir, 2)
    assert [step for step, _ in run_folder.find_checkpoints(output_dir)] == [9, 10]


def test_a_removal_that_is_killed_leaves_no_torn_checkpoint(output_dir: Path, monkeypatch, caplog):
    for step in (2, 4, 6):
        write_checkpoint(output_dir, step)

    def killed(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        run_folder.keep_latest(output_dir, 2)
    monkeypatch.undo()
    assert [step for step, _ in run_folder.find_checkpoints(output_dir)] == [4, 6]
    assert "torn" not in caplog.text
    run_folder.remove_unfinished(output_dir)
    names = sorted(path.name for path in output_dir.iterdir() if not path.name.startswith("."))
    assert names == ["checkpoint-4", "checkpoint-6", "run.json"]


def test_an_export_that_does_not_fit_leaves_what_was_there(output_dir: Path, monkeypatch):
    """Weights by weights an export is whole or absent; the checkpoint that it is made of stays."""
    checkpoint = write_checkpoint(output_dir, 30)
    (checkpoint / "config.json").write_text("{}")

    def copy(source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "full", str(target))

    monkeypatch.setattr("shutil.copyfile", copy)
    with pytest.raises(OSError, match="full"):
        run_folder.finish(output_dir, 30)
    monkeypatch.undo()
    assert sorted(path.name for path in output_dir.iterdir()) == [".lock", "checkpoint-30", "run.json"]
    run_folder.finish(output_dir, 30)
    assert (output_dir / "model.safetensors").read_bytes() == b"w" * 100


def test_a_model_without_a_checkpoint_is_exported_too(output_dir: Path):
    """--save_strategy no: its model was written beside, and moves."""
    writing = run_folder.writing_folder(output_dir, 30)
    writing.mkdir()
    for name in ("model.safetensors", "modeling_mamba2_grouped.py", "zero_to_fp32.py"):
        (writing / name).write_bytes(b"w")
    run_folder.finish(output_dir, 30)
    exported = sorted(path.name for path in output_dir.iterdir() if not path.name.startswith("."))
    assert exported == ["model.safetensors", "modeling_mamba2_grouped.py", "run.json"]
    assert not writing.exists()


def test_finishing_puts_the_model_on_top(output_dir: Path):
    checkpoint = write_checkpoint(output_dir, 30)
    assert run_folder.is_last_step(checkpoint)
    assert not run_folder.is_last_step(write_checkpoint(output_dir, 29))
    run_folder.finish(output_dir, 30)
    assert (output_dir / "model.safetensors").read_bytes() == b"w" * 100
    assert not (output_dir / "trainer_state.json").exists()
    run = run_folder.read_run(output_dir)
    assert run["finished"] == 30
    assert run["identity"] == IDENTITY
    run_folder.claim(output_dir, IDENTITY, {"again": True})
    assert run_folder.read_run(output_dir)["finished"] == 30
