"""What the generator trains on is, token for token, what it is asked and scored by."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptcot_mamba.cli import parse_args
from promptcot_mamba.data.conversation import Reading
from promptcot_mamba.data.encode import encode_examples
from promptcot_mamba.data.rows import iter_examples
from promptcot_mamba.jsonl import write_jsonl
from promptcot_mamba.synthesis.models import ModelBook
from promptcot_mamba.synthesis.problem import make_generator_rows
from promptcot_mamba.synthesis.templates import load_format
from promptcot_mamba.training.arguments import DataArguments, SftArguments
from tests.tiny import make_checkpoint

ROOT = Path(__file__).resolve().parents[2]
CHOSEN = {"concepts": ["gcd", "digit sum"], "level": "easy", "rationale": "Join them.", "problem": "Find the gcd."}


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory):
    """A model as configs/synthesis.yaml and the closed loop ask theirs; its engine is never started."""
    folder = make_checkpoint(tmp_path_factory.mktemp("generator"))
    book = ModelBook({"generator": {"model_path": str(folder), "chat_template": False, "context": 512}})
    return book("generator")


@pytest.mark.parametrize("recipe", ["configs/promptcot_generator.yaml", "configs/quickstart/generator.yaml"])
@pytest.mark.parametrize("form", ["ours", "promptcot_release", "promptcot2_code"])
def test_training_sampling_and_scoring_see_the_same_tokens(generator, tmp_path: Path, recipe: str, form: str):
    needed = ["--model_name_or_path", "m", "--data_path", "d", "--output_dir", "o", "--bf16", "False"]
    _, data = parse_args([SftArguments, DataArguments], ["--config", str(ROOT / recipe), *needed])
    [row] = make_generator_rows([CHOSEN], load_format(form))
    write_jsonl(tmp_path / "generator_sft.jsonl", [row])
    reading = Reading(prompt_format=data.prompt_format)
    [example] = iter_examples([tmp_path / "generator_sft.jsonl"], reading)
    [trained] = encode_examples(generator.tokenizer, [(example.parts, example.completion)])
    asked = load_format(form).render_problem(CHOSEN["concepts"], CHOSEN["level"])
    assert trained.input_ids[: trained.prompt_length] == generator.encode(generator.render(asked))
    written = load_format(form).write(CHOSEN["rationale"], CHOSEN["problem"])
    assert trained.input_ids == generator._sequence(asked, written)[0]
