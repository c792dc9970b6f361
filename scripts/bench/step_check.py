"""One packed training step of a small model: the device's Triton kernels against the CPU's reference.

The model has the 7B model's head and state sizes and few of everything else, so that the CPU's token-by-token
definition takes seconds. Loss and every parameter's gradient are compared.
"""

from typing import Any

import torch
from transformers import Mamba2Config

from promptcot_mamba.model import Mamba2ForCausalLM
from promptcot_mamba.ops.backends import prefer_backend
from promptcot_mamba.ops.packing import cu_seqlens_from_lengths
from scripts.bench.device_common import Row
from scripts.bench.kernel_cases import relative_errors

FLOORS = {"float32": 1e-4, "bfloat16": 3e-2}
DOCUMENTS = [1, 37, 200, 5, 131, 64, 74]
DOCUMENTS_OF_A_REHEARSAL = [1, 9, 5]


def make_config(rehearsal: bool) -> Mamba2Config:
    """A few layers with the 7B model's tiles, or of tiny ones where Triton's interpreter runs them."""
    sizes: dict[str, Any] = (
        {"hidden_size": 16, "num_heads": 2, "head_dim": 16, "n_groups": 1, "state_size": 16, "vocab_size": 40}
        if rehearsal
        else {"hidden_size": 256, "num_heads": 8, "head_dim": 64, "n_groups": 2, "state_size": 128, "vocab_size": 1024}
    )
    return Mamba2Config(num_hidden_layers=2, use_cache=False, **sizes)


def take_step(
    model: Mamba2ForCausalLM, weights: dict, dtype: torch.dtype, device: str, backend: str, lengths: list[int]
) -> dict[str, torch.Tensor]:
    """Loss and every gradient, on the CPU in fp32, of one packed row."""
    torch.nn.Module.to(model, "cpu", torch.float32)
    model.load_state_dict(weights)
    torch.nn.Module.to(model, device, dtype).train()
    model.zero_grad(set_to_none=True)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, model.config.vocab_size, (1, sum(lengths)), generator=generator).to(device)
    with prefer_backend(backend):
        loss = model(input_ids=ids, labels=ids, cu_seqlens=cu_seqlens_from_lengths(lengths).to(device)).loss
        loss.backward()
    found = {"loss": loss.detach().float().cpu()}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad.float().cpu()
    return found


def check_step(dtype_name: str, device: str) -> Row:
    """Relative errors of the step in this dtype against the CPU's fp32 step on the same (rounded) weights.

    It passes where every error is below the floor, or below twice the error of the CPU's own step in this dtype:
    "equal within the dtype's error" is what a second, independent evaluation in that dtype shows.
    """
    rehearsal = device == "cpu"
    dtype = getattr(torch, dtype_name)
    lengths = DOCUMENTS_OF_A_REHEARSAL if rehearsal else DOCUMENTS
    torch.manual_seed(0)
    model = Mamba2ForCausalLM(make_config(rehearsal))
    weights = {name: value.to(dtype).float() for name, value in model.state_dict().items()}
    want = take_step(model, weights, torch.float32, "cpu", "reference", lengths)
    plain = take_step(model, weights, dtype, "cpu", "chunked", lengths)
    got = take_step(model, weights, dtype, device, "triton", lengths)
    errors, plain_errors = relative_errors(want, got), relative_errors(want, plain)
    floor = FLOORS[dtype_name]
    return {
        "errors": errors, "plain_torch_errors": plain_errors, "floor": floor,
        "passed": all(error < max(floor, 2 * plain_errors[name]) for name, error in errors.items()),
    }  # fmt: skip
