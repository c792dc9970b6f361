"""Our matrix products against torch's in fp64, in every layout a linear layer asks for."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.linear import LINEAR_BACKENDS, linear
from promptcot_mamba.ops.linear.native import SMALLEST, multiplies_faster, multiply
from promptcot_mamba.ops.native import LINEAR_SOURCE, load_library
from tests.ops.comparison import assert_matches_definition, each_backend

draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("backend", each_backend(LINEAR_BACKENDS))
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_equal_the_definition(backend, bias):
    inputs = {"x": draw(2, 67, 150), "weight": draw(33, 150)} | ({"bias": draw(33)} if bias else {})
    assert_matches_definition(linear, inputs, backend, floor=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    m=st.integers(1, 400),
    n=st.integers(1, 70),
    k=st.sampled_from([1, 5, 64, 511, 512, 513, 1030]),
    turned=st.tuples(st.booleans(), st.booleans()),
    add=st.booleans(),
)
def test_any_shape_and_stride(m, n, k, turned, add):
    a, b = (draw(*shape).float() for shape in ((m, k), (k, n)))
    a, b = (x.mT.contiguous().mT if turn else x for x, turn in zip((a, b), turned, strict=True))
    wide = draw(m, n + 3).float()
    out = wide[:, :n]  # rows further apart than they are long
    want = a.double() @ b.double() + (out.double() if add else 0)
    beside = wide[:, n:].clone()
    multiply(a, b, out, add)
    torch.testing.assert_close(out.double(), want, rtol=0, atol=2e-6 * (k + 9))
    assert torch.equal(wide[:, n:], beside)


def test_more_columns_than_are_packed_at_once():
    a, b = draw(30, 40).float(), draw(40, 4096 + 19).float()
    torch.testing.assert_close(multiply(a, b), a @ b, rtol=1e-5, atol=1e-4)


def test_results_do_not_depend_on_threads():
    a, b = draw(500, 600).float(), draw(600, 90).float()
    threads = torch.get_num_threads()
    try:
        results = [torch.set_num_threads(count) or multiply(a, b) for count in (1, 2, 3)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_nan_stays_in_its_row():
    a, b = draw(20, 30).float(), draw(30, 40).float()
    a[7, 3] = float("nan")
    rows = multiply(a, b).isnan()
    assert rows[7].all()
    assert rows.sum() == 40


def test_only_large_fp32_products_are_ours():
    weight = torch.zeros(64, 64)
    assert not multiplies_faster(torch.zeros(SMALLEST // 64 // 64 - 1, 64), weight)
    assert not multiplies_faster(torch.zeros(4096, 64, dtype=torch.float64), weight.double())
    slow = torch.backends.cpu.get_cpu_capability() == "AVX2" and load_library(LINEAR_SOURCE) is not None
    assert multiplies_faster(torch.zeros(4096, 64), weight) == slow


def test_bad_arguments_are_named():
    for message, tensors in {
        "weight must have shape": (torch.zeros(3, 4), torch.zeros(5, 3)),
        "bias must have shape": (torch.zeros(3, 4), torch.zeros(5, 4), torch.zeros(4)),
    }.items():
        with pytest.raises(InputError, match=message):
            linear(*tensors)
