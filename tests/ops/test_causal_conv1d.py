"""The convolution's backends against the definition; documents never read one another."""

from __future__ import annotations

import functools

import pytest
import torch

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.causal_conv1d import CAUSAL_CONV1D_BACKENDS, causal_conv1d
from promptcot_mamba.ops.packing import cu_seqlens_from_lengths
from tests.ops.comparison import assert_matches_definition, each_backend


def make_inputs(b, length, lengths=None, initial=False, d=24, width=4):
    draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs = {"x": draw(b, length, d), "weight": draw(d, width), "bias": draw(d)}
    if lengths:
        inputs["cu_seqlens"] = cu_seqlens_from_lengths(lengths)
    if initial:
        inputs["initial_states"] = draw(len(lengths) if lengths else b, d, width - 1)
    return inputs


@pytest.mark.parametrize("backend", each_backend(CAUSAL_CONV1D_BACKENDS))
@pytest.mark.parametrize("activation", ["silu", None])
@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("lengths", [None, [1, 2, 3, 4, 1, 30]])
def test_outputs_and_gradients_equal_the_definition(backend, activation, initial, lengths):
    inputs = make_inputs(1 if lengths else 3, 41, lengths, initial)
    op = functools.partial(causal_conv1d, activation=activation, return_final_states=True)
    assert_matches_definition(op, inputs, CAUSAL_CONV1D_BACKENDS, backend)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_other_widths_without_bias(width):
    inputs = make_inputs(2, 9, width=width)
    del inputs["bias"]
    assert_matches_definition(causal_conv1d, inputs, CAUSAL_CONV1D_BACKENDS, "shifted")


def test_a_document_never_reads_its_neighbour():
    inputs = {k: v.float() for k, v in make_inputs(1, 10).items()}
    inputs["x"][0, :5] = float("nan")
    y = causal_conv1d(**inputs, cu_seqlens=torch.tensor([0, 5, 10]))
    assert not y[0, 5:].isnan().any()


def test_bad_arguments_are_named():
    x, weight = torch.zeros(1, 6, 3), torch.zeros(3, 4)
    with pytest.raises(InputError, match="weight must have shape"):
        causal_conv1d(x, torch.zeros(4, 4))
    with pytest.raises(InputError, match="bias must have shape"):
        causal_conv1d(x, weight, torch.zeros(4))
    with pytest.raises(InputError, match="activation must be"):
        causal_conv1d(x, weight, activation="relu")
    with pytest.raises(InputError, match="initial_states must have shape"):
        causal_conv1d(x, weight, initial_states=torch.zeros(1, 3, 4))
    with pytest.raises(InputError, match="at least 1"):
        causal_conv1d(torch.zeros(1, 0, 3), weight)
