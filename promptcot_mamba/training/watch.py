"""Who is still there: a process or host that vanishes ends the run within a stated time, by name.

Without this the others would wait for it in a collective: for `--ddp_timeout`, half an hour, where its network is gone.
Each process writes a number that grows into the group's store; the first one reads all of them, the others read its.
"""

import os
import socket
import sys
import threading
import time
from datetime import timedelta
from types import TracebackType
from typing import Any, NoReturn

import torch.distributed as dist

from promptcot_mamba.errors import EXIT_LOST, InputError
from promptcot_mamba.log import logger
from promptcot_mamba.training.ranks import gather_lists, local_rank, rank

BEAT_SECONDS = 2.0
LOST_AFTER_SECONDS = 120.0  # in which a process must get the interpreter for a moment
SUSPENDED_AFTER_BEATS = 5  # a whole job may be stopped and go on; a longer gap than this is nobody else's
BROKEN_AFTER_SECONDS = 15.0  # the same, once a connection between processes broke
EXIT_FAILED = 1
BEAT_KEY, LOST_KEY, BROKEN_KEY, ENDED_KEY = (f"promptcot/watch/{name}" for name in ("beat", "lost", "broken", "ended"))


class Watch:
    """Around a run of several processes. Raises InputError where a launcher starts one again with its old store."""

    def __init__(self) -> None:
        if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):  # what the last attempt said stands in it
            raise InputError("torchrun --max-restarts: start the same command again instead; it goes on by itself")
        self._store = connect() if dist.is_initialized() and dist.get_world_size() > 1 else None
        # In the first process the store lives by this, also where an error takes the group down.
        self._group_store = dist.distributed_c10d._get_default_store() if self._store is not None else None
        self._over = threading.Event()
        self._heard = self._broken = time.monotonic()
        self._beats = 0
        self._seen: dict[int, tuple[bytes, float]] = {}

    def __enter__(self) -> None:
        if self._store is None:
            return
        self._beat()
        self._hosts = gather_lists([socket.gethostname()])  # all have written a first number
        others = range(dist.get_world_size()) if rank() == 0 else (0,)
        self._others = [other for other in others if other != rank()]
        self._keys = [f"{BEAT_KEY}/{other}" for other in self._others]
        self._heard = time.monotonic()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._listen, self._judge)]
        for thread in self._threads:
            thread.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._store is None:
            return
        failed = isinstance(error, Exception) or (isinstance(error, SystemExit) and error.code)
        if error is not None and failed:
            self._tell(error)
        self._over.set()
        # The first one holds the store, in which the others read why. Where all is said, they leave before they could
        # find a connection broken, and speak of it.
        if failed and (rank() == 0 or isinstance(error, SystemExit)):
            time.sleep(3 * BEAT_SECONDS)
        for thread in self._threads:  # none may be in a C call while the interpreter ends
            thread.join(timeout=BROKEN_AFTER_SECONDS)
        if isinstance(error, SystemExit) and isinstance(error.code, int) and failed:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(error.code)  # all is said; gloo's threads, cut by the interpreter's end, would make it an abort

    def _tell(self, error: BaseException) -> None:
        """Let the others know of this process's error; where it is a lost connection, find out who is lost."""
        try:
            assert self._store is not None
            if type(error) is RuntimeError or isinstance(error, dist.DistError):  # as gloo or NCCL tell it
                self._store.set(BROKEN_KEY, "")
                self._over.wait(2 * BROKEN_AFTER_SECONDS)  # `_listen` ends this process, unless all are there
            told = f"{EXIT_FAILED} {self._name(rank())} ended: {type(error).__name__}: {error}"
            if isinstance(error, SystemExit):  # which has said why, as for a full disk
                told = f"{error.code} "
            self._store.set(ENDED_KEY, told)
            self._store.check([ENDED_KEY])  # an answer: what is sent to a process that has ended is lost without a word
        except RuntimeError:  # the store is gone, and with it the first process
            self._end_without_first()

    def _beat(self) -> None:
        assert self._store is not None
        self._beats += 1
        self._store.set(f"{BEAT_KEY}/{rank()}", str(self._beats))

    def _listen(self) -> None:
        """Beat, and look who else does. A call may never return, where the first process's host is gone."""
        store, last = self._store, time.monotonic()
        assert store is not None
        while not self._over.wait(BEAT_SECONDS):
            if time.monotonic() - last > SUSPENDED_AFTER_BEATS * BEAT_SECONDS:  # perhaps all were: begin anew
                self._seen.clear()
            last = time.monotonic()
            try:
                self._beat()
                if store.check([ENDED_KEY]):
                    status, _, message = store.get(ENDED_KEY).decode().partition(" ")
                    # What its own collectives tell it comes first, unless nothing is left to say.
                    if not self._over.wait(BROKEN_AFTER_SECONDS if message else 0):
                        self._end(message, int(status))
                if store.check([LOST_KEY]):
                    self._end(store.get(LOST_KEY).decode(), EXIT_LOST)
                self._look(store.multi_get(self._keys), broken=store.check([BROKEN_KEY]))
            except RuntimeError:
                self._end_without_first()
            self._heard = time.monotonic()

    def _look(self, beats: list[bytes], broken: bool) -> None:
        """End where one of the others has not beaten for too long."""
        now = time.monotonic()
        patience = BROKEN_AFTER_SECONDS if broken else LOST_AFTER_SECONDS
        self._broken = self._broken if broken else now  # since when
        for other, beat in zip(self._others, beats, strict=True):
            last, since = self._seen.get(other, (b"", now))
            if beat != last:
                self._seen[other] = (beat, now)
            elif now - since > patience and (not broken or now - self._broken > 2 * BEAT_SECONDS):
                message = f"{self._name(other)} has not answered for {now - since:.0f} s"
                assert self._store is not None
                self._store.set(LOST_KEY, message)
                self._end(message, EXIT_LOST, wait=rank() == 0)

    def _judge(self) -> None:
        """End where `_listen` hangs."""
        last = time.monotonic()
        while not self._over.wait(BEAT_SECONDS):
            if time.monotonic() - last > SUSPENDED_AFTER_BEATS * BEAT_SECONDS:
                self._heard = time.monotonic()
            last = time.monotonic()
            if time.monotonic() - self._heard > LOST_AFTER_SECONDS:
                self._end_without_first()

    def _end_without_first(self) -> None:
        if not self._over.is_set():
            self._end(f"{self._name(0)} does not answer", EXIT_LOST)

    def _name(self, number: int) -> str:
        return f"rank {number} on {self._hosts[number]}"

    def _end(self, message: str, status: int, wait: bool = False) -> NoReturn:
        """End this process, whatever its main thread waits for. The first one speaks, if something is left to say;
        without it, one a host."""
        if message and (rank() == 0 or (message.startswith(self._name(0)) and local_rank() == 0)):
            more = "; the same command goes on from the last checkpoint" if status == EXIT_LOST else ""
            print(f"error: {message}{more}", file=sys.stderr, flush=True)
        if wait:  # as above
            time.sleep(3 * BEAT_SECONDS)
        os._exit(status)


def connect() -> Any:
    """A connection of our own to the store that the processes met in: the group's may be waiting in another thread."""
    store = dist.distributed_c10d._get_default_store()
    while isinstance(store, dist.PrefixStore):
        store = store.underlying_store
    if not isinstance(store, dist.TCPStore):
        logger.warning("the processes met in a %s: nobody watches whether they are there", type(store).__name__)
        return None
    seconds = timedelta(seconds=LOST_AFTER_SECONDS)
    return dist.TCPStore(store.host, store.port, is_master=False, wait_for_workers=False, timeout=seconds)
