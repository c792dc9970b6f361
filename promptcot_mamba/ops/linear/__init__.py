"""`linear`: x weight^T + bias, for the projections around the mixer and the head.

On CPUs with AVX2 but not AVX-512 torch's fp32 products reach about 0.8 of what the cores can multiply and add (its
library packs and clears more than it needs to there, the more so on AMD's); our own reach 0.9. Everywhere else
torch's own are the faster.
"""

from __future__ import annotations

import torch

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.backends import choose_backend
from promptcot_mamba.ops.checks import check_float, check_float_shape
from promptcot_mamba.ops.linear.native import multiplies_faster

LINEAR_BACKENDS = {
    "reference": "torch.nn.functional:linear",
    "native": "promptcot_mamba.ops.linear.native:linear_native",
}


def linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, backend: str | None = None
) -> torch.Tensor:
    """x (..., d), weight (v, d), bias (v) or None -> (..., v).

    Raises:
        InputError: for a shape or device that does not fit, naming the argument.
    """
    # Every projection comes through here: a NaN is reported by its layer, which has a name, and not by this op.
    check_float("linear", "x", x, numerics=False)
    if x.dim() < 1:
        raise InputError("linear: x must have shape (..., d), found a scalar")
    check_float_shape("linear", "weight", weight, x, (None, x.shape[-1]), "(v, d)", numerics=False)
    if bias is not None:
        check_float_shape("linear", "bias", bias, x, (weight.shape[0],), "(v)", numerics=False)
    torch_form = "native" if multiplies_faster(x, weight) else "reference"
    return choose_backend("linear", LINEAR_BACKENDS, backend, x, torch_form=torch_form)(x, weight, bias)
