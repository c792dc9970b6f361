"""Our kernels on a device: first right, then fast. Every op against its definition, then timed beside its peers.

    python -m scripts.bench_kernels                                  # both parts on the CUDA device at hand
    python -m scripts.bench_kernels --part speed --lengths 20480 --ops ssd fused_mixer
    python -m scripts.bench_kernels --dry_run True                   # tiny shapes on the CPU, by Triton's interpreter

Rows go to docs/records/<device>-<date>.json as they are measured; a row already there is not measured again. A speed
row holds the median and spread of at least 5 timings, the bytes its kernels move by arithmetic, and the ratio to each
peer timed in the same process; a peer that is not installed reads "not measured".
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from promptcot_mamba.cli import parse_args, run_program
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import write_json
from promptcot_mamba.run_info import describe_run

MODEL = {"h": 128, "p": 64, "g": 8, "n": 128, "d_model": 4096, "v": 32768}  # Mamba-Codestral-7B
TINY = {"h": 2, "p": 16, "g": 1, "n": 16, "d_model": 16, "v": 40}
FLOORS = {"float32": 5e-5, "bfloat16": 2e-2}  # of an error relative to the norm of what it is an error of
OPS = ("ssd", "causal_conv1d", "gated_rms_norm", "linear_cross_entropy", "fused_mixer")
PEERS = {
    "ssd": ("mamba_ssm", "chunked"),
    "causal_conv1d": ("causal_conv1d", "shifted"),
    "gated_rms_norm": ("recompute",),
    "linear_cross_entropy": ("liger", "chunked"),
    "fused_mixer": ("mamba_ssm",),
}


@dataclass
class BenchArguments:
    part: str = field(default="all", metadata={"help": "correctness, speed or all"})
    ops: list[str] = field(default_factory=lambda: list(OPS), metadata={"help": f"of {', '.join(OPS)}"})
    lengths: list[int] = field(
        default_factory=lambda: [2048, 8192, 20480, 65536], metadata={"help": "tokens of the timed rows"}
    )
    repeats: int = field(default=9, metadata={"help": "timings a row, at least 5"})
    record: str | None = field(default=None, metadata={"help": "JSON file; docs/records/<device>-<date>.json if unset"})
    small: bool = field(default=False, metadata={"help": "correctness at 130 tokens, for a memory checker"})
    dry_run: bool = field(default=False, metadata={"help": "tiny shapes on the CPU; times are not recorded"})

    def __post_init__(self):
        if self.part not in ("correctness", "speed", "all"):
            raise ValueError(f"--part: expected correctness, speed or all, found {self.part!r}")
        unknown = set(self.ops) - set(OPS)
        if unknown:
            raise ValueError(f"--ops: {min(unknown)!r} is not one of {', '.join(OPS)}")
        if self.repeats < 5:
            raise ValueError(f"--repeats: at least 5, found {self.repeats}")


Inputs = dict[str, torch.Tensor]
Op = Callable[..., torch.Tensor]


def make_inputs(op: str, length: int, shape: dict[str, int], lengths: list[int] | None, device: str) -> Inputs:
    """Random fp32 inputs of one op on the device, a packed row of `lengths` or one document of `length` tokens."""
    h, p, g, n = (shape[letter] for letter in "hpgn")
    wide = h * p + 2 * g * n
    draw = functools.partial(torch.randn, device=device)
    if op == "ssd":
        inputs = {
            "x": draw(1, length, h, p), "dt": draw(1, length, h), "A": -draw(h).exp(), "B": draw(1, length, g, n),
            "C": draw(1, length, g, n), "D": draw(h), "dt_bias": draw(h) - 4,
        }  # fmt: skip
    elif op == "causal_conv1d":
        inputs = {"x": draw(1, length, wide), "weight": draw(wide, 4) / 2, "bias": draw(wide)}
    elif op == "gated_rms_norm":
        inputs = {"x": draw(1, length, h * p), "z": draw(1, length, h * p), "weight": draw(h * p)}
    elif op == "linear_cross_entropy":
        hidden, weight = draw(length, shape["d_model"]), draw(shape["v"], shape["d_model"]) / shape["d_model"] ** 0.5
        inputs = {"hidden": hidden, "weight": weight, "labels": torch.randint(shape["v"], (length,), device=device)}
    else:
        inputs = {
            "zxbcdt": draw(1, length, h * p + wide + h), "conv_weight": draw(wide, 4) / 2, "conv_bias": draw(wide),
            "A_log": draw(h), "D": draw(h), "dt_bias": draw(h) - 4, "norm_weight": draw(h * p),
        }  # fmt: skip
    if lengths and op in ("ssd", "causal_conv1d", "fused_mixer"):
        from promptcot_mamba.ops.packing import cu_seqlens_from_lengths

        inputs["cu_seqlens"] = cu_seqlens_from_lengths(lengths).to(device)
    return inputs


def get_op(op: str, shape: dict[str, int]) -> Op:
    """The public function with this shape's settings filled in; it still takes `backend`."""
    if op == "ssd":
        from promptcot_mamba.ops.ssd import ssd

        return functools.partial(ssd, dt_softplus=True)
    if op == "causal_conv1d":
        from promptcot_mamba.ops.causal_conv1d import causal_conv1d

        return causal_conv1d
    if op == "gated_rms_norm":
        from promptcot_mamba.ops.gated_rms_norm import gated_rms_norm

        return functools.partial(gated_rms_norm, group_size=shape["h"] * shape["p"] // shape["g"])
    if op == "linear_cross_entropy":
        from promptcot_mamba.ops.linear_cross_entropy import linear_cross_entropy

        return linear_cross_entropy
    from promptcot_mamba.ops.fused_mixer import fused_mixer

    return functools.partial(fused_mixer, n_groups=shape["g"], head_dim=shape["p"], state_size=shape["n"])


def get_peer(op: str, peer: str, shape: dict[str, int]) -> Op:
    """A peer behind the op's signature, less `backend`; InputError or ImportError where it is not installed."""
    if op == "linear_cross_entropy" and peer == "liger":
        from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

        def liger(hidden, weight, labels):
            plain = (None, None, -100, 0.0, 0.0, "sum")  # no bias, no class weights, no z-loss, no smoothing
            found = LigerFusedLinearCrossEntropyFunction.apply(hidden, weight, labels, *plain)
            return found[0] if isinstance(found, tuple) else found

        return liger
    if op == "fused_mixer":
        return functools.partial(mix_with_upstream, shape=shape)
    return functools.partial(get_op(op, shape), backend=peer)


def mix_with_upstream(
    zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, cu_seqlens=None, *, shape: dict[str, int]
):
    """mamba-ssm's fused mixer, from input projection to the norm's output (its own output projection left out)."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_split_conv1d_scan_combined

    from promptcot_mamba.ops.packing import seq_idx_from_cu_seqlens

    return mamba_split_conv1d_scan_combined(
        zxbcdt, conv_weight, conv_bias, dt_bias, -torch.exp(A_log.float()), D, chunk_size=256,
        seq_idx=None if cu_seqlens is None else seq_idx_from_cu_seqlens(cu_seqlens), activation="silu",
        rmsnorm_weight=norm_weight, rmsnorm_eps=1e-5, headdim=shape["p"], ngroups=shape["g"],
        norm_before_gate=False,
    )  # fmt: skip


WIDE = {"A", "A_log", "D", "dt_bias"}  # parameters that stay fp32 in a bf16 model


def as_leaves(inputs: Inputs, dtype: torch.dtype, narrow: torch.dtype | None = None) -> Inputs:
    """Fresh leaves in `dtype`, first rounded to `narrow` where that is the dtype compared with."""
    leaves = {}
    for name, value in inputs.items():
        if value.is_floating_point():
            value = value if name in WIDE or narrow is None else value.to(narrow)
            value = value.to(torch.float32 if name in WIDE and dtype == torch.bfloat16 else dtype)
            leaves[name] = value.detach().clone().requires_grad_()
        else:
            leaves[name] = value
    return leaves


def evaluate(op: Op, leaves: Inputs, seed: torch.Tensor | None = None) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Output and every gradient, and the seed (the gradient of the output) they were made with."""
    output = op(**leaves)
    seed = torch.randn_like(output) if seed is None else seed.to(output)
    output.backward(seed)
    found = {"output": output.detach()} | {
        f"d{name}": leaf.grad for name, leaf in leaves.items() if leaf.is_floating_point()
    }
    return found, seed


def relative_errors(reference: dict[str, torch.Tensor], got: dict[str, torch.Tensor]) -> dict[str, float]:
    return {
        name: float((got[name].double() - want.double()).norm() / want.double().norm().clamp(min=1e-30))
        for name, want in reference.items()
    }


def check_op(op: str, dtype_name: str, packed: bool, shape: dict[str, int], length: int, device: str) -> dict:
    """Errors of our kernels, and of the plain torch form in the same dtype, against the fp64 definition."""
    dtype = getattr(torch, dtype_name)
    lengths = [1, length // 3, length // 2 - 5, 4] if packed else None
    if lengths:
        lengths.append(length - sum(lengths))
    inputs = make_inputs(op, length, shape, lengths, device)
    function = get_op(op, shape)
    reference, seed = evaluate(
        functools.partial(function, backend="reference"), as_leaves(inputs, torch.float64, narrow=dtype)
    )
    torch.use_deterministic_algorithms(True, warn_only=True)  # memory that nobody wrote reads as NaN
    got, _ = evaluate(functools.partial(function, backend="triton"), as_leaves(inputs, dtype), seed)
    torch.use_deterministic_algorithms(False)
    plain, _ = evaluate(functools.partial(function, backend=PLAIN[op]), as_leaves(inputs, dtype), seed)
    errors = relative_errors(reference, got)
    floor = FLOORS[dtype_name]
    return {
        "errors": errors, "plain_torch_errors": relative_errors(reference, plain), "floor": floor,
        "passed": all(error < floor for error in errors.values()),
    }  # fmt: skip


PLAIN = {
    "ssd": "chunked", "causal_conv1d": "shifted", "gated_rms_norm": "recompute", "linear_cross_entropy": "chunked",
    "fused_mixer": "recompute",
}  # fmt: skip


def time_calls(call: Callable[[], object], repeats: int, device: str) -> dict[str, float]:
    """Median and spread in ms of `repeats` timings after 3 warm-ups."""
    for _ in range(3):
        call()
    times = []
    for _ in range(repeats):
        if device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
        else:
            begin = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - begin))
    return {"median_ms": statistics.median(times), "lowest_ms": min(times), "highest_ms": max(times)}


def time_op(op: Op, inputs: Inputs, repeats: int, device: str) -> dict[str, dict[str, float]]:
    """Forward alone, and forward with backward, in bf16."""
    leaves = as_leaves(inputs, torch.bfloat16 if device == "cuda" else torch.float32)
    seed = None

    def forward():
        with torch.no_grad():
            return op(**leaves)

    def both():
        nonlocal seed
        output = op(**leaves)
        seed = torch.randn_like(output) if seed is None else seed
        grads = [leaf for leaf in leaves.values() if leaf.requires_grad]
        return torch.autograd.grad(output, grads, seed)

    return {"forward": time_calls(forward, repeats, device), "forward_backward": time_calls(both, repeats, device)}


def count_moved(op: Op, inputs: Inputs, device: str) -> dict[str, int]:
    """Bytes our kernels move by arithmetic, every tensor once a launch."""
    from promptcot_mamba.ops.triton_common import record_launches
    from scripts.compile_report import count_bytes

    leaves = as_leaves(inputs, torch.bfloat16 if device == "cuda" else torch.float32)
    with record_launches() as forward:
        output = op(**leaves)
    with record_launches() as backward:
        output.backward(torch.ones_like(output))
    moved = [sum(map(count_bytes, launches)) for launches in (forward, backward)]
    return {"forward": moved[0], "forward_backward": sum(moved)}


def compare_speed(op: str, length: int, shape: dict[str, int], repeats: int, device: str) -> dict:
    inputs = make_inputs(op, length, shape, None, device)
    ours = functools.partial(get_op(op, shape), backend="triton")
    row: dict = {"ours": time_op(ours, inputs, repeats, device), "moved_bytes": count_moved(ours, inputs, device)}
    for side, moved in row["moved_bytes"].items():
        row["ours"][side]["terabytes_per_second"] = moved / row["ours"][side]["median_ms"] / 1e9
    for peer in PEERS[op]:
        try:
            found = time_op(get_peer(op, peer, shape), inputs, repeats, device)
        except (ImportError, InputError, torch.OutOfMemoryError) as error:
            row[peer] = f"not measured: {type(error).__name__}: {error}".splitlines()[0]
            continue
        for side, times in found.items():
            times["times_ours"] = times["median_ms"] / row["ours"][side]["median_ms"]
        row[peer] = found
    return row


def measure_ceilings(device: str) -> dict[str, float]:
    """What the device itself reaches: a copy's bytes a second, read and written, and a bf16 product's FLOP/s."""
    tokens = 2**30 if device == "cuda" else 2**16
    source = torch.empty(tokens, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = time_calls(lambda: target.copy_(source), 5, device)
    side = 8192 if device == "cuda" else 64
    left = torch.randn(side, side, device=device).bfloat16()
    product = time_calls(lambda: left @ left, 5, device)
    return {
        "copy_terabytes_per_second": 2 * tokens / copy["median_ms"] / 1e9,
        "matmul_teraflops": 2 * side**3 / product["median_ms"] / 1e9,
    }


def list_rows(args: BenchArguments) -> Iterator[tuple[str, Callable[[], dict]]]:
    """(key, what to measure) of every row asked for."""
    device = "cpu" if args.dry_run else "cuda"
    yield "ceilings", functools.partial(measure_ceilings, device)
    for op in args.ops:
        if args.part in ("correctness", "all"):
            # Small widths keep the token-by-token definition affordable; tiles and chunks are the shipped ones.
            shape = TINY if args.dry_run else MODEL | {"h": 16, "g": 2, "d_model": 256}
            length = 20 if args.dry_run else 130 if args.small else 700
            for dtype in ("float32",) if args.dry_run else ("float32", "bfloat16"):
                for packed in (False, True):
                    key = f"correctness/{op}/{dtype}/{'packed' if packed else 'unpacked'}"
                    yield key, functools.partial(check_op, op, dtype, packed, shape, length, device)
        if args.part in ("speed", "all"):
            for length in [20] if args.dry_run else args.lengths:
                shape = TINY if args.dry_run else MODEL
                yield f"speed/{op}/{length}", functools.partial(compare_speed, op, length, shape, args.repeats, device)


def open_record(args: BenchArguments) -> tuple[Path, dict]:
    """The record's path and what it holds already."""
    name = "cpu-dry-run" if args.dry_run else torch.cuda.get_device_name().lower().replace(" ", "-")
    path = Path(args.record or f"docs/records/{name}-{time.strftime('%Y-%m-%d')}.json")
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return path, {"device": name, "shapes": MODEL, "run": describe_run(vars(args)), "rows": record.get("rows", {})}


def main() -> int:
    args = parse_args(BenchArguments, description=__doc__)
    if args.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported, further down
        torch.set_num_threads(1)
    elif not torch.cuda.is_available():
        raise InputError("no CUDA device: measure where there is one, or pass --dry_run True to rehearse on the CPU")
    path, record = open_record(args)
    failed = []
    for key, measure in list_rows(args):
        if key not in record["rows"]:
            torch.manual_seed(0)
            record["rows"][key] = measure()
            if not (args.dry_run and args.record is None):
                write_json(path, record)
        row = record["rows"][key]
        print(render_row(key, row), flush=True)
        if row.get("passed") is False:
            failed.append(key)
    for key in failed:
        print(f"outside its floor: {key}")
    return 1 if failed else 0


def render_row(key: str, row: dict) -> str:
    if "errors" in row:
        worst = max(row["errors"], key=row["errors"].get)
        plain = max(row["plain_torch_errors"].values())
        return f"{key:<52} worst {worst} {row['errors'][worst]:.1e}, plain torch {plain:.1e}, floor {row['floor']:.0e}"
    if "ours" not in row:
        return f"{key:<52} " + ", ".join(f"{name} {value:.2f}" for name, value in row.items())
    parts = []
    for side in ("forward", "forward_backward"):
        ours = row["ours"][side]
        peers = [
            f"{peer} {found[side]['times_ours']:.2f}x" for peer, found in row.items()
            if isinstance(found, dict) and "forward" in found and peer not in ("ours", "moved_bytes")
        ]  # fmt: skip
        parts.append(f"{side} {ours['median_ms']:.3f} ms, {ours['terabytes_per_second']:.2f} TB/s, {', '.join(peers)}")
    return f"{key:<52} " + " | ".join(parts)


if __name__ == "__main__":
    run_program(main)
