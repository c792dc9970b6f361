"""Killed, torn, extended, changed: what a rerun finds and what it makes of it."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

import infer_longcot
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import DurableAppender, read_jsonl, write_jsonl
from promptcot_mamba.run_info import side_path
from promptcot_mamba.sampling.backend import BackendFailedError, Generated
from promptcot_mamba.sampling.partial import PartialFile
from tests.sampling.conftest import comparable, kill_when_grown, size, write_problems
from tests.sampling.scripted import ScriptedBackend


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_problems(tmp_path_factory.mktemp("data") / "problems.jsonl", 12)


@pytest.fixture
def flags(problems: Path, checkpoint: Path, tmp_path: Path):
    """The flags of a run on the scripted back end; keyword arguments replace or add some."""

    def make(**changed: object) -> list[str]:
        values = {
            "data_path": problems,
            "output_path": tmp_path / "x.jsonl",
            "model_path": checkpoint,
            "n": 6,
            "max_retries": 3,
            "max_len": 4096,
        }
        return [f"--{name}={value}" for name, value in (values | changed).items()]

    return make


def run(flags: list[str], backend: ScriptedBackend | None = None) -> int:
    return infer_longcot.main(flags, make_backend=lambda plan: backend or ScriptedBackend(8))


def run_slowly(flags: list[str]) -> None:
    os.setpgid(0, 0)
    os._exit(run(flags, ScriptedBackend(8, poll_seconds=0.002)))


def tear(path: Path, numbers: random.Random) -> None:
    """Leave what a kill within a write leaves: the beginning of one more line."""
    with path.open("ab") as file:
        file.write(b'{"problem_id": "made/3", "run": 0, "completion": "\\u00e9t\xc3'[: numbers.randrange(1, 60)])


@pytest.mark.parametrize("format", ["rows", "grouped"])
def test_ten_kills_change_nothing(flags, tmp_path: Path, format: str):
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    assert run(flags(output_path=whole, format=format)) == 0
    numbers = random.Random(f"kill {format}")
    attempts = side_path(killed, "attempts.jsonl")
    a_tenth = size(side_path(whole, "attempts.jsonl")) // 10
    for _ in range(10):
        kill_when_grown(
            partial(run_slowly, flags(output_path=killed, format=format)), attempts, numbers.randrange(1, a_tenth)
        )
        for path in (attempts, killed):
            if path.exists() and format == "rows" and numbers.random() < 0.5:
                tear(path, numbers)
    assert not json.loads(side_path(killed, "run.json").read_text())["complete"]
    assert run(flags(output_path=killed, format=format)) == 0
    assert comparable(killed) == comparable(whole)
    made = {(row["problem_id"], row["run"], row["attempt"]) for row in read_jsonl(attempts)}
    assert len(made) == len(read_jsonl(attempts)) == len(read_jsonl(side_path(whole, "attempts.jsonl")))


def test_a_finished_run_is_left_alone(flags, tmp_path: Path):
    run(flags())
    before = (tmp_path / "x.jsonl").read_bytes()
    engine = ScriptedBackend(8)
    assert run(flags(), engine) == 0
    assert engine.submitted == 0
    assert (tmp_path / "x.jsonl").read_bytes() == before
    [session] = json.loads((tmp_path / "x.run.json").read_text())["sessions"]  # the one that sampled
    assert session["samples"] == 72
    assert session["tokens"] >= sum(row["completion_tokens"] for row in read_jsonl(tmp_path / "x.jsonl"))


def test_more_runs_extend_a_finished_one(flags, tmp_path: Path):
    run(flags(n=2))
    few = comparable(tmp_path / "x.jsonl")
    engine = ScriptedBackend(8)
    run(flags(n=5), engine)
    assert comparable(tmp_path / "x.jsonl")[: len(few)] == few
    run(flags(n=5, output_path=tmp_path / "y.jsonl"))
    assert comparable(tmp_path / "x.jsonl") == comparable(tmp_path / "y.jsonl")
    with pytest.raises(InputError, match="--n 4 would drop samples: raise --n to 5, or use another"):
        run(flags(n=4))


def test_a_run_that_made_nothing_binds_nobody(flags, tmp_path: Path):
    """Begun with a wrong flag, and no server was there: what it would have made is not on disk."""

    def no_server(plan):
        raise InputError("--base_url: cannot be reached")

    def begin(**changed: object) -> None:
        with pytest.raises(InputError, match="cannot be reached"):
            infer_longcot.main(flags(**changed), make_backend=no_server)

    begin(temperature=0.1, n=40)
    assert run(flags(n=2)) == 0
    begin(n=40)
    assert run(flags(n=2)) == 0
    assert json.loads((tmp_path / "x.run.json").read_text())["samples"]["n"] == 2
    with pytest.raises(InputError, match="raise --n to 2, or use another"):
        run(flags(n=1))
    with pytest.raises(InputError, match=r"temperature was 0\.8"):
        run(flags(n=2, temperature=0.1))


def test_another_model_on_the_servers_is_another_model(flags, tmp_path: Path):
    """Also where an older run.json names --model_path for it."""
    asked = {"model_path": "mine", "base_url": "http://nowhere", "n": 1}
    assert run(flags(**asked, served_model_name="a")) == 0
    path = tmp_path / "x.run.json"
    for model in ("a", "mine"):
        info = json.loads(path.read_text())
        info["samples"]["model"] = model
        path.write_text(json.dumps(info))
        with pytest.raises(InputError, match="model was 'a', now 'b'"):
            run(flags(**asked | {"n": 2}, served_model_name="b"))
    assert run(flags(**asked, served_model_name="a")) == 0


def test_the_format_may_change(flags, tmp_path: Path):
    output = tmp_path / "x.jsonl"
    run(flags())
    rows = comparable(output)
    run(flags(format="grouped"))
    grouped = read_jsonl(output)
    assert [row["completions"] for row in grouped] == [
        [row["completion"] for row in rows if row["idx"] == index] for index in range(12)
    ]
    assert grouped[0]["runs"] == list(range(6))
    run(flags())
    assert comparable(output) == rows


def test_a_lost_journal_is_written_again(flags, tmp_path: Path):
    output = tmp_path / "x.jsonl"
    run(flags())
    rows = comparable(output)
    side_path(output, "attempts.jsonl").unlink()
    engine = ScriptedBackend(8)
    assert run(flags(), engine) == 0
    assert engine.submitted == 0
    assert comparable(output) == rows


def test_lost_samples_are_drawn_again_from_their_seeds(flags, tmp_path: Path):
    """A text stands in one file, so what is lost of it is made again, to the letter, with the attempt that it was."""
    output = tmp_path / "x.jsonl"
    run(flags())
    rows, attempts = comparable(output), side_path(output, "attempts.jsonl").read_bytes()
    output.unlink()
    engine = ScriptedBackend(8)
    assert run(flags(), engine) == 0
    assert engine.submitted == len(rows)
    assert comparable(output) == rows
    assert len(read_jsonl(side_path(output, "attempts.jsonl"))) == len(attempts.splitlines())


def test_a_row_lost_between_the_two_files_is_put_back(flags, tmp_path: Path):
    output = tmp_path / "x.jsonl"
    run(flags())
    rows = comparable(output)
    write_jsonl(
        output,
        [row for row in read_jsonl(output) if rows.index({k: v for k, v in row.items() if k != "seconds"}) != 10],
    )
    engine = ScriptedBackend(8)
    run(flags(), engine)
    assert engine.submitted == 1
    assert comparable(output) == rows


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"temperature": 0.7}, "temperature was 0.8, now 0.7"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"max_len": 4095}, "max_len was 4096, now 4095"),
        ({"max_retries": 4}, "max_retries was 3, now 4"),
        ({"stop_on_loop": True}, "stop_on_loop was False, now True"),
        ({"dtype": "bfloat16"}, "dtype was 'float32', now 'bfloat16'"),
        ({"use_chat_template": True, "prompt_from": "prompt"}, "prompt_from .*; use_chat_template"),
    ],
)
def test_what_changes_samples_is_refused_by_name(flags, changed: dict, message: str):
    run(flags(n=1))
    with pytest.raises(InputError, match=message):
        run(flags(n=1, **changed))


def test_changed_problems_and_weights_are_refused(flags, tmp_path: Path, problems: Path, checkpoint: Path):
    run(flags(n=1))
    rows = read_jsonl(problems)
    write_jsonl(tmp_path / "other.jsonl", [rows[0] | {"answer": 5}, *rows[1:]])
    with pytest.raises(InputError, match="had another 'answer' when it was sampled"):
        run(flags(n=1, data_path=tmp_path / "other.jsonl"))
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in checkpoint.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    assert run(flags(n=1, model_path=moved)) == 0  # the same model elsewhere
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[-100] ^= 1
    (moved / "model.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match="model was"):
        run(flags(n=1, model_path=moved))


@pytest.mark.parametrize("cut", [False, True])
def test_a_file_that_is_written_by_another_program_is_noticed(flags, tmp_path: Path, cut: bool):
    """An editor's save is a new file in its place; a shell's `>` cuts it."""
    output, whole = tmp_path / "x.jsonl", tmp_path / "whole.jsonl"

    class Edited(ScriptedBackend):
        def poll(self, timeout: float) -> list[Generated]:
            if output.stat().st_size and not (tmp_path / "copy").exists():
                (tmp_path / "copy").write_bytes(output.read_bytes())
                if cut:
                    os.truncate(output, 10)
                else:
                    (tmp_path / "copy2").write_bytes(output.read_bytes())
                    (tmp_path / "copy2").replace(output)
            return super().poll(timeout)

    with pytest.raises(InputError, match="was replaced or cut by another program"):
        run(flags(), Edited(8))
    assert json.loads(side_path(output, "run.json").read_text())["complete"] is False
    assert run(flags()) == 0
    run(flags(output_path=whole))
    assert comparable(output) == comparable(whole)


def test_placement_may_change(flags):
    run(flags(n=1))
    assert run(flags(n=2, max_num_seqs=3, n_gpus=2, concurrency=7)) == 0


def test_overwrite_keeps_the_old_files(flags, tmp_path: Path):
    run(flags(n=1))
    old = (tmp_path / "x.jsonl").read_bytes()
    for left in ("x.attempts.damaged.jsonl", "x.server.log"):
        (tmp_path / left).write_text("torn\n")
    assert run(flags(n=1, seed=5, overwrite=True)) == 0
    assert (tmp_path / "x.jsonl").read_bytes() != old
    assert len(list(tmp_path.glob("x.old-*"))) == 5
    assert next(tmp_path.glob("x.old-*[0-9].jsonl")).read_bytes() == old


@pytest.mark.parametrize("renames", range(1, 4))
def test_an_overwrite_that_is_killed_leaves_nothing_of_unknown_origin(flags, tmp_path, monkeypatch, renames: int):
    """Whatever is left of a run is told by its run.json, which goes last; chains under way go first."""
    run(flags(n=1))
    (tmp_path / "x.partial.jsonl").write_text("left\n")
    rename, renamed = Path.rename, []

    def rename_some(path: Path, target: Path) -> Path:
        if len(renamed) == renames:
            raise KeyboardInterrupt
        renamed.append(path.name)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", rename_some)
    with pytest.raises(KeyboardInterrupt):
        run(flags(n=1, overwrite=True))
    assert renamed[0] == "x.partial.jsonl"
    assert (tmp_path / "x.run.json").exists()
    if renames < 3:
        with pytest.raises(InputError, match="seed was 0, now 5"):
            run(flags(n=1, seed=5))


def test_files_of_unknown_origin_are_refused(flags, tmp_path: Path):
    write_jsonl(tmp_path / "x.jsonl", [{"id": 1, "completion": "?"}])
    with pytest.raises(InputError, match=r"not the run\.json"):
        run(flags())
    assert read_jsonl(tmp_path / "x.jsonl") == [{"id": 1, "completion": "?"}]


def test_a_second_writer_is_refused(flags, tmp_path: Path):
    run(flags(n=1))
    for overwrite in (False, True):
        with DurableAppender(tmp_path / "x.attempts.jsonl"):
            with pytest.raises(InputError, match="another process is writing"):
                run(flags(n=1, overwrite=overwrite))
    assert len(read_jsonl(tmp_path / "x.jsonl")) == 12


class Stopping(ScriptedBackend):
    """Raises something once so many chains have finished."""

    def __init__(self, after: int, error: BaseException | None, number: int | None = None):
        super().__init__(4)
        self._after, self._error, self._number, self._done = after, error, number, 0

    def poll(self, timeout: float) -> list[Generated]:
        finished = super().poll(timeout)
        self._done += len(finished)
        if self._done >= self._after:
            self._after = 10**9
            if self._number is not None:
                os.kill(os.getpid(), self._number)
            if self._error is not None:
                raise self._error
        return finished


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(flags, tmp_path: Path, capsys, number: int):
    assert run(flags(), Stopping(20, None, number)) == 130
    said = capsys.readouterr().err
    kept = read_jsonl(tmp_path / "x.jsonl")
    assert len(kept) >= 15
    assert f"{len(kept)} of 72 samples are safe" in said
    assert "run the same command again" in said
    assert run(flags()) == 0
    run(flags(output_path=tmp_path / "y.jsonl"))
    assert comparable(tmp_path / "x.jsonl") == comparable(tmp_path / "y.jsonl")


def test_a_backend_gone_for_good_stops_cleanly(flags, tmp_path: Path, capsys):
    assert run(flags(), Stopping(20, BackendFailedError("no server has answered for 600 s"))) == 1
    assert "no server has answered for 600 s" in capsys.readouterr().err
    assert run(flags()) == 0


def test_a_disk_that_is_full_at_the_end_leaves_no_engine_running(flags, tmp_path: Path, monkeypatch, capsys):
    """What has to be closed is closed, and the session's cost is on record, whichever file cannot be written."""

    def full(file: PartialFile) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    backend, closed = ScriptedBackend(8), []
    backend.close = lambda: closed.append(backend)
    monkeypatch.setattr(PartialFile, "close", full)
    assert run(flags(), backend) == 1
    assert closed == [backend]
    assert "nothing more can be written" in capsys.readouterr().err
    [session] = json.loads(side_path(tmp_path / "x.jsonl", "run.json").read_text())["sessions"]
    assert session["tokens"] == backend.generated_tokens


def run_on_a_small_disk(flags: list[str], limit: int) -> None:
    sys.dont_write_bytecode = True  # as tests/small_disk.py
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    os._exit(run(flags))


def test_a_full_disk_leaves_whole_lines(flags, tmp_path: Path, capfd):
    output = tmp_path / "x.jsonl"
    process = multiprocessing.get_context("fork").Process(target=run_on_a_small_disk, args=(flags(), 5000))
    process.start()
    process.join(60)
    assert process.exitcode == 1
    assert "nothing more can be written" in capfd.readouterr().err
    for path in (output, side_path(output, "attempts.jsonl")):
        assert size(path) <= 5000
        assert len(read_jsonl(path)) > 5  # each line is whole
    assert run(flags()) == 0
    run(flags(output_path=tmp_path / "y.jsonl"))
    assert comparable(output) == comparable(tmp_path / "y.jsonl")
