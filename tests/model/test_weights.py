"""Checkpoints in every layout load to the same numbers; what is no causal language model is refused by name."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from promptcot_mamba.checkpoint import CODESTRAL, MAMBA_SSM, find_layout
from promptcot_mamba.errors import InputError
from promptcot_mamba.model import Mamba2ForCausalLM, load_causal_lm
from promptcot_mamba.model.layouts import write_mamba_ssm_names
from tests.tiny import make_checkpoint


@pytest.mark.parametrize("layout", [CODESTRAL, MAMBA_SSM])
@pytest.mark.parametrize("tied", [False, True])
def test_released_layouts_hold_the_same_model(tmp_path, layout, tied):
    original = load_causal_lm(make_checkpoint(tmp_path / "hf", n_groups=8, tie_word_embeddings=tied))
    write_mamba_ssm_names(tmp_path / layout, layout, original.config, original.state_dict())
    assert find_layout(tmp_path / layout) == layout
    again = load_causal_lm(tmp_path / layout)
    assert again.config.tie_word_embeddings is tied
    for name in ("num_heads", "head_dim", "n_groups", "state_size", "expand", "conv_kernel", "num_hidden_layers"):
        assert getattr(again.config, name) == getattr(original.config, name), name
    ids = torch.arange(3, 40)[None]
    torch.testing.assert_close(again(ids).logits, original(ids).logits, rtol=0, atol=0)


def test_released_names_are_mamba_ssms(tmp_path):
    original = load_causal_lm(make_checkpoint(tmp_path / "hf"))
    write_mamba_ssm_names(tmp_path / "out", CODESTRAL, original.config, original.state_dict())
    names = load_file(tmp_path / "out" / "consolidated.safetensors")
    assert {"backbone.embedding.weight", "lm_head.weight", "backbone.layers.0.mixer.A_log"} <= names.keys()
    params = json.loads((tmp_path / "out" / "params.json").read_text())
    assert (params["dim"], params["n_layers"], params["n_groups"]) == (64, 2, 1)


def test_a_release_prefixed_by_model_loads(tmp_path):
    original = load_causal_lm(make_checkpoint(tmp_path / "hf"))
    write_mamba_ssm_names(tmp_path / "out", CODESTRAL, original.config, original.state_dict())
    weights = load_file(tmp_path / "out" / "consolidated.safetensors")
    save_file({f"model.{k}": v for k, v in weights.items()}, tmp_path / "out" / "consolidated.safetensors")
    ids = torch.arange(3, 20)[None]
    torch.testing.assert_close(load_causal_lm(tmp_path / "out")(ids).logits, original(ids).logits)


def test_an_early_conversion_is_saved_under_transformers_names(tmp_path):
    """Its embeddings have mamba-ssm's name; transformers turns a mapping of names around when it saves."""
    folder = make_checkpoint(tmp_path / "early")
    names = load_file(folder / "model.safetensors")
    early = {name.replace("backbone.embeddings.", "backbone.embedding."): value for name, value in names.items()}
    assert early.keys() != names.keys()
    save_file(early, folder / "model.safetensors", metadata={"format": "pt"})
    load_causal_lm(folder).save_pretrained(tmp_path / "saved")
    assert load_file(tmp_path / "saved" / "model.safetensors").keys() == names.keys()


def test_dtype_is_kept_or_chosen(tmp_path):
    folder = make_checkpoint(tmp_path / "a")
    load_causal_lm(folder, dtype=torch.bfloat16).save_pretrained(tmp_path / "b")
    assert load_causal_lm(tmp_path / "b").dtype == torch.bfloat16
    assert load_causal_lm(tmp_path / "b", dtype=torch.float32).dtype == torch.float32


def test_other_causal_models_keep_their_class(tmp_path):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    model = load_causal_lm(tmp_path)
    assert isinstance(model, Qwen2ForCausalLM)
    assert not isinstance(model, Mamba2ForCausalLM)


def test_what_is_no_causal_language_model_is_named(tmp_path):
    from transformers import BertConfig, BertForSequenceClassification

    with pytest.raises(InputError, match="no such folder"):
        load_causal_lm(tmp_path / "nowhere")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("x")
    with pytest.raises(InputError, match=r"no config.json.*todo.txt"):
        load_causal_lm(tmp_path / "notes")
    tiny = BertConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertForSequenceClassification(tiny).save_pretrained(tmp_path / "bert")
    with pytest.raises(InputError, match="BertForSequenceClassification, which is not a causal language model"):
        load_causal_lm(tmp_path / "bert")


def test_damaged_checkpoints_are_refused(tmp_path):
    folder = make_checkpoint(tmp_path / "a")
    weights = load_file(folder / "model.safetensors")

    def damaged(name, change):
        shutil.copytree(folder, tmp_path / name)
        changed = dict(weights)
        change(changed)
        save_file(changed, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        return tmp_path / name

    lost = damaged("lost", lambda w: w.pop("backbone.layers.1.mixer.D"))
    with pytest.raises(InputError, match=r"1 missing keys in the weights, as backbone.layers.1.mixer.D"):
        load_causal_lm(lost)
    surplus = damaged("surplus", lambda w: w.update({"extra.weight": torch.zeros(2)}))
    with pytest.raises(InputError, match="unexpected keys"):
        load_causal_lm(surplus)
    (tmp_path / "lost" / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_causal_lm(lost)
    (tmp_path / "lost" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="config without weights"):
        load_causal_lm(lost)
    (tmp_path / "lost" / "config.json").write_text("{")
    with pytest.raises(InputError, match="malformed JSON"):
        load_causal_lm(lost)
    write_mamba_ssm_names(tmp_path / "ssm", MAMBA_SSM, load_causal_lm(folder).config, weights)
    config = json.loads((tmp_path / "ssm" / "config.json").read_text())
    config["ssm_cfg"] = {}
    (tmp_path / "ssm" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="not made of Mamba-2 layers"):
        load_causal_lm(tmp_path / "ssm")
