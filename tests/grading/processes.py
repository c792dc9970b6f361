"""Processes that run on this machine, as /proc tells them, and waiting for what they do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def becomes(condition: Callable[[], bool]) -> bool:
    """Whether it becomes true; two minutes are a guard, on a machine however slow."""
    deadline = time.monotonic() + 120
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def look_at(pid: int) -> tuple[int, str] | None:
    """A running process's parent and when it was started, None of one that does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else (int(fields[1]), fields[19])


def tree_of(root: int) -> dict[int, str]:
    """A process and all below it, each with when it was started: a number may be given again."""
    running = {int(path.name): look_at(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit()}
    places = {pid: place for pid, place in running.items() if place}
    found = [root]
    for pid in found:  # grows meanwhile
        found += [child for child, (parent, _) in places.items() if parent == pid]
    return {pid: places[pid][1] for pid in found if pid in places}


def are_gone(tree: dict[int, str]) -> bool:
    now = {pid: look_at(pid) for pid in tree}
    return not any(place and place[1] == tree[pid] for pid, place in now.items())
