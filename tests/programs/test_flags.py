"""Every flag of every program with values that cannot be meant: one line that names the flag, before anything heavy."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from promptcot_mamba import cli
from promptcot_mamba.cli_parser import plain_type
from promptcot_mamba.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = [
    "infer_longcot", "calc_acc_aime", "calc_acc_lcb", "scripts.calc_acc", "scripts.chat", "scripts.convert_checkpoint",
    "scripts.make_report", "scripts.prepare_problems", "scripts.prepare_sft_data", "scripts.synthesize",
    "scripts.make_preferences",
    "scripts.doctor", "scripts.quickstart.run", "scripts.quickstart.make_data", "scripts.quickstart.run_ablations",
    "scripts.quickstart.closed_loop", "scripts.quickstart.eval_checkpoints", "scripts.quickstart.adapters",
    "scripts.quickstart.selfplay", "scripts.quickstart.em",
]  # fmt: skip
# Numbers that may be anything, and why.
ANY_NUMBER = {"seed": "an address of random numbers", "temperature": "", "format_seed": ""}
ZERO_MEANS = {"top_k": "all tokens", "min_p": "none left out"}  # beside the flags that state `least=0`


class ParsedError(Exception):
    """The flags were accepted."""


def flags_of(program: str, monkeypatch: pytest.MonkeyPatch) -> list[type]:
    """The dataclasses that a program parses."""
    seen: list[type] = []

    def record(types: Any, *_: Any, **__: Any) -> None:
        seen.extend([types] if isinstance(types, type) else types)
        raise ParsedError

    module = importlib.import_module(program)
    monkeypatch.setattr(cli, "parse_args", record)
    monkeypatch.setattr(sys, "argv", [program])
    for name in [program, *(name for name in sys.modules if name.startswith(("scripts.", "promptcot_mamba.")))]:
        if getattr(sys.modules.get(name), "parse_args", None) is not None:
            monkeypatch.setattr(sys.modules[name], "parse_args", record)
    with pytest.raises(ParsedError):
        module.main()
    monkeypatch.undo()
    return seen


def kind_of(hint: Any) -> Any:
    kind = plain_type(hint)
    return get_args(kind)[0] if get_origin(kind) is list else kind


def is_path(one: Field) -> bool:
    return "reads" in one.metadata or "writes" in one.metadata


def bad_values(one: Field, kind: Any, folder: Path) -> dict[str, str]:
    """{what is wrong: value}."""
    values = {}
    if kind in (int, float):
        values["a word"] = "many"
        if one.name not in ANY_NUMBER:
            values["negative"] = "-3"
            if one.metadata.get("least", 1) > 0 and one.name not in ZERO_MEANS:
                values["zero"] = "0"
    if kind is float:
        values |= {"not a number": "nan", "infinite": "inf"}
    if is_path(one):
        values["empty"] = ""
    if "reads" in one.metadata:
        values["missing"] = str(folder / "missing")
    if one.metadata.get("reads") == "file" or one.metadata.get("writes") == "file":
        values["a folder"] = str(folder)
    if one.metadata.get("reads") == "folder" or one.metadata.get("writes") == "folder":
        values["a file"] = str(folder / "file")
    if "writes" in one.metadata:
        values["below a file"] = str(folder / "file" / "x")
    return values


def good_value(one: Field, kind: Any, folder: Path) -> str:
    if is_path(one):
        wants_folder = "folder" in (one.metadata.get("reads"), one.metadata.get("writes"))
        return str(folder) if wants_folder else str(folder / "file" if "reads" in one.metadata else folder / "new")
    if one.metadata.get("choices"):
        return str(one.metadata["choices"][0])
    return {int: "1", float: "1"}.get(kind, "x")


@pytest.mark.parametrize("program", PROGRAMS)
def test_values_that_cannot_be_meant_are_refused_by_name(program: str, monkeypatch, tmp_path: Path):
    (tmp_path / "file").write_text("{}\n")
    types = flags_of(program, monkeypatch)
    assert types
    wrong = []
    for owner in types:
        hints = get_type_hints(owner)
        for one in filter(lambda one: one.init, fields(owner)):
            for what, value in bad_values(one, kind_of(hints[one.name]), tmp_path).items():
                given = [f"--{one.name}={value}"]
                for other in types:
                    hinted = get_type_hints(other)
                    given += [
                        f"--{need.name}={good_value(need, kind_of(hinted[need.name]), tmp_path)}"
                        for need in fields(other)
                        if need.init and need.default is MISSING and need.default_factory is MISSING and need is not one
                    ]
                try:
                    cli.parse_args(types, given)
                except InputError as error:
                    if f"--{one.name}" not in str(error) or "\n" in str(error):
                        wrong.append(f"--{one.name} ({what}): refused as {error}")
                else:
                    wrong.append(f"--{one.name}={value} ({what}): accepted")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("program", PROGRAMS)
def test_flags_that_look_like_paths_say_what_they_are(program: str, monkeypatch):
    for owner in flags_of(program, monkeypatch):
        for one in fields(owner):
            if one.name.endswith(("_path", "_dir", "output", "record")) and not one.metadata.get("elsewhere"):
                assert is_path(one), f"--{one.name}: add reads= or writes= to its flag, or elsewhere=True"


# What takes half a second or more to import, or a third as aiohttp does: none is needed to read flags.
HEAVY = {
    "torch", "transformers", "vllm", "triton", "deepspeed", "mamba_ssm", "peft", "datasets", "pandas", "matplotlib",
    "sympy", "scipy.stats", "aiohttp", "huggingface_hub", "tokenizers", "openai",
}  # fmt: skip
REFUSE = """
import runpy, sys
program = sys.argv[1]
sys.argv = [program, "--no_such_flag", "1"]
try:
    runpy.run_module(program, run_name="__main__", alter_sys=True)
finally:
    print(*sys.modules)
"""


@pytest.mark.parametrize("program", [*PROGRAMS, "train"])
def test_an_unknown_flag_is_refused_before_anything_heavy_is_imported(program: str):
    command = [sys.executable, "-c", REFUSE, program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "--no_such_flag: no such flag" in done.stderr
    imported = set(done.stdout.split())
    assert "promptcot_mamba.cli" in imported
    assert not imported & HEAVY
