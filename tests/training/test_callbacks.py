"""What a step says, and what a resumed log keeps."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

from transformers import TrainerControl, TrainerState, TrainingArguments

from promptcot_mamba.jsonl import read_jsonl
from promptcot_mamba.training import callbacks
from promptcot_mamba.training.callbacks import LOG_FILE, LogFileCallback, render_eval, render_step

LOGS = {
    "loss": 1.25, "learning_rate": 5e-6, "grad_norm": 0.5, "tokens_per_second_per_device": 10_123.4,
    "documents": 21.0, "labelled_tokens": 301_000.0, "padding_share": 0.004, "peak_memory_gb": 71.25,
    "eta_seconds": 3723.0,
}  # fmt: skip


def test_a_step_in_a_line():
    line = render_step(12, 340, LOGS)
    assert line == (
        "step 12/340 | loss 1.2500 | lr 5.00e-06 | grad 0.500 | 10,123 tok/s/device | 21 docs | 301,000 labelled | "
        "padding 0.4% | peak 71.25 GB | eta 1:02:03"
    )
    assert "mfu 51.2%" in render_step(12, 340, {**LOGS, "mfu": 0.512})


def test_validation_in_a_line():
    logs = {"eval_add_loss": 1.0, "eval_loss": 1.5, "epoch": 1.0}
    assert render_eval(4, logs) == "validation after step 4 | add 1.0000 | all 1.5000"


def log_steps(folder: Path, state: TrainerState, steps: range) -> None:
    args = TrainingArguments(output_dir=str(folder), report_to=[], use_cpu=True)
    callback = LogFileCallback()
    callback.on_train_begin(args, state, TrainerControl())
    for state.global_step in steps:
        callback.on_log(args, state, TrainerControl(), logs={"loss": float(state.global_step)})
    callback.on_train_end(args, state, TrainerControl())


def test_a_resumed_log_drops_what_is_done_again(tmp_path: Path):
    log_steps(tmp_path, TrainerState(is_world_process_zero=True), range(1, 6))
    with (tmp_path / LOG_FILE).open("a") as file:
        file.write('{"step": 6, "lo')  # killed while writing
    log_steps(tmp_path, TrainerState(is_world_process_zero=True, global_step=3), range(4, 8))
    assert [row["step"] for row in read_jsonl(tmp_path / LOG_FILE) if "loss" in row] == [1, 2, 3, 4, 5, 6, 7]


def test_device_hours_add_up_over_sessions_and_count_what_is_done_again(tmp_path: Path, monkeypatch):
    quarter_hours = itertools.count(0.0, 900.0)
    monkeypatch.setattr(callbacks, "time", SimpleNamespace(monotonic=lambda: next(quarter_hours)))
    log_steps(tmp_path, TrainerState(is_world_process_zero=True), range(1, 4))
    log_steps(tmp_path, TrainerState(is_world_process_zero=True, global_step=1), range(2, 4))
    log_steps(tmp_path, TrainerState(is_world_process_zero=True, global_step=1), range(0))  # killed before a step
    log_steps(tmp_path, TrainerState(is_world_process_zero=True, global_step=1), range(2, 3))
    rows = [row for row in read_jsonl(tmp_path / LOG_FILE) if "loss" in row]
    assert [row["device_hours"] for row in rows] == [0.25, 1.5]  # 3 steps, 2 of them twice, one for the third time
    assert ["device" in row for row in rows] == [True, True]
