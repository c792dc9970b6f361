"""Shards of the shipped recipes train: packed rows on Mamba-2, single documents on a Transformer (Qwen2)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from promptcot_mamba.data.shards import ShardRows
from tests.data.planted import plant
from tests.tiny import make_checkpoint, make_tokenizer

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def run(*arguments: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr + done.stdout


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    plant(folder, 120, seed=2)
    return folder


def prepare(raw: Path, recipe: str, tokenizer: Path, output: Path) -> None:
    """A shipped recipe, its counts in the hundreds of thousands made small."""
    small = output.with_suffix(".yaml")
    small.write_text((ROOT / f"configs/data/{recipe}.yaml").read_text().replace("000\n", "\n").replace("000 ", " "))
    run(
        "-m", "scripts.prepare_sft_data", "--config", small, "--source_dir", raw, "--tokenizer_path", tokenizer,
        "--output_dir", output, "--benchmarks", "none", "--workers", "1", "--max_length", "2048",
    )  # fmt: skip


def train(recipe: str, model: Path, data: Path, output: Path, *flags: str) -> None:
    run(
        "train.py", "--config", f"configs/{recipe}.yaml", "--model_name_or_path", model, "--data_path", data,
        "--output_dir", output, "--max_length", "2048", "--max_steps", "2", "--gradient_accumulation_steps", "2",
        "--bf16=False", "--report_to", "none", "--deepspeed=", *flags,
    )  # fmt: skip
    assert (output / "model.safetensors").is_file()


def test_two_phases_of_mamba2(raw, tmp_path):
    model = make_checkpoint(tmp_path / "base")
    for phase, start in ((1, model), (2, tmp_path / "run1")):
        data = tmp_path / f"data{phase}"
        prepare(raw, f"phase{phase}", model, data)
        train(f"sft_phase{phase}", start, data, tmp_path / f"run{phase}")
    assert ShardRows(tmp_path / "data1").manifest["counts"]["sources"].keys() == {
        "opencodereasoning_0", "opencodereasoning_1", "openthoughts2",
    }  # fmt: skip
    drawn = ShardRows(tmp_path / "data2").manifest["counts"]["sources"]
    assert [drawn[name]["in_mixture"] for name in drawn] == [256, 128, 128]


def test_a_transformer_of_the_teachers_class(raw, tmp_path):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = make_tokenizer()
    model = tmp_path / "qwen2"
    config = Qwen2Config(
        vocab_size=384, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(model)
    tokenizer.save_pretrained(model)
    prepare(raw, "promptcot_ds", model, tmp_path / "data")
    train("promptcot_ds_1_5b", model, tmp_path / "data", tmp_path / "run")
    row = ShardRows(tmp_path / "data")[0]
    assert "<\uff5cUser\uff5c>" in tokenizer.decode(row["input_ids"])  # the teacher's own chat text


def test_conversations_train_without_preparation(tmp_path):
    """A ShareGPT file and a `messages` file, and the template that the checkpoint then asks questions in."""
    import json

    from transformers import AutoTokenizer

    from promptcot_mamba.chat_format import CHAT_TEMPLATE

    model = make_checkpoint(tmp_path / "base")
    turns = [("human", "2+2?"), ("gpt", "<think>\n2 + 2\n</think>\n\n4"), ("human", "And 3+3?"), ("gpt", "6")]
    sharegpt = {"conversations": [{"from": role, "value": text} for role, text in turns]}
    roles = {"human": "user", "gpt": "assistant"}
    messages = {"messages": [{"role": roles[role], "content": text} for role, text in turns]}
    for name, row in (("sharegpt", sharegpt), ("messages", messages)):
        data = tmp_path / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for _ in range(8)))
        train("sft_phase1", model, data, tmp_path / name, "--token_cache", str(tmp_path / "cache"))
        assert AutoTokenizer.from_pretrained(tmp_path / name).chat_template == CHAT_TEMPLATE
