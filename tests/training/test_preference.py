"""Preferences: the loss and every gradient of packed pairs are those of the formula over whole logits."""

from __future__ import annotations

import copy
import json
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid

from promptcot_mamba.data.collate import collate_packed
from promptcot_mamba.data.preferences import iter_preferences, make_pair_rows
from promptcot_mamba.data.tokens import TokenStore, build_store, open_store
from promptcot_mamba.errors import InputError
from promptcot_mamba.model import load_causal_lm
from promptcot_mamba.training.arguments import DataArguments, SftArguments
from promptcot_mamba.training.checks import check_objective
from promptcot_mamba.training.identity import DATA_KEY, TOKENIZER_KEY
from promptcot_mamba.training.preference import PreferenceTrainer, read_reference
from promptcot_mamba.training.run_folder import MODEL_KEY
from tests.training.test_losses import assert_same, step_gradients

IDENTITY = {MODEL_KEY: "m", DATA_KEY: "d", TOKENIZER_KEY: "t"}
BETA = 0.3


def write_pairs(path: Path, count: int = 9) -> Path:
    draw = random.Random(1)
    with path.open("w") as file:
        for index in range(count):
            a, b = draw.randint(0, 99), draw.randint(0, 99)
            thought = f"{a} + {b} = {a + b}\n" * draw.randint(1, 5)
            row = {
                "id": f"p{index}", "prompt": f"Find {a} plus {b}.",
                "chosen": f"<think>\n{thought}</think>\nThe answer is \\boxed{{{a + b}}}.",
                "rejected": f"<think>\n{a}\n</think>\nThe answer is \\boxed{{{a + b + 1}}}.",
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, tokenizer) -> TokenStore:
    folder = tmp_path_factory.mktemp("pairs")
    build_store(folder / "store", [write_pairs(folder / "pairs.jsonl")], tokenizer, read=iter_preferences)
    return open_store(folder / "store")


def make_trainer(model, rows, folder: Path, **flags) -> PreferenceTrainer:
    args = SftArguments(output_dir=str(folder), report_to=[], objective="dpo", beta=BETA, **flags)
    collate = partial(collate_packed, pad_id=2)
    return PreferenceTrainer(model=model, args=args, collate=collate, train_dataset=rows, identity=IDENTITY)


@pytest.fixture
def policy(checkpoint: Path):
    """A model, and the one it was before it moved."""
    model = load_causal_lm(str(checkpoint), dtype=torch.float64)
    reference = copy.deepcopy(model).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model, reference


def answer_logp(model, store: TokenStore, document: int) -> tuple[torch.Tensor, int]:
    """An answer's log-probability by definition: a document alone, log-softmax of its whole logits."""
    ids = torch.from_numpy(store.input_ids(document).astype(np.int64))
    hidden = model.backbone(ids[None], use_cache=False).last_hidden_state  # the model's own logits are fp32
    logps = (hidden[0, :-1] @ model.lm_head.weight.T).log_softmax(-1)
    start = int(store.prompt_lengths[document])
    return logps.gather(1, ids[1:, None])[start - 1 :, 0].sum(), len(ids) - start


def defined_loss(
    model, reference, store: TokenStore, rows, length_normalised: bool, nll_weight: float = 0.0
) -> torch.Tensor:
    losses = []
    for chosen, rejected in rows.selection.documents.reshape(-1, 2):
        ratios, means = [], []
        for document in (int(chosen), int(rejected)):
            logp, length = answer_logp(model, store, document)
            means.append(logp / length)
            with torch.no_grad():
                known, _ = answer_logp(reference, store, document)
            ratios.append((logp - known) / (length if length_normalised else 1))
        losses.append(-logsigmoid(BETA * (ratios[0] - ratios[1])) - nll_weight * means[0])
    return torch.stack(losses).mean()


def set_reference(trainer: PreferenceTrainer, reference) -> None:
    """What a run does before its first step, with another model than its own."""
    trainer.model, trainer.model_wrapped, own = reference, reference, trainer.model
    trainer.find_reference()
    trainer.model, trainer.model_wrapped = own, own


@pytest.mark.parametrize(("length_normalised", "nll_weight"), [(False, 0.0), (True, 0.0), (False, 0.7), (True, 0.7)])
@pytest.mark.parametrize(("world_size", "rows_per_device"), [(1, 1), (1, 4), (2, 1)])
def test_loss_and_gradients_are_those_of_whole_logits(
    policy,
    pairs,
    tmp_path,
    one_world,
    length_normalised: bool,
    nll_weight: float,
    world_size: int,
    rows_per_device: int,
):
    model, reference = policy
    rows = make_pair_rows(pairs, 500)
    assert 1 < len(rows) < len(pairs) // 2  # several rows, of several pairs
    trainer = make_trainer(model, rows, tmp_path, length_normalised=length_normalised, nll_weight=nll_weight)
    set_reference(trainer, reference)
    found = step_gradients(trainer, world_size=world_size, rows_per_device=rows_per_device)
    model.zero_grad()
    loss = defined_loss(model, reference, pairs, rows, length_normalised, nll_weight)
    loss.backward()
    expected = float(loss.detach()), {name: parameter.grad for name, parameter in model.named_parameters()}
    assert found[0] != pytest.approx(float(np.log(2)), abs=1e-3)  # the model has moved from its reference
    assert_same(expected, found, tolerance=1e-9)


def test_metrics_are_means_over_pairs(policy, pairs, tmp_path):
    model, reference = policy
    rows = make_pair_rows(pairs, 500)
    trainer = make_trainer(model, rows, tmp_path)
    set_reference(trainer, reference)
    step_gradients(trainer, world_size=1, rows_per_device=2)
    trainer.meter.documents = len(pairs)
    trainer.log(logs := {"loss": 1.0})
    rewards, nlls, drop, tokens = [], [], 0.0, 0
    with torch.no_grad():
        for document in rows.selection.documents:
            logp, length = answer_logp(model, pairs, int(document))
            ratio = float(logp - answer_logp(reference, pairs, int(document))[0])
            rewards.append(BETA * ratio)
            nlls.append(-float(logp) / length)
            drop, tokens = drop - ratio, tokens + length
    chosen, rejected = np.reshape(rewards, (-1, 2)).T
    assert logs["nll"] == pytest.approx(np.mean(nlls[::2]), rel=1e-3)
    assert logs["rewards/chosen"] == pytest.approx(chosen.mean(), rel=1e-3)
    assert logs["rewards/rejected"] == pytest.approx(rejected.mean(), rel=1e-3)
    assert logs["rewards/margins"] == pytest.approx((chosen - rejected).mean(), rel=1e-3, abs=1e-6)
    assert logs["rewards/accuracies"] == pytest.approx((chosen > rejected).mean())
    assert logs["kl"] == pytest.approx(drop / tokens, rel=1e-3)


def test_an_empty_share_of_a_step_adds_nothing(policy, pairs, tmp_path):
    model, reference = policy
    trainer = make_trainer(model, make_pair_rows(pairs, 500), tmp_path)
    set_reference(trainer, reference)
    loss = trainer.compute_loss(model, collate_packed([], pad_id=2), num_items_in_batch=3)
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(float(parameter.grad.abs().max()) == 0 for parameter in model.parameters())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(2, 40), min_size=2, max_size=40), st.integers(10, 120), st.integers(0, 3))
def test_pairs_stay_whole_whatever_is_packed(lengths: list[int], capacity: int, seed: int):
    lengths = lengths[: len(lengths) // 2 * 2]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ids = [f"p{at // 2}/{('chosen', 'rejected')[at % 2]}" for at in range(len(lengths))]
    store = TokenStore(
        np.arange(starts[-1], dtype=np.int32), starts, np.ones(len(lengths), np.int32), ids, ["s"] * len(ids)
    )
    fitting = [pair for pair in range(len(lengths) // 2) if sum(lengths[2 * pair : 2 * pair + 2]) <= capacity]
    if not fitting:
        with pytest.raises(InputError, match="no usable pair"):
            make_pair_rows(store, capacity, seed)
        return
    rows = make_pair_rows(store, capacity, seed)
    seen = []
    for row in (rows[number] for number in range(len(rows))):
        assert len(row["input_ids"]) <= capacity
        names = row["example_ids"]
        assert [name.split("/")[1] for name in names] == ["chosen", "rejected"] * (len(names) // 2)
        assert [name.split("/")[0] for name in names[::2]] == [name.split("/")[0] for name in names[1::2]]
        assert [ids[document] for document in row["store_documents"]] == names
        seen += names[::2]
    assert sorted(seen) == sorted(f"p{pair}/chosen" for pair in fitting)


def test_a_side_without_its_other_is_left_out(pairs):
    kept = np.delete(np.arange(len(pairs)), 3)  # as where control text was dropped
    starts = np.concatenate([[0], np.cumsum(pairs.lengths[kept])])
    store = TokenStore(
        np.zeros(starts[-1], np.int32), starts, pairs.prompt_lengths[kept], [pairs.ids[at] for at in kept], ["s"] * 17
    )
    rows = make_pair_rows(store, 10_000)
    assert [name for name in rows[0]["example_ids"] if name.startswith("p1/")] == []
    assert len(rows[0]["example_ids"]) == 16


def test_a_reference_is_kept_and_read_again(policy, pairs, tmp_path):
    model, reference = policy
    rows = make_pair_rows(pairs, 500)
    trainer = make_trainer(model, rows, tmp_path)
    set_reference(trainer, reference)
    again = make_trainer(model, rows, tmp_path / "other", reference_path=str(tmp_path / "reference.npz"))
    again.find_reference()
    assert torch.equal(again._reference, trainer._reference)
    for name, value in IDENTITY.items():
        with pytest.raises(InputError, match=f"another {name.partition(' ')[0]} than"):
            read_reference(tmp_path / "reference.npz", {**IDENTITY, name: f"not {value}"}, rows.selection.documents)
    fewer = make_trainer(model, make_pair_rows(pairs, 160), tmp_path / "fewer")
    set_reference(fewer, reference)
    assert len(fewer.pairs.selection.documents) < len(pairs)
    with pytest.raises(InputError, match="another selection of rows"):  # a larger --max_length than it was made with
        read_reference(tmp_path / "fewer" / "reference.npz", IDENTITY, rows.selection.documents)
    (tmp_path / "torn.npz").write_bytes((tmp_path / "reference.npz").read_bytes()[:100])
    with pytest.raises(InputError, match=r"torn\.npz: no reference log-probabilities"):
        read_reference(tmp_path / "torn.npz", IDENTITY, rows.selection.documents)
    later = make_trainer(model, rows, tmp_path / "gone")
    later.state.global_step = 5
    with pytest.raises(InputError, match="gone, and a trained model cannot compute it"):
        later.find_reference()


@pytest.mark.parametrize(
    ("flags", "data_flags", "packing", "words"),
    [
        ({"objective": "dpo"}, {}, False, "--packing False"),
        ({"objective": "dpo", "loss_average": "examples"}, {}, True, "--loss_average examples"),
        ({"objective": "dpo"}, {"overlong": "truncate"}, True, "--overlong truncate"),
        ({"objective": "dpo"}, {"eval_data_path": ["pairs.jsonl"]}, True, "--eval_data_path pairs.jsonl: validation"),
        ({"beta": 0.2}, {}, True, "--beta 0.2: needs --objective dpo"),
        ({"length_normalised": True}, {}, True, "--length_normalised True: needs --objective dpo"),
        ({"nll_weight": 1.0}, {}, True, "--nll_weight 1.0: needs --objective dpo"),
        ({"reference_path": "x.npz"}, {}, True, "--reference_path x.npz: needs --objective dpo"),
    ],
)
def test_flags_that_do_not_go_together(tmp_path, flags, data_flags, packing: bool, words: str):
    args = SftArguments(output_dir=str(tmp_path), report_to=[], **flags)
    with pytest.raises(InputError, match=words):
        check_objective(args, DataArguments(**data_flags), packing, is_mamba2=True)
