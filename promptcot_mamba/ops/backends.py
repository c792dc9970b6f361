"""Backend tables: literal dicts of `name -> "module:function"`, imported when chosen, chosen once and logged.

A table lists `reference` (the definition), a fast form in plain torch, and kernels that need a CUDA device. A new
backend is one more line in its op's table.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from promptcot_mamba.errors import InputError
from promptcot_mamba.log import log_once

Backend = Callable[..., Any]
_preferred: str | None = None  # of the process, not of a thread: autograd runs backward passes in threads of its own


@contextmanager
def prefer_backend(name: str) -> Iterator[None]:
    """Inside, ops that were not told a backend take this one where their table has it: a whole model on one form."""
    global _preferred
    before, _preferred = _preferred, name
    try:
        yield
    finally:
        _preferred = before


@cache
def _load(entry: str) -> Backend:
    module, _, function = entry.partition(":")
    return getattr(importlib.import_module(module), function)


@cache
def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def choose_backend(op: str, table: Mapping[str, str], name: str | None, like: torch.Tensor, torch_form: str) -> Backend:
    """The function behind `name`; where it is None, Triton kernels on a CUDA device and `torch_form` elsewhere.

    `like` is the op's main input: its device and dtype decide. Raises InputError for a name that is not in the
    table and for a backend whose wheel is not installed.
    """
    if name is None and _preferred in table:
        name = _preferred
    if name is None:
        name = default_backend(table, like, torch_form)
        log_once(f"{op}: {name} backend on {like.device.type}")
    if name not in table:
        raise InputError(f"{op}: backend {name!r} is unknown; choose one of {', '.join(table)}")
    try:
        return _load(table[name])
    except ModuleNotFoundError as error:
        raise InputError(f"{op}: backend {name!r} needs the module {error.name!r}, which is not installed") from None


def default_backend(table: Mapping[str, str], like: torch.Tensor, torch_form: str) -> str:
    """Kernels take fp16, bf16 and fp32 on CUDA; float64 and every other device run the torch form."""
    kernels = table.get("triton")
    on_device = like.device.type == "cuda" and like.dtype != torch.float64
    if kernels and on_device and _is_installed("triton") and _is_installed(kernels.partition(":")[0]):
        return "triton"
    return torch_form
