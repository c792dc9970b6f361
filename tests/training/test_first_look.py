"""What train.py refuses before torch is loaded: numbers outside their limits, paths, unknown names."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptcot_mamba.errors import InputError
from promptcot_mamba.training.first_look import LIMITS, check_number, look, read_types

NUMBERS = ["many", "nan", "inf", "-3"]


@pytest.fixture
def needed(tmp_path: Path) -> list[str]:
    """Flags that pass."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    return [
        f"--model_name_or_path={tmp_path / 'model'}",
        f"--data_path={tmp_path / 'rows.jsonl'}",
        f"--output_dir={tmp_path / 'out'}",
    ]


def test_every_limit_is_of_a_number_that_train_takes():
    types = read_types()
    assert {types[name].removesuffix(" | None") for name in LIMITS} == {"int", "float", "list[float]"}


@pytest.mark.parametrize("name", LIMITS)
def test_numbers_that_cannot_be_meant_are_named(name: str):
    types = read_types()
    word, low, high = LIMITS[name]
    outside = [*NUMBERS, repr(high * 2), *([repr(low)] if word == "above" else [])]
    for text in outside:
        with pytest.raises(InputError, match=rf"^--{name} {text.replace('+', '[+]')}: "):
            check_number(name, text, types[name])


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--token_cache=", "--token_cache: empty"),
        ("--token_cache={rows}", "--token_cache .*rows.jsonl: is a file, expected a folder"),
        ("--output_dir={rows}/out", "--output_dir .*rows.jsonl is a file, not a folder"),
        ("--output_dir=", "--output_dir is required"),
        ("--data_path={folder}/none.jsonl", "--data_path .*none.jsonl"),
        ("--deepspeed={folder}/none.json", "--deepspeed .*none.json"),
        ("--eval_data_path={folder}/none.jsonl", "--eval_data_path .*none.jsonl"),
        ("--lr=1", "--lr: no such flag"),
        ("--overwrite_output_dir", "--overwrite_output_dir: no such flag; a run's own folder is continued"),
        ("--model_max_length=4096", "--model_max_length: no such flag; the longest row is --max_length"),
        ("--max_steeps=3", r"--max_steeps: no such flag; did you mean --max_steps\?"),
    ],
)
def test_paths_and_names_are_named(needed: list[str], tmp_path: Path, flag: str, said: str):
    look(needed)
    with pytest.raises(InputError, match=f"^{said}"):
        look([*needed, flag.format(rows=tmp_path / "rows.jsonl", folder=tmp_path)])
    assert not (tmp_path / "out").exists()
