"""The grouped gated norm against its formula, and against transformers where they agree."""

from __future__ import annotations

import functools

import pytest
import torch
from transformers.models.mamba2.modeling_mamba2 import MambaRMSNormGated

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.gated_rms_norm import GATED_RMS_NORM_BACKENDS, gated_rms_norm
from tests.ops.comparison import assert_matches_definition, each_backend

draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("backend", each_backend(GATED_RMS_NORM_BACKENDS))
@pytest.mark.parametrize("group_size", [64, 8, None])
def test_outputs_and_gradients_equal_the_definition(backend, group_size):
    inputs = {"x": draw(3, 17, 64), "z": draw(3, 17, 64), "weight": draw(64)}
    assert_matches_definition(
        functools.partial(gated_rms_norm, group_size=group_size), inputs, GATED_RMS_NORM_BACKENDS, backend
    )


def test_without_a_gate():
    op = functools.partial(gated_rms_norm, z=None)
    assert_matches_definition(op, {"x": draw(5, 32) * 100, "weight": draw(32)}, GATED_RMS_NORM_BACKENDS, "recompute")


def test_one_group_is_transformers_norm():
    x, z = draw(2, 9, 32).float(), draw(2, 9, 32).float()
    theirs = MambaRMSNormGated(32, eps=1e-5)
    torch.testing.assert_close(gated_rms_norm(x, z, theirs.weight, eps=1e-5), theirs(x, z))


def test_groups_are_normalised_apart():
    x, z, weight = draw(1, 16), torch.full((1, 16), 50.0, dtype=torch.float64), torch.ones(16, dtype=torch.float64)
    scaled = torch.cat([x[:, :8] * 1000, x[:, 8:]], dim=1)
    torch.testing.assert_close(
        gated_rms_norm(scaled, z, weight, group_size=8)[:, 8:], gated_rms_norm(x, z, weight, group_size=8)[:, 8:]
    )


def test_bad_arguments_are_named():
    x, weight = torch.zeros(2, 8), torch.zeros(8)
    with pytest.raises(InputError, match="group_size must divide"):
        gated_rms_norm(x, x, weight, group_size=3)
    with pytest.raises(InputError, match="z must have shape"):
        gated_rms_norm(x, torch.zeros(2, 7), weight)
    with pytest.raises(InputError, match="weight must have shape"):
        gated_rms_norm(x, x, torch.zeros(7))
