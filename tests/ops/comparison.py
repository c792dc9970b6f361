"""Compare a backend with the fp64 definition: every output and every gradient, relative to its norm."""

from __future__ import annotations

import functools

import pytest
import torch

from promptcot_mamba.ops.backends import read_entry

FLOOR = 5e-5  # fp32 against the fp64 definition


def each_backend(table: dict[str, str]):
    """Every backend of a table but the definition, those whose line declares a CUDA device marked so."""
    for name, line in table.items():
        if name != "reference":
            marks = (pytest.mark.gpu, needs_device(line)) if read_entry(line).device == "cuda" else ()
            yield pytest.param(name, marks=marks)


def needs_device(line: str):
    return pytest.mark.skipif(not torch.cuda.is_available(), reason=f"{line}: no CUDA device")


def run(op, inputs: dict, dtype: torch.dtype, device: str = "cpu", seed: int = 7) -> dict[str, torch.Tensor]:
    """Outputs and gradients of `op(**inputs)` under a random loss, the seed's, in fp64 on the CPU.

    Floating-point inputs are cast to `dtype` and require gradients; the others pass as they are.
    """
    leaves = {}
    for name, value in inputs.items():
        value = value.to(device)
        leaves[name] = value.detach().to(dtype, copy=True).requires_grad_() if value.is_floating_point() else value
    outputs = op(**leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    generator = torch.Generator().manual_seed(seed)
    loss = 0
    for output in outputs:
        weights = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        loss = loss + (output * weights.to(output)).sum()
    loss.backward()
    found = {f"output {index}": output for index, output in enumerate(outputs)}
    found |= {f"d{name}": leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    return {name: value.detach().double().cpu() for name, value in found.items()}


def relative_errors(reference: dict, got: dict, norms: dict | None = None) -> dict[str, float]:
    """Distances, as a share of `norms`: of the reference's own where none are given."""
    assert reference.keys() == got.keys()
    norms = norms or {name: want.norm() for name, want in reference.items()}
    return {name: float((got[name] - want).norm() / norms[name].clamp(min=1e-30)) for name, want in reference.items()}


def typical_norms(op, inputs: dict, losses: int = 4) -> dict[str, torch.Tensor]:
    """Each result's root-mean-square norm under several random losses, by the definition.

    A gradient of few numbers (dA, dD, d(dt_bias) of one head or two) is a sum whose terms cancel under a loss in a
    thousand. Of what is left fp32 keeps no digits, the definition's own fp32 no more than ours: where inputs are drawn
    at random, an error is measured by what the gradient is worth under any loss.
    """
    runs = [run(functools.partial(op, backend="reference"), inputs, torch.float64, seed=seed) for seed in range(losses)]
    return {name: torch.stack([result[name].norm() for result in runs]).square().mean().sqrt() for name in runs[0]}


def assert_matches_definition(
    op, inputs: dict, table: dict[str, str], backend: str, floor: float = FLOOR, norms: dict | None = None
) -> dict[str, float]:
    """`op(**inputs, backend=...)` in fp32, on the device that its line declares, against the reference in fp64."""
    device = read_entry(table[backend]).device or "cpu"
    reference = run(functools.partial(op, backend="reference"), inputs, torch.float64)
    got = run(functools.partial(op, backend=backend), inputs, torch.float32, device)
    errors = relative_errors(reference, got, norms)
    assert all(error < floor for error in errors.values()), errors
    return errors
