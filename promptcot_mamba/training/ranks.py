"""Processes acting as one: work done by one of them, and errors that reach all of them."""

import errno
import itertools
import logging
import os
import pickle
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, overload

import torch
import torch.distributed as dist
from transformers.utils.logging import disable_progress_bar

from promptcot_mamba.cli import EXIT_BAD_INPUT, describe_os_error
from promptcot_mamba.errors import InputError
from promptcot_mamba.log import logger

T = TypeVar("T")
POLL_SECONDS = 0.05
FAILED_KEY = "promptcot/failed"
LAST_WORD_SECONDS = 5.0  # that the first process stays after a failure, for the others to hear of it
_turns = itertools.count()  # processes take the same turns in the same order


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def speak_once() -> None:
    """The first process speaks for all, in lines: no progress bars of libraries, no notes for their authors."""
    disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    # transformers counts micro-batches itself and tells accelerate of 1, to which DeepSpeed's number is a mismatch.
    logging.getLogger("accelerate.accelerator").addFilter(lambda one: "accumulation steps mismatch" not in str(one.msg))
    if rank() != 0:
        logger.setLevel(logging.ERROR)


def _exchange(mine: object, *, from_all: bool) -> list[Any]:
    """Every process's object, or the first one's alone, through the group's store: polled, under no time-out.

    A collective would kill the processes that wait for one that encodes text or reads weights for an hour. The first
    process reads what all wrote and writes it once, so that the store is asked twice a process and not once a pair.
    """
    if not dist.is_initialized():
        return [mine]
    store, turn = dist.distributed_c10d._get_default_store(), next(_turns)
    told = f"promptcot/{turn}"
    parts = [f"{told}/{number}" for number in range(dist.get_world_size())] if from_all else []
    if from_all:
        store.set(parts[rank()], pickle.dumps(mine))  # type: ignore[arg-type]  # torch's stub says str; bytes are kept
    if rank() == 0:
        _await(store, parts)
        found = [pickle.loads(part) for part in store.multi_get(parts)] if from_all else [mine]
        store.set(told, pickle.dumps(found))  # type: ignore[arg-type]
    _await(store, [told])
    found = pickle.loads(store.get(told))
    dist.barrier()  # all are here: the first process, which holds the store, may not leave before others have read
    return found


def _await(store: Any, keys: list[str]) -> None:
    while keys and not store.check(keys):
        time.sleep(POLL_SECONDS)


def agree(error: str | None) -> None:
    """Raise the same InputError in every process if any of them has one to report (the lowest rank's wins)."""
    for message in _exchange(error, from_all=True):
        if message is not None:
            raise InputError(message)


@overload
def together(work: Callable[[], T]) -> T: ...


@overload
def together(work: Callable[[], T], *, only_if: bool) -> T | None: ...


def together(work: Callable[[], T], *, only_if: bool = True) -> T | None:
    """Run `work` where `only_if` holds, wait for everyone, and raise any process's InputError in all of them.

    What the system refuses (a full disk) counts as one.
    """
    result, error = None, None
    if only_if:
        result, error = _attempt(work)
    agree(error)
    return result


def _attempt(work: Callable[[], T]) -> tuple[T | None, str | None]:
    """What `work` returns, and what a user can mend where it fails."""
    try:
        return work(), None
    except InputError as caught:
        return None, str(caught)
    except OSError as caught:
        if (text := describe_os_error(caught)) is None:
            raise
        return None, text


def first_does(work: Callable[[], T]) -> T:
    """Run `work` in the first process alone; everyone gets its result, or its InputError."""
    outcome = _exchange(_attempt(work) if rank() == 0 else None, from_all=False)[0]
    if outcome[1] is not None:
        raise InputError(outcome[1])
    return outcome[0]


@contextmanager
def fail_as_one() -> Iterator[None]:
    """Around steps and checkpoints: what one process's disk refuses ends all of them, with one line.

    The others stand in a collective by then. They leave it when that process ends, and find in the group's store that
    it has spoken for all.
    """
    try:
        yield
    except OSError as error:
        text = describe_os_error(error)
        if not dist.is_initialized():
            raise
        # Perhaps another one met a full disk, and has removed what this one was writing into.
        if error.errno == errno.ENOENT and _has_failed(LAST_WORD_SECONDS):
            sys.exit(EXIT_BAD_INPUT)
        if text is None:
            raise
        store, mine = dist.distributed_c10d._get_default_store(), f"{rank()}: {text}"
        if store.compare_set(FAILED_KEY, "", mine).decode() == mine:
            print(f"error: {text}", file=sys.stderr, flush=True)
        if rank() == 0:  # it holds the store: the others leave their collective first, and read it
            if dist.get_backend() == "gloo":
                dist.destroy_process_group()
            time.sleep(LAST_WORD_SECONDS)
        sys.exit(EXIT_BAD_INPUT)
    except RuntimeError as error:
        lost = type(error) is RuntimeError or isinstance(error, dist.DistError)  # as gloo, or as NCCL
        if not (lost and dist.is_initialized() and _has_failed()):
            raise
        sys.exit(EXIT_BAD_INPUT)


def _has_failed(patience: float = 0.0) -> bool:
    """Whether a process has told why it ends, or does within some seconds; the first one's end, which takes the store
    along, tells as much."""
    deadline = time.monotonic() + patience
    try:
        while not (failed := dist.distributed_c10d._get_default_store().check([FAILED_KEY])):
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_SECONDS)
        return failed
    except RuntimeError:
        return rank() != 0


def gather_lists(mine: list[str]) -> list[str]:
    """Every process's list, end to end."""
    if not dist.is_initialized():
        return mine
    lists: list[list[str]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(lists, mine)
    return [item for one in lists for item in one]


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Sum a small tensor over the processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def part() -> None:
    """Wait for everyone, then take the process group down, where there is one: the last thing a process does.

    Left to the interpreter's end, gloo's threads may be cut while they run, and a rank whose work is done ends in
    `terminate called without an active exception` (two of a dozen launches on one CPU,
    none of hundreds on another).
    """
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
