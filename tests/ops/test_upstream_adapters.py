"""The upstream adapters against stand-ins for the upstream functions, which need a CUDA build to be imported."""

from __future__ import annotations

import importlib
import sys
import types

import pytest
import torch

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.causal_conv1d import causal_conv1d
from promptcot_mamba.ops.packing import cu_seqlens_from_lengths
from promptcot_mamba.ops.ssd import ssd
from tests.ops.test_ssd import make_inputs


def cu_seqlens_from_seq_idx(seq_idx: torch.Tensor) -> torch.Tensor:
    """seq_idx (1, l) -> cu_seqlens (docs+1)."""
    return cu_seqlens_from_lengths(seq_idx[0].unique_consecutive(return_counts=True)[1])


def upstream_scan(
    x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, initial_states=None, seq_idx=None, cu_seqlens=None,
    dt_softplus=False, return_final_states=False, return_varlen_states=False,
):  # fmt: skip
    """`mamba_chunk_scan_combined`'s contract, computed by our definition from `seq_idx`."""
    marks = None if seq_idx is None else cu_seqlens_from_seq_idx(seq_idx)
    if return_varlen_states:
        assert torch.equal(marks, cu_seqlens)
    return ssd(
        x, dt, A, B, C, D=D, z=z, dt_bias=dt_bias, dt_softplus=dt_softplus, initial_states=initial_states,
        cu_seqlens=marks, return_final_states=return_final_states or return_varlen_states, backend="reference",
    )  # fmt: skip


def upstream_conv(x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False, activation=None):
    """`causal_conv1d_fn`'s contract: channels before tokens, channels-last memory."""
    assert x.stride(1) == 1
    assert initial_states is None or initial_states.stride(1) == 1
    assert seq_idx is None or (initial_states is None and not return_final_states)
    marks = None if seq_idx is None else cu_seqlens_from_seq_idx(seq_idx)
    found = causal_conv1d(
        x.transpose(1, 2), weight, bias, activation=activation, initial_states=initial_states, cu_seqlens=marks,
        return_final_states=return_final_states, backend="reference",
    )  # fmt: skip
    return (found[0].transpose(1, 2), found[1]) if return_final_states else found.transpose(1, 2)


@pytest.fixture
def adapters(monkeypatch):
    """(ssd_mamba_ssm, causal_conv1d_upstream) over the stand-ins, forgotten again afterwards."""
    for name in ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton", "mamba_ssm.ops.triton.ssd_combined"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "causal_conv1d", types.ModuleType("causal_conv1d"))
    sys.modules["mamba_ssm.ops.triton.ssd_combined"].mamba_chunk_scan_combined = upstream_scan
    sys.modules["causal_conv1d"].causal_conv1d_fn = upstream_conv
    names = [
        "promptcot_mamba.ops.ssd.mamba_ssm_adapter",
        "promptcot_mamba.ops.causal_conv1d.causal_conv1d_adapter",
    ]
    scan, conv = (importlib.import_module(name) for name in names)
    yield scan.ssd_mamba_ssm, conv.causal_conv1d_upstream
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("lengths", [None, [3, 1, 5]])
def test_scan_equals_the_definition(adapters, lengths):
    inputs = make_inputs(1, 9, 4, 8, 2, 8, lengths, initial=not lengths)
    positional = [inputs.pop(name) for name in ("x", "dt", "A", "B", "C")]
    settings = {"dt_softplus": True, "return_final_states": True}
    for want, got in zip(
        ssd(*positional, **inputs, **settings, backend="reference"),
        adapters[0](*positional, **inputs, **settings),
        strict=True,
    ):
        torch.testing.assert_close(want, got)


def test_scan_refuses_what_upstream_cannot_do(adapters):
    inputs = make_inputs(1, 9, 4, 8, 2, 8, [4, 5], initial=True)
    positional = [inputs.pop(name) for name in ("x", "dt", "A", "B", "C")]
    with pytest.raises(InputError, match="no initial_states with cu_seqlens"):
        adapters[0](*positional, **inputs)
    del inputs["initial_states"]
    positional[0].requires_grad_()
    with pytest.raises(InputError, match="no gradients through the final states"):
        adapters[0](*positional, **inputs, return_final_states=True)


@pytest.mark.parametrize("lengths", [None, [3, 1, 5]])
def test_conv_equals_the_definition(adapters, lengths):
    x, weight, bias = torch.randn(1, 9, 8), torch.randn(8, 4), torch.randn(8)
    settings = {"activation": "silu"}
    if lengths:
        settings["cu_seqlens"] = cu_seqlens_from_lengths(lengths)
    else:
        settings |= {"initial_states": torch.randn(1, 8, 3), "return_final_states": True}
    want = causal_conv1d(x, weight, bias, **settings, backend="reference")
    torch.testing.assert_close(want, adapters[1](x, weight, bias, **settings))


@pytest.mark.parametrize("extra", ["initial_states", "return_final_states"])
def test_conv_refuses_what_upstream_cannot_do(adapters, extra):
    settings = {"initial_states": torch.zeros(2, 8, 3)} if extra == "initial_states" else {extra: True}
    with pytest.raises(InputError, match=f"takes no {extra}"):
        adapters[1](torch.zeros(1, 9, 8), torch.zeros(8, 4), cu_seqlens=torch.tensor([0, 4, 9]), **settings)
