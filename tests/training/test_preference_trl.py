"""The preference loss beside TRL's DPOTrainer, on the same pairs and weights, where trl is installed."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Mamba2ForCausalLM

from promptcot_mamba.data.preferences import iter_preferences, make_pair_rows
from promptcot_mamba.data.tokens import build_store, open_store
from promptcot_mamba.model import load_causal_lm
from tests.tiny import make_checkpoint
from tests.training.test_losses import step_gradients
from tests.training.test_preference import BETA, make_trainer, set_reference, write_pairs

trl = pytest.importorskip("trl", reason="trl is not installed; it is no part of this project")


def move(model, seed: int = 0):
    """The same change of all weights, by name, whatever the class."""
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for number, (_, parameter) in enumerate(sorted(moved.named_parameters())):
            generator = torch.Generator().manual_seed(seed + number)
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return moved


def test_loss_is_trls(tmp_path: Path, tokenizer, one_world):
    """TRL pads, and makes transformers' model compute whole logits; one group, for there both models are the same."""
    from datasets import Dataset

    folder = make_checkpoint(tmp_path / "model", n_groups=1)
    build_store(tmp_path / "store", [write_pairs(tmp_path / "pairs.jsonl", 4)], tokenizer, read=iter_preferences)
    store = open_store(tmp_path / "store")
    rows = make_pair_rows(store, 10_000)

    ours = load_causal_lm(str(folder), dtype=torch.float32)
    trainer = make_trainer(move(ours), rows, tmp_path / "ours")
    set_reference(trainer, ours.eval())
    loss, _ = step_gradients(trainer, world_size=1, rows_per_device=1)

    examples = []
    for chosen, rejected in rows.selection.documents.reshape(-1, 2):
        ids = [store.input_ids(int(document)).tolist() for document in (chosen, rejected)]
        start = int(store.prompt_lengths[chosen])
        examples.append({"prompt_ids": ids[0][:start], "chosen_ids": ids[0][start:], "rejected_ids": ids[1][start:]})
    theirs = Mamba2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = trl.DPOConfig(
        output_dir=str(tmp_path / "theirs"), beta=BETA, max_length=None, per_device_train_batch_size=len(examples),
        report_to=[], use_cpu=True, gradient_checkpointing=False, bf16=False,
    )  # fmt: skip
    peer = trl.DPOTrainer(
        model=move(theirs), ref_model=theirs, args=config, processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),  # it insists on text
    )  # fmt: skip
    expected = peer.compute_loss(peer.model, peer.data_collator(examples))
    assert abs(float(expected.detach()) - np.log(2)) > 1e-3
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
