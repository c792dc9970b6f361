"""Non-finite numbers are found where they arise and named."""

from __future__ import annotations

import pytest
import torch

from promptcot_mamba.errors import InputError
from promptcot_mamba.model import load_causal_lm
from promptcot_mamba.model.debug_numerics import watch_numerics
from promptcot_mamba.ops.checks import set_debug_numerics
from promptcot_mamba.ops.gated_rms_norm import gated_rms_norm
from tests.tiny import make_checkpoint


@pytest.fixture
def model(tmp_path):
    yield load_causal_lm(make_checkpoint(tmp_path), dtype=torch.float32).train()
    set_debug_numerics(False)  # it is the process's


def test_a_healthy_step_passes(model):
    watch_numerics(model)
    ids = torch.arange(3, 40)[None]
    model(ids, labels=ids).loss.backward()
    set_debug_numerics(False)
    assert not gated_rms_norm(torch.full((1, 4), torch.nan), None, torch.ones(4)).isfinite().any()


def test_a_bad_parameter_is_named_at_once(model):
    with torch.no_grad():
        model.backbone.layers[1].mixer.A_log[3] = torch.nan
    with pytest.raises(InputError, match=r"parameter backbone.layers.1.mixer.A_log: 1 of 8"):
        watch_numerics(model)


def test_a_bad_value_on_the_way_is_named(model):
    watch_numerics(model)
    with torch.no_grad():
        model.backbone.layers[1].mixer.in_proj.weight[0] = torch.inf
    with pytest.raises(InputError, match=r"output of backbone.layers.1.mixer.in_proj"):
        model(torch.arange(3, 40)[None])


def test_a_bad_gradient_is_named(model):
    watch_numerics(model)
    ids = torch.arange(3, 40)[None]
    loss = model(ids, labels=ids).loss * torch.inf
    with pytest.raises(InputError, match="gradient"):
        loss.backward()


def test_ops_name_the_argument(model):
    watch_numerics(model)
    with pytest.raises(InputError, match="gated_rms_norm: x holds 4 NaN"):
        gated_rms_norm(torch.full((1, 4), torch.nan), None, torch.ones(4))
