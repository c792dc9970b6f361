"""Which settings a file of samples depends on, and whether a rerun may continue it."""

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import DurableAppender
from promptcot_mamba.log import logger
from promptcot_mamba.run_info import side_path

TEMPLATE_TIME = "template_time"  # in run.json
# What belongs together and is renamed together.
KINDS = ("jsonl", "run.json", "attempts.jsonl", "partial.jsonl", "damaged.jsonl", "logprobs.jsonl")


def _read_info(output: str | Path) -> dict[str, Any] | None:
    """The run.json beside `output`, or None where nothing was begun."""
    path = side_path(output, "run.json")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        found["samples"]  # by which it is known to be ours
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{path}: not written by this program; put its own back or use another --output_path"
        ) from None
    return found


def read_sessions(output: str | Path) -> list[dict[str, Any]]:
    """What earlier runs took for the samples beside `output`: one entry each with seconds, tokens and samples."""
    return (_read_info(output) or {}).get("sessions", [])


def read_started(output: str | Path) -> datetime | None:
    """The time that the prompts of the run beside `output` tell, where their template asks for it."""
    said = (_read_info(output) or {}).get(TEMPLATE_TIME)
    return None if said is None else datetime.fromisoformat(said)


def refuse_changed(output: str | Path, wanted: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Raise InputError naming every setting that differs from the run `output` holds; `n` may only grow.

    `defaults` are those of settings that an older run did not have to name. Changed problems are seen row by row.
    """
    found = _read_info(output)
    if found is None:
        if any(path.exists() and path.stat().st_size for path in (Path(output), side_path(output, "attempts.jsonl"))):
            raise InputError(
                f"{output}: exists, but not the run.json that says how it was made; put that back or "
                "use another --output_path"
            )
        return
    begun = defaults | found["samples"]
    changed = [name for name in wanted if name != "n" and begun.get(name) != wanted[name]]
    if changed:
        said = "; ".join(f"{name} was {begun.get(name)!r}, now {wanted[name]!r}" for name in changed)
        raise InputError(
            f"{output}: holds samples of other settings ({said}); put them back or use another --output_path"
        )
    if begun.get("n", 0) > wanted["n"]:
        raise InputError(
            f"{output}: begun with --n {begun['n']}; --n {wanted['n']} would drop samples: use another --output_path"
        )


def set_aside(output: str | Path) -> None:
    """Rename an earlier run's files to `X.old-<time>.*`, for --overwrite; raises InputError while it still runs."""
    output = Path(output)
    stem = output.name.removesuffix(".jsonl")
    stamp = time.strftime("%Y%m%d-%H%M%S")
    paths = {kind: output if kind == "jsonl" else side_path(output, kind) for kind in KINDS}
    if not any(path.exists() for path in paths.values()):
        return
    with DurableAppender(paths["attempts.jsonl"]):  # the lock of a run
        for kind, path in paths.items():
            if path.exists():
                path.rename(path.with_name(f"{stem}.old-{stamp}.{kind}"))
                logger.info("%s: renamed to %s.old-%s.%s", path, stem, stamp, kind)
