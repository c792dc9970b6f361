"""A ray of one process for tests where there is none: jobs are run as they are waited for, and lost when told to."""

from __future__ import annotations

import pickle
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

from promptcot_mamba.ray_jobs import RayCluster


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception):
        super().__init__("a long traceback")
        self.cause = cause


class Ref:
    """A job that was sent, or a value that was put."""

    def __init__(self, run: Any = None, value: Any = None):
        self.run, self.value = run, value


class FakeRay(ModuleType):
    """`lose`: how many times the job of argument 0, 1, ... loses its worker. Tests look at `sent`, `cancelled`, `most`
    (waited for at once) and `open`. `head`: its address."""

    def __init__(self, lose: list[int] | None = None, nodes: int = 2, cpus: int = 2, head: str = "127.0.0.1:9"):
        super().__init__("ray")
        self.exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
        strategies = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda *_, **__: None)
        self.util = SimpleNamespace(scheduling_strategies=strategies)
        self._nodes = [
            {"Alive": True, "NodeID": f"id-{n}", "NodeManagerHostname": f"node-{n}", "Resources": {"CPU": float(cpus)}}
            for n in range(nodes)
        ]
        self.lose, self.head = lose or [], head
        self.sent = self.most = 0
        self.cancelled: list[Ref] = []
        self.open = False

    def init(self, *_: Any, **__: Any) -> None:
        self.open = True

    def shutdown(self) -> None:
        self.open = False

    def get_runtime_context(self) -> SimpleNamespace:
        return SimpleNamespace(gcs_address=self.head)

    def nodes(self) -> list[dict[str, Any]]:
        return self._nodes

    def put(self, value: Any) -> Ref:
        return Ref(value=pickle.loads(pickle.dumps(value)))

    def remote(self, function: Any) -> Any:
        def send(*arguments: Any) -> Ref:
            self.sent += 1
            return Ref(run=(function, arguments))

        made = SimpleNamespace(remote=send)
        made.options = lambda **_: made
        return made

    def wait(self, refs: list[Ref], num_returns: int = 1, timeout: float | None = None) -> tuple[list[Ref], list[Ref]]:
        self.most = max(self.most, len(refs))
        refs = refs[::-1]  # in another order than they were sent
        return refs[:num_returns], refs[num_returns:]

    def get(self, ref: Ref) -> Any:
        if ref.run is None:
            return ref.value
        function, arguments = ref.run
        if function.__name__ == "_do":
            key = arguments[2][0]
            if isinstance(key, int) and key < len(self.lose) and self.lose[key]:
                self.lose[key] -= 1
                raise RayError("The node died.\nmore")
        try:
            return function(*arguments)
        except Exception as error:  # noqa: BLE001  # what a job raises travels in a RayTaskError
            raise RayTaskError(error) from None

    def cancel(self, ref: Ref, force: bool) -> None:
        self.cancelled.append(ref)


def install(monkeypatch, **settings: Any) -> FakeRay:
    """Nobody answers at its head: who watched that would end the test's process."""
    made = FakeRay(**settings)
    monkeypatch.setattr(RayCluster, "_watch_head", lambda *_: None)
    monkeypatch.setitem(sys.modules, "ray", made)
    return made
