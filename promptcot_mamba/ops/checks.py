"""Argument checks shared by the ops: each raises InputError naming the argument and what was expected."""

from collections.abc import Sequence

import torch

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.packing import check_cu_seqlens

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


_debug = False


def set_debug_numerics(wanted: bool) -> None:
    """Whether the ops look for NaN and infinity in their inputs (slow: it reads each and waits for the device)."""
    global _debug
    _debug = wanted


def check_float(op: str, name: str, tensor: torch.Tensor) -> None:
    """A floating-point tensor of a kind the ops know."""
    if not isinstance(tensor, torch.Tensor):
        raise InputError(f"{op}: {name} must be a tensor, found {type(tensor).__name__}")
    if tensor.dtype not in FLOATS:
        raise InputError(f"{op}: {name} must be float64, float32, bfloat16 or float16, found {tensor.dtype}")
    if _debug and not bool(torch.isfinite(tensor).all()):
        raise InputError(f"{op}: {name} holds {int((~torch.isfinite(tensor)).sum())} NaN or infinite values")


def check_shape(op: str, name: str, tensor: torch.Tensor, shape: Sequence[int | None], letters: str) -> None:
    """`tensor` has this shape (None: any size); `letters` is how the message writes it, as in `(b, l, h)`."""
    sizes = tuple(tensor.shape)
    matches = len(sizes) == len(shape) and all(want in (None, have) for want, have in zip(shape, sizes, strict=True))
    if not matches:
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise InputError(f"{op}: {name} must have shape {letters} = ({wanted}), found {sizes}")


def check_float_shape(op: str, name: str, tensor: torch.Tensor, like: torch.Tensor, shape, letters: str) -> None:
    """A floating-point tensor of this shape on the device of `like`."""
    check_float(op, name, tensor)
    check_shape(op, name, tensor, shape, letters)
    if tensor.device != like.device:
        raise InputError(f"{op}: {name} is on {tensor.device}, expected {like.device} like the first input")


def check_documents(op: str, cu_seqlens: torch.Tensor | None, batch: int, length: int) -> int:
    """How many sequences the input holds: the batch, or the documents of `cu_seqlens` (which needs a batch of 1)."""
    if length < 1:
        raise InputError(f"{op}: the length must be at least 1, found {length}")
    if cu_seqlens is None:
        return batch
    if batch != 1:
        raise InputError(f"{op}: cu_seqlens needs a batch of 1 (pack the documents in one row), found {batch}")
    check_cu_seqlens(cu_seqlens, length)
    return cu_seqlens.numel() - 1
