"""Jobs over processes of this machine or of a Ray cluster: one thread each, in any order, the first failure stopping
the rest."""

import errno
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any

from tqdm import tqdm

from promptcot_mamba.errors import InputError
from promptcot_mamba.ray_jobs import RayCluster

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # full, over quota, over the limit of a file
_run: Callable[..., Any] | None = None  # what this worker process does with a job


def _start(make: Callable[[], Callable[..., Any]]) -> None:
    global _run
    _run = make()


def _do(job: tuple[Any, ...]) -> Any:
    assert _run is not None  # `_start` ran first
    return _run(*job)


def one_thread_each() -> None:
    """Workers are the parallelism: neither the tokenizer's pool nor BLAS starts threads inside them."""
    os.environ.update(TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1", OMP_NUM_THREADS="1", ARROW_NUM_THREADS="1")


def _alone(make: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
    one_thread_each()
    return make()


def do_all(
    make: Callable[[], Callable[..., Any]],
    jobs: Sequence[tuple[Any, ...]],
    workers: int,
    title: str,
    cluster: RayCluster | None = None,
) -> list[Any]:
    """The results of all jobs, in their order; `make()` runs once in each worker, of `cluster` where there is one.

    Raises what a job raised; InputError if the disk is full or a worker was killed. Finished jobs stay finished:
    they are the jobs' own files.
    """
    results: list[Any] = [None] * len(jobs)
    try:
        done = cluster.results(partial(_alone, make), enumerate(jobs)) if cluster else _results(make, jobs, workers)
        for number, result in tqdm(done, total=len(jobs), desc=title, unit="part"):
            results[number] = result
    except OSError as error:
        if error.errno in NO_ROOM or "No space left" in str(error):
            raise InputError(f"{title}: the disk is full; free some space and run the same command again") from None
        raise
    except BrokenProcessPool:
        raise InputError(
            f"{title}: a worker was killed (out of memory?); run the same command again, with fewer --workers"
        ) from None
    return results


def _results(
    make: Callable[[], Callable[..., Any]], jobs: Sequence[tuple[Any, ...]], workers: int
) -> Iterator[tuple[int, Any]]:
    """(job number, result) as each is done."""
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
