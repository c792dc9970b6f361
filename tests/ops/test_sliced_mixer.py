"""Every form of the mixer, from slices of a row, against its definition on the whole row (threads, no processes)."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.fused_mixer import fused_mixer, native
from promptcot_mamba.ops.ssd.layout import SMALL_CHUNKS
from tests.ops.comparison import relative_errors, run
from tests.ops.slices_in_threads import make_groups, sliced_row, whole_row
from tests.ops.test_fused_mixer import make_inputs

FP32, FP64 = 5e-5, 1e-9
P, N = 8, 5


def compare(lengths, size, backend="native", dtype=torch.float32, h=4, g=2, width=4, seed=0, call=None, **others):
    inputs = make_inputs(1, sum(lengths), h, P, g, N, None, seed, width)
    told = {"n_groups": g, "head_dim": P, "state_size": N, **others}
    if "conv_bias" in others:
        del inputs["conv_bias"]
    groups = make_groups(size)
    wanted = whole_row(inputs, lengths, told | {"backend": "recompute"})
    got = sliced_row(inputs, lengths, told | {"backend": backend}, groups, dtype, call)
    # Documents of one token have no decay to learn: that gradient is 0 but for rounding.
    norms = {name: value.norm().clamp(min=1e-2) for name, value in wanted.items()}
    return relative_errors(wanted, got, norms), groups


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.one_of(st.integers(1, 3), st.integers(1, 150)), min_size=1, max_size=5),
    size=st.integers(2, 4),
    heads=st.sampled_from([(4, 1), (4, 2), (8, 8)]),
    width=st.sampled_from([1, 2, 4, 20]),
    seed=st.integers(0, 2**16),
)
def test_any_row_in_any_slices_equals_the_whole_row(lengths, size, heads, width, seed):
    h, g = heads
    if sum(lengths) < size:
        lengths = [*lengths, size]
    # fp64 hides nothing behind rounding; the compiled form is compared in fp32, where a norm over one head and a lone
    # first token leave gradients that are all rounding (`test_fused_mixer`).
    errors, _ = compare(lengths, size, "recompute", torch.float64, h, g, width, seed)
    assert max(errors.values()) < FP64, errors
    if h > g:
        errors, _ = compare(lengths, size, "native", torch.float32, h, g, width, seed)
        assert max(errors.values()) < 2 * FP32, errors


@pytest.mark.parametrize("offset", range(0, SMALL_CHUNKS[0] + 2, 3))
def test_borders_at_every_offset_of_a_chunk(offset):
    """A document's end walks through the chunk that the border cuts, and the border through the document's."""
    lengths = [SMALL_CHUNKS[0] + offset, 2 * SMALL_CHUNKS[0]]
    errors, _ = compare(lengths, 2)
    assert max(errors.values()) < FP32, errors


@pytest.mark.parametrize("backend", ["reference", "recompute", "native"])
def test_every_form_of_this_machine(backend):
    dtype, most = (torch.float32, FP32) if backend == "native" else (torch.float64, FP64)
    errors, _ = compare([40, 1, 90], 3, backend, dtype, g=4)
    assert max(errors.values()) < most, errors


def test_limited_steps_and_no_bias():
    errors, _ = compare([100], 2, conv_bias=None, dt_limit=(0.05, 0.3))
    assert max(errors.values()) < FP32, errors


def test_bf16_is_as_close_as_its_rounding():
    errors, _ = compare([100, 60], 2, dtype=torch.bfloat16)
    whole = make_inputs(1, 160, 4, P, 2, N, [100, 60])
    told = {"n_groups": 2, "head_dim": P, "state_size": N}
    reference = run(partial(fused_mixer, **told, backend="recompute"), whole, torch.float64)
    unsliced = relative_errors(reference, run(partial(fused_mixer, **told), whole, torch.bfloat16))
    assert all(error < 1.5 * unsliced[name] + 1e-3 for name, error in errors.items()), (errors, unsliced)


def checkpointed(op, **arguments):
    return checkpoint(partial(op, keep=True), use_reentrant=False, **arguments)


def test_under_checkpointing_it_runs_twice_and_borders_are_crossed_once(monkeypatch):
    runs = []
    finish = native.NativeStages.finish
    monkeypatch.setattr(native.NativeStages, "finish", lambda self: runs.append(1) or finish(self))
    errors, groups = compare([70, 130], 3, call=checkpointed)
    assert max(errors.values()) < FP32, errors
    assert len(runs) == 2 * 3
    _, plain = compare([70, 130], 3)
    assert [group.bytes_sent for group in groups] == [group.bytes_sent for group in plain]


def test_traffic_is_a_state_and_a_halo_a_border_whatever_the_length():
    state, halo = 4 * 4 * P * N, 4 * (4 * P + 2 * 2 * N) * 3
    for length in (30, 300):
        _, groups = compare([length], 3)
        sent = [group.bytes_sent for group in groups]
        assert sent == [state + halo, 2 * (state + halo), state + halo]  # forward and backward, each neighbour


def test_a_second_backward_over_a_kept_graph_gives_the_same():
    def twice(op, **arguments):
        out = op(**arguments, keep=True)
        out.sum().backward(retain_graph=True)
        for value in arguments.values():
            if isinstance(value, torch.Tensor):
                value.grad = None
        return out

    errors, _ = compare([50], 2, call=twice)
    assert max(errors.values()) < FP32, errors


def test_neighbours_need_documents():
    inputs = {name: value.float() for name, value in make_inputs(1, 10, 4, P, 2, N).items()}
    with pytest.raises(InputError, match="neighbours only with cu_seqlens"):
        fused_mixer(**inputs, n_groups=2, head_dim=P, state_size=N, neighbours=object())
