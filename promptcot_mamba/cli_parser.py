"""Dataclasses as argparse flags, and help that can be read and copied.

The types are those that transformers' HfArgumentParser takes, so that TrainingArguments parse alike; that parser itself
costs more than a second of imports, and its help is one paragraph.
"""

import argparse
import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from enum import Enum
from inspect import get_annotations
from pathlib import Path
from textwrap import fill
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from promptcot_mamba.errors import InputError
from promptcot_mamba.run_info import ROOT

LIMITS = ("least", "above", "most", "reads", "writes", "elsewhere")  # of a flag's metadata; see `cli.flag`
THEIRS = "transformers"  # whose fields come last, by name alone
WIDTH = 118
TRUE, FALSE = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")
_METAVARS: dict[Any, str] = {int: "N", float: "X", str: "TEXT"}


def to_bool(text: str) -> bool:
    if text.lower() in TRUE + FALSE:
        return text.lower() in TRUE
    raise argparse.ArgumentTypeError(f"expected True or False, found {text!r}")


def plain_type(hint: Any) -> Any:
    """What a word becomes: `X` of `X | None`; an Enum goes before `str`, `str` before others."""
    if get_origin(hint) not in (Union, types.UnionType):
        return hint
    parts = [part for part in get_args(hint) if part is not type(None)]
    enums = [part for part in parts if isinstance(part, type) and issubclass(part, Enum)]
    if enums:
        return enums[0]
    return str if str in parts else parts[0]


def list_choices(kind: Any) -> tuple[Any, ...] | None:
    if get_origin(kind) is Literal:
        return get_args(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return tuple(one.value for one in kind)
    return None


def name_program() -> str:
    """`python -m scripts.chat` or `python train.py`: what to type."""
    path = Path(sys.argv[0])
    if not path.is_absolute() or not path.is_relative_to(ROOT):
        return f"python {path.name}"
    relative = path.relative_to(ROOT).with_suffix("")
    return f"python -m {'.'.join(relative.parts)}" if len(relative.parts) > 1 else f"python {path.name}"


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps a docstring's layout; of a flag's spellings it shows the first."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=34, width=WIDTH)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        values = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{action.option_strings[0]} {values}"


class Parser(argparse.ArgumentParser):
    """Reports bad flags as InputError, in one line, like every other bad input."""

    def __init__(
        self, kinds: Sequence[type], description: str | None, groups: Mapping[str, Sequence[str]] | None = None
    ):
        """`groups`: the flags that help shows, by heading; else a heading a dataclass, transformers' by name alone."""
        program = name_program()
        super().__init__(prog=program, description=description, allow_abbrev=False, formatter_class=_Formatter)
        recipes = self.add_argument_group("recipes")
        recipes.add_argument(
            "--config", metavar="RECIPE.yaml", help="flags from a file; typed flags win; may be repeated"
        )
        headings: dict[str, Any] = {}
        for title, names in (groups or {}).items():
            headings |= dict.fromkeys(names, self.add_argument_group(title))
        theirs: list[str] = []
        required: list[str] = []
        for kind in kinds:
            hints, own = get_type_hints(kind), None
            for one in sorted((one for one in fields(kind) if one.init), key=lambda one: not is_required(one)):
                is_theirs = _owner(kind, one.name).startswith(THEIRS)
                is_shown = one.name in headings if groups else not is_theirs
                if is_shown and not groups:
                    own = own or self.add_argument_group(name_group(kind))
                self._add_field(headings.get(one.name, own) if is_shown else self, one, hints[one.name], is_shown)
                theirs += [one.name] if is_theirs and not groups else []
                required += [f"--{one.name} ..."] if is_required(one) else []
        for names in (groups or {}).values():
            headings[names[0]]._group_actions.sort(key=lambda action: names.index(action.dest))
        self._action_groups.sort(key=lambda group: group is recipes)
        self.usage = " ".join([program, *required, "[flags]"])
        if theirs:
            listed = fill(", ".join(f"--{name}" for name in sorted(theirs)), WIDTH - 2, break_on_hyphens=False)
            self.epilog = f"and every field of transformers' TrainingArguments:\n{listed}"

    @property
    def known(self) -> list[str]:
        return list(self._option_string_actions)

    def error(self, message: str) -> Any:
        first = re.sub(r"(--\w+)(?:/--[\w-]+)+", r"\1", message)  # argparse tells every spelling of a flag
        raise InputError(f"{first}; see --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise InputError(f"--{action.dest} {value}: must be one of {', '.join(map(str, action.choices))}")

    def _add_field(self, group: Any, one: Field, hint: Any, is_shown: bool) -> None:
        """One field as `--name` (or `--na-me`, unshown)."""
        known = {name: value for name, value in one.metadata.items() if name not in (*LIMITS, "aliases")}
        kind, about = plain_type(hint), known.pop("help", "")
        default = one.default_factory() if one.default_factory is not MISSING else one.default
        options: dict[str, Any] = dict(known)
        if default is MISSING:
            options["required"] = True
        else:
            options["default"] = default
        options = self._type_options(kind, default) | options
        if options.get("choices"):
            options.pop("metavar", None)
        about = f"{about.rstrip('.')} {describe_default(default)}".strip().replace("%%", "%").replace("%", "%%")
        aliases = one.metadata.get("aliases", [])
        spellings = [f"--{one.name}", f"--{one.name.replace('_', '-')}"]
        spellings += [aliases] if isinstance(aliases, str) else aliases
        options["help"] = about if is_shown else argparse.SUPPRESS
        group.add_argument(*dict.fromkeys(spellings), dest=one.name, **options)
        if kind is bool and default is True:
            negated = dict.fromkeys((f"--no_{one.name}", f"--no-{one.name.replace('_', '-')}"))
            self.add_argument(*negated, action="store_false", dest=one.name, help=argparse.SUPPRESS, default=True)

    @staticmethod
    def _type_options(kind: Any, default: Any) -> dict[str, Any]:
        if choices := list_choices(kind):
            values = {str(choice): choice for choice in choices}
            return {"type": lambda text: values.get(text, text), "choices": choices}
        if kind is bool:
            optional = {} if default is None else {"nargs": "?", "const": True}
            return {"type": to_bool, "metavar": "True|False", **optional}
        if get_origin(kind) is list or kind is list:
            part: Callable[[str], Any] = get_args(kind)[0] if get_args(kind) else str
            return {"type": part, "nargs": "+", "metavar": _METAVARS.get(part, "TEXT")}
        return {"type": kind if kind in (int, float, str) else str, "metavar": _METAVARS.get(kind, "TEXT")}


def name_group(kind: type) -> str:
    """A dataclass's first line where it says more than whose flags it holds."""
    first = (kind.__doc__ or "").strip().partition("\n")[0].rstrip(".")
    is_bare = first.startswith((f"{kind.__name__}(", "Flags of"))
    return "flags" if is_bare or not first else first


def is_required(one: Field) -> bool:
    return one.default is MISSING and one.default_factory is MISSING


def _owner(kind: type, name: str) -> str:
    """The module of the class that a field was last defined in."""
    return next(base.__module__ for base in kind.__mro__ if name in get_annotations(base))


def describe_default(default: Any) -> str:
    if default is MISSING:
        return "(required)"
    if default is None or default in ("", [], {}):
        return ""
    shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else default
    return f"(default: {getattr(shown, 'value', shown)})"
