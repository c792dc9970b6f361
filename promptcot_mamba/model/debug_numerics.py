"""Find the first place where a number stops being finite: inputs of ops by argument, modules by name, both ways."""

import torch
from torch import nn

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.checks import set_debug_numerics


def _tensors(value) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for part in value for tensor in _tensors(part)]
    return []


def _check(what: str, value) -> None:
    for tensor in _tensors(value):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            shape = tuple(tensor.shape)
            raise InputError(f"{what}: {bad} of {tensor.numel()} values are NaN or infinite, shape {shape}")


def watch_numerics(model: nn.Module) -> None:
    """Check parameters now, and every module's output and gradient from now on; slow, for hunting.

    The first non-finite value raises InputError naming the module (innermost first) or the op's argument.
    """
    for name, parameter in model.named_parameters():
        _check(f"parameter {name}", parameter)
    set_debug_numerics(True)
    for name, module in model.named_modules():

        def after_forward(_module, _inputs, output, name=name or "model"):
            _check(f"output of {name}", output)

        def after_backward(_module, grad_inputs, _grad_outputs, name=name or "model"):
            _check(f"gradient leaving {name}", grad_inputs)

        module.register_forward_hook(after_forward)
        if not list(module.children()):  # a container's gradient is its children's
            module.register_full_backward_hook(after_backward)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.register_hook(lambda grad, name=name: _check(f"gradient of {name}", grad))
