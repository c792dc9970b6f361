"""Compile the Triton kernels at the shipped configurations and 7B shapes, without a GPU, and report what each costs.

    python -m scripts.bench.compile_report                      # everything; many minutes
    python -m scripts.bench.compile_report --sizes 64x128       # the 7B model's head width and state only
    python -m scripts.bench.compile_report --archs 90 --kernels chunk_scan chunk_gradients --record ""
    PYTHONPATH=FOLDER python -m scripts.bench.compile_report    # by the triton in FOLDER (pip install --target FOLDER)

Launches are recorded on meta tensors and compiled exactly as they would run. Registers, stack and shared memory are
read from the machine code (spilled registers would live on the stack: 0 bytes of stack are 0 spills). Bytes moved are
arithmetic: every tensor read or written once. At other head widths and states only the SSD's own launches differ; a
size without tiles on an architecture reads "torch form", which is what runs there. Exits with 1 where a kernel does not
compile, spills, or asks for more shared memory than the architecture has. What was compiled before comes from triton's
own cache, so that a run that was stopped goes on.
"""

import itertools
import math
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from promptcot_mamba.bench_record import RecordTable, report_record
from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.ssd.triton_configs import SHARED_MEMORY
from scripts.bench.kernel_launches import HEADS, SHAPES, SHIPPED, count_bytes, record_shipped

ARCHS = (80, 86, 89, 90, 100, 120)
SIZES = {f"{p}x{n}": (p, n) for p, n in (SHIPPED, *itertools.product(HEADS, (64, 128, 256)))}  # head width, state
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
TORCH_FORM = "torch form"
RECORD = "docs/records/triton_compile.json"
POINTERS = {
    torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32", torch.int64: "*i64", torch.int32: "*i32",
}  # fmt: skip


def make_source(launch):
    """What `kernel[grid](...)` would compile for these arguments: types, constants, divisibility by 16."""
    from triton.compiler import ASTSource

    names = launch.kernel.arg_names
    values = dict(zip(names, launch.args, strict=False)) | {k: v for k, v in launch.kwargs.items() if k in names}
    constant = {names[index] for index in launch.kernel.constexprs}
    signature, constants, attributes = {}, {}, {}
    for index, name in enumerate(names):
        value = values[name]
        if name in constant or value is None or (isinstance(value, int) and value == 1):
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = POINTERS[value.dtype]
            attributes[(index,)] = [["tt.divisibility", 16]]
        elif isinstance(value, int):
            signature[name] = "i32" if abs(value) < 2**31 else "i64"
            if value % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32"
    return ASTSource(launch.kernel, signature, constants, attributes)


def read_resources(cubin: bytes) -> dict[str, int]:
    """Registers a thread, bytes of stack a thread, from the machine code."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", text)
    assert found is not None, text
    return {"registers": int(found[1]), "stack": int(found[2]) + int(found[3])}


def name_matrix_unit(ptx: str) -> str:
    for unit in ("tcgen05.mma", "wgmma", "mma.sync"):
        if unit in ptx:
            return unit.removesuffix(".mma").removesuffix(".sync")
    return "-"


@dataclass(frozen=True)
class Job:
    """A launch to compile: where it runs, at which size and dtype, and which of the recorded ones it is."""

    arch: int
    size: tuple[int, int]
    dtype: str
    part: str
    index: int


def compile_launch(job: Job) -> dict:
    """One row of the report; `error` in place of the figures where the compiler refuses."""
    import triton
    from triton.backends.compiler import GPUTarget

    launch = record_shipped(job.arch, job.size, DTYPES[job.dtype])[job.part][job.index]
    options = {name: launch.kwargs[name] for name in ("num_warps", "num_stages") if name in launch.kwargs}
    row = {
        "kernel": launch.name, "part": job.part, "arch": job.arch, "p": job.size[0], "n": job.size[1],
        "dtype": job.dtype, "programs": math.prod(launch.grid), "bytes": count_bytes(launch),
    }  # fmt: skip
    try:
        compiled = triton.compile(make_source(launch), target=GPUTarget("cuda", job.arch, 32), options=options)
    except (RuntimeError, triton.TritonError) as error:  # ptxas or a pass of the compiler: this is what is looked for
        return row | {"error": (str(error).strip().splitlines() or [type(error).__name__])[-1]}
    return row | {
        **read_resources(compiled.asm["cubin"]), "shared": compiled.metadata.shared,
        "warps": compiled.metadata.num_warps, "matrix_unit": name_matrix_unit(compiled.asm["ptx"]),
    }  # fmt: skip


FIGURES = ("registers", "stack", "shared", "warps", "matrix_unit")


def make_table(rows: list[dict], dtype: str) -> RecordTable:
    """One row a launch and architecture at the shipped size."""
    header = [
        "kernel", "part", "arch", "registers", "stack B", "shared B", "warps", "matrix unit", "programs", "moved MB",
    ]  # fmt: skip
    cells = [
        [
            *(row["kernel"], row["part"], f"sm_{row['arch']}"),
            *(str(row.get(name, "-")) for name in FIGURES),
            *(str(row["programs"]), f"{row['bytes'] / 1e6:.1f}"),
        ]
        for row in rows
        if (row["p"], row["n"], row["dtype"]) == (*SHIPPED, dtype)
    ]
    sizes = " ".join(f"{name}={value}" for name, value in SHAPES.items())
    caption = f"Shipped configurations, {dtype}, {sizes}. Bytes by arithmetic; nothing was run."
    return RecordTable(caption, header, cells)


def make_size_table(rows: list[dict], archs: list[int], sizes: list[tuple[int, int]], dtype: str) -> RecordTable:
    """One row a size: on each architecture the SSD kernels' most registers, stack and shared memory."""
    cells = []
    for size in sizes:
        line = [f"{size[0]} x {size[1]}"]
        for arch in archs:
            place = (arch, *size, dtype)
            found = [row for row in rows if (row["arch"], row["p"], row["n"], row["dtype"]) == place]
            found = [row for row in found if "ssd" in row["part"]]
            most = [max((row.get(name, 0) for row in found), default=0) for name in FIGURES[:3]]
            cell = " / ".join(map(str, most)) if found else TORCH_FORM
            line.append("does not compile" if any("error" in row for row in found) else cell)
        cells.append(line)
    caption = f"The SSD by size, {dtype}: most registers a thread / stack B / shared B of its launches."
    return RecordTable(caption, ["head width x state", *(f"sm_{arch}" for arch in archs)], cells)


def find_faults(rows: list[dict]) -> list[str]:
    """What would fail or crawl on a card: no machine code, registers on the stack, more shared memory than there is."""
    faults = []
    for row in rows:
        where = f"{row['kernel']} ({row['part']}, sm_{row['arch']}, {row['p']} x {row['n']}, {row['dtype']})"
        if "error" in row:
            faults.append(f"{where}: does not compile: {row['error']}")
            continue
        if row["stack"]:
            faults.append(f"{where}: {row['stack']} bytes of stack")
        if row["shared"] > SHARED_MEMORY[row["arch"]]:
            faults.append(f"{where}: {row['shared']} bytes of shared memory, {SHARED_MEMORY[row['arch']]} at most")
    return faults


@dataclass
class Arguments:
    archs: list[int] = flag("compute capabilities", factory=lambda: list(ARCHS), choices=ARCHS)
    sizes: list[str] = flag("head width x state", factory=lambda: list(SIZES), choices=tuple(SIZES))
    dtypes: list[str] = flag("of weights and activations", factory=lambda: list(DTYPES), choices=tuple(DTYPES))
    kernels: list[str] = flag("names as in the first column; default: all", factory=list)
    workers: int = flag("processes that compile", default=2, least=1)
    record: str | None = flag("where to write the record; empty for none", default=RECORD)


def main() -> int:
    args = parse_args(Arguments, description=__doc__)
    known = sorted({launch.name for launches in record_shipped(args.archs[0]).values() for launch in launches})
    if unknown := [name for name in args.kernels if name not in known]:
        raise InputError(f"--kernels {unknown[0]}: must be one of {', '.join(known)}")
    sizes = [SIZES[name] for name in args.sizes]
    jobs = [
        Job(arch, size, dtype, part, index)
        for dtype in args.dtypes
        for arch in args.archs
        for size in sizes
        for part, launches in record_shipped(arch, size, DTYPES[dtype]).items()
        for index, launch in enumerate(launches)
        if launch.name in (args.kernels or known)
    ]
    rows = []
    with ProcessPoolExecutor(args.workers) as pool:
        for row in pool.map(compile_launch, jobs):
            rows.append(row)
            if len(rows) % 25 == 0:
                print(f"{len(rows)} of {len(jobs)} launches compiled", file=sys.stderr)
    tables = [make_table(rows, dtype) for dtype in args.dtypes]
    tables += [make_size_table(rows, args.archs, sizes, dtype) for dtype in args.dtypes]
    faults = find_faults(rows)
    title = f"Triton kernels compiled without a device, triton {version('triton')}"
    report_record(args, title=title, tables=tables, results={"launches": len(rows), "faults": faults})
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    run_program(main)
