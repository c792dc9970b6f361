"""Is this machine ready to train and sample? A line a finding, with what to do; exit code 1 where it is not.

    python -m scripts.doctor                        # everything, kernels and collectives included: under a minute
    python -m scripts.doctor --quick True           # packages, driver, compilers, limits

`bash scripts/setup.sh` runs it at its end; in a batch job it belongs before the first hour. A FAULT keeps training or
sampling from working, a warning costs speed or a part of it.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.doctor import software, system
from promptcot_mamba.doctor.finding import FAULT, WARNING, Finding, render

EXIT_NOT_READY = 1


@dataclass
class Arguments:
    """Flags of scripts.doctor."""

    quick: bool = flag("leave out kernels and collectives, which take longest", default=False)
    output_dir: str = flag("where runs will be written: its disk is looked at", default=".", writes="folder")
    json: str | None = flag("also write the findings to this file", default=None, writes="file")


def examine(args: Arguments) -> Iterator[Finding]:
    """Every finding, in the order in which one fault explains the next."""
    torch_import = software.check_import("torch", "everything")
    yield torch_import
    if torch_import.status == FAULT:
        return
    import torch

    from promptcot_mamba.doctor.devices import check_devices

    cuda = torch.version.cuda is not None
    if foreign := software.check_origin(Path(torch.__file__)):
        yield foreign
    yield from check_devices(torch)
    yield software.check_pins(cuda)
    yield software.check_import("deepspeed", "training on several devices")
    yield software.check_import("vllm", "sampling")
    yield from software.check_compilers(torch.version.cuda)
    yield software.check_ninja()
    if cuda:
        yield from software.check_peers()
    yield system.check_memory()
    yield system.check_disk(Path(args.output_dir), cuda)
    yield system.check_caches(os.environ, cuda)
    yield system.check_shared_memory()
    yield system.check_open_files()
    yield system.check_bytecode()
    yield from system.check_slurm(os.environ)
    if not args.quick:
        from promptcot_mamba.doctor.collectives import check_collectives
        from promptcot_mamba.doctor.kernels import check_kernels

        # Its processes come and go before this one holds the devices: in exclusive mode they would find them busy.
        yield check_collectives()
        yield from check_kernels()


def main() -> int:
    args = parse_args(Arguments, description=__doc__)
    findings = list(examine(args))
    print(render(findings))
    if args.json:
        rows = [asdict(finding) for finding in findings]
        Path(args.json).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    faults = sum(finding.status == FAULT for finding in findings)
    warnings = sum(finding.status == WARNING for finding in findings)
    print(f"\n{f'not ready: {faults} to mend' if faults else 'ready'}{f', {warnings} warnings' if warnings else ''}")
    return EXIT_NOT_READY if faults else 0


if __name__ == "__main__":
    run_program(main)
