"""Counting a step: tokens, documents, time, memory, and the share of the device's peak they amount to."""

import resource
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from promptcot_mamba.gpus import data_sheet
from promptcot_mamba.ops.linear_cross_entropy import IGNORE_INDEX


def peak_flops(device: torch.device) -> float | None:
    """The device's peak bf16 FLOP/s; None where it is not known (every CPU)."""
    if device.type != "cuda":
        return None
    sheet = data_sheet(torch.cuda.get_device_name(device))
    return sheet.bf16_tflops * 1e12 if sheet else None


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory held so far: the allocator's on a GPU, the process's resident set on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB


def count_batch(batch: dict[str, Any]) -> list[int]:
    """`[labelled, tokens, slots, documents]` of one micro-batch; slots count padding too."""
    labels = batch["labels"]
    slots = labels.numel()
    mask = batch.get("attention_mask")
    seen = len(batch["example_ids"])
    documents = batch.get("documents", seen)  # of a slice of a row: those that begin in it
    tokens = 0 if seen == 0 else int(mask.sum()) if mask is not None else slots
    return [int((labels != IGNORE_INDEX).sum()), tokens, slots, documents]


@dataclass
class StepMeter:
    """Sums over all processes since the last log line."""

    device: torch.device
    world_size: int
    flops_per_token: float | None  # forward + backward, without recomputation
    labelled: int = 0
    tokens: int = 0
    slots: int = 0
    documents: int = 0
    steps: int = 0
    started: float = field(default_factory=time.perf_counter)

    def add(self, counts: list[int]) -> None:
        labelled, tokens, slots, documents = counts
        self.labelled += labelled
        self.tokens += tokens
        self.slots += slots
        self.documents += documents
        self.steps += 1

    def restart(self) -> None:
        self.labelled = self.tokens = self.slots = self.documents = self.steps = 0
        self.started = time.perf_counter()

    def read(self, steps_left: int) -> dict[str, float]:
        """The counts since the last reading as log entries, and a new start."""
        seconds = max(time.perf_counter() - self.started, 1e-9)
        steps = max(self.steps, 1)
        rate = self.tokens / seconds / self.world_size
        peak = peak_flops(self.device)
        logs = {
            "tokens_per_second_per_device": rate,
            "documents": self.documents / steps,
            "labelled_tokens": self.labelled / steps,
            "padding_share": 1 - self.tokens / self.slots if self.slots else 0.0,
            "peak_memory_gb": peak_memory_bytes(self.device) / 1e9,
            "seconds_per_step": seconds / steps,
            "eta_seconds": steps_left * seconds / steps,
        }
        if peak and self.flops_per_token:
            logs["mfu"] = rate * self.flops_per_token / peak
        self.restart()
        return logs
