"""The SSD's backends against its definition: outputs and every gradient, packed and unpacked."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.packing import cu_seqlens_from_lengths
from promptcot_mamba.ops.ssd import SSD_BACKENDS, ssd
from tests.ops.comparison import assert_matches_definition, each_backend, relative_errors, run, typical_norms


def make_inputs(b, length, h, p, g, n, lengths=None, initial=False, seed=0) -> dict[str, torch.Tensor]:
    draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    inputs = {
        "x": draw(b, length, h, p),
        "dt": draw(b, length, h),
        "A": -draw(h).exp(),
        "B": draw(b, length, g, n),
        "C": draw(b, length, g, n),
        "D": draw(h),
        "z": draw(b, length, h, p),
        "dt_bias": draw(h) - 2,
    }
    sequences = b
    if lengths:
        inputs["cu_seqlens"] = cu_seqlens_from_lengths(lengths)
        sequences = len(lengths)
    if initial:
        inputs["initial_states"] = draw(sequences, h, p, n)
    return inputs


def op(x, dt, A, B, C, backend, **kw):
    return ssd(x, dt, A, B, C, dt_softplus=True, return_final_states=True, backend=backend, **kw)


@pytest.mark.parametrize("backend", each_backend(SSD_BACKENDS))
@pytest.mark.parametrize("g", [1, 8])
@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("lengths", [None, [1, 16, 15, 1, 33, 32, 2]])
def test_outputs_and_gradients_equal_the_definition(backend, g, initial, lengths):
    length = sum(lengths) if lengths else 67
    inputs = make_inputs(1 if lengths else 2, length, 8, 16, g, 16, lengths, initial)
    assert_matches_definition(functools.partial(op, chunk_size=16), inputs, SSD_BACKENDS, backend)


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    heads=st.sampled_from([(1, 1), (4, 2), (8, 8)]),
    chunk_size=st.sampled_from([None, 1, 7, 16, 64]),
    initial=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_any_documents_equal_the_definition(lengths, heads, chunk_size, initial, seed):
    h, g = heads
    inputs = make_inputs(1, sum(lengths), h, 4, g, 5, lengths, initial, seed)
    at_chunks = functools.partial(op, chunk_size=chunk_size)
    assert_matches_definition(at_chunks, inputs, SSD_BACKENDS, "chunked", norms=typical_norms(op, inputs))


def test_packed_equals_each_document_alone():
    lengths = [5, 64, 1, 30, 100]
    packed = make_inputs(1, sum(lengths), 8, 16, 2, 16, lengths)
    together = run(functools.partial(op, backend="chunked"), packed, torch.float64)
    start = 0
    for length in lengths:
        alone = {
            name: value[:, start : start + length] if name in ("x", "dt", "B", "C", "z") else value
            for name, value in packed.items()
            if name != "cu_seqlens"
        }
        y = op(**alone, backend="chunked")[0]
        torch.testing.assert_close(together["output 0"][:, start : start + length], y)
        start += length


def test_states_carry_a_row_across_calls():
    inputs = make_inputs(2, 90, 4, 8, 2, 8, initial=True)
    whole = run(functools.partial(op, backend="chunked"), inputs, torch.float64)
    head = {k: v[:, :37] if k in ("x", "dt", "B", "C", "z") else v for k, v in inputs.items()}
    tail = {k: v[:, 37:] if k in ("x", "dt", "B", "C", "z") else v for k, v in inputs.items()}
    first, states = op(**head, backend="chunked")
    tail["initial_states"] = states
    second, states = op(**tail, backend="chunked")
    got = {"output 0": torch.cat([first, second], 1), "output 1": states}
    errors = relative_errors({name: whole[name] for name in got}, got)
    assert max(errors.values()) < 1e-12, errors


def test_strong_and_weak_decays_stay_exact():
    """Decays from e^-1e3 to e^-1e-6 a token: nothing overflows and no gradient drowns in cancellation."""
    inputs = make_inputs(1, 200, 8, 8, 1, 8, [150, 50])
    inputs["A"] = -torch.logspace(-4, 4, 8, dtype=torch.float64)
    assert_matches_definition(functools.partial(op, chunk_size=64), inputs, SSD_BACKENDS, "chunked")


BAD = {
    "heads must be a multiple": {"B": torch.zeros(1, 8, 3, 4), "C": torch.zeros(1, 8, 3, 4)},
    "dt must have shape": {"dt": torch.zeros(1, 7, 4)},
    "A must have shape": {"A": torch.zeros(3)},
    "x must be float": {"x": torch.zeros(1, 8, 4, 2, dtype=torch.int64)},
    "C must have shape": {"C": torch.zeros(1, 8, 2, 5)},
    "D must have shape": {"D": torch.zeros(4, 2)},
    "z must have shape": {"z": torch.zeros(1, 8, 4, 3)},
    "must start at 0": {"cu_seqlens": torch.tensor([1, 8])},
    "must end at": {"cu_seqlens": torch.tensor([0, 7])},
    "must increase": {"cu_seqlens": torch.tensor([0, 5, 5, 8])},
    "int32 or int64": {"cu_seqlens": torch.tensor([0.0, 8.0])},
    "chunk_size must be": {"chunk_size": 0},
    "initial_states must have shape": {"initial_states": torch.zeros(2, 4, 2, 4)},
    "backend 'none' is unknown": {"backend": "none"},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_are_named(message):
    arguments = {
        "x": torch.zeros(1, 8, 4, 2), "dt": torch.zeros(1, 8, 4), "A": torch.zeros(4),
        "B": torch.zeros(1, 8, 2, 4), "C": torch.zeros(1, 8, 2, 4),
    } | BAD[message]  # fmt: skip
    positional = [arguments.pop(name) for name in ("x", "dt", "A", "B", "C")]
    with pytest.raises(InputError, match=message):
        ssd(*positional, **arguments)


def test_packing_needs_one_row():
    with pytest.raises(InputError, match="batch of 1"):
        ssd(
            torch.zeros(2, 8, 4, 2), torch.zeros(2, 8, 4), torch.zeros(4), torch.zeros(2, 8, 2, 4),
            torch.zeros(2, 8, 2, 4), cu_seqlens=torch.tensor([0, 8]),
        )  # fmt: skip
