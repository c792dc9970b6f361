"""`causal_conv1d`: each channel filtered over the last `w` tokens of its own document."""

import torch

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.backends import choose_backend
from promptcot_mamba.ops.checks import check_documents, check_float, check_float_shape, check_shape

CAUSAL_CONV1D_BACKENDS = {
    "reference": "promptcot_mamba.ops.causal_conv1d.reference:causal_conv1d_reference",
    "shifted": "promptcot_mamba.ops.causal_conv1d.shifted:causal_conv1d_shifted",
    "triton": "promptcot_mamba.ops.causal_conv1d.triton_kernels:causal_conv1d_triton@cuda",
    "causal_conv1d": "promptcot_mamba.ops.causal_conv1d.causal_conv1d_adapter:causal_conv1d_upstream@cuda",
}
ACTIVATIONS = (None, "silu")
MOST_TAPS = 4  # of the Triton kernels


def find_width_misfit(width: int) -> str | None:
    """Why the Triton kernels cannot take a weight of this width, None where they can."""
    return (
        None if 2 <= width <= MOST_TAPS else f"the triton backend takes a weight 2 to {MOST_TAPS} wide, found {width}"
    )


def causal_conv1d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    activation: str | None = "silu",
    initial_states: torch.Tensor | None = None,
    cu_seqlens: torch.Tensor | None = None,
    return_final_states: bool = False,
    backend: str | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """y_t = act(bias + sum_k weight_k x_(t - w + 1 + k)), tokens before a document's start read as `initial_states`.

    Args:
        x: (b, l, d). weight: (d, w). bias: (d).
        activation: "silu" or None.
        initial_states: (b or docs, d, w-1), the tokens before each sequence, oldest first; zeros where None.
        cu_seqlens: (docs+1) int32 or int64, needs b == 1.

    Returns:
        y (b, l, d), and with `return_final_states` the last w-1 tokens of each sequence (b or docs, d, w-1), which
        reach into `initial_states` where a sequence is shorter. Both in the dtype of x and differentiable.

    Raises:
        InputError: for a shape, dtype, device or `cu_seqlens` that does not fit, naming the argument.
    """
    check_float("causal_conv1d", "x", x)
    check_shape("causal_conv1d", "x", x, (None,) * 3, "(b, l, d)")
    b, length, d = x.shape
    check_float_shape("causal_conv1d", "weight", weight, x, (d, None), "(d, w)")
    width = weight.shape[1]
    if width < 1:
        raise InputError("causal_conv1d: weight must be at least 1 wide")
    if bias is not None:
        check_float_shape("causal_conv1d", "bias", bias, x, (d,), "(d)")
    if activation not in ACTIVATIONS:
        raise InputError(f"causal_conv1d: activation must be 'silu' or None, found {activation!r}")
    sequences = check_documents("causal_conv1d", cu_seqlens, b, length)
    if initial_states is not None:
        shape = (sequences, d, width - 1)
        check_float_shape("causal_conv1d", "initial_states", initial_states, x, shape, "(b or docs, d, w-1)")
    run = choose_backend(
        "causal_conv1d",
        CAUSAL_CONV1D_BACKENDS,
        backend,
        x,
        torch_form="shifted",
        misfit=lambda: find_width_misfit(width),
    )
    return run(
        x, weight, bias, activation=activation, initial_states=initial_states, cu_seqlens=cu_seqlens,
        return_final_states=return_final_states,
    )  # fmt: skip
