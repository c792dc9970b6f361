"""bf16 on a CPU without bf16 units: fp32 products, rounded once, wherever the model multiplies."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from promptcot_mamba.model import load_causal_lm
from promptcot_mamba.ops import products
from promptcot_mamba.ops.linear_cross_entropy import linear_cross_entropy
from promptcot_mamba.ops.products import linear
from tests.ops.comparison import relative_errors
from tests.tiny import make_checkpoint

ROUNDING = 2.0**-8  # of one number to bf16; a norm's is about half
draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def _no_units(monkeypatch):
    monkeypatch.setattr(products, "has_bf16_units", lambda: False)


def evaluate(op, dtype: torch.dtype, **inputs) -> dict[str, torch.Tensor]:
    """Output and every gradient of `op` on inputs rounded to bf16, in fp64 for comparison."""
    leaves = {name: value.bfloat16().to(dtype).requires_grad_() for name, value in inputs.items()}
    output = op(**leaves)
    output.backward(draw(output.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(output.dtype))
    return {"output": output.detach().double()} | {f"d{name}": leaf.grad.double() for name, leaf in leaves.items()}


@pytest.mark.usefixtures("_no_units")
@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    d=st.integers(1, 300),
    v=st.integers(1, 70),
    bias=st.booleans(),
)
def test_a_linear_layer_is_a_rounding_from_fp64(rows, d, v, bias):
    inputs = {"x": draw(*rows, d), "weight": draw(v, d)} | ({"bias": draw(v)} if bias else {})
    got = evaluate(linear, torch.bfloat16, **inputs)
    errors = relative_errors(evaluate(F.linear, torch.float64, **inputs), got)
    assert all(error < ROUNDING for error in errors.values()), errors


@pytest.mark.usefixtures("_no_units")
@pytest.mark.parametrize("rank", [8, 64])
def test_products_of_adapters_frozen_weights_included(rank):
    """LoRA's shapes: a frozen base receives no gradient, the narrow factors do."""
    base, down, up = draw(96, 128).bfloat16(), draw(rank, 128).bfloat16(), draw(96, rank).bfloat16()
    x = draw(50, 128).bfloat16()
    down.requires_grad_(), up.requires_grad_()
    y = linear(x, base) + linear(linear(x, down), up)
    y.sum().backward()
    assert base.grad is None
    want = torch.autograd.grad(
        F.linear(x.double(), base.double()).sum() + F.linear(F.linear(x.double(), down.double()), up.double()).sum(),
        [down, up],
    )
    for got, expected in zip((down.grad, up.grad), want, strict=True):
        assert float((got.double() - expected.double()).norm() / expected.double().norm()) < 2 * ROUNDING


@pytest.mark.usefixtures("_no_units")
def test_autocast_gives_bf16_and_fp32_gradients():
    x, weight = draw(2, 9, 32).requires_grad_(), draw(16, 32).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = linear(x, weight)
        want = F.linear(x, weight)
    assert y.dtype == want.dtype == torch.bfloat16
    torch.testing.assert_close(y, want)
    y.sum().backward()
    assert x.grad.dtype == weight.grad.dtype == torch.float32


@pytest.mark.usefixtures("_no_units")
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_the_loss_is_a_rounding_from_fp64(reduction):
    labels = torch.randint(50, (40,), generator=torch.Generator().manual_seed(2))
    labels[::7] = -100
    op = functools.partial(linear_cross_entropy, labels=labels, reduction=reduction)
    inputs = {"hidden": draw(40, 32), "weight": draw(50, 32)}
    reference = evaluate(functools.partial(op, backend="reference"), torch.float64, **inputs)
    errors = relative_errors(reference, evaluate(op, torch.bfloat16, **inputs))
    assert all(error < ROUNDING for error in errors.values()), errors


def test_a_bf16_step_of_the_model_multiplies_no_bf16(tmp_path, monkeypatch):
    """Every matrix product of a training step, forward and backward, sees fp32; losses agree with fp32's."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Multiplied(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.types = set()

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function._schema.name in ("aten::mm", "aten::addmm", "aten::bmm", "aten::matmul", "aten::linear"):
                self.types |= {value.dtype for value in args if isinstance(value, torch.Tensor)}
            return function(*args, **kwargs or {})

    folder = make_checkpoint(tmp_path)
    ids = torch.arange(3, 83)[None]
    want = load_causal_lm(folder, dtype=torch.float32)(ids, labels=ids).loss
    model = load_causal_lm(folder, dtype=torch.bfloat16).train()
    monkeypatch.setattr(products, "has_bf16_units", lambda: False)
    with Multiplied() as seen:
        loss = model(ids, labels=ids).loss
        loss.backward()
        logits = model(ids).logits
    assert seen.types == {torch.float32}
    assert logits.shape == (1, 80, 384)
    torch.testing.assert_close(loss, want, rtol=2e-2, atol=0)


@pytest.mark.parametrize(
    ("capability", "bf16", "amx", "found"),
    [
        ("AVX2", True, True, False),  # as ATEN_CPU_CAPABILITY=avx2 asks for
        ("AVX512", False, False, False),
        ("AVX512", True, False, True),
        ("AVX512", False, True, True),
        ("DEFAULT", False, False, False),
    ],
)
def test_units_are_read_from_the_processor(monkeypatch, capability, bf16, amx, found):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert products.has_bf16_units.__wrapped__() == found


def test_other_types_and_capable_cpus_go_straight_to_torch(monkeypatch):
    for dtype, units in ((torch.float32, False), (torch.bfloat16, True)):
        monkeypatch.setattr(products, "has_bf16_units", lambda units=units: units)
        x, weight = draw(5, 8).to(dtype).requires_grad_(), draw(3, 8).to(dtype)
        assert "Wide" not in linear(x, weight).grad_fn.name()
