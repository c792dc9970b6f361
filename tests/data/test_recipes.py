"""The shipped data recipes and ablations parse, name real adapters, and differ from their base in what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from promptcot_mamba.chat_markup import whole_text
from promptcot_mamba.cli import parse_args, recipe_to_flags
from promptcot_mamba.data.conversation import render_row
from promptcot_mamba.data.sources import parse_sources
from promptcot_mamba.quickstart.splits import SOURCES, draw_training_rows
from promptcot_mamba.training.arguments import DataArguments, SftArguments
from scripts.prepare_sft_data import PrepareArguments, choose_sources

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NEEDED = ["--tokenizer_path", "t", "--output_dir", "o"]


def names(*recipes: str) -> list[str]:
    flags = [flag for recipe in recipes for flag in ("--config", str(CONFIGS / recipe))]
    args = parse_args(PrepareArguments, [*flags, *NEEDED])
    return [spec.name for spec in choose_sources(args)]


@pytest.mark.parametrize("path", sorted((CONFIGS / "data").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_parse(path):
    args = parse_args(PrepareArguments, ["--config", str(path), *NEEDED])
    specs = parse_sources(json.loads(args.sources))
    assert all(spec.make_adapter().repo for spec in specs)
    assert args.max_length in (16384, 20480)


@pytest.mark.parametrize(
    ("base", "ablation", "left"),
    [
        ("phase1", "without_openthoughts", ["opencodereasoning_0", "opencodereasoning_1"]),
        ("phase1", "without_code", ["openthoughts2"]),
        ("phase2", "without_openthoughts", ["promptcot", "opencodereasoning_0"]),
        ("phase2", "without_code_phase2", ["promptcot", "openthoughts2"]),
        ("phase2", "without_promptcot", ["opencodereasoning_0", "openthoughts2"]),
    ],
)
def test_ablations_leave_sources_out(base, ablation, left):
    assert names(f"data/{base}.yaml", f"ablations/{ablation}.yaml") == left


@pytest.mark.parametrize(
    ("phase", "data"), [("sft_phase1", "phase1"), ("sft_phase2", "phase2"), ("sft_phase2", "phase2_math")]
)
def test_shards_are_packed_for_the_phase_that_trains_on_them(phase, data):
    training, packing = (dict(pairs(CONFIGS / name)) for name in (f"{phase}.yaml", f"data/{data}.yaml"))
    assert training["max_length"] == packing["max_length"]


@pytest.mark.parametrize("phase", ["phase1", "phase2"])
def test_the_quickstarts_exercises_come_through_as_they_are(phase):
    """The recipe asks for as many of each domain as were made, and gives every prompt back as evaluation asks it."""
    recipe = CONFIGS / "quickstart" / f"shards_{phase}.yaml"
    specs = parse_sources(json.loads(parse_args(PrepareArguments, ["--config", str(recipe)]).sources))
    made = json.loads(dict(pairs(CONFIGS / "quickstart/data.yaml"))[phase])
    for spec in specs:
        [domain] = spec.domains
        own = {name: count for name, count in made.items() if SOURCES[name].domain == domain}
        assert spec.examples == sum(own.values())
        for raw in draw_training_rows(dict.fromkeys(own, 20), phase, seed=1):
            found = spec.make_adapter().convert(raw, None)
            [row] = found if isinstance(found, list) else [found]
            assert (row.domain, row.completion) == (domain, raw["completion"])
            assert whole_text(render_row(row, spec.instruction)[0]) == raw["prompt"]
    training = dict(pairs(CONFIGS / "quickstart" / f"{phase}.yaml"))
    assert dict(pairs(recipe))["max_length"] == training["max_length"]


def pairs(path: Path) -> list[tuple[str, str]]:
    return [tuple(flag.removeprefix("--").split("=", 1)) for flag in recipe_to_flags(path) if "=" in flag]


@pytest.mark.parametrize("name", ["promptcot_ds_1_5b", "promptcot_ds_7b", "promptcot_qwq_32b"])
def test_transformer_recipes_are_the_published_command_lines(name):
    recipe = dict(pairs(CONFIGS / f"{name}.yaml"))
    assert (CONFIGS.parent / recipe.pop("deepspeed")).is_file()
    flags = [f"--{key}={value}" for key, value in recipe.items()]
    flags += [
        "--output_dir",
        "o",
        "--model_name_or_path",
        "m",
        "--data_path",
        "d",
        "--report_to",
        "none",
        "--bf16=False",
    ]
    args, data_args = parse_args([SftArguments, DataArguments], flags)
    qwq = name.endswith("qwq_32b")
    assert args.learning_rate == (2e-6 if qwq else 5e-6)
    assert args.gradient_accumulation_steps == (2 if qwq else 8)
    assert (args.num_train_epochs, args.warmup_steps, args.save_steps) == (2, 100, 500)
    assert data_args.max_length == 16384
