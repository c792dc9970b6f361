"""Backend tables: literal dicts of `name -> "module:function"`, imported when chosen, chosen once and logged.

A table lists `reference` (the definition), a fast form in plain torch, and kernels. A line that ends in `@cuda` or
`@cpu` runs on that device only, one without on any: `"promptcot_mamba.ops.ssd.cute_kernels:ssd_cute@cuda"`. A new
backend is one more line in its op's table; `train.py --ops ssd=cute` then trains with it.
"""

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from promptcot_mamba.errors import InputError
from promptcot_mamba.log import log_once

Backend = Callable[..., Any]
Table = Mapping[str, str]
OPS = {  # op -> where its table stands
    "causal_conv1d": "promptcot_mamba.ops.causal_conv1d:CAUSAL_CONV1D_BACKENDS",
    "fused_mixer": "promptcot_mamba.ops.fused_mixer:FUSED_MIXER_BACKENDS",
    "gated_rms_norm": "promptcot_mamba.ops.gated_rms_norm:GATED_RMS_NORM_BACKENDS",
    "linear_cross_entropy": "promptcot_mamba.ops.linear_cross_entropy:LINEAR_CROSS_ENTROPY_BACKENDS",
    "ssd": "promptcot_mamba.ops.ssd:SSD_BACKENDS",
}
MIXER_OPS = ("causal_conv1d", "ssd", "gated_rms_norm")  # what a mixer consists of between its projections
COMPOSED = "recompute"  # the fused mixer that is made of those ops, whichever were chosen
# Of the process, not of a thread: autograd runs backward passes in threads of its own.
_preferred: str | None = None
_chosen: dict[str, str] = {}


@dataclass(frozen=True)
class Entry:
    """One line of a table, taken apart; `device` is None where it runs on any."""

    module: str
    function: str
    device: str | None

    def runs_on(self, device: str) -> bool:
        """Triton's interpreter runs CUDA kernels on CPU tensors."""
        return self.device in (None, device) or os.environ.get("TRITON_INTERPRET") == "1"


@cache
def read_entry(line: str) -> Entry:
    """Raises InputError for a line that is not `module:function` or `module:function@device`."""
    place, _, device = line.partition("@")
    module, _, function = place.partition(":")
    if not module or not function:
        raise InputError(f"backend {line!r}: expected 'module:function' or 'module:function@device'")
    return Entry(module, function, device or None)


def get_table(op: str) -> Table:
    """An op's table. Raises InputError for an op there is none of."""
    if op not in OPS:
        raise InputError(f"op {op!r} is unknown; choose of {', '.join(OPS)}")
    module, _, name = OPS[op].partition(":")
    return getattr(importlib.import_module(module), name)


@contextmanager
def prefer_backend(name: str) -> Iterator[None]:
    """Inside, ops that were not told a backend take this one where their table has it: a whole model on one form.

    Raises InputError for a name that no table has.
    """
    global _preferred
    known = {known: None for op in OPS for known in get_table(op)}
    if name not in known:
        raise InputError(f"backend {name!r} is in no op's table; choose one of {', '.join(known)}")
    before, _preferred = _preferred, name
    try:
        yield
    finally:
        _preferred = before


def choose_ops(choices: Iterable[str], device: str | None = None) -> None:
    """From now on the ops named take the backends named, and no others: `["ssd=mamba_ssm", "causal_conv1d=reference"]`.

    `device` ("cpu", "cuda") is where they will run; what torch finds where None.

    Raises:
        InputError: for an op or backend that is unknown, cannot be imported or does not run on the device, and for a
            choice that would change nothing. Nothing is chosen then.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    wanted: dict[str, str] = {}
    for choice in choices:
        op, equals, name = choice.partition("=")
        if not equals or not op or not name:
            raise InputError(f"--ops {choice!r}: expected op=backend, as in ssd=chunked; ops: {', '.join(OPS)}")
        if op not in OPS:
            raise InputError(f"--ops {choice}: op {op!r} is unknown; choose of {', '.join(OPS)}")
        if wanted.get(op, name) != name:
            raise InputError(f"--ops {choice}: {op} was given {wanted[op]!r} already; name each op once")
        wanted[op] = name
        entry = find_entry(op, get_table(op), name)
        load_backend(op, name, entry)
        if not entry.runs_on(device):
            raise InputError(f"--ops {choice}: this backend runs on {entry.device} only, and the model on {device}")
    inner = [op for op in MIXER_OPS if op in wanted]
    if inner and wanted.get("fused_mixer", COMPOSED) != COMPOSED:
        raise InputError(
            f"--ops {inner[0]}={wanted[inner[0]]}: fused_mixer={wanted['fused_mixer']} is not made of {inner[0]}; "
            f"leave fused_mixer out or choose fused_mixer={COMPOSED}"
        )
    _chosen.clear()
    _chosen.update(wanted)


def chosen_ops() -> str | None:
    """What `choose_ops` chose, for a run's identity (another backend rounds otherwise); None where nothing was."""
    return " ".join(f"{op}={name}" for op, name in sorted(_chosen.items())) or None


def wanted_backend(op: str, table: Table) -> str | None:
    """What `prefer_backend` or, after it, `choose_ops` asked of this op; None where neither did."""
    return _preferred if _preferred in table else _chosen.get(op)


def find_entry(op: str, table: Table, name: str) -> Entry:
    """The line behind a name. Raises InputError that lists the known ones."""
    if name not in table:
        raise InputError(f"{op}: backend {name!r} is unknown; choose one of {', '.join(table)}")
    return read_entry(table[name])


@cache
def _load(entry: Entry) -> Backend:
    return getattr(importlib.import_module(entry.module), entry.function)


def load_backend(op: str, name: str, entry: Entry) -> Backend:
    """The function of an entry. Raises InputError where its wheel is missing or does not load here."""
    try:
        return _load(entry)
    except ModuleNotFoundError as error:
        raise InputError(f"{op}: backend {name!r} needs the module {error.name!r}, which is not installed") from None
    except (ImportError, AttributeError) as error:  # a build for another CUDA or torch; a misspelt function
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{op}: backend {name!r} cannot be loaded from {entry.module} ({reason})") from None


@cache
def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def choose_backend(
    op: str,
    table: Table,
    name: str | None,
    like: torch.Tensor,
    torch_form: str,
    misfit: Callable[[], str | None] = lambda: None,
) -> Backend:
    """The function behind `name`; where it is None the one asked for, or Triton on CUDA and `torch_form` elsewhere.

    `like` is the op's main input: its device and dtype decide. `misfit` says why the Triton kernels cannot take these
    sizes, None where they can. Raises InputError for a name that is not in the table, for a backend of another device
    and for one whose wheel is not installed.
    """
    if name is None:
        name = wanted_backend(op, table)
        how = "as chosen"
        if name is None:
            name, how = default_backend(table, like, torch_form), "by default"
            if name == "triton" and (reason := kernel_floor(like.device) or misfit()):
                name, how = torch_form, f"several times slower: {reason}"
        log_once(f"{op}: {name} backend on {like.device.type}, {how}")
    entry = find_entry(op, table, name)
    run = load_backend(op, name, entry)
    if not entry.runs_on(like.device.type):
        raise InputError(f"{op}: backend {name!r} runs on {entry.device} only, found tensors on {like.device.type}")
    return run


def kernel_floor(device: torch.device) -> str | None:
    """Why this CUDA device runs none of the Triton kernels; None where it does. The floor is Ampere, for its bf16."""
    if device.type != "cuda" or (found := torch.cuda.get_device_capability(device)) >= (8, 0):
        return None
    return f"the Triton kernels need compute capability 8.0, {device} has {found[0]}.{found[1]}"


def default_backend(table: Table, like: torch.Tensor, torch_form: str) -> str:
    """Kernels take fp16, bf16 and fp32 on CUDA; float64 and every other device run the torch form."""
    kernels = table.get("triton")
    on_device = like.device.type == "cuda" and like.dtype != torch.float64
    if kernels and on_device and _is_installed("triton") and _is_installed(read_entry(kernels).module):
        return "triton"
    return torch_form
