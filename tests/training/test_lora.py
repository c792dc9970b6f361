"""Adapters train packed rows beside frozen weights, resume exactly, and are merged in what is saved."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from promptcot_mamba.errors import InputError
from promptcot_mamba.model import load_causal_lm
from promptcot_mamba.training.lora import add_adapters, merged_weights
from tests.programs.train_helpers import losses
from tests.training.test_checkpoints import flags, run, unfinish

__all__ = ["flags"]  # the fixture


@pytest.fixture
def lora_flags(flags) -> dict[str, object]:
    return {**flags, "lora_rank": 4, "learning_rate": 2e-2}


def test_fresh_adapters_change_nothing_and_merged_ones_mean_the_same(checkpoint: Path):
    ids = torch.arange(3, 40)[None]
    model = load_causal_lm(checkpoint, dtype=torch.float32)
    before = model(ids).logits.detach()
    add_adapters(model, 4, 8.0, ["in_proj", "out_proj"])
    torch.testing.assert_close(model(ids).logits, before)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * 2 * model.config.num_hidden_layers  # two matrices, two modules, every layer
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in trained:
                parameter.normal_(std=0.1)
    plain = load_causal_lm(checkpoint, dtype=torch.float32)
    assert plain.load_state_dict(merged_weights(model)).missing_keys == []
    after = model(ids).logits.detach()
    torch.testing.assert_close(plain(ids).logits, after, rtol=1e-4, atol=1e-4)
    assert float((after - before).abs().max()) > 0.1


def test_a_run_trains_adapters_alone_and_exports_them_merged(lora_flags, checkpoint: Path):
    run(lora_flags)
    output = Path(lora_flags["output_dir"])
    curve = [loss for _, loss in losses(output)]
    assert curve[-1] < curve[0] - 0.2
    start, end = (load_file(folder / "model.safetensors") for folder in (checkpoint, output))
    changed = {name for name in start if not torch.equal(start[name], end[name])}
    assert start.keys() == end.keys()
    for folder in (output, output / "checkpoint-6"):  # or an engine would read the adapters as weights
        assert [file.name for file in folder.glob("*.safetensors")] == ["model.safetensors"]
    assert {name.split(".")[-2] for name in changed} == {"in_proj", "out_proj"}


def test_a_killed_run_continues_to_the_same_curve(lora_flags):
    run(lora_flags)
    output = Path(lora_flags["output_dir"])
    whole, weights = losses(output), load_file(output / "model.safetensors")
    unfinish(output, 6)
    shutil.rmtree(output / "checkpoint-2")
    run(lora_flags)
    assert losses(output) == whole
    again = load_file(output / "model.safetensors")
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    with pytest.raises(InputError, match="--lora_rank: 4 there, 8 now"):
        run(lora_flags, lora_rank=8)


def test_both_loss_averages_see_packed_documents(lora_flags, tmp_path: Path):
    """A wrapped model would have lost `cu_seqlens` or made whole logits: the first loss is full fine-tuning's."""
    for average in ("tokens", "examples"):
        one, full = tmp_path / f"lora-{average}", tmp_path / f"full-{average}"
        run(lora_flags, output_dir=one, max_steps=1, loss_average=average)
        run(lora_flags, output_dir=full, max_steps=1, loss_average=average, lora_rank=0)
        assert losses(one)[0][1] == pytest.approx(losses(full)[0][1], rel=1e-6)


def test_targets_that_are_not_there(lora_flags):
    with pytest.raises(InputError, match=r"--lora_target q_proj: no such linear layer in the model; it has in_proj"):
        run(lora_flags, lora_target="q_proj")
    assert not Path(lora_flags["output_dir"]).exists()


def test_adapters_of_a_transformer(tmp_path: Path):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=64, num_key_value_heads=1, **small))
    names = set(model.state_dict())
    assert add_adapters(model, 2, 4.0, ["q_proj", "v_proj"]) == 2 * (32 + 32) + 2 * (32 + 16)
    assert set(merged_weights(model)) == names
