"""`multiprocessing`'s locks for a process that can have no children; its `ThreadPool` and `dummy` need them.

The interpreter's own are named semaphores in shared memory, which the sandbox refuses. Here one process is the whole
tree, and a lock that its threads share is the same lock.
"""

import importlib
import threading
from types import TracebackType

OWN = importlib.import_module("_multiprocessing")  # loaded before the fork: what a test loads, it pays for
RECURSIVE_MUTEX = 0  # multiprocessing.synchronize's kinds; the other one is 1, a semaphore


class SemLock:
    """`_multiprocessing.SemLock` over a semaphore of this process's threads."""

    SEM_VALUE_MAX = 2**31 - 1
    handle, name = 0, None

    def __init__(self, kind: int, value: int, maxvalue: int, name: str, unlink: bool):
        self.kind, self.maxvalue = kind, maxvalue
        self._semaphore = threading.Semaphore(value)
        self._owner, self._held = 0, 0

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        if self.kind == RECURSIVE_MUTEX and self._is_mine():
            self._held += 1
            return True
        waits = max(timeout, 0) if block and timeout is not None else None
        if not self._semaphore.acquire(block, waits):
            return False
        self._owner = threading.get_ident()
        self._held += 1
        return True

    def release(self) -> None:
        """Raises AssertionError and ValueError where the interpreter's own lock does."""
        if self.kind == RECURSIVE_MUTEX:
            if not self._is_mine():
                raise AssertionError("attempt to release recursive lock not owned by thread")
            if self._held > 1:
                self._held -= 1
                return
        elif self._get_value() >= self.maxvalue:
            raise ValueError("semaphore or lock released too many times")
        self._held -= 1
        self._semaphore.release()

    __enter__ = acquire

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def _count(self) -> int:
        return self._held

    def _is_mine(self) -> bool:
        return self._held > 0 and self._owner == threading.get_ident()

    def _get_value(self) -> int:
        return self._semaphore._value

    def _is_zero(self) -> bool:
        return self._get_value() == 0


def install() -> None:
    """Let `multiprocessing.synchronize`, which is imported later if at all, find this class."""
    SemLock.__module__ = "_multiprocessing"
    OWN.__dict__["SemLock"] = SemLock
