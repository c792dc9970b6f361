"""Time the SSD and the whole mixer alone on the CPU, every backend that runs there, beside transformers' torch forms.

    python -m scripts.bench.ssd                       # b=1, l=2048, h=16, g=8, fp32
    python -m scripts.bench.ssd --length 4096 --groups 1 --dtype bf16

Outputs and gradients are first compared with the fp64 definition on a short row, then timed in turns (CUDA devices:
scripts.bench.kernels). Writes docs/records/bench_ssd.json, prints the table.
"""

import functools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers.models.mamba2 import modeling_mamba2

from promptcot_mamba.bench_record import report_record, tabulate
from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.ops.backends import get_table, read_entry
from scripts.bench.common import DTYPES, time_interleaved
from scripts.bench.kernel_cases import MODEL, Op, as_leaves, evaluate, get_op, make_inputs, relative_errors

CHECK_LENGTH = 150
COLUMNS = (
    ("op", "{op}"),
    ("backend", "{backend}"),
    ("forward ms", "{forward[median_ms]:.3g}"),
    ("forward + backward ms", "{forward_backward[median_ms]:.3g}"),
    ("x peer", "{times_faster:.3g}"),
    ("x peer forward", "{times_faster_forward:.3g}"),
    ("largest error", "{largest_error:.1e}"),
)
PEER = "transformers (torch)"


@dataclass
class Arguments:
    length: int = flag("tokens", default=2048)
    heads: int = flag("heads", default=16)
    groups: int = flag("groups", default=8)
    dtype: str = flag("of the inputs", default="fp32", choices=tuple(DTYPES))
    repeats: int = flag("timed calls of each, after two untimed ones", default=7, least=5)
    threads: int = flag("CPU threads", default=2)
    record: str = flag("where to write the record", default="docs/records/bench_ssd.json")


def transformers_scan(x, dt, A, B, C, D, dt_bias):
    """transformers' own torch form of the SSD, at its default chunks of 256."""
    return modeling_mamba2.mamba2_chunk_scan(x, dt, A, B, C, chunk_size=256, D=D, dt_bias=dt_bias, dt_softplus=True)


def transformers_mixer(zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, *, shape: dict[str, int]):
    """The same steps between the projections as transformers' torch path takes them, the norm made grouped."""
    h, p, g, n = (shape[letter] for letter in "hpgn")
    inner, shared = h * p, g * n
    z, xbc, dt = zxbcdt.split([inner, inner + 2 * shared, h], dim=-1)
    xbc = modeling_mamba2.causal_conv1d_fn(xbc.transpose(1, 2), conv_weight, conv_bias, activation="silu")
    x, B, C = xbc.transpose(1, 2).split([inner, shared, shared], dim=-1)
    x, B, C = x.unflatten(-1, (h, p)), B.unflatten(-1, (g, n)), C.unflatten(-1, (g, n))
    y = transformers_scan(x, dt, -torch.exp(A_log.float()), B, C, D, dt_bias).flatten(2).float()
    u = (y * F.silu(z.float())).unflatten(-1, (g, -1))
    normed = u * torch.rsqrt(u.square().mean(-1, keepdim=True) + 1e-5)
    return (norm_weight * normed.flatten(-2)).to(zxbcdt.dtype)


def list_calls(op: str, shape: dict[str, int]) -> dict[str, Op]:
    """Every form of an op that runs on a CPU, the definition (far too slow to time) left out."""
    ours = [name for name, line in get_table(op).items() if read_entry(line).runs_on("cpu") and name != "reference"]
    calls = {name: functools.partial(get_op(op, shape), backend=name) for name in ours}
    peer = transformers_scan if op == "ssd" else functools.partial(transformers_mixer, shape=shape)
    return calls | {PEER: peer}


def bench_op(op: str, args: Arguments) -> list[dict[str, Any]]:
    """Check, then time forward alone and forward with backward."""
    shape, dtype = MODEL | {"h": args.heads, "g": args.groups}, DTYPES[args.dtype]
    calls = list_calls(op, shape)
    short = make_inputs(op, CHECK_LENGTH, shape, None, "cpu")
    definition = functools.partial(get_op(op, shape), backend="reference")
    exact, seed = evaluate(definition, as_leaves(short, torch.float64, narrow=dtype))
    errors = {
        name: relative_errors(exact, evaluate(call, as_leaves(short, dtype), seed)[0]) for name, call in calls.items()
    }
    inputs = as_leaves(make_inputs(op, args.length, shape, None, "cpu"), dtype)

    def forward(call: Op) -> None:
        with torch.no_grad():
            call(**inputs)

    def both(call: Op) -> None:
        y = call(**inputs)
        torch.autograd.grad(y, list(inputs.values()), torch.ones_like(y))

    ahead, whole = (
        time_interleaved({name: functools.partial(side, call) for name, call in calls.items()}, args.repeats, "cpu")
        for side in (forward, both)
    )
    return [
        {
            "op": op, "backend": name, "length": args.length, "dtype": args.dtype, **shape, "peer": PEER,
            "forward": ahead[name], "forward_backward": whole[name], "errors": errors[name],
            "largest_error": max(errors[name].values()),
            "times_faster": whole[PEER]["median_ms"] / whole[name]["median_ms"],
            "times_faster_forward": ahead[PEER]["median_ms"] / ahead[name]["median_ms"],
        }
        for name in calls
    ]  # fmt: skip


def main() -> None:
    args = parse_args(Arguments, description=__doc__)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows = bench_op("ssd", args) + bench_op("fused_mixer", args)
    caption = f"b=1 l={args.length} h={args.heads} p={MODEL['p']} g={args.groups} n={MODEL['n']} {args.dtype}"
    report_record(args, title="SSD and mixer: one op alone", tables=[tabulate(caption, COLUMNS, rows)], results=rows)


if __name__ == "__main__":
    run_program(main)
