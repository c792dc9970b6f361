"""The fused mixer against its definition, in fp32 and bf16, with every road it may take on this machine."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.fused_mixer import FUSED_MIXER_BACKENDS, fused_mixer, native
from promptcot_mamba.ops.native import MIXER_SOURCE, load_library
from promptcot_mamba.ops.packing import cu_seqlens_from_lengths
from tests.ops.comparison import assert_matches_definition, each_backend, relative_errors, run, typical_norms


def make_inputs(b, length, h, p, g, n, lengths=None, seed=0, width=4) -> dict[str, torch.Tensor]:
    draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    conv = h * p + 2 * g * n
    inputs = {
        "zxbcdt": draw(b, length, h * p + conv + h),
        "conv_weight": draw(conv, width) / 2,
        "conv_bias": draw(conv) / 4,
        "A_log": draw(h),
        "D": draw(h),
        "dt_bias": draw(h) - 2,
        "norm_weight": 1 + draw(h * p) / 4,
    }
    if lengths:
        inputs["cu_seqlens"] = cu_seqlens_from_lengths(lengths)
    return inputs


def shaped(p, g, n, **kw):
    return functools.partial(fused_mixer, n_groups=g, head_dim=p, state_size=n, **kw)


def test_the_compiled_passes_build_here():
    assert load_library(MIXER_SOURCE) is not None, "no C++ compiler: the mixer falls back to plain torch"


@pytest.mark.parametrize("backend", each_backend(FUSED_MIXER_BACKENDS))
@pytest.mark.parametrize("g", [1, 8])
@pytest.mark.parametrize("lengths", [None, [1, 64, 15, 1, 65, 2]])
def test_outputs_and_gradients_equal_the_definition(backend, g, lengths):
    inputs = make_inputs(1 if lengths else 2, sum(lengths) if lengths else 67, 8, 16, g, 16, lengths)
    assert_matches_definition(shaped(16, g, 16), inputs, FUSED_MIXER_BACKENDS, backend)


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=3),
    heads=st.sampled_from([(2, 1), (4, 2), (8, 8)]),
    p=st.sampled_from([3, 16, 24]),
    width=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 2**16),
)
def test_any_documents_equal_the_definition(lengths, heads, p, width, seed):
    h, g = heads
    # A first token's y is a multiple of x; a norm over one head forgets the multiple, and dD and d(dt_bias) are all
    # rounding. So no case has a lone head, and where each head is a group there is a document with a second token.
    assume(h > g or max(lengths) > 1)
    inputs = make_inputs(1, sum(lengths), h, p, g, 5, lengths, seed, width)
    op = shaped(p, g, 5)
    assert_matches_definition(op, inputs, FUSED_MIXER_BACKENDS, "native", norms=typical_norms(op, inputs))


@pytest.mark.parametrize("backend", ["native", "recompute"])
def test_dt_limits_and_missing_bias(backend):
    inputs = make_inputs(1, 70, 4, 16, 2, 8)
    del inputs["conv_bias"]
    op = shaped(16, 2, 8, conv_bias=None, dt_limit=(0.05, 0.3))
    assert_matches_definition(op, inputs, FUSED_MIXER_BACKENDS, backend)


@pytest.mark.parametrize("lengths", [None, [100, 1, 27]])
def test_bf16_is_as_close_as_its_rounding(lengths):
    """bf16 rounds inputs and outputs, nothing between: fp64 from the same inputs is a rounding away."""
    inputs = make_inputs(1, 128, 8, 16, 2, 16, lengths)
    inputs = {k: v.bfloat16().double() if v.is_floating_point() else v for k, v in inputs.items()}
    reference = run(functools.partial(shaped(16, 2, 16), backend="reference"), inputs, torch.float64)
    got = run(functools.partial(shaped(16, 2, 16), backend="native"), inputs, torch.bfloat16)
    errors = relative_errors(reference, got)
    assert max(errors.values()) < 5e-3, errors


def test_packed_equals_each_document_alone():
    lengths = [5, 64, 1, 130]
    packed = make_inputs(1, sum(lengths), 8, 16, 2, 16, lengths)
    together = run(functools.partial(shaped(16, 2, 16), backend="native"), packed, torch.float32)["output 0"]
    start = 0
    for length in lengths:
        alone = {k: v.float() for k, v in packed.items() if k != "cu_seqlens"}
        alone["zxbcdt"] = alone["zxbcdt"][:, start : start + length]
        y = shaped(16, 2, 16)(**alone, backend="native")
        torch.testing.assert_close(together[:, start : start + length].float(), y, rtol=1e-5, atol=1e-5)
        start += length


def test_results_do_not_depend_on_threads():
    inputs = make_inputs(1, 300, 8, 16, 2, 16, [299, 1])
    op = functools.partial(shaped(16, 2, 16), backend="native")
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(run(op, inputs, torch.float32))
    finally:
        torch.set_num_threads(threads)
    assert max(relative_errors(*results).values()) < 1e-6


@pytest.mark.parametrize("backend", ["native", "recompute"])
def test_kept_for_a_recomputed_layer_the_same_bits(monkeypatch, backend):
    monkeypatch.setattr(native, "free_memory", lambda: 0)
    inputs = make_inputs(1, 100, 8, 16, 2, 16, [99, 1])
    op = functools.partial(shaped(16, 2, 16), backend=backend)
    made_again = run(op, inputs, torch.float32)
    kept = run(
        functools.partial(checkpoint, functools.partial(op, keep=True), use_reentrant=False), inputs, torch.float32
    )
    assert all(torch.equal(kept[name], value) for name, value in made_again.items())


@pytest.mark.parametrize("checkpointed", [False, True])
def test_keeping_and_making_again_give_the_same(monkeypatch, checkpointed):
    inputs = make_inputs(1, 100, 8, 16, 2, 16, [99, 1])
    op = functools.partial(shaped(16, 2, 16), backend="native")
    results = []
    for free in (0, 2**40):
        monkeypatch.setattr(native, "free_memory", lambda free=free: free)
        inputs["cu_seqlens"] = inputs["cu_seqlens"].clone()  # what fits is asked once for the same documents
        call = functools.partial(checkpoint, op, use_reentrant=False) if checkpointed else op
        results.append(run(call, inputs, torch.float32))
    assert max(relative_errors(*results).values()) == 0


def test_nan_in_one_document_stays_in_it():
    inputs = {k: v.float() if v.is_floating_point() else v for k, v in make_inputs(1, 80, 4, 8, 1, 8, [30, 50]).items()}
    inputs["zxbcdt"][0, 10, 40] = float("nan")
    y = shaped(8, 1, 8)(**inputs, backend="native")
    assert y[0, :30].isnan().any()
    assert not y[0, 30:].isnan().any()


def test_bad_arguments_are_named():
    inputs = make_inputs(1, 10, 4, 8, 2, 8)
    cases = {
        "zxbcdt must be": {"zxbcdt": torch.zeros(1, 10, 7)},
        "conv_weight must have shape": {"conv_weight": torch.zeros(5, 4)},
        "multiple of n_groups": {"n_groups": 3},
        "norm_weight must have shape": {"norm_weight": torch.zeros(3)},
        "must end at": {"cu_seqlens": torch.tensor([0, 9])},
    }
    for message, change in cases.items():
        with pytest.raises(InputError, match=message):
            fused_mixer(**{**inputs, "n_groups": 2, "head_dim": 8, "state_size": 8} | change)
