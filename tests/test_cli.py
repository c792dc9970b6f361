"""Recipes and flags: one type check, later wins, nothing unknown passes."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from promptcot_mamba.cli import flag, parse_args, run_program
from promptcot_mamba.cli_parser import Parser
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


@dataclass
class Limited:
    """What a run reads and writes."""

    data: str = flag("rows", reads="file")
    seeds: list[int] = flag("one a run", factory=lambda: [1], least=0, most=9)
    learning_rate: float = flag("of AdamW", default=1e-3, above=0)
    kind: str = flag("which", default="a", choices=("a", "b"))
    output: str = flag("where to", default="outputs/x.json", writes="file")


@pytest.fixture
def data(tmp_path: Path) -> str:
    (tmp_path / "rows.jsonl").write_text("{}")
    return str(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--seeds", "3", "-1"], "--seeds -1: must be at least 0"),
        (["--seeds", "10"], "--seeds 10: must be at most 9"),
        (["--learning_rate", "0"], "--learning_rate 0.0: must be above 0"),
        (["--learning-rate", "nan"], "--learning_rate nan: not a finite number"),
        (["--kind", "c"], "--kind c: must be one of a, b"),
        (["--lr", "1"], r"--lr: no such flag; did you mean --learning_rate\?"),
        (["--output", "/dev/null/x"], "--output /dev/null/x: /dev/null is a file, not a folder"),
        (["--output", "/tmp"], "--output /tmp: is a folder, expected a file"),
        (["--data", "/nowhere"], "--data /nowhere: no such file"),
        (["--data", "/tmp"], "--data /tmp: is a folder, expected a file"),
        (["--data", ""], "--data: empty, expected a path"),
    ],
)
def test_a_value_outside_its_flags_limits_is_named(argv: list[str], message: str, data: str):
    assert parse_args(Limited, ["--data", data]).seeds == [1]
    with pytest.raises(InputError, match=message):
        parse_args(Limited, ["--data", data, *argv])


def test_help_keeps_the_docstrings_lines_and_marks_what_is_required(capsys):
    text = "What it does.\n\n    python x.py --data a.jsonl \\\n        --seeds 1 2\n"
    with pytest.raises(SystemExit):
        parse_args(Limited, ["--help"], description=text)
    shown = capsys.readouterr().out
    assert "    python x.py --data a.jsonl \\\n        --seeds 1 2\n" in shown
    assert re.search(r"What a run reads and writes:\n  --data TEXT +rows \(required\)", shown)
    assert "{a,b}" in shown
    assert "(default: 0.001)" in shown
    assert "None" not in shown
    assert max(map(len, shown.splitlines())) <= 120


def test_a_missing_flag_is_told_by_one_spelling():
    @dataclass
    class Needs:
        data_path: str
        n: int = 1

    with pytest.raises(InputError, match=r"arguments are required: --data_path; see --help"):
        parse_args(Needs, [])


def test_a_percent_sign_is_one_in_help_whoever_escaped_it(capsys):
    """transformers writes its fields' help for argparse, %% already; ours is plain."""

    @dataclass
    class Percents:
        theirs: int = field(default=1, metadata={"help": "about 20%% slower"})
        ours: int = field(default=1, metadata={"help": "80 % of the link"})

    with pytest.raises(SystemExit):
        parse_args(Percents, ["--help"])
    shown = capsys.readouterr().out
    assert "about 20% slower" in shown
    assert "80 % of the link" in shown


def test_the_published_lines_flags_parse_as_transformers_parser_reads_them():
    from transformers.hf_argparser import HfArgumentParser

    from promptcot_mamba.training.arguments import DataArguments, SftArguments

    kinds = [SftArguments, DataArguments]
    text = """--model_name_or_path m --data_path d --output_dir o --bf16=True --gradient_checkpointing
        --eval_strategy=no --logging-steps 5 --learning_rate 1e-5 --report_to tensorboard --deepspeed c.json
        --lr_scheduler_type cosine --warmup_steps 0.1 --label_names a b --optim adamw_torch --save_strategy steps
        --no_dataloader_pin_memory --remove-unused-columns False --lr_scheduler_kwargs {}"""
    words = text.split()
    ours, theirs = vars(Parser(kinds, None).parse_args(words)), vars(HfArgumentParser(kinds).parse_args(words))
    differ = {name for name in theirs if ours[name] != theirs[name]}
    assert differ <= {"debug", "include_num_input_tokens_seen"}, "two fields whose text TrainingArguments reads itself"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_what_the_system_refuses_is_one_line(number: int, capsys):
    def main():
        raise OSError(number, os.strerror(number), "out.jsonl")

    with pytest.raises(SystemExit) as stop:
        run_program(main)
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: out.jsonl: {os.strerror(number)}")
    assert shown.count("\n") == 1


def test_a_bug_keeps_its_traceback():
    def main():
        raise OSError(errno.EBADF, "a bug")

    with pytest.raises(OSError, match="a bug"):
        run_program(main)
