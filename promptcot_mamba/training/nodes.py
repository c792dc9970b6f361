"""Whether the nodes of a run are alike, and see the same folders: told in one line before anything is trained."""

import hashlib
import platform
import socket
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from uuid import uuid4

import torch.distributed as dist

from promptcot_mamba.errors import InputError
from promptcot_mamba.training.ranks import first_does, gather_lists, local_rank, together

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = (
    "torch", "transformers", "deepspeed", "accelerate", "safetensors", "tokenizers", "numpy", "triton", "mamba-ssm",
    "causal-conv1d",
)  # fmt: skip
SEEN_WITHIN_SECONDS = 20.0  # shared storage may show a new file late


def check_nodes(folders: dict[str, Path]) -> None:
    """Raise InputError, in every process, where nodes differ or do not share these folders ({flag: folder})."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    facts = gather_lists([line for line in describe_node() if local_rank() == 0])
    if difference := find_difference(facts):
        raise InputError(difference)
    for flag, folder in folders.items():
        check_shared(flag, folder)


def describe_node() -> list[str]:
    """`host<tab>what<tab>which` for all that must be the same on every node."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    found["this repository"] = hash_sources(ROOT)
    return [f"{socket.gethostname()}\t{name}\t{value}" for name, value in found.items()]


def hash_sources(root: Path) -> str:
    """Of the programs and the package: eight letters that change with any line of them."""
    digest = hashlib.sha256()
    for file in sorted([root / "train.py", *(root / "promptcot_mamba").rglob("*.py")]):
        digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return digest.hexdigest()[:8]


def find_difference(facts: list[str]) -> str:
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


def check_shared(flag: str, folder: Path) -> None:
    """Raise InputError, in every process, unless all see what the first one writes where the folder is or will be."""
    token = first_does(lambda: write_token(folder))
    try:
        together(lambda: await_token(flag, folder, Path(token)))
    finally:
        first_does(lambda: Path(token).unlink(missing_ok=True))


def write_token(folder: Path) -> str:
    """A new empty file in the folder, or in the nearest above it that exists."""
    nearest = folder.absolute()
    while not nearest.is_dir():
        nearest = nearest.parent
    token = nearest / f".shared-{uuid4().hex}"
    token.touch()
    return str(token)


def await_token(flag: str, folder: Path, token: Path) -> None:
    deadline = time.monotonic() + SEEN_WITHIN_SECONDS
    while not token.exists():
        if time.monotonic() > deadline:
            raise InputError(
                f"{flag} {folder}: {socket.gethostname()} does not see in {token.parent} what the first node writes "
                "there; name a folder on storage that all nodes share"
            )
        time.sleep(0.1)
