"""Whether the nodes of a run are alike, and see the same folders: told in one line before anything is trained."""

from pathlib import Path

import torch.distributed as dist

from promptcot_mamba.errors import InputError
from promptcot_mamba.node_facts import await_token, describe_node, find_difference, write_token
from promptcot_mamba.training.ranks import first_does, gather_lists, local_rank, together

PACKAGES = (
    "torch", "transformers", "deepspeed", "accelerate", "safetensors", "tokenizers", "numpy", "triton", "mamba-ssm",
    "causal-conv1d",
)  # fmt: skip


def check_nodes(folders: dict[str, Path]) -> None:
    """Raise InputError, in every process, where nodes differ or do not share these folders ({flag: folder})."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    facts = gather_lists([line for line in describe_node(PACKAGES) if local_rank() == 0])
    if difference := find_difference(facts):
        raise InputError(difference)
    for flag, folder in folders.items():
        check_shared(flag, folder)


def check_shared(flag: str, folder: Path) -> None:
    """Raise InputError, in every process, unless all see what the first one writes where the folder is or will be."""
    token = first_does(lambda: write_token(folder))
    try:
        together(lambda: await_token(flag, folder, Path(token)))
    finally:
        first_does(lambda: Path(token).unlink(missing_ok=True))
