"""What scripts.bench.kernels measures: each op's random inputs, ours and its peers behind one signature, and FLOPs."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch

from promptcot_mamba.memory_budget import Mamba2Shapes
from promptcot_mamba.ops.packing import cu_seqlens_from_lengths, seq_idx_from_cu_seqlens

MODEL = {"h": 128, "p": 64, "g": 8, "n": 128, "d_model": 4096, "v": 32768}  # Mamba-Codestral-7B
NARROW = MODEL | {"h": 16, "g": 2, "d_model": 256}  # keeps token-by-token definitions affordable; tiles are the shipped
TINY = {"h": 2, "p": 16, "g": 1, "n": 16, "d_model": 16, "v": 40}
OPS = ("ssd", "causal_conv1d", "gated_rms_norm", "linear_cross_entropy", "fused_mixer")
PACKED_OPS = ("ssd", "causal_conv1d", "fused_mixer")
UPSTREAM = {
    "ssd": "mamba_ssm", "causal_conv1d": "causal_conv1d", "gated_rms_norm": "mamba_ssm",
    "linear_cross_entropy": "liger", "fused_mixer": "mamba_ssm",
}  # fmt: skip
PLAIN = {
    "ssd": "chunked", "causal_conv1d": "shifted", "gated_rms_norm": "recompute", "linear_cross_entropy": "chunked",
    "fused_mixer": "recompute",
}  # fmt: skip
WIDE = {"A", "A_log", "D", "dt_bias"}  # parameters that stay fp32 in a bf16 model
EPS = 1e-5

Inputs = dict[str, torch.Tensor]
Op = Callable[..., torch.Tensor]


def make_inputs(op: str, length: int, shape: dict[str, int], lengths: list[int] | None, device: str) -> Inputs:
    """Random fp32 inputs of one op on the device, a packed row of `lengths` or one document of `length` tokens."""
    h, p, g, n = (shape[letter] for letter in "hpgn")
    wide = h * p + 2 * g * n
    draw = functools.partial(torch.randn, device=device)
    if op == "ssd":
        inputs = {
            "x": draw(1, length, h, p), "dt": draw(1, length, h), "A": -draw(h).exp(), "B": draw(1, length, g, n),
            "C": draw(1, length, g, n), "D": draw(h), "dt_bias": draw(h) - 4,
        }  # fmt: skip
    elif op == "causal_conv1d":
        inputs = {"x": draw(1, length, wide), "weight": draw(wide, 4) / 2, "bias": draw(wide)}
    elif op == "gated_rms_norm":
        inputs = {"x": draw(1, length, h * p), "z": draw(1, length, h * p), "weight": draw(h * p)}
    elif op == "linear_cross_entropy":
        hidden, weight = draw(length, shape["d_model"]), draw(shape["v"], shape["d_model"]) / shape["d_model"] ** 0.5
        inputs = {"hidden": hidden, "weight": weight, "labels": torch.randint(shape["v"], (length,), device=device)}
    else:
        inputs = {
            "zxbcdt": draw(1, length, h * p + wide + h), "conv_weight": draw(wide, 4) / 2, "conv_bias": draw(wide),
            "A_log": draw(h), "D": draw(h), "dt_bias": draw(h) - 4, "norm_weight": draw(h * p),
        }  # fmt: skip
    if lengths and op in PACKED_OPS:
        inputs["cu_seqlens"] = cu_seqlens_from_lengths(lengths).to(device)
    return inputs


def as_leaves(inputs: Inputs, dtype: torch.dtype, narrow: torch.dtype | None = None) -> Inputs:
    """Fresh leaves in `dtype`, first rounded to `narrow` where that is the dtype compared with."""
    leaves = {}
    for name, value in inputs.items():
        if value.is_floating_point():
            value = value if name in WIDE or narrow is None else value.to(narrow)
            value = value.to(torch.float32 if name in WIDE and dtype == torch.bfloat16 else dtype)
            leaves[name] = value.detach().clone().requires_grad_()
        else:
            leaves[name] = value
    return leaves


def evaluate(op: Op, leaves: Inputs, seed: torch.Tensor | None = None) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Output and every gradient, and the seed (the gradient of the output) they were made with."""
    output = op(**leaves)
    seed = torch.randn_like(output) if seed is None else seed.to(output)
    output.backward(seed)
    found = {"output": output.detach()}
    for name, leaf in leaves.items():
        if leaf.is_floating_point():
            assert leaf.grad is not None, name
            found[f"d{name}"] = leaf.grad
    return found, seed


def relative_errors(reference: dict[str, torch.Tensor], got: dict[str, torch.Tensor]) -> dict[str, float]:
    return {
        name: float((got[name].double() - want.double()).norm() / want.double().norm().clamp(min=1e-30))
        for name, want in reference.items()
    }


def get_op(op: str, shape: dict[str, int]) -> Op:
    """The public function with this shape's settings filled in; it still takes `backend`."""
    function = getattr(importlib.import_module(f"promptcot_mamba.ops.{op}"), op)
    h, p, g, n = (shape[letter] for letter in "hpgn")
    settings: dict[str, dict[str, Any]] = {
        "ssd": {"dt_softplus": True},
        "gated_rms_norm": {"eps": EPS, "group_size": h * p // g},
        "fused_mixer": {"n_groups": g, "head_dim": p, "state_size": n, "eps": EPS},
    }
    return functools.partial(function, **settings.get(op, {}))


def get_peer(op: str, peer: str, shape: dict[str, int]) -> Op:
    """A peer behind the op's signature, less `backend`; what is missing shows when it is called."""
    special: dict[tuple[str, str], Op] = {
        ("linear_cross_entropy", "liger"): lose_with_liger,
        ("gated_rms_norm", "mamba_ssm"): functools.partial(norm_with_upstream, shape=shape),
        ("fused_mixer", "mamba_ssm"): functools.partial(mix_with_upstream, shape=shape),
    }
    return special.get((op, peer)) or functools.partial(get_op(op, shape), backend=peer)


def lose_with_liger(hidden, weight, labels):
    """Liger's fused linear cross-entropy, summed."""
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

    plain = (None, None, -100, 0.0, 0.0, "sum")  # no bias, no class weights, no z-loss, no smoothing
    found = LigerFusedLinearCrossEntropyFunction.apply(hidden, weight, labels, *plain)
    return found[0] if isinstance(found, tuple) else found


def norm_with_upstream(x, z, weight, *, shape: dict[str, int]):
    """mamba-ssm's grouped gated norm."""
    from mamba_ssm.ops.triton.layernorm_gated import rmsnorm_fn

    group_size = shape["h"] * shape["p"] // shape["g"]
    return rmsnorm_fn(x, weight, None, z=z, eps=EPS, group_size=group_size, norm_before_gate=False)


def mix_with_upstream(
    zxbcdt, conv_weight, conv_bias, A_log, D, dt_bias, norm_weight, cu_seqlens=None, *, shape: dict[str, int]
):
    """mamba-ssm's fused mixer, from input projection to the norm's output (its own output projection left out)."""
    importlib.import_module("causal_conv1d")  # without it upstream's function exists and fails only when called
    from mamba_ssm.ops.triton.ssd_combined import mamba_split_conv1d_scan_combined

    return mamba_split_conv1d_scan_combined(
        zxbcdt, conv_weight, conv_bias, dt_bias, -torch.exp(A_log.float()), D, chunk_size=256,
        seq_idx=None if cu_seqlens is None else seq_idx_from_cu_seqlens(cu_seqlens), activation="silu",
        rmsnorm_weight=norm_weight, rmsnorm_eps=EPS, headdim=shape["p"], ngroups=shape["g"],
        norm_before_gate=False,
    )  # fmt: skip


def count_flops(op: str, length: int, shape: dict[str, int]) -> dict[str, float] | None:
    """FLOPs that the algorithm takes, by arithmetic (a backward is twice its forward); None where bytes are all.

    The SSD in chunks of 256 tokens, as in `memory_budget`; what a kernel recomputes is not counted.
    """
    if op == "linear_cross_entropy":
        forward = 2.0 * length * shape["d_model"] * shape["v"]
    elif op in ("ssd", "fused_mixer"):
        forward = length * Mamba2Shapes(
            hidden=shape["d_model"], layers=1, heads=shape["h"], head_dim=shape["p"], n_groups=shape["g"],
            state=shape["n"], conv=4, vocab=shape["v"],
        ).mixing_flops  # fmt: skip
    else:
        return None
    return {"forward": forward, "backward": 2 * forward, "forward_backward": 3 * forward}
