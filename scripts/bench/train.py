"""Time whole training steps of our Mamba-2 beside its peers: forward, backward, optimizer, in one run.

    python -m scripts.bench.train                          # the shapes below; a CUDA device if there is one
    python -m scripts.bench.train --hidden_size 512 --n_groups 8 --dtypes fp32

The peer is transformers' Mamba-2 with its norm made grouped; on CUDA it runs with mamba-ssm's kernels where those are
installed, with and without full gradient checkpointing (the published recipe). Steps are taken in turns, peak memory
is each model's own, in a process of its own. Writes docs/records/bench_train.json and prints the table.
"""

import importlib.util
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from transformers import Mamba2Config
from transformers import Mamba2ForCausalLM as TransformersMamba2

from promptcot_mamba.bench_record import NOT_MEASURED, RecordTable, report_record
from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.data.pack import fill_share, pack_lengths
from promptcot_mamba.model import Mamba2ForCausalLM
from promptcot_mamba.ops.gated_rms_norm.reference import gated_rms_norm_reference
from promptcot_mamba.ops.linear_cross_entropy import IGNORE_INDEX
from promptcot_mamba.ops.packing import cu_seqlens_from_lengths
from scripts.bench.common import DTYPES, make_table, peak_memory, reset_peak_memory, time_interleaved

HEAD_DIM = 64
AnyMamba2 = Mamba2ForCausalLM | TransformersMamba2
CPU_SHAPES = ((256, 1), (512, 8))  # hidden size, groups
PHASE_2_LENGTH = 20_480
CUDA_ONLY = ("transformers + mamba-ssm", "transformers + mamba-ssm, full checkpointing")


@dataclass
class Arguments:
    hidden_size: int | None = flag("one shape only, with --n_groups", default=None)
    n_groups: int = flag("groups of that shape", default=1)
    num_layers: int = flag("layers", default=4)
    length: int = flag("tokens of the one row", default=2048)
    memory_length: int = flag("tokens for the peak memory; 0 leaves it out", default=8192)
    vocab_size: int = flag("small, so that layers and not the head are timed", default=1024)
    dtypes: list[str] = flag("of weights and activations", factory=lambda: ["fp32", "bf16"], choices=tuple(DTYPES))
    repeats: int = flag("timed steps of each, after two untimed ones", default=7, least=5)
    threads: int = flag("CPU threads", default=2)
    record: str = flag("where to write the record", default="docs/records/bench_train.json")


def make_config(args: Arguments, hidden_size: int, n_groups: int) -> Mamba2Config:
    return Mamba2Config(
        vocab_size=args.vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=args.num_layers,
        num_heads=2 * hidden_size // HEAD_DIM,
        head_dim=HEAD_DIM,
        n_groups=n_groups,
        state_size=128,
        use_cache=False,
    )


def group_transformers_norm(model: TransformersMamba2) -> None:
    """Make transformers' gated norm grouped, in place, as the released weights need (its own is over all channels)."""
    for layer in model.backbone.layers:
        mixer: Any = layer.mixer
        norm, group_size = mixer.norm, mixer.intermediate_size // model.config.n_groups

        def grouped(hidden, gate=None, norm=norm, group_size=group_size):
            gate = None if gate is None else gate.to(hidden.dtype)
            return gated_rms_norm_reference(hidden, gate, norm.weight, eps=norm.variance_epsilon, group_size=group_size)

        norm.forward = grouped


def make_model(kind: str, config: Mamba2Config, dtype: torch.dtype, device: str) -> AnyMamba2:
    """The same random weights in our class or in transformers'."""
    torch.manual_seed(0)
    theirs = TransformersMamba2(config)
    model: AnyMamba2 = theirs
    if kind == "ours":
        model = Mamba2ForCausalLM(config)
        model.load_state_dict(theirs.state_dict())
    else:
        group_transformers_norm(theirs)
    if "checkpointing" in kind:
        model.gradient_checkpointing_enable()
    return torch.nn.Module.to(model, device, dtype).train()


def make_step(model: AnyMamba2, length: int, device: str) -> Callable[[], torch.Tensor]:
    """One training step on random tokens, every one of them labelled."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.randint(0, model.config.vocab_size, (1, length), device=device)

    def step() -> torch.Tensor:
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return step


def peers(device: str) -> list[str]:
    """What can be run here beside ours."""
    if device == "cpu":
        return ["transformers"]
    return list(CUDA_ONLY) if importlib.util.find_spec("mamba_ssm") else ["transformers"]


def measure_peak(kind: str, config: Mamba2Config, dtype_name: str, length: int, threads: int, device: str) -> float:
    """Bytes a step takes beyond model, optimizer and libraries, in this (fresh) process."""
    torch.set_num_threads(threads)
    model = make_model(kind, config, DTYPES[dtype_name], device)
    make_step(model, 64, device)()  # loads what is loaded late
    step = make_step(model, length, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        allocated = torch.cuda.memory_allocated()
        step()
        return float(torch.cuda.max_memory_allocated() - allocated)
    before = reset_peak_memory()
    step()
    return float(peak_memory() - before)


def peak_in_child(*arguments: Any) -> float:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure_peak, *arguments).result()


def bench_shape(args: Arguments, hidden_size: int, n_groups: int, device: str) -> list[dict[str, Any]]:
    """Every model and dtype of one shape, timed in turns."""
    config = make_config(args, hidden_size, n_groups)
    kinds = ["ours", *peers(device)]
    models = {(kind, dtype): make_model(kind, config, DTYPES[dtype], device) for kind in kinds for dtype in args.dtypes}
    steps = {f"{kind}|{dtype}": make_step(model, args.length, device) for (kind, dtype), model in models.items()}
    times = time_interleaved(steps, args.repeats, device)
    rows = []
    for kind in dict.fromkeys([*kinds, *CUDA_ONLY]):
        for dtype in args.dtypes:
            row = {
                "model": kind, "dtype": dtype, "hidden_size": hidden_size, "n_groups": n_groups,
                "layers": args.num_layers, "length": args.length, "vocab_size": args.vocab_size,
            }  # fmt: skip
            timed = times.get(f"{kind}|{dtype}")
            row |= timed or {"median_ms": NOT_MEASURED}
            if timed:
                row["tokens_per_second"] = args.length / timed["median_ms"] * 1e3
                if args.memory_length:
                    row["peak_length"] = args.memory_length
                    row["peak_bytes"] = peak_in_child(kind, config, dtype, args.memory_length, args.threads, device)
            rows.append(row)
    return rows


def draw_lengths(count: int, longest: int) -> np.ndarray:
    """Lengths as long-tailed as long chains of thought: log-normal, the median 0.3 of the longest, cut there."""
    drawn = np.random.default_rng(0).lognormal(np.log(0.3 * longest), 0.9, size=count)
    return np.clip(drawn.astype(np.int64), 8, longest)


def bench_packing(args: Arguments, device: str) -> dict[str, Any]:
    """The same documents trained packed in full rows, and padded eight at a time to the longest of the eight."""
    longest, at_once = args.length // 2, 8
    lengths = draw_lengths(96, longest)
    rows = pack_lengths(lengths, longest)
    batches = [range(first, first + at_once) for first in range(0, len(lengths), at_once)]
    padded = sum(at_once * int(lengths[list(batch)].max()) for batch in batches)
    many = draw_lengths(4096, PHASE_2_LENGTH)
    model = make_model("ours", make_config(args, 256, 1), torch.float32, device)
    vocabulary = model.config.vocab_size

    def run_packed() -> None:
        for row in rows:
            cu_seqlens = cu_seqlens_from_lengths(lengths[row], device=torch.device(device))
            ids = torch.randint(0, vocabulary, (1, int(cu_seqlens[-1])), device=device)
            model(input_ids=ids, labels=ids, cu_seqlens=cu_seqlens).loss.backward()

    def run_padded() -> None:
        for batch in batches:
            kept = torch.as_tensor(lengths[list(batch)], device=device)[:, None]
            ids = torch.randint(0, vocabulary, (at_once, int(kept.max())), device=device)
            labels = ids.masked_fill(torch.arange(ids.shape[1], device=device) >= kept, IGNORE_INDEX)
            model(input_ids=ids, labels=labels).loss.backward()  # no mask: padding is computed, as elsewhere

    times = time_interleaved({"packed": run_packed, "padded": run_padded}, 5, device, warmup=0)
    tokens = int(lengths.sum())
    return {
        "documents": len(lengths),
        "tokens": tokens,
        "longest": longest,
        "median": float(np.median(lengths)),
        "rows_full": fill_share(lengths, rows, longest),
        "rows_full_of_4096_documents": fill_share(many, pack_lengths(many, PHASE_2_LENGTH), PHASE_2_LENGTH),
        "padding_share": 1 - tokens / padded,
        "packed": times["packed"],
        "padded": times["padded"],
        "times_faster": times["padded"]["median_ms"] / times["packed"]["median_ms"],
    }


def add_ratios(rows: list[dict[str, Any]], reference: str) -> None:
    """Ours against the peer of the same dtype and against the peer in fp32: times faster, share of its memory."""
    found = {(row["hidden_size"], row["model"], row["dtype"]): row for row in rows}
    for row in rows:
        if row["model"] != "ours":
            continue
        for label, dtype in (("same_dtype", row["dtype"]), ("fp32", "fp32")):
            peer = found.get((row["hidden_size"], reference, dtype), {})
            if isinstance(peer.get("median_ms"), float):
                row[f"times_faster_than_{label}"] = peer["median_ms"] / row["median_ms"]
        peer = found.get((row["hidden_size"], reference, row["dtype"]), {})
        if "peak_bytes" in row and "peak_bytes" in peer:
            row["share_of_peak"] = row["peak_bytes"] / peer["peak_bytes"]


def describe_rows(rows: list[dict[str, Any]], length: int) -> RecordTable:
    """One row a model and dtype."""
    header = [
        "d", "g", "model", "dtype", f"step ms (l={length})", "quartiles", "tok/s", "x same dtype", "x fp32", "peak MB",
        "of peer's",
    ]  # fmt: skip
    cells = []
    for row in rows:
        quartiles = "-".join(f"{value:.0f}" for value in row.get("quartiles_ms", [])) or "-"
        peak = f"{row['peak_bytes'] / 1e6:.0f}" if "peak_bytes" in row else "-"
        ratios = ("tokens_per_second", "times_faster_than_same_dtype", "times_faster_than_fp32")
        named = [row[key] for key in ("hidden_size", "n_groups", "model", "dtype", "median_ms")]
        speeds = [row.get(key, "-") for key in ratios]
        cells.append([*named, quartiles, *speeds, peak, row.get("share_of_peak", "-")])
    return make_table("One optimizer step of a whole model: forward, backward, AdamW.", header, cells)


def describe_packing(packing: dict[str, Any]) -> RecordTable:
    """What packing saves on lengths as long-tailed as chains of thought."""
    caption = (
        f"Packing {packing['documents']} documents, median {packing['median']:.0f} of at most {packing['longest']} "
        "tokens, against padding eight at a time."
    )
    header = ["rows full", "rows full of 4,096 documents", "padding share", "packed ms", "padded ms", "times faster"]
    shares = [f"{packing[name]:.1%}" for name in ("rows_full", "rows_full_of_4096_documents", "padding_share")]
    times = [packing[name]["median_ms"] for name in ("packed", "padded")]
    return make_table(caption, header, [[*shares, *times, f"{packing['times_faster']:.2f}x"]])


def main() -> None:
    args = parse_args(Arguments, description=__doc__)
    torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shapes = ((args.hidden_size, args.n_groups),) if args.hidden_size else CPU_SHAPES
    rows = [row for hidden_size, n_groups in shapes for row in bench_shape(args, hidden_size, n_groups, device)]
    add_ratios(rows, peers(device)[-1])
    packing = bench_packing(args, device)
    tables = [describe_rows(rows, args.length), describe_packing(packing)]
    results = {"rows": rows, "packing": packing}
    report_record(args, title="Training step beside its peers", tables=tables, results=results)


if __name__ == "__main__":
    run_program(main)
