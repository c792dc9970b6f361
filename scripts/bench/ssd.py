"""Time and check the ops alone, every backend this device can run: SSD and the whole fused mixer.

    python -m scripts.bench.ssd                       # CUDA: b=1, l=20480, h=128, g=8, bf16; CPU: small shapes, fp32
    python -m scripts.bench.ssd --length 4096 --heads 16 --groups 8

Each backend's outputs and gradients are first compared with the fp64 definition on a short row, then timed in turns.
Peers: transformers' torch scan, and mamba-ssm's kernels on CUDA. Writes docs/records/bench_ssd.json, prints the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from transformers.models.mamba2 import modeling_mamba2

from promptcot_mamba.bench_record import NOT_MEASURED, RecordTable, render_record_table, write_record
from promptcot_mamba.cli import parse_args, run_program
from promptcot_mamba.errors import InputError
from promptcot_mamba.log import get_logger
from promptcot_mamba.ops.fused_mixer import FUSED_MIXER_BACKENDS, fused_mixer
from promptcot_mamba.ops.ssd import SSD_BACKENDS, ssd
from scripts.bench.common import DTYPES, make_table, time_interleaved

logger = get_logger("bench_ssd")
CHECK_LENGTH = 150
RECORD = "docs/records/bench_ssd.json"
P, N = 64, 128  # head width and state of every released Mamba-2


@dataclass
class Arguments:
    """Flags of scripts.bench.ssd; sizes left out follow the device."""

    length: int | None = field(default=None, metadata={"help": "tokens; 20480 on CUDA, 2048 on CPU"})
    heads: int | None = field(default=None, metadata={"help": "heads; 128 on CUDA, 16 on CPU"})
    groups: int = field(default=8, metadata={"help": "groups"})
    dtype: str | None = field(default=None, metadata={"help": "bf16 on CUDA, fp32 on CPU"})
    repeats: int = field(default=7, metadata={"help": "timed calls of each, after two untimed ones"})
    threads: int = field(default=2, metadata={"help": "CPU threads"})
    record: str | None = field(default=None, metadata={"help": "where to write the record"})

    def __post_init__(self) -> None:
        if self.repeats < 5:
            raise ValueError("--repeats must be at least 5, for a median and a spread")
        if self.dtype not in (None, *DTYPES):
            raise ValueError(f"--dtype: choose from {', '.join(DTYPES)}")


Inputs = dict[str, torch.Tensor]


def make_ssd_inputs(length: int, h: int, g: int, dtype: torch.dtype, device: str) -> Inputs:
    draw = torch.Generator().manual_seed(0)
    inputs = {
        "x": torch.randn(1, length, h, P, generator=draw),
        "dt": torch.randn(1, length, h, generator=draw),
        "A": -torch.rand(h, generator=draw) * 15 - 1,
        "B": torch.randn(1, length, g, N, generator=draw) / N**0.5,
        "C": torch.randn(1, length, g, N, generator=draw),
        "D": torch.randn(h, generator=draw),
        "dt_bias": torch.randn(h, generator=draw) - 4,
    }
    return {name: value.to(device, dtype).requires_grad_() for name, value in inputs.items()}


def make_mixer_inputs(length: int, h: int, g: int, dtype: torch.dtype, device: str) -> Inputs:
    draw = torch.Generator().manual_seed(0)
    conv = h * P + 2 * g * N
    inputs = {
        "zxbcdt": torch.randn(1, length, h * P + conv + h, generator=draw),
        "conv_weight": torch.randn(conv, 4, generator=draw) / 2,
        "conv_bias": torch.randn(conv, generator=draw) / 4,
        "A_log": torch.rand(h, generator=draw) * 2.5,
        "D": torch.randn(h, generator=draw),
        "dt_bias": torch.randn(h, generator=draw) - 4,
        "norm_weight": torch.ones(h * P),
    }
    return {name: value.to(device, dtype).requires_grad_() for name, value in inputs.items()}


def transformers_scan(x, dt, A, B, C, D, dt_bias):
    """transformers' own torch form of the SSD, at its default chunks of 256."""
    return modeling_mamba2.mamba2_chunk_scan(x, dt, A, B, C, chunk_size=256, D=D, dt_bias=dt_bias, dt_softplus=True)


def transformers_mixer(zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, n_groups: int):
    """The same steps between the projections as transformers' torch path takes them, the norm made grouped."""
    h = A_log.shape[0]
    inner, shared = h * P, n_groups * N
    z, xbc, dt = zxbcdt.split([inner, inner + 2 * shared, h], dim=-1)
    xbc = modeling_mamba2.causal_conv1d_fn(xbc.transpose(1, 2), conv_weight, conv_bias, activation="silu")
    x, B, C = xbc.transpose(1, 2).split([inner, shared, shared], dim=-1)
    x, B, C = x.unflatten(-1, (h, P)), B.unflatten(-1, (n_groups, N)), C.unflatten(-1, (n_groups, N))
    y = transformers_scan(x, dt, -torch.exp(A_log.float()), B, C, D, dt_bias).flatten(2).float()
    u = (y * F.silu(z.float())).unflatten(-1, (n_groups, -1))
    normed = u * torch.rsqrt(u.square().mean(-1, keepdim=True) + 1e-5)
    return (norm_weight * normed.flatten(-2)).to(zxbcdt.dtype)


def ssd_calls() -> dict[str, Callable[..., torch.Tensor]]:
    """Every SSD form by name, each taking `make_ssd_inputs`."""

    def ours(backend):
        return lambda x, dt, A, B, C, **kw: ssd(x, dt, A, B, C, dt_softplus=True, backend=backend, **kw)

    calls = {name: ours(name) for name in SSD_BACKENDS}
    return calls | {"transformers (torch)": transformers_scan}


def mixer_calls(groups: int) -> dict[str, Callable[..., torch.Tensor]]:
    sizes = {"n_groups": groups, "head_dim": P, "state_size": N}

    def ours(backend):
        return lambda **kw: fused_mixer(**kw, **sizes, backend=backend)

    calls = {name: ours(name) for name in FUSED_MIXER_BACKENDS}
    return calls | {"transformers (torch)": lambda **kw: transformers_mixer(**kw, n_groups=groups)}


def gradients(call: Callable[..., torch.Tensor], inputs: Inputs) -> Inputs:
    """The output and every gradient under a fixed random loss, in fp64 on the CPU."""
    y = call(**inputs)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad((y * weights.to(y)).sum(), list(inputs.values()))
    named = {"y": y, **{f"d{name}": grad for name, grad in zip(inputs, found, strict=True)}}
    return {name: value.detach().double().cpu() for name, value in named.items()}


def check(call, exact: Inputs, inputs: Inputs) -> dict[str, float]:
    """Relative error of the output and of each gradient against `exact`."""
    got = gradients(call, inputs)
    return {name: float((got[name] - want).norm() / want.norm()) for name, want in exact.items()}


def usable(name: str, call, inputs: Inputs, device: str) -> bool:
    """Whether a form runs on this device; a backend that says no is reported as not measured."""
    if device == "cpu" and name in ("triton", "mamba_ssm"):
        return False
    try:
        call(**inputs)
    except InputError as error:
        logger.info("%s: %s", name, error)
        return False
    return True


def bench_op(
    op: str, calls: dict[str, Callable], make_inputs: Callable, args: Arguments, sizes: dict[str, Any], device: str
) -> list[dict[str, Any]]:
    """Check, then time forward alone and forward with backward."""
    length, h, g, dtype = sizes["length"], sizes["h"], sizes["g"], DTYPES[sizes["dtype"]]
    short = make_inputs(CHECK_LENGTH, h, g, dtype, device)
    definition = calls.pop("reference")  # far too slow to time
    exact = gradients(definition, {k: v.detach().double().cpu().requires_grad_() for k, v in short.items()})
    inputs = make_inputs(length, h, g, dtype, device)
    running = {name: call for name, call in calls.items() if usable(name, call, short, device)}
    errors = {name: check(call, exact, short) for name, call in running.items()}

    def forward(call):
        def run():
            with torch.no_grad():
                call(**inputs)

        return run

    def both(call):
        def run():
            y = call(**inputs)
            torch.autograd.grad(y, list(inputs.values()), torch.ones_like(y))

        return run

    ahead = time_interleaved({name: forward(call) for name, call in running.items()}, args.repeats, device)
    whole = time_interleaved({name: both(call) for name, call in running.items()}, args.repeats, device)
    rows = []
    for name in calls:
        row = {"op": op, "backend": name, **sizes, "p": P, "n": N}
        if name not in running:
            rows.append(row | {"forward": NOT_MEASURED, "forward_backward": NOT_MEASURED})
            continue
        row |= {"forward": ahead[name], "forward_backward": whole[name], "errors": errors[name]}
        row["largest_error"] = max(errors[name].values())
        peer = "mamba_ssm" if "mamba_ssm" in running else "transformers (torch)"
        row["peer"] = peer
        row["times_faster"] = whole[peer]["median_ms"] / whole[name]["median_ms"]
        row["times_faster_forward"] = ahead[peer]["median_ms"] / ahead[name]["median_ms"]
        rows.append(row)
    return rows


def main() -> None:
    args = parse_args(Arguments, description=__doc__)
    torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = {
        "length": args.length or (20480 if device == "cuda" else 2048),
        "h": args.heads or (128 if device == "cuda" else 16),
        "g": args.groups,
        "dtype": args.dtype or ("bf16" if device == "cuda" else "fp32"),
    }
    rows = bench_op("ssd", ssd_calls(), make_ssd_inputs, args, sizes, device)
    rows += bench_op("fused_mixer", mixer_calls(args.groups), make_mixer_inputs, args, sizes, device)
    table = describe_rows(rows, sizes)
    print(render_record_table(table))
    title = "SSD and mixer: one op alone"
    write_record(args.record or RECORD, title=title, config=asdict(args), tables=[table], results=rows)


def describe_rows(rows: list[dict[str, Any]], sizes: dict[str, Any]) -> RecordTable:
    """One row a form of an op: medians, ratios to the peer of the same run, error against the definition in fp64."""
    header = ["op", "backend", "forward ms", "forward + backward ms", "x peer", "x peer forward", "largest error"]
    cells = []
    for row in rows:
        ahead, whole = row["forward"], row["forward_backward"]
        cells.append(
            [
                row["op"],
                row["backend"],
                ahead if isinstance(ahead, str) else ahead["median_ms"],
                whole if isinstance(whole, str) else whole["median_ms"],
                row.get("times_faster", "-"),
                row.get("times_faster_forward", "-"),
                f"{row['largest_error']:.1e}" if "largest_error" in row else "-",
            ]
        )
    return make_table(
        f"b=1 l={sizes['length']} h={sizes['h']} p={P} g={sizes['g']} n={N} {sizes['dtype']}", header, cells
    )


if __name__ == "__main__":
    run_program(main)
