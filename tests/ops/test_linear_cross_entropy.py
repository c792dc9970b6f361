"""The chunked loss against whole logits."""

from __future__ import annotations

import functools

import pytest
import torch

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.linear_cross_entropy import LINEAR_CROSS_ENTROPY_BACKENDS, chunked, linear_cross_entropy
from tests.ops.comparison import assert_matches_definition, each_backend

draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def make_inputs(t=150, d=16, v=40, ignored=3):
    labels = torch.arange(t) % v
    labels[::ignored] = -100
    return {"hidden": draw(t, d), "weight": draw(v, d), "labels": labels}


@pytest.mark.parametrize("backend", each_backend(LINEAR_CROSS_ENTROPY_BACKENDS))
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_loss_and_gradients_equal_the_definition(backend, reduction):
    assert_matches_definition(
        functools.partial(linear_cross_entropy, reduction=reduction),
        make_inputs(),
        LINEAR_CROSS_ENTROPY_BACKENDS,
        backend,
    )


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_slices_make_no_difference(monkeypatch, reduction):
    monkeypatch.setattr(chunked, "LOGITS_BYTES", 4 * 40 * 7)  # the least, 64 rows at once
    op = functools.partial(linear_cross_entropy, reduction=reduction)
    assert_matches_definition(op, make_inputs(t=200), LINEAR_CROSS_ENTROPY_BACKENDS, "chunked")


def test_large_logits_do_not_overflow():
    inputs = make_inputs()
    inputs["hidden"] = inputs["hidden"] * 300
    assert_matches_definition(linear_cross_entropy, inputs, LINEAR_CROSS_ENTROPY_BACKENDS, "chunked")


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_nothing_labelled_is_a_zero_loss_with_zero_gradients(reduction):
    inputs = make_inputs(ignored=1)
    hidden, weight = inputs["hidden"].requires_grad_(), inputs["weight"].requires_grad_()
    loss = linear_cross_entropy(hidden, weight, inputs["labels"], reduction=reduction)
    loss.sum().backward()
    assert loss.sum() == 0
    assert hidden.grad.abs().max() == 0
    assert weight.grad.abs().max() == 0


def test_bad_arguments_are_named():
    hidden, weight = torch.zeros(4, 8), torch.zeros(10, 8)
    labels = torch.tensor([1, 2, -100, 9])
    with pytest.raises(InputError, match=r"labels must lie in \[0, 10\)"):
        linear_cross_entropy(hidden, weight, torch.tensor([1, 10, 2, 3]))
    with pytest.raises(InputError, match="weight must have shape"):
        linear_cross_entropy(hidden, torch.zeros(10, 7), labels)
    with pytest.raises(InputError, match="labels must be int64"):
        linear_cross_entropy(hidden, weight, labels.int())
    with pytest.raises(InputError, match="reduction must be"):
        linear_cross_entropy(hidden, weight, labels, reduction="avg")
