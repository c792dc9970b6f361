"""The step's loss and gradient: the same packed or apart, in one process or several, however it is split up."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from promptcot_mamba.data.collate import collate_packed, collate_padded
from promptcot_mamba.data.dataset import make_rows
from promptcot_mamba.model import load_causal_lm
from promptcot_mamba.training.arguments import SftArguments
from promptcot_mamba.training.batches import StepSampler
from promptcot_mamba.training.meters import count_batch
from promptcot_mamba.training.trainer import SftTrainer

MAX_LENGTH = 200


def make_trainer(model, rows, tmp_path: Path, *, packing: bool, loss_average: str) -> SftTrainer:
    args = SftArguments(output_dir=str(tmp_path), report_to=[], loss_average=loss_average)
    collate = partial(collate_packed if packing else collate_padded, pad_id=2)
    return SftTrainer(model=model, args=args, collate=collate, train_dataset=rows, flops_per_token=None)


def step_gradients(trainer: SftTrainer, *, world_size: int, rows_per_device: int):
    """Loss and gradients of one step over the whole epoch, as `world_size` processes would make them.

    The engine averages gradients over processes; here each process's are summed and divided by their number.
    """
    trainer.model.zero_grad()
    trainer.args.__dict__["world_size"] = world_size  # a cached property's slot
    batches = []
    for rank in range(world_size):
        sampler = StepSampler(
            len(trainer.train_dataset), rows_per_device, world_size=world_size, rank=rank, seed=trainer.args.seed
        )
        batches += [trainer.data_collator([trainer.train_dataset[row] for row in rows]) for rows in sampler]
    labelled, _, _, documents = (sum(column) for column in zip(*map(count_batch, batches), strict=True))
    total = 0.0
    for batch in batches:
        loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=trainer.count_items(labelled, documents))
        (loss / world_size).backward()
        total += float(loss.detach()) / world_size
    return total, {name: parameter.grad.clone() for name, parameter in trainer.model.named_parameters()}


def assert_same(first, second, tolerance: float = 1e-5):
    assert first[0] == pytest.approx(second[0], rel=tolerance)
    for name, gradient in first[1].items():
        error = (gradient - second[1][name]).norm() / gradient.norm().clamp(min=1e-12)
        assert error < tolerance, f"{name}: relative error {error}"


@pytest.mark.parametrize("average", ["tokens", "examples"])
def test_packed_equals_separate(checkpoint: Path, store, tmp_path: Path, one_world, average: str):
    """Packed rows over 3 processes x micro-batches against every example alone in one process."""
    model = load_causal_lm(checkpoint, dtype=torch.float32)
    apart = make_trainer(
        model, make_rows(store, MAX_LENGTH, packing=False), tmp_path, packing=False, loss_average=average
    )
    expected = step_gradients(apart, world_size=1, rows_per_device=1)
    packed = make_trainer(
        model, make_rows(store, MAX_LENGTH, packing=True), tmp_path, packing=True, loss_average=average
    )
    assert len(packed.train_dataset) < len(apart.train_dataset)
    assert len(packed.train_dataset) % 3, "the last micro-batch must leave a process without rows"
    assert_same(expected, step_gradients(packed, world_size=3, rows_per_device=1))
    assert_same(expected, step_gradients(packed, world_size=1, rows_per_device=2))


def test_tokens_average_is_the_mean_over_labels(checkpoint: Path, store, tmp_path: Path, one_world):
    """Against the definition: every example alone, token losses summed, divided by all labels."""
    model = load_causal_lm(checkpoint, dtype=torch.float32)
    rows = make_rows(store, MAX_LENGTH, packing=False)
    summed, labelled, means = 0.0, 0, []
    with torch.no_grad():
        for row in rows:
            ids, labels = torch.tensor(row["input_ids"])[None].long(), torch.tensor(row["labels"])[None].long()
            logits = model(input_ids=ids)["logits"][0, :-1]
            losses = torch.nn.functional.cross_entropy(logits.float(), labels[0, 1:], reduction="none")
            count = int((labels != -100).sum())
            summed, labelled, means = (
                summed + float(losses.sum()),
                labelled + count,
                [*means, float(losses.sum()) / count],
            )
    for average, expected in (("tokens", summed / labelled), ("examples", sum(means) / len(means))):
        trainer = make_trainer(
            model, make_rows(store, MAX_LENGTH, packing=True), tmp_path, packing=True, loss_average=average
        )
        loss, _ = step_gradients(trainer, world_size=2, rows_per_device=1)
        assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("average", ["tokens", "examples"])
def test_other_models_train_padded(store, tmp_path: Path, one_world, average: str):
    """A tiny Qwen2: padded batches over 2 processes against every example alone."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=384,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = Qwen2ForCausalLM(config)
    rows = make_rows(store, MAX_LENGTH, packing=False)
    trainer = make_trainer(model, rows, tmp_path, packing=False, loss_average=average)
    expected = step_gradients(trainer, world_size=1, rows_per_device=1)
    assert_same(expected, step_gradients(trainer, world_size=2, rows_per_device=4))


def test_no_decay_on_vectors(checkpoint: Path, store, tmp_path: Path):
    model = load_causal_lm(checkpoint, dtype=torch.float32)
    trainer = make_trainer(
        model, make_rows(store, MAX_LENGTH, packing=True), tmp_path, packing=True, loss_average="tokens"
    )
    decayed = set(trainer.get_decay_parameter_names(model))
    names = dict(model.named_parameters())
    assert {"lm_head.weight", "backbone.layers.0.mixer.in_proj.weight"} <= decayed
    assert not [name for name in decayed if name.endswith(("A_log", ".D", "dt_bias", "norm.weight", "bias"))]
    assert all(names[name].dim() >= 2 for name in decayed)
