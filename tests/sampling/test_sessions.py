"""Device hours: every session of a run is on record, killed ones too, and they add up."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import infer_longcot
from promptcot_mamba.report.cost import cost_section
from promptcot_mamba.report.evaluations import Evaluation
from promptcot_mamba.run_info import side_path
from promptcot_mamba.sampling import sessions
from promptcot_mamba.sampling.capacity import Device
from promptcot_mamba.sampling.sessions import Session, device_hours, speed_per_device
from tests.sampling.conftest import write_problems
from tests.sampling.scripted import ScriptedBackend


def test_a_session_is_noted_every_minute_and_at_its_end(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(sessions.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(sessions, "list_gpus", list)
    session = Session(SimpleNamespace(n_gpus=8), Device("cuda", 1), settled=10)
    clock[0] = 59.0
    assert not session.note(500, 20)
    clock[0] = 61.0
    assert session.note(500, 20)
    assert (session.row["seconds"], session.row["tokens"], session.row["samples"]) == (61.0, 500, 10)
    clock[0] = 450.0
    assert session.note(900, 30, now=True)
    assert device_hours([session.row, {"seconds": 3600.0, "devices": 2}]) == 3.0
    machine = Session(SimpleNamespace(n_gpus=8), Device("cpu", 1), 0)  # whose cores the eight share
    assert machine.row["devices"] == 1
    servers = Session(SimpleNamespace(n_gpus=1), None, 0)
    assert (servers.row["devices"], servers.row["device"]) == (None, "servers")
    assert device_hours([session.row, servers.row]) is None
    assert device_hours([]) == 0.0


def test_hours_of_a_run_that_is_killed_are_kept_and_added_to(checkpoint: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sessions, "NOTE_SECONDS", 0.0)
    output = tmp_path / "x.jsonl"
    flags = [f"--data_path={write_problems(tmp_path / 'p.jsonl', 5)}", f"--output_path={output}", "--n=8",
             f"--model_path={checkpoint}"]  # fmt: skip

    class Dies(ScriptedBackend):
        def poll(self, timeout: float):
            if self.steps > 50:
                raise MemoryError
            return super().poll(timeout)

        def close(self) -> None:
            self.generated_tokens = 0  # as of servers: what is under way is cancelled

    with pytest.raises(MemoryError):
        infer_longcot.main(flags, make_backend=lambda plan: Dies(8, 0.01))
    first = json.loads(side_path(output, "run.json").read_text())
    assert first["device_hours"] > 0
    assert first["sessions"][0]["tokens"] > 0
    assert not first["complete"]
    assert infer_longcot.main(flags, make_backend=lambda plan: ScriptedBackend(8, 0.01)) == 0
    run = json.loads(side_path(output, "run.json").read_text())
    assert len(run["sessions"]) == 2
    assert run["device_hours"] == pytest.approx(sum(one["seconds"] for one in run["sessions"]) / 3600, abs=1e-6)
    assert sum(one["samples"] for one in run["sessions"]) == 40

    log = tmp_path / "train_log.jsonl"
    log.write_text('{"step": 1, "loss": 2.0, "device_hours": 200.5, "device": "8 x NVIDIA A100"}\n{"step": 2}\n')
    evaluation = Evaluation("mine", predictions={"gsm8k": output})
    section = cost_section([evaluation], {"PromptCoT-DS-1.5B": log})
    assert section.table.rows[0][-1] == "200.50"
    assert any(note.startswith("Measured here: mine, sampling, ") for note in section.notes)
    log.write_text('{"step": 1, "loss": 2.0, "device_hours": 200.5, "device": "a laptop"}\n')
    section = cost_section([], {"PromptCoT-DS-1.5B": log})
    assert section.table.rows[0][-1] == "not measured"  # no A100
    assert "Measured here: PromptCoT-DS-1.5B, training, 200.5 device hours (a laptop)." in section.notes


def test_a_training_that_has_not_finished_has_no_cost_yet(tmp_path: Path):
    log = tmp_path / "train_log.jsonl"
    log.write_text('{"step": 3, "loss": 2.0, "device_hours": 0.11, "device": "8 x NVIDIA A100"}\n')
    (tmp_path / "run.json").write_text('{"identity": {}, "finished": null}')
    assert cost_section([], {"promptcot-ds-1.5b": log}).table.rows[0][-1] == "not measured"
    (tmp_path / "run.json").write_text('{"identity": {}, "finished": 12000}')
    assert cost_section([], {"promptcot-ds-1.5b": log}).table.rows[0][-1] == "0.11"


def test_speed_is_that_of_a_device_of_the_same_model(monkeypatch):
    monkeypatch.setattr(sessions, "processor_name", lambda: "this")
    row = {"seconds": 100.0, "tokens": 8000, "devices": 8, "device": "this"}
    others = [row | {"device": "that"}, row | {"devices": None, "device": "servers"}, {"seconds": 1.0, "tokens": 1}]
    cores = Device("cpu", 1)
    assert speed_per_device([row, *others], cores) == 10.0
    assert speed_per_device([row, row | {"tokens": 2000, "devices": 1}], cores) == pytest.approx(10_000 / 900)
    assert speed_per_device(others, cores) is None


def test_gpus_are_named_by_their_driver(monkeypatch):
    """Never through CUDA: a process that has touched it cannot fork vLLM's workers."""
    monkeypatch.setattr(sessions, "list_gpus", lambda: [SimpleNamespace(name="NVIDIA A100")] * 8)
    row = Session(SimpleNamespace(n_gpus=8), Device("cuda", 1), 0).row
    assert (row["devices"], row["device"]) == (8, "NVIDIA A100")
