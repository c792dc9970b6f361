"""Our Mamba-2: packing, padding, losses, gradients, generation, and the checkpoints it writes."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import Mamba2ForCausalLM as TransformersMamba2

from promptcot_mamba.errors import InputError
from promptcot_mamba.model import load_causal_lm
from promptcot_mamba.ops.packing import cu_seqlens_from_lengths
from tests.model.conftest import load_transformers
from tests.tiny import make_checkpoint

LENGTHS = [40, 1, 64, 23, 2]


@pytest.fixture
def model(checkpoint):
    return load_causal_lm(checkpoint, dtype=torch.float32).train()


def tokens(*shape, seed=0):
    return torch.randint(3, 384, shape, generator=torch.Generator().manual_seed(seed))


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return found


def assert_same_gradients(want, got, ratio):
    for name, grad in want.items():
        error = float((got[name] - grad).norm() / grad.norm().clamp(min=1e-12))
        assert error < ratio, f"{name}: {error:.1e}"


def test_logits_and_gradients_equal_transformers(checkpoint, model):
    theirs = load_transformers(checkpoint).train()
    ids = tokens(2, 150)
    torch.testing.assert_close(model(ids).logits, theirs(ids).logits, rtol=1e-4, atol=1e-4)
    ours_loss = model(ids, labels=ids).loss
    their_loss = theirs(ids, labels=ids, use_cache=False).loss
    torch.testing.assert_close(ours_loss, their_loss, rtol=1e-6, atol=1e-6)
    ours_loss.backward()
    their_loss.backward()
    assert_same_gradients(gradients(theirs), gradients(model), 1e-4)


def test_packed_equals_separate_in_loss_and_gradients(model):
    documents = [tokens(length, seed=length) for length in LENGTHS]
    labels = [document.clone() for document in documents]
    labels[0][:10] = -100
    loss = model(
        torch.cat(documents)[None], labels=torch.cat(labels)[None], cu_seqlens=cu_seqlens_from_lengths(LENGTHS),
        num_items_in_batch=100,
    ).loss  # fmt: skip
    loss.backward()
    packed = gradients(model)
    total = 0
    for document, label in zip(documents, labels, strict=True):
        alone = model(document[None], labels=label[None], num_items_in_batch=100).loss
        alone.backward()
        total += alone.detach()
    torch.testing.assert_close(loss.detach(), total, rtol=1e-5, atol=0)
    assert_same_gradients(gradients(model), packed, 1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(model, side):
    lengths = [50, 7, 1]
    ids, mask = torch.zeros(3, 50, dtype=torch.long), torch.zeros(3, 50, dtype=torch.long)
    for row, length in enumerate(lengths):
        place = slice(50 - length, 50) if side == "left" else slice(0, length)
        ids[row, place], mask[row, place] = tokens(length, seed=row), 1
    outputs = model(ids, attention_mask=mask)
    for row, length in enumerate(lengths):
        place = slice(50 - length, 50) if side == "left" else slice(0, length)
        alone = model(ids[row : row + 1, place]).logits
        torch.testing.assert_close(outputs.logits[row, place], alone[0], rtol=1e-4, atol=1e-4)
    padded = model(ids, attention_mask=mask, labels=ids).loss
    packed = model(ids[mask.bool()][None], labels=ids[mask.bool()][None], cu_seqlens=cu_seqlens_from_lengths(lengths))
    torch.testing.assert_close(padded, packed.loss, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(model, reentrant):
    ids, cu_seqlens = tokens(1, 100), torch.tensor([0, 30, 100])
    model(ids, labels=ids, cu_seqlens=cu_seqlens).loss.backward()
    kept = gradients(model)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    model(ids, labels=ids, cu_seqlens=cu_seqlens).loss.backward()
    assert_same_gradients(kept, gradients(model), 1e-6)


def test_generation_equals_reading_again(model):
    """Greedy tokens from states equal those from reading the whole text anew, and left padding changes none."""
    model.eval()
    ids = tokens(1, 33)
    got = model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None)
    text = ids
    with torch.no_grad():
        for _ in range(12):
            text = torch.cat([text, model(text, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    assert got.tolist() == text.tolist()
    padded = torch.cat([torch.zeros(1, 9, dtype=torch.long), ids], dim=1)
    both = torch.cat([padded, tokens(1, 42, seed=5)])
    mask = (torch.arange(42) >= torch.tensor([[9], [0]])).long()
    batch = model.generate(both, attention_mask=mask, max_new_tokens=12, do_sample=False, eos_token_id=None)
    assert batch[0, 42:].tolist() == text[0, 33:].tolist()


def test_a_prompt_can_be_read_in_parts(model):
    model.eval()
    ids = tokens(2, 70)
    with torch.no_grad():
        whole = model(ids, use_cache=False).logits
        first = model(ids[:, :37], use_cache=True)
        second = model(ids[:, 37:], cache_params=first.cache_params, use_cache=True)
        last = model(ids[:, :1], cache_params=second.cache_params, use_cache=True)
        again = model(torch.cat([ids, ids[:, :1]], 1), use_cache=False).logits[:, -1:]
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(last.logits, again, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
def test_what_it_saves_loads_unmodified_in_transformers(tmp_path, tied):
    model = load_causal_lm(make_checkpoint(tmp_path / "a", tie_word_embeddings=tied), dtype=torch.float32)
    with torch.no_grad():
        model.backbone.layers[0].mixer.D.mul_(2)
    model.save_pretrained(tmp_path / "b")
    theirs, found = TransformersMamba2.from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    ids = tokens(1, 20)
    torch.testing.assert_close(model(ids).logits, theirs(ids).logits, rtol=1e-4, atol=1e-4)
    assert (model.lm_head.weight is model.backbone.embeddings.weight) is tied


def test_bf16_gradients_are_no_worse_than_transformers(checkpoint):
    """Error of every parameter's gradient against fp32 from the same bf16 weights, dA and dt's bias included."""
    exact = load_causal_lm(checkpoint, dtype=torch.bfloat16).float().train()
    ids = tokens(1, 200, seed=3)
    exact(ids, labels=ids).loss.backward()
    want = gradients(exact)
    errors = {}
    for name, model in {
        "ours": load_causal_lm(checkpoint, dtype=torch.bfloat16),
        "theirs": load_transformers(checkpoint, dtype=torch.bfloat16),
    }.items():
        model.train()(ids, labels=ids, use_cache=False).loss.backward()
        got = gradients(model)
        errors[name] = {k: float((got[k].float() - v).norm() / v.norm()) for k, v in want.items()}
    worse = {k: (errors["ours"][k], v) for k, v in errors["theirs"].items() if errors["ours"][k] > 1.2 * v + 2e-3}
    assert not worse, worse


def test_training_follows_inference_mode(model):
    ids, cu_seqlens = tokens(1, 90), torch.tensor([0, 30, 90])
    with torch.inference_mode():
        model(ids, cu_seqlens=cu_seqlens, use_cache=False)
        model(ids, cu_seqlens=torch.tensor([0, 20, 90]), use_cache=False)
        model.eval().generate(ids, max_new_tokens=3, do_sample=False)
    model.train()(ids, labels=ids, cu_seqlens=cu_seqlens).loss.backward()
    assert model.backbone.embeddings.weight.grad.isfinite().all()


def test_fresh_weights_follow_transformers_recipe(model):
    fresh = type(model)(copy.deepcopy(model.config))
    mixer = fresh.backbone.layers[0].mixer
    torch.testing.assert_close(mixer.A_log.exp(), torch.arange(1, 9).float())
    dt = torch.nn.functional.softplus(mixer.dt_bias)
    assert bool(((dt > 0.0009) & (dt < 0.11)).all())


def test_bad_calls_are_named(model):
    ids = tokens(2, 10)
    with pytest.raises(InputError, match="one packed row"):
        model(ids, cu_seqlens=torch.tensor([0, 10]))
    with pytest.raises(InputError, match="must end at"):
        model(ids[:1], cu_seqlens=torch.tensor([0, 9]))
    with pytest.raises(InputError, match="row 1 masks every token"):
        model(ids, attention_mask=torch.tensor([[1] * 10, [0] * 10]))
    with pytest.raises(InputError, match="either input_ids or inputs_embeds"):
        model()


def test_resized_vocabulary_goes_on_computing_losses(model):
    """transformers' resizing makes a plain linear head, which knew nothing of losses."""
    ids = tokens(2, 20)
    before = model(ids, labels=ids).loss
    model.resize_token_embeddings(400, mean_resizing=False)
    logits = model(ids).logits
    assert logits.shape[-1] == 400
    want = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(model(ids, labels=ids).loss, want, rtol=1e-5, atol=1e-5)
    model.resize_token_embeddings(384)
    torch.testing.assert_close(model(ids, labels=ids).loss, before)


def test_outputs_follow_keywords_and_config(model):
    ids = tokens(1, 12)
    layers = model.config.num_hidden_layers
    assert model(ids).hidden_states is None
    assert len(model(ids, output_hidden_states=True).hidden_states) == layers + 1
    assert isinstance(model(ids, return_dict=False), tuple)
    assert isinstance(model.backbone(ids, return_dict=False), tuple)
    model.config.output_hidden_states, model.config.return_dict = True, False
    loss, hidden_states = model(ids, labels=ids)
    assert loss.ndim == 0
    assert len(hidden_states) == layers + 1


def test_shifted_labels_are_taken_as_they_are(model):
    ids = tokens(1, 16)
    shifted = torch.cat([ids[:, 1:], torch.full((1, 1), -100)], dim=1)
    torch.testing.assert_close(model(ids, shift_labels=shifted).loss, model(ids, labels=ids).loss)
    with torch.no_grad():
        other = model(ids, labels=ids, shift_labels=shifted.roll(3, 1)).loss
        assert not torch.isclose(other, model(ids, labels=ids).loss)


def test_generation_from_embeddings(model):
    ids = tokens(2, 9)
    embedded = model.eval().get_input_embeddings()(ids)
    want = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=None)[:, 9:]
    assert torch.equal(
        model.generate(inputs_embeds=embedded, max_new_tokens=6, do_sample=False, eos_token_id=None), want
    )


@pytest.mark.parametrize("name", ["cu_seqlen", "past_key_values", "position_ids"])
def test_unknown_keywords_raise(model, name):
    """`cu_seqlen` would run unpacked, `past_key_values` would lose the state."""
    for one in (model, model.backbone):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            one(tokens(1, 4), **{name: None})
    with pytest.raises(InputError, match="has no attentions"):
        model(tokens(1, 4), output_attentions=True)
