"""Flags and recipes: `--config a.yaml [--config b.yaml] --flag value` -> typed dataclasses.

A recipe is turned into flags placed before the typed ones, so files and command line pass one type check and
the later wins. Unknown keys stop the run. Parsing imports nothing heavy, and a dataclass says what its flags may be
(`flag`), so that a wrong one is refused at once.
"""

import errno
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from promptcot_mamba.cli_parser import Parser
from promptcot_mamba.errors import InputError, ProgramFailedError

EXIT_INTERRUPTED = 130
EXIT_PROGRAM_FAILED = 1
EXIT_BAD_INPUT = 2
WAIT_FOR_FIRST_SECONDS = 10.0
# What a full disk, a quota, a missing right or a wrong kind of path says: the user's to mend, no bug.
MENDABLE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ENOTEMPTY),
}


def flag(help: str, *, default: Any = MISSING, factory: Any = MISSING, **limits: Any) -> Any:
    """A dataclass field that is a flag.

    `least`, `above`, `most`: bounds of a number, or of each in a list. `choices`: the values there are.
    `reads`: "file", "folder" or "any", a path that must be there. `writes`: "file" or "folder", one that can be made.
    `elsewhere`: a path or name whose program knows better what it may be.
    """
    return field(default=default, default_factory=factory, metadata={"help": help, **limits})


def read_recipe(path: str | Path) -> dict[str, Any]:
    """A YAML recipe; raises InputError where it cannot be read or is no mapping."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from None
    try:
        recipe = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise InputError(f"--config {path}: malformed YAML: {' '.join(str(error).split())}") from None
    if not isinstance(recipe, dict):
        raise InputError(f"--config {path}: expected 'key: value' lines, found {type(recipe).__name__}")
    return recipe


def recipe_to_flags(path: str | Path) -> list[str]:
    """A YAML recipe as flags, in its own order; `null` keeps a field's default, lists repeat the value."""
    flags: list[str] = []
    for key, value in read_recipe(path).items():
        if value is None:
            continue
        if isinstance(value, list):
            flags += [f"--{key}", *map(str, value)]
        else:
            flags.append(f"--{key}={json.dumps(value) if isinstance(value, dict) else value}")
    return flags


def expand_recipes(argv: Sequence[str]) -> list[str]:
    """Replace every `--config path` by the recipe's flags, moved before the typed flags."""
    recipes: list[str] = []
    typed: list[str] = []
    rest = iter(argv)
    for argument in rest:
        if argument == "--config" or argument.startswith("--config="):
            path = argument.partition("=")[2] or next(rest, None)
            if path is None:
                raise InputError("--config: expected the path of a YAML recipe")
            recipes += recipe_to_flags(path)
        else:
            typed.append(argument)
    return recipes + typed


def refuse_unknown(flags: Sequence[str], known: Sequence[str]) -> None:
    """Raise InputError for a flag that there is not: it says more than that a flag is then missing."""
    for one in flags:
        name = one.partition("=")[0]
        if re.match(r"--[A-Za-z]", name) and name not in known:
            close = suggest(name, known)
            raise InputError(f"{name}: no such flag{f'; did you mean {close}?' if close else ''} (see --help)")


def suggest(name: str, known: Sequence[str]) -> str | None:
    """The flag that was probably meant: one of these letters, these initials (`--lr`) or this beginning."""
    typed = name.removeprefix("--")
    names = sorted({one.removeprefix("--").replace("-", "_") for one in known if one.startswith("--")})
    if not typed.startswith("no"):  # nobody who leaves it out means the opposite
        names = [one for one in names if not one.startswith("no_")]
    close = get_close_matches(typed, names, 1, cutoff=0.66)
    close += [one for one in names if "".join(word[0] for word in re.split("[_-]", one) if word) == typed]
    close += [one for one in names if len(typed) > 2 and one.startswith(typed)]
    return f"--{close[0]}" if close else None


def parse_args(
    types: Any,
    argv: Sequence[str] | None = None,
    description: str | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> Any:
    """Parse flags into one dataclass, or a tuple of them where `types` is a sequence.

    `groups`: the flags that `--help` shows, by heading; default: all.

    A dataclass may have `expand_flags(flags)`, which puts what some of its flags stand for before the others.
    Abbreviated flags are refused: a mistyped `--n_gpu` must not become `--n_gpus`.
    Raises InputError for unknown flags, bad values, values outside their flag's limits and unreadable recipes.
    """
    single = is_dataclass(types)
    kinds = [types] if single else list(types)
    parser = Parser(kinds, description, groups)
    flags = expand_recipes(sys.argv[1:] if argv is None else argv)
    refuse_unknown(flags, parser.known)
    for kind in kinds:
        flags = kind.expand_flags(flags) if hasattr(kind, "expand_flags") else flags
    values = vars(parser.parse_args(flags))
    for one in (one for kind in kinds for one in fields(kind) if one.init):
        check_value(one, values[one.name])
    try:
        parsed = [kind(**{one.name: values[one.name] for one in fields(kind) if one.init}) for kind in kinds]
    except ValueError as error:  # a dataclass's own __post_init__ check
        raise InputError(str(error)) from None
    return parsed[0] if single else tuple(parsed)


def check_value(one: Field, value: Any) -> None:
    """Raises InputError where a flag's value is outside the limits its field states."""
    limits = one.metadata
    for part in value if isinstance(value, list) else [value]:
        named = f"--{one.name} {part}"
        if isinstance(part, float) and not -float("inf") < part < float("inf"):
            raise InputError(f"{named}: not a finite number")
        if isinstance(part, int | float) and not isinstance(part, bool):
            if "least" in limits and part < limits["least"]:
                raise InputError(f"{named}: must be at least {limits['least']}")
            if "above" in limits and part <= limits["above"]:
                raise InputError(f"{named}: must be above {limits['above']}")
            if "most" in limits and part > limits["most"]:
                raise InputError(f"{named}: must be at most {limits['most']}")
        if isinstance(part, str) and ("reads" in limits or "writes" in limits):
            if not part.strip():
                raise InputError(f"--{one.name}: empty, expected a path")
            (check_readable if "reads" in limits else check_writable)(named, Path(part), limits)


def check_readable(named: str, path: Path, limits: Any) -> None:
    if not path.exists():
        what = {"file": "file", "folder": "folder", "any": "file or folder"}[limits["reads"]]
        raise InputError(f"{named}: no such {what}")
    if limits["reads"] == "file" and path.is_dir():
        raise InputError(f"{named}: is a folder, expected a file")
    if limits["reads"] == "folder" and not path.is_dir():
        raise InputError(f"{named}: is a file, expected a folder")
    if not os.access(path, os.R_OK):
        raise InputError(f"{named}: no permission to read it")


def check_writable(named: str, path: Path, limits: Any) -> None:
    """Whether a path could be made and written; nothing is made."""
    if limits["writes"] == "file" and path.is_dir():
        raise InputError(f"{named}: is a folder, expected a file to write")
    if limits["writes"] == "folder" and path.exists() and not path.is_dir():
        raise InputError(f"{named}: is a file, expected a folder")
    nearest = path if path.exists() else next(parent for parent in path.absolute().parents if parent.exists())
    if nearest != path and not nearest.is_dir():
        raise InputError(f"{named}: {nearest} is a file, not a folder")
    if not os.access(nearest, os.W_OK):
        raise InputError(f"{named}: no permission to write in {nearest}")


def describe_os_error(error: OSError) -> str | None:
    """What the system refused, in one line; None where it is nothing a user can mend."""
    number = error.errno
    if number is None and (
        found := re.search(r"\[errno (\d+)\]|os error (\d+)|code: (\d+)", str(error), re.IGNORECASE)
    ):
        number = int(next(group for group in found.groups() if group))
    if number not in MENDABLE:
        return None
    name = error.filename2 or error.filename  # of a renaming the name that was asked for, not the temporary one
    where = f"{name}: " if name else ""
    mend = "; free some space and run the same command again" if number in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"{where}{os.strerror(number)}{mend}"


def run_program(main: Callable[[], int | None]) -> None:
    """Run a program's `main`: bad input is one line and exit 2, Ctrl-C is exit 130, bugs keep their traceback."""
    try:
        status = main()
    except InputError as error:
        leave(str(error))
    except OSError as error:
        text = describe_os_error(error)
        if text is None:
            raise
        leave(text)
    except ProgramFailedError as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(EXIT_PROGRAM_FAILED)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(status or 0)


def leave(message: str) -> None:
    """Say what was wrong, once for all ranks, and exit."""
    if os.environ.get("RANK", "0") == "0":
        print(f"error: {message}", file=sys.stderr, flush=True)
    else:  # a launcher ends every process once one has failed: let the first one speak for all
        time.sleep(WAIT_FOR_FIRST_SECONDS)
        torch = sys.modules.get("torch")
        if os.environ.get("LOCAL_RANK", "0") == "0" and not (torch and torch.distributed.is_initialized()):
            # Before the processes met, what is wrong may be this node's own.
            print(f"error: {socket.gethostname()}: {message}", file=sys.stderr, flush=True)
    sys.exit(EXIT_BAD_INPUT)
