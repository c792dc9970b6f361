"""What a run says while it runs: one line a step, `train_log.jsonl`, TensorBoard; and how a signal ends it politely."""

import math
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from promptcot_mamba.bench_record import device_name
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import DurableAppender, iter_jsonl, write_jsonl

LOG_FILE = "train_log.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


def render_step(step: int, max_steps: int, logs: dict[str, Any]) -> str:
    """A step's log entries as one line of the terminal."""
    parts = [f"step {step}/{max_steps}", f"loss {logs['loss']:.4f}", f"lr {logs['learning_rate']:.2e}"]
    if "grad_norm" in logs:
        parts.append(f"grad {logs['grad_norm']:.3f}")
    if "rewards/margins" in logs:
        parts.append(f"margin {logs['rewards/margins']:.3f}, {logs['rewards/accuracies']:.0%} right")
    parts.append(f"{logs['tokens_per_second_per_device']:,.0f} tok/s/device")
    if "mfu" in logs:
        parts.append(f"mfu {logs['mfu']:.1%}")
    parts += [
        f"{logs['documents']:.0f} docs",
        f"{logs['labelled_tokens']:,.0f} labelled",
        f"padding {logs['padding_share']:.1%}",
        f"peak {logs['peak_memory_gb']:.2f} GB",
        f"eta {timedelta(seconds=round(logs['eta_seconds']))}",
    ]
    return " | ".join(parts)


def render_eval(step: int, logs: dict[str, Any]) -> str:
    parts = [
        f"{key.removeprefix('eval_').removesuffix('loss').rstrip('_') or 'all'} {value:.4f}"
        for key, value in logs.items()
        if key.startswith("eval_") and key.endswith("loss")
    ]
    return f"validation after step {step} | " + " | ".join(parts)


class ConsoleCallback(TrainerCallback):
    """Prints a line per logged step, under a progress bar where the terminal can show one."""

    def __init__(self) -> None:
        self._bar: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True)

    def _print(self, line: str) -> None:
        if self._bar is not None:
            self._bar.write(line)
        else:
            print(line, flush=True)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs=None, **_: Any):
        if not state.is_world_process_zero or not logs:
            return
        if "loss" in logs:
            self._print(render_step(state.global_step, state.max_steps, logs))
        elif any(key.startswith("eval_") for key in logs):
            self._print(render_eval(state.global_step, logs))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            assert args.output_dir is not None
            self._print(f"saved {Path(args.output_dir) / f'checkpoint-{state.global_step}'}")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._bar is not None:
            self._bar.close()


class LogFileCallback(TrainerCallback):
    """Appends every log entry, with its step, to `train_log.jsonl`; a resumed run first drops what it will redo.

    `device_hours` is the wall time of all devices up to the entry, of dropped steps too, without the program's start;
    the first entry of each process names its `device`.
    """

    def __init__(self) -> None:
        self._file: DurableAppender | None = None
        self._hours = 0.0  # of earlier processes
        self._began = time.monotonic()
        self._named: dict[str, str] = {}  # said once

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        assert args.output_dir is not None
        path = Path(args.output_dir) / LOG_FILE
        if path.exists():
            with DurableAppender(path):  # mends a torn last line
                pass
            rows = [row for _, row in iter_jsonl(path)]
            self._hours = max((row.get("device_hours", 0.0) for row in rows), default=0.0)
            kept = [row for row in rows if row["step"] <= state.global_step]
            if dropped := [row for row in rows if row["step"] > state.global_step]:
                # Their hours count, also where this process ends before it logs anything.
                lost = {"step": state.global_step, "device_hours": self._hours}
                devices = [row["device"] for row in dropped if "device" in row]
                kept.append({**lost, "device": devices[-1]} if devices else lost)
            write_jsonl(path, kept)
        self._file = DurableAppender(path)
        self._began, self._named = time.monotonic(), {"device": device_name()}

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs=None, **_: Any):
        if self._file is not None and logs:
            finite = {key: value if math.isfinite(value) else str(value) for key, value in logs.items()}
            hours = self._hours + (time.monotonic() - self._began) * args.world_size / 3600
            self._file.append({"step": state.global_step, **finite, "device_hours": round(hours, 6), **self._named})
            self._named = {}

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._file is not None:
            self._file.close()


def make_tensorboard_callback(output_dir: Path, resumed_step: int) -> TrainerCallback:
    """TensorBoard under the output folder, where steps that a resumed run repeats replace the old ones."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("--report_to tensorboard: tensorboard is not installed; install it or pass none") from None
    from transformers.integrations import TensorBoardCallback

    return TensorBoardCallback(SummaryWriter(str(output_dir / TENSORBOARD_FOLDER), purge_step=resumed_step + 1))


class StopCallback(TrainerCallback):
    """Saves and stops after the step in which any process was asked to stop."""

    def __init__(self) -> None:
        self.trainer: Any = None  # set once the trainer exists

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.trainer.stop_requested and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True
            self.trainer.stopped_at = state.global_step
