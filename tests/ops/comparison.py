"""Compare a backend with the fp64 definition: every output and every gradient, relative to its norm."""

from __future__ import annotations

import pytest
import torch

CPU_FORMS = {"chunked", "shifted", "recompute", "native"}
FLOOR = 5e-5  # fp32 against the fp64 definition


def each_backend(table: dict[str, str]):
    """Every backend of a table but the definition, those that need a CUDA device marked so."""
    for name, entry in table.items():
        if name != "reference":
            marks = () if name in CPU_FORMS else (pytest.mark.gpu, needs_device(entry))
            yield pytest.param(name, marks=marks)


def needs_device(entry: str):
    return pytest.mark.skipif(not torch.cuda.is_available(), reason=f"{entry}: no CUDA device")


def run(op, inputs: dict, dtype: torch.dtype, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Outputs and gradients of `op(**inputs)` under a fixed random loss, in fp64 on the CPU.

    Floating-point inputs are cast to `dtype` and require gradients; the others pass as they are.
    """
    leaves = {}
    for name, value in inputs.items():
        value = value.to(device)
        leaves[name] = value.detach().to(dtype, copy=True).requires_grad_() if value.is_floating_point() else value
    outputs = op(**leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    generator = torch.Generator().manual_seed(7)
    loss = 0
    for output in outputs:
        weights = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        loss = loss + (output * weights.to(output)).sum()
    loss.backward()
    found = {f"output {index}": output for index, output in enumerate(outputs)}
    found |= {f"d{name}": leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    return {name: value.detach().double().cpu() for name, value in found.items()}


def relative_errors(reference: dict, got: dict) -> dict[str, float]:
    assert reference.keys() == got.keys()
    return {name: float((got[name] - want).norm() / want.norm().clamp(min=1e-30)) for name, want in reference.items()}


def assert_matches_definition(op, inputs: dict, backend: str, floor: float = FLOOR) -> dict[str, float]:
    """`op(**inputs, backend=...)` in fp32 against its reference in fp64."""
    device = "cpu" if backend in CPU_FORMS else "cuda"
    reference = run(lambda **kw: op(**kw, backend="reference"), inputs, torch.float64)
    got = run(lambda **kw: op(**kw, backend=backend), inputs, torch.float32, device)
    errors = relative_errors(reference, got)
    assert all(error < floor for error in errors.values()), errors
    return errors
