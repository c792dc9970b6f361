"""Jobs over processes: started fresh, one thread each, results in any order, the first failure stopping the rest."""

from __future__ import annotations

import errno
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from promptcot_mamba.errors import InputError
from promptcot_mamba.log import get_logger

logger = get_logger(__name__)
LOG_SECONDS = 15.0
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # full, over quota, over the limit of a file
_run: Callable[..., Any] | None = None  # what this worker process does with a job


def _start(make: Callable[[], Callable[..., Any]]) -> None:
    global _run
    _run = make()


def _do(job: tuple[Any, ...]) -> Any:
    return _run(*job)


def one_thread_each() -> None:
    """Workers are the parallelism: neither the tokenizer's pool nor BLAS starts threads inside them."""
    os.environ.update(TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1", OMP_NUM_THREADS="1", ARROW_NUM_THREADS="1")


def do_all(
    make: Callable[[], Callable[..., Any]], jobs: Sequence[tuple[Any, ...]], workers: int, title: str
) -> Iterable[tuple[int, Any]]:
    """Yield `(job number, result)` of every job as it finishes; `make()` runs once in each worker.

    Raises what a job raised; InputError if the disk is full or a worker was killed. Finished jobs stay finished:
    they are the jobs' own files.
    """
    started = logged = time.monotonic()
    try:
        for done, item in enumerate(_results(make, jobs, workers), start=1):
            yield item
            now = time.monotonic()
            if done == len(jobs) or now - logged > LOG_SECONDS:
                logged = now
                logger.info("%s: %d of %d, %.0f s", title, done, len(jobs), now - started)
    except OSError as error:
        if error.errno in NO_ROOM or "No space left" in str(error):
            raise InputError(f"{title}: the disk is full; free some space and run the same command again") from None
        raise
    except BrokenProcessPool:
        raise InputError(
            f"{title}: a worker was killed (out of memory?); run the same command again, with fewer --workers"
        ) from None


def _results(make: Callable[[], Callable[..., Any]], jobs: Sequence[tuple[Any, ...]], workers: int):
    if workers == 1:
        run = make()
        yield from ((number, run(*job)) for number, job in enumerate(jobs))
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks of Arrow and the tokenizer
    with ProcessPoolExecutor(min(workers, max(len(jobs), 1)), context, _start, (make,)) as pool:
        futures = {pool.submit(_do, job): number for number, job in enumerate(jobs)}
        try:
            for future in as_completed(futures):
                yield futures.pop(future), future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
