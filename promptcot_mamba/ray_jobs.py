"""Jobs on a Ray cluster: what one machine's workers do, done on every node's CPUs.

ray is no requirement of the project: it is imported here alone, once an address is given. A job goes to any free CPU;
one that is lost with its node or worker is done again elsewhere, so jobs must give the same when they are repeated.
"""

import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from promptcot_mamba.errors import EXIT_LOST, InputError
from promptcot_mamba.log import logger
from promptcot_mamba.node_facts import await_token, describe_node, find_difference, write_token
from promptcot_mamba.run_info import ROOT

Key = TypeVar("Key")
PACKAGES = ("ray", "tokenizers", "transformers", "pyarrow", "numpy", "scipy", "sympy", "networkx", "sortedcontainers")
LOST_MOST = 3  # workers that one job may lose: one that loses more is what ends them
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 300.0  # for a node to start a worker
IDLE_SECONDS = 30.0  # without a result, after which one looks whether there are nodes left
HEAD_ASKED_SECONDS = 5.0
HEAD_LOST_SECONDS = 40.0  # after 60 ray ends the program in a C call, with words of its own


@dataclass(frozen=True)
class _Start:
    """What a worker needs before its first job. `folder`: where the program runs, if jobs use its paths."""

    make: Callable[[], Callable[..., Any]]
    facts: list[str]
    folder: str | None

    def run(self) -> Callable[..., Any]:
        if fault := _find_fault(self.facts, self.folder):  # of a node that joined after the first look
            raise InputError(fault)
        try:
            return self.make()
        except InputError as error:
            raise InputError(f"{socket.gethostname()}: {error}") from None


_started: tuple[str, Callable[..., Any]] | None = None  # by this worker process


def _do(name: str, start: list[Any], job: tuple[Any, ...]) -> Any:
    """A worker's side of a job; `start` holds the reference to a `_Start`, fetched once in each worker."""
    global _started
    if _started is None or _started[0] != name:
        import ray

        _started = name, ray.get(start[0]).run()
    return _started[1](*job)


def _find_fault(facts: list[str], folder: str | None, tokens: Sequence[tuple[str, str, str]] = (),
                files: Sequence[tuple[str, int]] = ()) -> str:  # fmt: skip
    """What is wrong with this node, in words; empty where it is as the program's own and sees the same files."""
    if difference := find_difference([*facts, *describe_node(PACKAGES)]):
        return difference
    host = socket.gethostname()
    try:
        if folder is not None:
            os.chdir(folder)  # so that relative paths are what they are to the program
        for flag, path, token in tokens:
            await_token(flag, Path(path), Path(token))
        for path, size in files:
            if Path(path).stat().st_size != size:
                return f"{path}: has another size on {host}; all nodes must read the same files"
    except InputError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename}: {host} does not see it ({error.strerror}); all nodes must read the same files"
    return ""


def _import_ray(address: str) -> Any:
    os.environ["RAY_IGNORE_UNHANDLED_ERRORS"] = "1"  # of jobs that failed beside the one that is told
    try:
        import ray
    except ImportError:
        raise InputError(f"--ray_address {address}: needs ray on every node; pip install ray") from None
    return ray


def _check_address(address: str) -> None:
    """Raise InputError for what is no address, or where nobody answers: ray itself tries for a minute or more."""
    if address == "auto":
        return
    found = re.fullmatch(r"\[?([\w.:-]+?)\]?:(\d+)", address)
    if found is None or "//" in address:
        raise InputError(f"--ray_address {address}: expected HOST:PORT of ray start --head, or auto")
    try:
        socket.create_connection((found[1], int(found[2])), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"--ray_address {address}: cannot be reached ({why}); is ray start --head running?") from None


def open_cluster(address: str | None, most: int | None) -> "AbstractContextManager[RayCluster | None]":
    """The cluster at an address, `most` jobs at once on it (default: one a CPU); None where there is no address."""
    return nullcontext() if address is None else RayCluster(address, most)


class RayCluster(AbstractContextManager["RayCluster"]):
    """The workers of a cluster, of which this machine is a node.

    Raises InputError, in one line, where ray is missing, where nothing answers at `address`, and for a node that has
    other versions or other sources than this one.
    """

    def __init__(self, address: str, most: int | None = None):
        self._ray = ray = _import_ray(address)
        _check_address(address)
        self.address = address
        self._folder: str | None = None
        self._facts = describe_node(PACKAGES)
        try:
            ray.init(address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            mend = "; is this machine a node of it (ray start --address)?" if isinstance(error, ConnectionError) else ""
            raise InputError(f"--ray_address {address}: {' '.join(str(error).split())}{mend}") from None
        self._job = ray.remote(_do).options(num_cpus=1, max_retries=0, scheduling_strategy="SPREAD")
        self._closed = threading.Event()
        with ExitStack() as undo:
            undo.callback(self.close)
            head = ray.get_runtime_context().gcs_address
            threading.Thread(target=self._watch_head, args=(head,), daemon=True).start()
            self._ask_nodes()
            undo.pop_all()
        cpus = int(sum(node["Resources"]["CPU"] for node in self._nodes()))
        self._in_flight = most or 2 * cpus
        logger.info("%s: %d nodes, %d CPUs", address, len(self._nodes()), cpus)

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]

    def share(self, folders: Mapping[str, Path], files: Iterable[Path]) -> None:
        """Let jobs use the program's paths. Raises InputError unless every node sees its `files` and `folders` (by
        their flags), those to be written by a token in them."""
        self._folder = str(Path.cwd())
        tokens = [(flag, str(folder), write_token(folder)) for flag, folder in folders.items()]
        try:
            self._ask_nodes(tokens, [(str(file), file.stat().st_size) for file in files])
        finally:
            for _, _, token in tokens:
                Path(token).unlink(missing_ok=True)

    def _ask_nodes(self, tokens: Sequence[tuple[str, str, str]] = (), files: Sequence[tuple[str, int]] = ()) -> None:
        """Raise InputError with what is wrong with the first node that is not as it should be."""
        ray, root = self._ray, str(ROOT)

        def look(*asked: Any) -> str:  # sent as text, not by name: the node may not have this module
            import importlib

            try:
                return importlib.import_module("promptcot_mamba.ray_jobs")._find_fault(*asked)
            except ImportError as error:
                return f"{importlib.import_module('socket').gethostname()}: {error}; it needs this repository at {root}"

        at = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        asked = {
            ray.remote(look)
            .options(num_cpus=0, max_retries=0, scheduling_strategy=at(node["NodeID"], soft=False))
            .remote(self._facts, self._folder, tokens, files): node["NodeManagerHostname"]
            for node in self._nodes()
        }
        _, late = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
        if late:
            raise InputError(f"--ray_address {self.address}: {asked[late[0]]} starts no worker; see its ray logs")
        for answer, host in asked.items():
            try:
                fault = ray.get(answer)
            except ray.exceptions.RayError as error:
                fault = f"{host}: cannot be asked ({str(error).splitlines()[0]})"
            if fault:
                raise InputError(f"--ray_address {self.address}: {fault}")

    def results(
        self, make: Callable[[], Callable[..., Any]], jobs: Iterable[tuple[Key, tuple[Any, ...]]]
    ) -> Iterator[tuple[Key, Any]]:
        """(key, result) of each (key, arguments) as it is done; `make()` runs once in each worker.

        Raises what a job raised; InputError for a job that loses one worker after another.
        """
        ray = self._ray
        name, start = uuid4().hex, [ray.put(_Start(make, self._facts, self._folder))]
        waiting: dict[Any, tuple[Key, tuple[Any, ...], int]] = {}  # reference -> key, arguments, workers lost
        rest = iter(jobs)
        try:
            while True:
                for key, job in islice(rest, self._in_flight - len(waiting)):
                    waiting[self._job.remote(name, start, job)] = key, job, 0
                if not waiting:
                    return
                done, _ = ray.wait(list(waiting), timeout=IDLE_SECONDS)
                if not done and not self._nodes():
                    raise InputError(f"--ray_address {self.address}: no node with a CPU is left; run the same again")
                for answer in done:
                    key, job, lost = waiting.pop(answer)
                    try:
                        result = ray.get(answer)
                    except ray.exceptions.RayTaskError as error:
                        raise error.cause from error
                    except ray.exceptions.RayError as error:
                        why = str(error).splitlines()[0].split(". ")[0]
                        if lost == LOST_MOST:
                            raise InputError(
                                f"--ray_address {self.address}: a job lost {lost + 1} workers (out of memory?): {why}"
                            ) from None
                        logger.warning("a worker was lost, its job is done again elsewhere: %s", why)
                        waiting[self._job.remote(name, start, job)] = key, job, lost + 1
                        continue
                    yield key, result
        finally:
            for answer in waiting:
                ray.cancel(answer, force=True)

    def _watch_head(self, head: str) -> None:
        """End the program, in one line, where the head is gone: any call of ray's may hang by then."""
        host, _, port = head.rpartition(":")
        asked = heard = time.monotonic()
        while not self._closed.wait(HEAD_ASKED_SECONDS):
            began = time.monotonic()
            if began - asked > 2 * HEAD_ASKED_SECONDS:  # this program was stopped for a while, and heard nobody
                heard = began
            try:
                socket.create_connection((host, int(port)), timeout=HEAD_ASKED_SECONDS).close()
                heard = time.monotonic()
            except OSError as error:
                silent = time.monotonic() - heard
                if silent > HEAD_LOST_SECONDS and not self._closed.is_set():
                    told = f"its head at {head} has not answered for {silent:.0f} s ({error})"
                    mend = "start the cluster and the same command again, which goes on from what is done"
                    line = f"error: --ray_address {self.address}: {told}; {mend}"
                    print(f"\n{line}", file=sys.stderr, flush=True)  # below a progress bar
                    os._exit(EXIT_LOST)
            asked = time.monotonic()

    def close(self) -> None:
        self._closed.set()
        self._ray.shutdown()

    def __exit__(self, *exc: object) -> None:
        self.close()
