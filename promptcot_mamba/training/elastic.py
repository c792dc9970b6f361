"""A run goes on with another number of devices: ZeRO's shards of the old ones are dealt anew while they are loaded.

Each process maps the old shards' files into memory and copies, parameter by parameter and by name, what is its own now:
weights and optimizer states in full precision, bit for bit. No process holds more than its part, nothing is written,
and any checkpoint can be dealt anew, without having been prepared for it.

DeepSpeed's universal checkpoints, made for this, are not used: see docs/LOG.md.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from promptcot_mamba.errors import InputError

# DeepSpeed's names in its files.
OPTIMIZER, BASE, SHAPES = "optimizer_state_dict", "base_optimizer_state", "param_shapes"
MASTERS, FLAT_GROUPS = "single_partition_of_fp32_groups", "fp32_flat_groups"
PADDINGS = "param_alignment_paddings"
StateDict = dict[str, Any]
Deal = Callable[[list[torch.Tensor]], torch.Tensor]  # each old process's flat tensor -> this one's


@dataclass(frozen=True)
class Piece:
    """Elements `[start, start + length)` of a parameter, lying in a flat tensor from `offset` on."""

    start: int
    length: int
    offset: int


Have = dict[str, list[tuple[int, Piece]]]  # a parameter's name -> the old processes that hold it, and which piece


@contextmanager
def dealt_anew() -> Iterator[None]:
    """While it lasts, DeepSpeed loads ZeRO checkpoints of any number of devices."""
    from deepspeed.runtime.engine import DeepSpeedEngine

    rigid = DeepSpeedEngine.load_checkpoint

    def load_checkpoint(engine: Any, load_dir: str, *args: Any, **settings: Any) -> Any:
        refuse_swapped(engine, Path(load_dir))
        engine._get_ckpt_name = partial(name_checkpoint, engine._get_ckpt_name)
        engine._load_zero_checkpoint = partial(load_shards, engine, engine._load_zero_checkpoint)
        try:
            found = rigid(engine, load_dir, *args, **settings)
        finally:
            del engine._get_ckpt_name, engine._load_zero_checkpoint
        count_up(getattr(engine.optimizer, "optimizer", None))
        return found

    DeepSpeedEngine.load_checkpoint = load_checkpoint
    try:
        yield
    finally:
        DeepSpeedEngine.load_checkpoint = rigid


def count_up(optimizer: Any) -> None:
    """Bring DeepSpeed's CPU Adam to the step of its states by the steps of a run that was never stopped.

    It multiplies the powers of beta up, step by step; from a loaded step it would go on with `pow`, whose last bit may
    be another (`IncrementStep` in deepspeed/ops/csrc/includes/cpu_adam.h). A parameter that is a zero takes the steps.
    """
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    if not isinstance(optimizer, DeepSpeedCPUAdam):
        return
    beta1, beta2 = optimizer.param_groups[0]["betas"]
    parameter, gradient, mean, square = (torch.zeros(1) for _ in range(4))
    for step in range(1, max((int(state["step"]) for state in optimizer.state.values() if state), default=0) + 1):
        optimizer.ds_opt_adam.adam_update(
            optimizer.opt_id, step, 0.0, beta1, beta2, 1.0, 0.0, True, parameter, gradient, mean, square
        )


def refuse_swapped(engine: Any, folder: Path) -> None:
    """Raise InputError where optimizer states on NVMe, which DeepSpeed copies file by file, are of other devices."""
    offload = engine.zero_offload_optimizer()
    shards = len([*folder.glob("*/*zero_pp_rank_*optim_states.pt")])
    if offload is not None and offload.device == "nvme" and shards != engine.seq_dp_world_size:
        raise InputError(
            f"--deepspeed: {folder} has optimizer states of {shards} devices on NVMe, this run has "
            f"{engine.seq_dp_world_size}; use {shards}, or offload to the CPU"
        )


def name_checkpoint(own: Any, *args: Any, **settings: Any) -> str:
    """The file of a process's facts; a process that there was none of reads the first one's, which are the same."""
    name = Path(own(*args, **settings))  # or a pattern
    there = any(name.parent.glob(name.name))
    return str(name) if there else own(*args, **{**settings, "pp_placeholder": "0"})


def load_shards(engine: Any, own: Any, folder: str, tag: str, load_optimizer_states: bool = True) -> bool:
    if engine.loaded_checkpoint_dp_world_size == engine.seq_dp_world_size or not load_optimizer_states:
        return own(folder, tag, load_optimizer_states)
    sharded_weights = engine.zero_optimization_partition_weights()
    if not sharded_weights and not hasattr(engine.optimizer, "round_robin_bit16_groups"):
        raise InputError("--deepspeed: ZeRO-1 with fp32 sums goes on with as many devices only; use ZeRO-2")
    deal = deal_zero3 if sharded_weights else deal_zero2
    mine: list[StateDict] = [{} for _ in range(dist.get_world_size())]
    mine[dist.get_rank()] = deal(engine, Path(folder) / tag)
    engine.optimizer.load_state_dict(
        mine, load_optimizer_states=True, load_from_fp32_weights=engine.zero_load_from_fp32_weights()
    )
    return True


def read_shards(folder: Path, kind: str) -> list[StateDict]:
    """The files of a kind, in rank order; tensors stay on disk until they are copied."""
    files = sorted(
        folder.glob(f"*{kind}_states.pt"), key=lambda file: [int(part) for part in re.findall(r"\d+", file.name)]
    )
    return [torch.load(file, map_location="cpu", mmap=True, weights_only=False) for file in files]


def fill_flat(size: int, wanted: list[tuple[str, Piece]], have: Have, flats: list[torch.Tensor]) -> torch.Tensor:
    """A flat tensor with the wanted pieces, of the old processes' flat tensors, and 0 elsewhere.

    Raises ValueError where they do not hold all of a piece.
    """
    made = torch.zeros(size, dtype=flats[0].dtype)
    for name, piece in wanted:
        filled = 0
        for rank, old in have.get(name, ()):
            first, last = max(piece.start, old.start), min(piece.start + piece.length, old.start + old.length)
            if first < last:
                target, source = piece.offset + first - piece.start, old.offset + first - old.start
                made[target : target + last - first] = flats[rank][source : source + last - first]
                filled += last - first
        if filled != piece.length:
            raise ValueError(f"{name}: {filled} of {piece.length} elements are in the checkpoint's shards")
    return made


def deal_states(states: list[StateDict], sizes: list[int], deal: Deal) -> StateDict:
    """One flat tensor's optimizer state of those of the old shards: elementwise tensors dealt, scalars kept.

    `sizes`: elements of each old flat tensor. Raises InputError for a state that is neither, as 8-bit or factored ones.
    """
    dealt: StateDict = {}
    for key, value in states[0].items():
        if not torch.is_tensor(value) or value.dim() == 0:
            dealt[key] = value
        elif all(state[key].shape == (size,) for state, size in zip(states, sizes, strict=True)):
            dealt[key] = deal([state[key] for state in states])
        else:
            raise InputError(
                f"--optim: its state {key} belongs to {len(states)} devices; continue on as many, or start another "
                "--output_dir from the checkpoint's weights"
            )
    return dealt


# ---- ZeRO-1 and 2: whole parameters in one flat tensor a group, cut between processes wherever it comes ----------


def deal_zero2(engine: Any, folder: Path) -> StateDict:
    """This process's state dict, as DeepSpeedZeroOptimizer on the present number of devices would have saved it.

    Where a parameter lies follows from the order of the shapes in the checkpoint. The addresses beside the shards
    (`param_slice_mappings`), which universal checkpoints are made by, leave out that `round_robin_gradients` changes
    the order (DeepSpeed 0.19.8).
    """
    optimizer, shards = engine.optimizer, [shard[OPTIMIZER] for shard in read_shards(folder, "zero_pp_rank_*optim")]
    old_groups = read_shards(folder, "mp_rank_00_model")[0][SHAPES]  # a {name: shape} a group, as they lie
    if any(any(paddings) for paddings in [*shards[0].get(PADDINGS, ()), *optimizer.round_robin_bit16_padding]):
        raise InputError("--deepspeed: zero_optimization.parameter_alignment belongs to one number of devices")
    masters, states = [], {}
    for number, flat in enumerate(optimizer.single_partition_of_fp32_groups):
        # Masters are saved without what a process's flat tensor is padded with at its end.
        old_sizes = [shard[MASTERS][number].numel() + shard["group_paddings"][number] for shard in shards]
        have = cut_anywhere([(name, shape.numel()) for name, shape in old_groups[number].items()], old_sizes[0])
        sizes = [(engine.param_names[one], one.numel()) for one in optimizer.round_robin_bit16_groups[number]]
        wanted = pieces_of(dist.get_rank(), cut_anywhere(sizes, flat.numel()))
        deal = partial(fill_flat, flat.numel(), wanted, have)
        masters.append(deal([shard[MASTERS][number] for shard in shards]))
        if number in shards[0][BASE]["state"]:  # SGD without momentum has none
            states[number] = deal_states([shard[BASE]["state"][number] for shard in shards], old_sizes, deal)
    return {**shards[0], MASTERS: masters, BASE: {**shards[0][BASE], "state": states}}


def cut_anywhere(sizes: list[tuple[str, int]], share: int) -> Have:
    """Where parameters that lie end to end, `(name, elements)` each, are in flat tensors of `share` elements."""
    have: Have = {}
    offset = 0
    for name, size in sizes:
        have[name], done = [], 0
        while done < size:
            rank, here = divmod(offset + done, share)
            length = min(size - done, share - here)
            have[name].append((rank, Piece(done, length, here)))
            done += length
        offset += size
    return have


def pieces_of(rank: int, have: Have) -> list[tuple[str, Piece]]:
    """What one process holds."""
    return [(name, piece) for name, pieces in have.items() for owner, piece in pieces if owner == rank]


# ---- ZeRO-3: each parameter cut into as many pieces as there are processes, the last one padded -------------------


def deal_zero3(engine: Any, folder: Path) -> StateDict:
    """The same, as DeepSpeedZeroOptimizer_Stage3 saves it: a flat tensor a sub-group.

    The sub-groups hold whole numbers of parameters, and change with the number of devices: what was in one of the old
    may be in several now.
    """
    optimizer, shards = engine.optimizer, [shard[OPTIMIZER] for shard in read_shards(folder, "zero_pp_rank_*optim")]
    old_groups = read_shards(folder, "zero_pp_rank_0_*model")[0][SHAPES]  # a {name: shape} a sub-group
    have: Have = {}
    home: dict[str, int] = {}  # the old sub-group of a parameter
    for number, shapes in enumerate(old_groups):
        sizes = [(name, shape.numel()) for name, shape in shapes.items()]
        if sum(-(-size // len(shards)) for _, size in sizes) != shards[0][FLAT_GROUPS][number].numel():
            raise InputError(
                "--deepspeed: the checkpoint's shards are not cut by all of its devices (MiCS); use as many"
            )
        have |= cut_evenly(sizes, len(shards))
        home |= dict.fromkeys(shapes, number)
    masters, states = [], {}
    for number, group in enumerate(optimizer.fp16_groups):
        sizes = [(engine.param_names[parameter], parameter.ds_numel) for parameter in group]
        wanted = pieces_of(dist.get_rank(), cut_evenly(sizes, dist.get_world_size()))
        size = optimizer.fp32_partitioned_groups_flat[number].numel()
        masters.append(torch.zeros(size))
        old = sorted({home[name] for name, _ in wanted})
        parts = []
        for one in old:
            from_one = [(name, piece) for name, piece in wanted if home[name] == one]
            deal = partial(fill_flat, size, from_one, have)
            masters[-1] += deal([shard[FLAT_GROUPS][one].view(-1) for shard in shards])
            if one in shards[0][OPTIMIZER]["state"]:
                past = [shard[OPTIMIZER]["state"][one] for shard in shards]
                parts.append(deal_states(past, [shard[FLAT_GROUPS][one].numel() for shard in shards], deal))
        if parts:
            states[number] = add_states(parts)
    base = shards[0][OPTIMIZER]
    groups = number_groups(base["param_groups"], optimizer)
    return {**shards[0], FLAT_GROUPS: masters, OPTIMIZER: {**base, "state": states, "param_groups": groups}}


def cut_evenly(sizes: list[tuple[str, int]], processes: int) -> Have:
    """Where the parameters of a sub-group lie, `(name, elements)` each, in the flat tensors of so many processes."""
    have: Have = {}
    offset = 0
    for name, size in sizes:
        share = -(-size // processes)
        have[name] = [
            (rank, Piece(rank * share, max(0, min(share, size - rank * share)), offset)) for rank in range(processes)
        ]
        offset += share
    return have


def add_states(parts: list[StateDict]) -> StateDict:
    """States whose elementwise tensors are 0 where another's are not, as one."""
    first, *others = parts
    for other in others:
        for key, value in first.items():
            if torch.is_tensor(value) and value.dim():
                value += other[key]
    return first


def number_groups(groups: list[StateDict], optimizer: Any) -> list[StateDict]:
    """The base optimizer's groups, whose tensors are the present sub-groups."""
    members: list[list[int]] = [[] for _ in groups]
    for number in range(len(optimizer.fp16_groups)):
        members[optimizer.sub_group_to_group_id[number]].append(number)
    return [{**group, "params": numbers} for group, numbers in zip(groups, members, strict=True)]
