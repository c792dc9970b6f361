"""What slices cost and save: a row held by several processes, against the same row on one, on this machine's CPU.

    python -m scripts.bench.sequence_parallel --lengths 16384 65536 --sizes 2 4

A step is a forward and backward pass of a small Mamba-2 under gradient checkpointing over one row of three documents,
one thread a process. Memory is what the largest process's resident set rises by during its first step, against the
whole row's on one process. Cost is CPU time of all processes, against as many processes that each take a row of
their own as long as a slice: the same tokens on the same cores, unsliced. The two take turns within the same
processes, so that a busy minute meets both.
"""

import json
import os
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from transformers import Mamba2Config

from promptcot_mamba.bench_record import RecordTable, report_record
from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.log import logger
from promptcot_mamba.model import Mamba2ForCausalLM
from promptcot_mamba.model.causal_lm import next_token_labels
from promptcot_mamba.ops.sequence_parallel import (
    RowSlice,
    SliceGroup,
    make_slice_groups,
    slice_bounds,
    slice_documents,
)
from scripts.bench.common import peak_memory, reset_peak_memory

WHOLE = 1


@dataclass
class Arguments:
    lengths: list[int] = flag("tokens of the row", factory=lambda: [16384, 65536])
    sizes: list[int] = flag("slices, a process each", factory=lambda: [2, 4])
    rounds: int = flag("pairs of steps whose times count", default=5)
    hidden_size: int = 128
    layers: int = 4
    record: str | None = flag("also write the record here", default=None)


@dataclass(frozen=True)
class Step:
    """One process's step."""

    loss: float
    seconds: float  # CPU time
    peak_bytes: int  # above what was resident before the step
    sent_bytes: int


def make_model(args: Arguments) -> Mamba2ForCausalLM:
    torch.manual_seed(0)
    config = Mamba2Config(
        vocab_size=512, hidden_size=args.hidden_size, num_hidden_layers=args.layers, state_size=64, head_dim=64,
        num_heads=2 * args.hidden_size // 64, n_groups=1, expand=2, conv_kernel=4, residual_in_fp32=True,
    )  # fmt: skip
    model = Mamba2ForCausalLM(config).train()
    model.gradient_checkpointing_enable()
    return model


def run_step(model: Mamba2ForCausalLM, length: int, slices: SliceGroup | None) -> Step:
    """One forward and backward pass over this process's slice of the row, or over a whole one of its own."""
    ids = torch.randint(0, 512, (1, length), generator=torch.Generator().manual_seed(length))
    marks = [0, length // 7, length // 2 + 3, length]
    targets = next_token_labels(ids, torch.tensor(marks))
    start, end, place = 0, length, None
    if slices is not None:
        start, end = slice_bounds(length, slices.size)[slices.index : slices.index + 2]
        marks, continued, continues = slice_documents(marks, start, end)
        place = RowSlice(slices, continued, continues)
        slices.bytes_sent = 0
    inputs = {
        "input_ids": ids[:, start:end].contiguous(), "shift_labels": targets[:, start:end].contiguous(),
        "cu_seqlens": torch.tensor(marks, dtype=torch.int32), "place": place,
    }  # fmt: skip
    model.zero_grad()
    before, started = reset_peak_memory(), time.process_time()
    loss = model(**inputs, num_items_in_batch=length).loss
    loss.backward()
    seconds = time.process_time() - started
    sent = slices.bytes_sent if slices is not None else 0
    return Step(float(loss.detach()), seconds, peak_memory() - before, sent)


def work(rank: int, size: int, args: Arguments, length: int, store: str, answers: str) -> None:
    """One process: a short step to warm up, one whose memory counts, then pairs of steps, sliced and apart."""
    torch.set_num_threads(1)
    slices = None
    if size > WHOLE:
        dist.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(minutes=30)
        )
        slices = make_slice_groups(size)
    model = make_model(args)
    run_step(model, 64 * size, slices)
    found: dict[str, Any] = {"first": asdict(run_step(model, length, slices)), "pairs": []}
    for _ in range(args.rounds if slices is not None else 0):
        seconds = []
        for arm, tokens in ((slices, length), (None, length // size)):
            dist.barrier()
            seconds.append(run_step(model, tokens, arm).seconds)
        found["pairs"].append(seconds)
    Path(f"{answers}.{rank}").write_text(json.dumps(found), encoding="utf-8")
    if dist.is_initialized():
        dist.destroy_process_group()


def measure(args: Arguments, length: int, size: int) -> dict:
    """A row of `length` tokens on `size` processes: its figures, ratios to the whole row still missing."""
    with tempfile.TemporaryDirectory() as folder:
        answers = str(Path(folder) / "step")
        mp.spawn(work, (size, args, length, str(Path(folder) / "store"), answers), nprocs=size)
        found = [json.loads(Path(f"{answers}.{rank}").read_text(encoding="utf-8")) for rank in range(size)]
    first = [Step(**one["first"]) for one in found]
    pairs = [
        [sum(times) for times in zip(*pair, strict=True)] for pair in zip(*(one["pairs"] for one in found), strict=True)
    ]
    return {
        "length": length, "size": size, "loss": sum(step.loss for step in first),
        "peak_mib": max(step.peak_bytes for step in first) / 2**20,
        "sent_kib": max(step.sent_bytes for step in first) / 1024,
        "cpu_seconds": statistics.median(sliced for sliced, _ in pairs) if pairs else None,
        "cost_ratios": [sliced / apart for sliced, apart in pairs],
    }  # fmt: skip


def make_table(results: list[dict]) -> RecordTable:
    rows = []
    for one in results:
        ratios = one["cost_ratios"]
        cost = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
        rows.append([
            f"{one['length']:,}", str(one["size"]), f"{one['peak_mib']:.0f}", f"{one['memory_ratio']:.2f}", cost,
            f"{one['sent_kib']:.0f}", f"{one['loss_error']:.0e}",
        ])  # fmt: skip
    header = [
        "row", "slices", "MiB a process", "of the whole row's", "CPU time, of unsliced", "KiB sent", "loss off by",
    ]  # fmt: skip
    caption = (
        "One row held by several processes, against the same row on one: what a step adds to a process's memory (the "
        "largest of them), the loss's relative error, and the bytes that a process sends (the most). CPU time: of all "
        "processes, against as many unsliced rows of a slice's length on as many processes; the median of pairs taken "
        "in turn, and their range."
    )
    return RecordTable(caption, header, rows)


def main() -> None:
    args = parse_args(Arguments, description=__doc__)
    os.environ["OMP_NUM_THREADS"] = "1"
    results = []
    for length in args.lengths:
        whole = measure(args, length, WHOLE)
        for one in [whole, *(measure(args, length, size) for size in args.sizes)]:
            one["memory_ratio"] = one["peak_mib"] / whole["peak_mib"]
            one["loss_error"] = abs(one["loss"] - whole["loss"]) / abs(whole["loss"])
            results.append(one)
            logger.info("%s", one)
    report_record(args, title="Sequence parallelism on CPU", tables=[make_table(results)], results=results)


if __name__ == "__main__":
    run_program(main)
