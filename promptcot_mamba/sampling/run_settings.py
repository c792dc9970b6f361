"""Which settings a file of samples depends on, and whether a rerun may continue it."""

import hashlib
import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import DurableAppender, read_lines
from promptcot_mamba.log import logger
from promptcot_mamba.run_info import not_ours, read_sampling, side_path, was_stopped

TEMPLATE_TIME = "template_time"  # in run.json
# What belongs together and is renamed together, in this order: a kill in between leaves no chain to be continued under
# other settings, and to the last the run.json that says what the rest is.
KINDS = (
    *("partial.jsonl", "logprobs.jsonl", "damaged.jsonl", "attempts.damaged.jsonl", "logprobs.damaged.jsonl"),
    *("server.log", "jsonl", "attempts.jsonl", "run.json"),
)
HOLDING = ("jsonl", "attempts.jsonl", "partial.jsonl")  # samples, or parts of them


def _path(output: str | Path, kind: str) -> Path:
    return Path(output) if kind == "jsonl" else side_path(output, kind)


def _read_info(output: str | Path) -> dict[str, Any] | None:
    """The run.json beside `output`, or None where nothing was begun."""
    found = read_sampling(output)
    if found and "samples" not in found:  # by which it is known to be ours
        raise not_ours(side_path(output, "run.json"), "no 'samples'")
    return found or None


def read_sessions(output: str | Path) -> list[dict[str, Any]]:
    """What earlier runs took for the samples beside `output`: one entry each with seconds, tokens and samples."""
    return (_read_info(output) or {}).get("sessions", [])


def read_stopped(output: str | Path) -> bool:
    """Whether earlier runs chose which samples there are beside `output`, by --stop_when_decided."""
    return was_stopped(_read_info(output) or {})


def read_started(output: str | Path) -> datetime | None:
    """The time that the prompts of the run beside `output` tell, where their template asks for it."""
    said = (_read_info(output) or {}).get(TEMPLATE_TIME)
    try:
        return None if said is None else datetime.fromisoformat(said)
    except ValueError:
        raise not_ours(side_path(output, "run.json"), f"{TEMPLATE_TIME!r} is {said!r:.40}") from None


def settings_hash(settings: dict[str, Any], defaults: dict[str, Any]) -> str:
    """Of all that makes samples what they are, as a line of the partial file says it.

    Neither `n` nor what is at its default belongs to it: a flag that a later version adds changes no hash.
    """
    told = {name: value for name, value in settings.items() if name != "n" and value != defaults.get(name, ...)}
    return hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=6).hexdigest()


def refuse_changed(output: str | Path, wanted: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Raise InputError naming every setting that differs from the run `output` holds; `n` may leave no sample out.

    `defaults` are those of settings that an older run did not have to name. Changed problems are seen row by row. A run
    that has made nothing binds nobody.
    """
    found = _read_info(output)
    held = [path for kind in HOLDING if (path := _path(output, kind)).is_file() and path.stat().st_size]
    if not held:
        return
    if found is None:
        raise InputError(
            f"{held[0]}: exists, but not the run.json that says how it was made; put that back or "
            "use another --output_path (what is there can be graded as it is)"
        )
    begun = defaults | found["samples"] | _served_model(found)
    changed = [name for name in wanted if name != "n" and begun.get(name) != wanted[name]]
    if changed:
        said = "; ".join(f"{name} was {begun.get(name)!r}, now {wanted[name]!r}" for name in changed)
        raise InputError(
            f"{output}: holds samples of other settings ({said}); put them back or use another --output_path"
        )
    if begun.get("n", 0) > wanted["n"]:
        last = max((run for path in held for run in _runs(path)), default=-1)
        if last >= wanted["n"]:
            raise InputError(
                f"{output}: begun with --n {begun['n']}; --n {wanted['n']} would drop samples: raise --n to "
                f"{last + 1}, or use another --output_path"
            )


def _served_model(found: dict[str, Any]) -> dict[str, str]:
    """The model that servers were asked for, where an older run.json names --model_path for it."""
    config = found.get("config") or {}
    served = config.get("served_model_name")
    return {"model": served} if served and found["samples"].get("model") == config.get("model_path") else {}


def _runs(path: Path) -> Iterator[int]:
    """The runs that the lines of a file are of, grouped or not."""
    for line in read_lines(path):
        row = line.row or {}
        told = row.get("runs") if "completion" not in row else None
        yield from (run for run in (told if isinstance(told, list) else [row.get("run")]) if isinstance(run, int))


def set_aside(output: str | Path) -> None:
    """Rename an earlier run's files to `X.old-<time>.*`, for --overwrite; raises InputError while it still runs."""
    output = Path(output)
    stem = output.name.removesuffix(".jsonl")
    stamp = time.strftime("%Y%m%d-%H%M%S")
    paths = {kind: _path(output, kind) for kind in KINDS}
    if not any(path.exists() for path in paths.values()):
        return
    with DurableAppender(paths["attempts.jsonl"]):  # the lock of a run
        for kind, path in paths.items():
            if path.exists():
                path.rename(path.with_name(f"{stem}.old-{stamp}.{kind}"))
                logger.info("%s: renamed to %s.old-%s.%s", path, stem, stamp, kind)
