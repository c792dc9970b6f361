"""Our kernels on a device: first right, then fast. Every op against its definition, then timed beside its peers.

    python -m scripts.bench.kernels --part correctness         # fp32 and bf16, packed and not, every gradient
    python -m scripts.bench.kernels --part step                # a packed training step against the CPU's
    python -m scripts.bench.kernels --part sanitizer           # every kernel under compute-sanitizer
    python -m scripts.bench.kernels --part speed --lengths 20480 --ops ssd fused_mixer
    python -m scripts.bench.kernels --part profile             # where the time goes, kernel by kernel
    python -m scripts.bench.kernels --part speed --dry_run True     # tiny shapes on the CPU, by Triton's interpreter

Each part has a record of its own, docs/records/<device>-<date>-<part>.json, written row by row: what is there is not
measured again unless --overwrite True. A peer that is not installed reads "not measured".
"""

import functools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch

from promptcot_mamba.bench_record import RecordTable
from promptcot_mamba.cli import flag, parse_args, run_program
from scripts.bench.device_common import (
    PartRecord,
    Row,
    measure_ceilings,
    peer_failures,
    profile_kernels,
    say_not_measured,
    time_calls,
    use_device,
)
from scripts.bench.kernel_cases import (
    MODEL,
    NARROW,
    OPS,
    PACKED_OPS,
    PLAIN,
    TINY,
    UPSTREAM,
    Inputs,
    Op,
    as_leaves,
    count_flops,
    evaluate,
    get_op,
    get_peer,
    make_inputs,
    relative_errors,
)
from scripts.bench.kernel_tables import TITLES, describe_row, list_tables

PARTS = ("correctness", "step", "sanitizer", "speed", "profile", "exercise")
FLOORS = {"float32": 5e-5, "bfloat16": 2e-2}  # of an error relative to the norm of what it is an error of
TOOLS = ("memcheck", "racecheck")  # of compute-sanitizer
SANITIZER_SECONDS = 240  # for one op under one tool


@dataclass
class BenchArguments:
    part: str = flag("one at a time; exercise is the sanitizer's own", default="correctness", choices=PARTS)
    ops: list[str] = flag("to measure", factory=lambda: list(OPS), choices=OPS)
    lengths: list[int] = flag("tokens of the timed rows", factory=lambda: [2048, 8192, 20480, 65536])
    repeats: int = flag("timings a row", default=9, least=5)
    record: str | None = flag("JSON file; see above where unset", default=None)
    overwrite: bool = flag("measure what is recorded again", default=False)
    dry_run: bool = flag("tiny shapes on the CPU; recorded only with --record", default=False)


# ---- right ----------------------------------------------------------------------------------------------------------


def cut_documents(length: int) -> list[int]:
    """Documents of a packed row: of one token, odd lengths, boundaries inside chunks."""
    lengths = [1, length // 3, length // 2 - 5, 4]
    return [*lengths, length - sum(lengths)]


def check_op(op: str, dtype_name: str, packed: bool, shape: dict[str, int], length: int, device: str) -> Row:
    """Errors of our kernels, and of the plain torch form in the same dtype, against the fp64 definition."""
    dtype = getattr(torch, dtype_name)
    inputs = make_inputs(op, length, shape, cut_documents(length) if packed else None, device)
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


def exercise(op: str, device: str) -> None:
    """Every kernel of an op once in fp32 and bf16, packed and not, at 130 tokens: food for a memory checker."""
    shape, length = (TINY, 20) if device == "cpu" else (NARROW, 130)
    for dtype in (torch.float32,) if device == "cpu" else (torch.float32, torch.bfloat16):
        for lengths in (None, cut_documents(length)) if op in PACKED_OPS else (None,):
            inputs = make_inputs(op, length, shape, lengths, device)
            evaluate(functools.partial(get_op(op, shape), backend="triton"), as_leaves(inputs, dtype))
    if device == "cuda":
        torch.cuda.synchronize()


def sanitize(tool: str, op: str, dry_run: bool) -> Row:
    """One op's kernels under one of compute-sanitizer's tools, in a process of its own."""
    checker = shutil.which("compute-sanitizer")
    if checker is None and not dry_run:
        return {"failed": say_not_measured("compute-sanitizer is not on the PATH")}
    command = [sys.executable, "-m", "scripts.bench.kernels", "--part", "exercise", "--ops", op]
    command += ["--dry_run", str(dry_run)]
    if checker is not None and not dry_run:
        command = [checker, "--tool", tool, "--error-exitcode", "9", *command]
    # Without torch's caching every tensor is an allocation of its own, whose ends the checker knows.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    started = time.perf_counter()
    try:
        child = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=SANITIZER_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return {"failed": say_not_measured(f"took more than {SANITIZER_SECONDS} s")}
    said = (child.stdout + child.stderr).splitlines()
    summary = next((line for line in reversed(said) if "SUMMARY" in line), None)
    if summary is None and not dry_run:
        return {"failed": say_not_measured(f"{tool} gave no summary, exit {child.returncode}: {' / '.join(said[-3:])}")}
    passed, seconds = child.returncode == 0, time.perf_counter() - started
    return {"summary": summary or "no checker in a rehearsal", "passed": passed, "seconds": seconds}


# ---- fast -----------------------------------------------------------------------------------------------------------


def time_op(op: Op, inputs: Inputs, repeats: int, device: str) -> dict[str, dict[str, float]]:
    """Forward alone, backward alone and both, in bf16."""
    leaves = as_leaves(inputs, torch.bfloat16 if device == "cuda" else torch.float32)
    wanted = [leaf for leaf in leaves.values() if leaf.requires_grad]

    def forward():
        with torch.no_grad():
            return op(**leaves)

    times = {"forward": time_calls(forward, repeats, device)}
    output = op(**leaves)
    seed = torch.randn_like(output)
    backward = functools.partial(torch.autograd.grad, output, wanted, seed, retain_graph=True)
    times["backward"] = time_calls(backward, repeats, device)
    del output, backward  # and with them what the forward kept
    times["forward_backward"] = time_calls(lambda: torch.autograd.grad(op(**leaves), wanted, seed), repeats, device)
    return times


def count_moved(op: Op, inputs: Inputs, device: str) -> dict[str, int]:
    """Bytes our Triton kernels move by arithmetic, every tensor once a launch."""
    from promptcot_mamba.ops.triton_common import record_launches
    from scripts.bench.kernel_launches import count_bytes

    leaves = as_leaves(inputs, torch.bfloat16 if device == "cuda" else torch.float32)
    with record_launches() as launches:
        output = op(**leaves)
    forward = sum(map(count_bytes, launches))
    with record_launches() as launches:
        output.backward(torch.ones_like(output))
    backward = sum(map(count_bytes, launches))
    return {"forward": forward, "backward": backward, "forward_backward": forward + backward}


def compare_speed(op: str, length: int, shape: dict[str, int], repeats: int, device: str) -> Row:
    """Ours, then each peer on the same inputs in the same process."""
    inputs = make_inputs(op, length, shape, None, device)
    ours = functools.partial(get_op(op, shape), backend="triton")
    row: Row = {"op": op, "length": length, "ours": time_op(ours, inputs, repeats, device)}
    if op != "linear_cross_entropy":  # most of its bytes are cuBLAS's
        row["moved_bytes"] = count_moved(ours, inputs, device)
    row["flops"] = count_flops(op, length, shape)
    for kind, peer in (("upstream", UPSTREAM[op]), ("plain", PLAIN[op])):
        row[kind] = {"name": peer}
        try:
            row[kind] |= time_op(get_peer(op, peer, shape), inputs, repeats, device)
        except peer_failures() as error:
            row[kind]["failed"] = say_not_measured(error)
    return row


def profile_op(op: str, who: str, length: int, shape: dict[str, int], device: str) -> Row:
    """One forward and backward, kernel by kernel."""
    call = get_peer(op, "triton" if who == "ours" else who, shape)
    leaves = as_leaves(
        make_inputs(op, length, shape, None, device), torch.bfloat16 if device == "cuda" else torch.float32
    )

    def both():
        output = call(**leaves)
        return torch.autograd.grad(output, [leaf for leaf in leaves.values() if leaf.requires_grad], output.detach())

    try:
        return profile_kernels(both, device)
    except peer_failures() as error:
        if who == "ours":
            raise
        return {"failed": say_not_measured(error)}


# ---- rows -----------------------------------------------------------------------------------------------------------


def list_rows(args: BenchArguments, device: str) -> Iterator[tuple[str, Callable[[], Row]]]:
    """(key, what to measure) of every row of the part."""
    rehearsal = device == "cpu"
    dtypes = ("float32",) if rehearsal else ("float32", "bfloat16")
    if args.part == "step":
        from scripts.bench.step_check import check_step

        for dtype in dtypes:
            yield f"step/{dtype}", functools.partial(check_step, dtype, device)
        return
    if args.part == "speed":
        yield "ceilings", functools.partial(measure_ceilings, device)
    for op in args.ops:
        if args.part == "correctness":
            shape, length = (TINY, 20) if rehearsal else (NARROW, 700)
            for dtype in dtypes:
                for packed in (False, True) if op in PACKED_OPS else (False,):
                    key = f"{op}/{dtype}/{'packed' if packed else 'unpacked'}"
                    yield key, functools.partial(check_op, op, dtype, packed, shape, length, device)
        elif args.part == "sanitizer":
            for tool in TOOLS[:1] if rehearsal else TOOLS:
                yield f"{tool}/{op}", functools.partial(sanitize, tool, op, args.dry_run)
        elif args.part == "speed":
            for length in [20] if rehearsal else args.lengths:
                shape = TINY if rehearsal else MODEL
                yield f"{op}/{length}", functools.partial(compare_speed, op, length, shape, args.repeats, device)
        else:
            length, shape = (20, TINY) if rehearsal else (20_480, MODEL)
            for who in ("ours", UPSTREAM[op]):
                yield f"{op}/{who}/{length}", functools.partial(profile_op, op, who, length, shape, device)


def main() -> int:
    args = parse_args(BenchArguments, description=__doc__)
    device = use_device(args.dry_run)
    if args.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported, further down
        torch.set_num_threads(1)
    if args.part == "exercise":
        for op in args.ops:
            exercise(op, device)
        return 0
    record = PartRecord(
        args.part, title=TITLES[args.part], config=asdict(args) | {"shapes": MODEL}, path=args.record,
        dry_run=args.dry_run, overwrite=args.overwrite,
    )  # fmt: skip
    failed = []
    tables: Callable[[dict[str, Row]], list[RecordTable]] = functools.partial(list_tables, args.part)
    for key, measure in list_rows(args, device):
        torch.manual_seed(0)
        row = record.measure(key, measure, tables)
        print(f"{key:<44} {describe_row(args.part, row)}", flush=True)
        if row.get("passed") is False:
            failed.append(key)
        if device == "cuda":
            torch.cuda.empty_cache()
    for key in failed:
        print(f"outside its floor: {key}")
    return 1 if failed else 0


if __name__ == "__main__":
    run_program(main)
