"""Flags and recipes: `--config a.yaml [--config b.yaml] --flag value` -> typed dataclasses.

A recipe is turned into flags placed before the typed ones, so files and command line pass one type check and
the later wins. Unknown keys stop the run.
"""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from transformers.hf_argparser import HfArgumentParser

from promptcot_mamba.errors import InputError, ProgramFailedError

EXIT_INTERRUPTED = 130
EXIT_PROGRAM_FAILED = 1
EXIT_BAD_INPUT = 2
WAIT_FOR_FIRST_SECONDS = 10.0


def read_recipe(path: str | Path) -> dict[str, Any]:
    """A YAML recipe; raises InputError where it cannot be read or is no mapping."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"--config {path}: {error.strerror}") from None
    try:
        recipe = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise InputError(f"--config {path}: malformed YAML: {error}") from None
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
        elif isinstance(value, dict):
            flags.append(f"--{key}={json.dumps(value)}")
        else:
            flags.append(f"--{key}={value}")
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


class _Help(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Defaults beside flags, and the program's docstring as it was written."""


class _Parser(HfArgumentParser):
    """argparse that reports bad flags as InputError, in one line, like every other bad input."""

    def error(self, message: str) -> Any:
        raise InputError(f"{message}; see --help")

    def refuse_unknown(self, flags: Sequence[str]) -> None:
        """Raise InputError for a flag that there is not: it says more than that a flag is then missing."""
        known = self._option_string_actions
        for flag in flags:
            name = flag.partition("=")[0]
            if name.startswith("--") and name not in known:
                close = get_close_matches(name, known, 1)
                raise InputError(f"{name}: no such flag{f'; did you mean {close[0]}?' if close else ''} (see --help)")

    def show_groups(self, groups: Mapping[str, Sequence[str]]) -> None:
        """Let `--help` show these flags under these headings, and no others."""
        actions = dict(self._option_string_actions)
        self._optionals._group_actions[:] = [actions["--help"], actions["--config"]]
        for title, flags in groups.items():
            shown = self.add_argument_group(title)._group_actions
            for flag in flags:
                actions[f"--{flag}"].option_strings = [f"--{flag}"]  # without its spelling with dashes
                shown.append(actions[f"--{flag}"])
        self.usage = "%(prog)s [--config RECIPE.yaml ...] [--flag value ...]"


def parse_args(
    types: Any,
    argv: Sequence[str] | None = None,
    description: str | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> Any:
    """Parse flags into one dataclass, or a tuple of them where `types` is a sequence.

    A dataclass may have `expand_flags(flags)`, which puts what some of its flags stand for before the others.
    `groups`: the flags that `--help` shows, by heading; default: all.
    Abbreviated flags are refused: a mistyped `--n_gpu` must not become `--n_gpus`.
    Raises InputError for unknown flags, bad values and unreadable recipes.
    """
    single = is_dataclass(types)
    kinds = [types] if single else list(types)
    parser = _Parser(kinds, description=description, allow_abbrev=False, formatter_class=_Help)
    parser.add_argument("--config", metavar="RECIPE.yaml", help="flags from a file; typed flags win; may be repeated")
    if groups is not None:
        parser.show_groups(groups)
    flags = expand_recipes(sys.argv[1:] if argv is None else argv)
    parser.refuse_unknown(flags)
    for kind in kinds:
        flags = kind.expand_flags(flags) if hasattr(kind, "expand_flags") else flags
    try:
        parsed = parser.parse_args_into_dataclasses(args=flags)[: len(kinds)]
    except ValueError as error:  # a dataclass's own __post_init__ check
        raise InputError(str(error)) from None
    return parsed[0] if single else tuple(parsed)


def run_program(main: Callable[[], int | None]) -> None:
    """Run a program's `main`: bad input is one line and exit 2, Ctrl-C is exit 130, bugs keep their traceback."""
    try:
        status = main()
    except InputError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr, flush=True)
        else:  # a launcher ends every process once one has failed: let the first one speak for all
            time.sleep(WAIT_FOR_FIRST_SECONDS)
        sys.exit(EXIT_BAD_INPUT)
    except ProgramFailedError as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(EXIT_PROGRAM_FAILED)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(status or 0)
