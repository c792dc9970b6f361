"""One training step of the 7B model on one device: the published recipe and ours, random weights, 20,480 tokens.

    python -m scripts.bench.step_7b --part step         # recipe and ours, with and without their optimizers
    python -m scripts.bench.step_7b --part lengths      # our forward and backward over row lengths
    python -m scripts.bench.step_7b --dry_run True      # tiny shapes on the CPU, DeepSpeed included

recipe_passes   transformers' Mamba-2 on mamba-ssm's kernels, every layer checkpointed: forward and backward
ours_passes     our model, as many layers keeping their activations as memory holds: forward and backward
ours            the same with its optimizer on the device (promptcot_mamba/training/split_adamw.py)
recipe_offload  the published recipe: recipe_passes under DeepSpeed ZeRO-2 with the optimizer on the host
ours_offload    our model under the same DeepSpeed config

Each variant runs in a process of its own. ZeRO-2's host states take 18 bytes a parameter: where the host is too small
for 64 layers, the offloaded variants (and `ours` beside them) run at the deepest multiple of 8 that fits. Records:
docs/records/<device>-<date>-<part>.json (train and train_lengths), written variant by variant and resumed.
"""

import functools
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context

import torch

from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.memory_budget import training_flops_per_token
from promptcot_mamba.training.meters import peak_flops, peak_memory_bytes
from scripts.bench.device_common import PartRecord, Row, peer_failures, profile_kernels, say_not_measured, use_device
from scripts.bench.step_engines import count_upstream_calls, make_engine, plan_offload, shapes_at
from scripts.bench.step_tables import TITLES, describe_row, list_tables

PARTS = {"step": "train", "lengths": "train_lengths"}
LAYERS, LENGTH = 64, 20_480


@dataclass
class Arguments:
    part: str = flag("one at a time", default="step", choices=tuple(PARTS))
    layers: int = flag("depth; 64 is the 7B model's", default=LAYERS, least=1)
    length: int = flag("tokens of the row", default=LENGTH, least=16)
    lengths: list[int] = flag(
        "tokens of the rows of --part lengths",
        factory=lambda: [2048, 4096, 8192, 16_384, 20_480, 32_768, 65_536],
        least=16,
    )
    repeats: int = flag("timed steps of each", default=5, least=5)
    record: str | None = flag("JSON file; see above where unset", default=None)
    overwrite: bool = flag("measure what is recorded again", default=False)
    dry_run: bool = flag("tiny shapes on the CPU; recorded only with --record", default=False)

    def __post_init__(self) -> None:
        if self.dry_run:
            self.layers, self.length, self.lengths = 2, 64, [32, 64]


def spread(seconds: list[float]) -> Row:
    """Median, extremes and count, in seconds."""
    middle = statistics.median(seconds)
    return {"median_s": middle, "lowest_s": min(seconds), "highest_s": max(seconds), "n": len(seconds)}


def measure_variant(variant: str, layers: int, length: int, repeats: int, device: str, pinned: bool) -> Row:
    """Steps of one micro-batch each, timed in two parts, after two untimed ones; then where the time goes."""
    calls = count_upstream_calls() if variant.startswith("recipe") and device == "cuda" else None
    engine, kept = make_engine(variant, layers, length, device, pinned)
    passes, updates = [], []

    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    for step in range(repeats + 2):
        if step == 2 and device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        began = now()
        loss = engine.micro_batch()
        middle = now()
        engine.update()
        passes.append(middle - began)
        updates.append(now() - middle)
    if calls == []:
        raise RuntimeError("transformers did not call mamba-ssm's fused mixer")
    shapes = shapes_at(layers)
    row: Row = {
        "passes": spread(passes[2:]), "loss": float(loss), "kept_layers": kept(),
        "peak_bytes": peak_memory_bytes(torch.device(device)),
        "host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "flops_per_token": training_flops_per_token(shapes), "parameters": shapes.parameters,
        "peak_flops": peak_flops(torch.device(device)), "pinned": pinned if variant.endswith("offload") else None,
    }  # fmt: skip
    if variant.endswith("passes"):
        row["profile"] = profile_kernels(engine.micro_batch, device, most=16)
    else:
        row["update"] = spread(updates[2:])
    return row


def measure_or_say(*arguments) -> Row:
    """`measure_variant`, or why it could not."""
    try:
        return measure_variant(*arguments)
    except peer_failures() as error:
        return {"failed": say_not_measured(error)}


def in_child(variant: str, layers: int, length: int, *settings) -> Row:
    """`measure_variant` in a fresh process, whose end frees the device; a failure there is said, not raised."""
    row = {"variant": variant, "layers": layers, "length": length}
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return row | pool.submit(measure_or_say, variant, layers, length, *settings).result()
    except BrokenProcessPool:
        return row | {"failed": say_not_measured("its process was killed (out of host memory?)")}


def list_rows(args: Arguments, device: str) -> Iterator[tuple[str, Callable[[], Row]]]:
    """(key, what to measure) of every row of the part."""

    def row(variant: str, layers: int, length: int, pinned: bool = False):
        key = f"{variant}/{layers} layers/{length} tokens"
        return key, functools.partial(in_child, variant, layers, length, args.repeats, device, pinned)

    if args.part == "lengths":
        for length in args.lengths:
            yield row("ours_passes", args.layers, length)
        return
    depth, pinned = plan_offload(args.layers) if device == "cuda" else (args.layers, False)
    for variant in ("ours_passes", "recipe_passes", "ours"):
        yield row(variant, args.layers, args.length)
    for variant in ("recipe_offload", "ours_offload"):
        yield row(variant, depth, args.length, pinned)
    if depth != args.layers:
        for variant in ("ours", "recipe_passes", "ours_passes"):
            yield row(variant, depth, args.length)


def main() -> int:
    args = parse_args(Arguments, description=__doc__)
    device = use_device(args.dry_run)
    record = PartRecord(
        PARTS[args.part], title=TITLES[args.part], config=asdict(args), path=args.record, dry_run=args.dry_run,
        overwrite=args.overwrite,
    )  # fmt: skip
    failed = False
    for key, measure in list_rows(args, device):
        row = record.measure(key, measure, functools.partial(list_tables, args.part))
        print(f"{key:<44} {describe_row(row)}", flush=True)
        failed |= "failed" in row and row["variant"].startswith("ours")
    return 1 if failed else 0


if __name__ == "__main__":
    run_program(main)
