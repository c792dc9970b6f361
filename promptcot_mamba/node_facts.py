"""What must be the same on every node of a run: versions, this project's sources, the folders that all of them see."""

import hashlib
import os
import platform
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

from promptcot_mamba.errors import InputError
from promptcot_mamba.run_info import ROOT, installed_versions

SEEN_WITHIN_SECONDS = 20.0  # shared storage may show a new file late


def describe_node(packages: tuple[str, ...]) -> list[str]:
    """`host<tab>what<tab>which` for all that must be the same on every node."""
    found = {"Python": platform.python_version(), **dict.fromkeys(packages, "none"), **installed_versions(packages)}
    found["this repository"] = hash_programs(ROOT)
    return [f"{socket.gethostname()}\t{name}\t{value}" for name, value in found.items()]


def hash_programs(root: Path) -> str:
    """Of the programs and the package: eight letters that change with any line of them."""
    digest = hashlib.sha256()
    for file in sorted([root / "train.py", *(root / "promptcot_mamba").rglob("*.py")]):
        digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return digest.hexdigest()[:8]


def find_difference(facts: Iterable[str]) -> str:
    """What tells one node from the first, in words; empty where nothing does."""
    first: dict[str, tuple[str, str]] = {}
    for host, name, value in (line.split("\t") for line in facts):
        first_host, wanted = first.setdefault(name, (host, value))
        if value != wanted:
            mend = (
                "copy it from there" if name == "this repository" else "run scripts/setup.sh there, from one checkout"
            )
            return f"{host}: {name} is {value}, on {first_host} it is {wanted}; {mend}"
    return ""


def nearest_folder(path: Path) -> Path:
    """The path made absolute, or the first folder above it that exists as far as this user may look."""
    nearest = path.absolute()
    while not os.path.isdir(nearest):  # noqa: PTH112  Path.is_dir raises PermissionError below a closed folder
        nearest = nearest.parent
    return nearest


def write_token(folder: Path) -> str:
    """A new empty file in the folder, or in the nearest above it that exists."""
    token = nearest_folder(folder) / f".shared-{uuid4().hex}"
    token.touch()
    return str(token)


def await_token(flag: str, folder: Path, token: Path) -> None:
    """Raise InputError unless this node sees, within a while, what another wrote in a folder."""
    deadline = time.monotonic() + SEEN_WITHIN_SECONDS
    while not token.exists():
        if time.monotonic() > deadline:
            raise InputError(
                f"{flag} {folder}: {socket.gethostname()} does not see in {token.parent} what the first node writes "
                "there; name a folder on storage that all nodes share"
            )
        time.sleep(0.1)
