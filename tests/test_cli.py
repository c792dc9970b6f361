"""Recipes and flags: one type check, later wins, nothing unknown passes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from promptcot_mamba.cli import parse_args, run_program
from promptcot_mamba.errors import InputError


@dataclass
class Arguments:
    n: int = 1
    rate: float = 0.5
    fast: bool = False
    names: list[str] = field(default_factory=list)

    def __post_init__(self):
        if self.n < 1:
            raise ValueError(f"--n {self.n}: must be at least 1")


def recipe(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_typed_flags_win_over_recipes_and_later_recipes_over_earlier(tmp_path: Path):
    first = recipe(tmp_path / "a.yaml", "n: 2\nrate: 5e-6\nnames: [x, y]\nfast: true")
    second = recipe(tmp_path / "b.yaml", "n: 3\nrate: null")
    got = parse_args(Arguments, ["--n", "4", "--config", first, f"--config={second}"])
    assert got == Arguments(n=4, rate=5e-6, fast=True, names=["x", "y"])
    assert parse_args(Arguments, ["--config", first, "--config", second]).n == 3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--nn", "1"], r"--nn: no such flag; did you mean --n\?"),
        (["--nam", "x"], r"--nam: no such flag; did you mean --names\?"),  # no abbreviations
        (["--zzzz=1"], r"--zzzz: no such flag \(see --help\)"),
        (["--n", "many"], "--n"),
        (["--n", "0"], "--n 0"),
        (["--config"], "--config"),
        (["--config", "/nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_bad_flags_are_named(argv, message):
    with pytest.raises(InputError, match=message):
        parse_args(Arguments, argv)


@pytest.mark.parametrize(
    ("text", "message"), [("m: 1", "--m: no such flag"), ("- n", "found list"), ("n: [", "malformed YAML")]
)
def test_bad_recipes_are_named(tmp_path: Path, text: str, message: str):
    with pytest.raises(InputError, match=message):
        parse_args(Arguments, ["--config", recipe(tmp_path / "a.yaml", text)])


def test_bad_input_is_one_line_and_exit_2(capsys):
    def main():
        raise InputError("x.jsonl:3: malformed")

    with pytest.raises(SystemExit) as stop:
        run_program(main)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: x.jsonl:3: malformed\n"
