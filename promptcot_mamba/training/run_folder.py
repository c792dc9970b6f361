"""An output folder: whose run it holds, which of its checkpoints are whole, and how one becomes whole.

`run.json` says what the run is (its identity: everything that changes samples or gradients) and how it was started.
A checkpoint is written as `.writing-checkpoint-N` and moved to `checkpoint-N` once every process is done; its
`checkpoint.json` lists every file with its size, so that a torn copy is recognised too.
"""

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from promptcot_mamba.cli import check_writable
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import write_json
from promptcot_mamba.log import logger
from promptcot_mamba.run_info import describe_run

RUN_FILE = "run.json"
SEAL_FILE = "checkpoint.json"
LOCK_FILE = ".lock"
LOCK_PATIENCE_SECONDS = 300.0
LOCK_POLL_SECONDS = 1.0
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
WRITING_PREFIX = ".writing-"
DEVICES_KEY = "devices"
MODEL_KEY = "--model_name_or_path (contents)"
TRAINER_STATE_FILE = "trainer_state.json"
# Weights, config, tokenizer, chat template; the model card and code.
MODEL_SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".txt", ".md")
MODEL_CODE = "modeling_*.py"  # DeepSpeed leaves programs of its own beside its shards

Identity = dict[str, Any]


def read_run(output_dir: Path) -> dict[str, Any] | None:
    """The folder's `run.json`; None where it holds no run. Raises InputError if the file is damaged."""
    path = output_dir / RUN_FILE
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: unreadable ({error}); name another --output_dir") from None


def differences(old: Identity, new: Identity) -> list[str]:
    """What tells two identities apart, one line each, with both values."""
    names = sorted(old.keys() | new.keys())
    return [f"{name}: {old.get(name)} there, {new.get(name)} now" for name in names if old.get(name) != new.get(name)]


def changed_settings(recorded: Identity, identity: Identity, is_same_model: Callable[[Any], bool]) -> str:
    """What tells a recorded run from this one, in words; empty where nothing does.

    `is_same_model` tells whether a recorded fingerprint of an earlier form means the identity's model.
    """
    if is_same_model(recorded.get(MODEL_KEY)):
        recorded = {**recorded, MODEL_KEY: identity.get(MODEL_KEY)}
    return "; ".join(differences(recorded, identity))


def check_owner(output_dir: Path, identity: Identity, is_same_model: Callable[[Any], bool] = lambda _: False) -> None:
    """Raise InputError if the folder cannot be written, or holds a run of other data, model or settings."""
    check_writable(f"--output_dir {output_dir}", output_dir, {"writes": "folder"})
    run = read_run(output_dir)
    if run is None:
        if output_dir.is_dir() and ((output_dir / "config.json").exists() or any(output_dir.glob("checkpoint-*"))):
            raise InputError(f"--output_dir {output_dir}: holds a model that this program did not write; name another")
        return
    if changed := changed_settings(run.get("identity", {}), identity, is_same_model):
        raise InputError(
            f"--output_dir {output_dir}: holds another run; name another folder, or go back to its settings. {changed}"
        )


def hold(output_dir: Path) -> IO[str]:
    """Lock the folder for as long as the returned file is open. Raises InputError if another process holds it.

    A job that Slurm has requeued waits: the lock of a node that was lost goes when the file server gives it up.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    file = (output_dir / LOCK_FILE).open("w")
    requeued = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    deadline = time.monotonic() + (LOCK_PATIENCE_SECONDS if requeued else 0)
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() >= deadline:
                file.close()
                raise InputError(
                    f"--output_dir {output_dir}: another process is training into it; wait or stop it"
                ) from None
        time.sleep(LOCK_POLL_SECONDS)


def claim(output_dir: Path, identity: Identity, config: dict[str, Any]) -> IO[str]:
    """Make the folder this run's own, for as long as the returned lock is open.

    A resumed run's description replaces the earlier one's; what a killed process left half written goes.
    """
    lock = hold(output_dir)
    remove_unfinished(output_dir)
    run = read_run(output_dir) or {}
    write_json(output_dir / RUN_FILE, {**describe_run(config), "identity": identity, "finished": run.get("finished")})
    return lock


def finished_step(output_dir: Path) -> int | None:
    """The step at which the folder's run finished; None where it has not."""
    return (read_run(output_dir) or {}).get("finished")


def find_resume_point(
    output_dir: Path,
    identity: Identity,
    is_same_model: Callable[[Any], bool],
    start: str | None,
) -> tuple[int, Path | None]:
    """Step and folder of the checkpoint to go on from: the last whole one, or `start`; step 0 and None for a new run.

    Raises InputError for a `start` that is no checkpoint of such a run, and for checkpoints without an optimizer.
    """
    checkpoints = find_checkpoints(output_dir)
    step, checkpoint = checkpoints[-1] if checkpoints else (0, None)
    if start is not None and start.lower() not in ("true", "false"):  # transformers' words for the last one
        step, checkpoint = _start_at(Path(start), output_dir, identity, is_same_model, step, checkpoint)
    if checkpoint and not is_last_step(checkpoint) and not _holds_optimizer(checkpoint):
        raise InputError(
            f"{checkpoint}: holds no optimizer (--save_only_model True), so this run cannot be continued; start "
            f"another --output_dir from its weights (--model_name_or_path {checkpoint})"
        )
    return step, checkpoint


def _start_at(
    start: Path,
    output_dir: Path,
    identity: Identity,
    is_same_model: Callable[[Any], bool],
    step: int,
    last: Path | None,
) -> tuple[int, Path]:
    """The checkpoint that `--resume_from_checkpoint` names, or the last one of a run that began there before."""
    where = f"--resume_from_checkpoint {start}"
    if not is_whole(start):
        raise InputError(f"{where}: no whole checkpoint of this program there")
    if changed := changed_settings((read_run(start) or {}).get("identity", {}), identity, is_same_model):
        raise InputError(f"{where}: is another run's; name its weights as --model_name_or_path instead. {changed}")
    start_step = _read_seal(start)["step"]
    if last is not None and step > start_step:
        if ((read_run(output_dir) or {}).get("config") or {}).get("resume_from_checkpoint") == str(start):
            return step, last
        raise InputError(f"{where}: {last} is later; name another --output_dir, or move the later checkpoints away")
    if start.parent.resolve() != output_dir.resolve() and is_last_step(start):
        raise InputError(f"{where}: its run ended there; nothing is left to train")
    return start_step, start


def _read_seal(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / SEAL_FILE).read_text(encoding="utf-8"))


def _holds_optimizer(checkpoint: Path) -> bool:
    """Whether a checkpoint was written with its optimizer, by the Trainer or in DeepSpeed's folder."""
    return any(name.startswith(("optimizer", "global_step")) for name in _read_seal(checkpoint)["files"])


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint carries its seal and every file the seal lists, at its size."""
    try:
        files = _read_seal(checkpoint)["files"]
        return all((checkpoint / name).stat().st_size == size for name, size in files.items())
    except (OSError, json.JSONDecodeError, KeyError):
        return False


def find_checkpoints(output_dir: Path) -> list[tuple[int, Path]]:
    """`(step, folder)` of every whole checkpoint, oldest first; torn ones are left out, with a warning."""
    found = []
    for folder in output_dir.glob("checkpoint-*"):
        match = CHECKPOINT.fullmatch(folder.name)
        if match and folder.is_dir():
            if is_whole(folder):
                found.append((int(match[1]), folder))
            else:
                logger.warning("%s: torn checkpoint (files missing or cut short), skipped", folder)
    return sorted(found)


def writing_folder(output_dir: Path, step: int) -> Path:
    return output_dir / f"{WRITING_PREFIX}checkpoint-{step}"


def remove_unfinished(output_dir: Path) -> None:
    """Remove what a killed process left of a checkpoint, an export or a description that it was writing."""
    for folder in output_dir.glob(f"{WRITING_PREFIX}*"):
        logger.warning("%s: removed what was unfinished", folder)
        shutil.rmtree(folder)
    for torn in output_dir.glob(f".{RUN_FILE}.*.tmp"):
        torn.unlink()


def seal(writing: Path, step: int, devices: int) -> Path:
    """List the files of a written checkpoint, carry the run's description in, and move it to its name."""
    output_dir = writing.parent
    shutil.copyfile(output_dir / RUN_FILE, writing / RUN_FILE)
    files = {str(path.relative_to(writing)): path.stat().st_size for path in writing.rglob("*") if path.is_file()}
    write_json(writing / SEAL_FILE, {"step": step, DEVICES_KEY: devices, "files": files})
    final = output_dir / f"checkpoint-{step}"
    if final.exists():  # a torn one of the same step, skipped at the start
        shutil.rmtree(final)
    return writing.rename(final)


def keep_latest(output_dir: Path, limit: int | None, best_step: int | None = None) -> None:
    """Remove all but the latest `limit` checkpoints and the best one.

    Each loses its name first: killed in between, it is one more unfinished folder, and no torn checkpoint.
    """
    if not limit or limit < 0:
        return
    for step, folder in find_checkpoints(output_dir)[:-limit]:
        if step != best_step:
            shutil.rmtree(folder.rename(folder.with_name(f"{WRITING_PREFIX}{folder.name}-removed")))


def _read_state(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / TRAINER_STATE_FILE).read_text(encoding="utf-8"))


def is_last_step(checkpoint: Path) -> bool:
    """Whether nothing was left to train when this checkpoint was written."""
    state = _read_state(checkpoint)
    return state["global_step"] >= state["max_steps"]


def best_step(checkpoint: Path) -> int | None:
    """The step of the lowest validation loss until a checkpoint was written."""
    return _read_state(checkpoint).get("best_global_step")


def finish(output_dir: Path, step: int, exported: int | None = None) -> None:
    """Put a step's model (default: the last one's) at the top of the folder, from its checkpoint, and say it is done.

    Without a checkpoint of that step, its model lies in the step's writing folder. Every file appears whole: each is
    copied beside its name first.
    """
    exported = step if exported is None else exported
    checkpoint, writing = output_dir / f"checkpoint-{exported}", writing_folder(output_dir, exported)
    source = checkpoint if checkpoint.is_dir() else writing
    export = output_dir / f"{WRITING_PREFIX}export"
    shutil.rmtree(export, ignore_errors=True)
    try:
        export.mkdir()
        for file in source.iterdir():
            told = file.name in (RUN_FILE, SEAL_FILE, TRAINER_STATE_FILE)
            if not told and (file.suffix in MODEL_SUFFIXES or file.match(MODEL_CODE)):
                shutil.copyfile(file, export / file.name)
        for file in export.iterdir():
            file.replace(output_dir / file.name)
    finally:
        shutil.rmtree(export, ignore_errors=True)
        shutil.rmtree(writing, ignore_errors=True)
    run = read_run(output_dir)
    assert run is not None  # claimed by this run
    write_json(output_dir / RUN_FILE, {**run, "finished": step, "exported": exported})
