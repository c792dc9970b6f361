"""Shards of some number of processes, dealt to another: every element where its name says, against whole parameters."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from promptcot_mamba.errors import InputError
from promptcot_mamba.training import elastic

ALIGNMENT = 4  # elements that a flat tensor's size is a multiple of, a process
COUNTS = [(2, 1), (1, 2), (2, 4), (4, 3), (5, 5), (3, 8)]


def draw_parameters(draw: random.Random) -> dict[str, torch.Tensor]:
    """Some smaller than a process's share, some longer than several; each element another number."""
    sizes = [draw.choice((1, 2, 3, 7, 16, 61)) for _ in range(draw.randint(1, 9))]
    numbers = torch.randperm(sum(sizes)).float().split(sizes)
    return {f"layer.{index}": part for index, part in enumerate(numbers)}


def lay_out(parameters: dict[str, torch.Tensor], processes: int, draw: random.Random) -> tuple[list[str], list]:
    """The order of the parameters, and each process's flat tensor, as ZeRO-2 cuts them."""
    order = draw.sample(list(parameters), len(parameters))  # round robin orders by the number of processes
    flat = torch.cat([parameters[name] for name in order])
    flat = torch.cat([flat, torch.zeros(-len(flat) % (ALIGNMENT * processes))])
    return order, list(flat.split(len(flat) // processes))


def state_of(flat: torch.Tensor, scale: float) -> dict[str, object]:
    return {"step": torch.tensor(3.0), "exp_avg": flat * scale, "exp_avg_sq": flat * -scale}


@pytest.mark.parametrize(("old", "new"), COUNTS)
def test_zero2_shards(tmp_path: Path, monkeypatch, old: int, new: int):
    """Two groups of parameters; masters are saved without the padding at their end, Adam's states with it."""
    draw = random.Random(old * 10 + new)
    groups = [draw_parameters(draw) for _ in range(2)]
    before, after = ([lay_out(group, processes, draw) for group in groups] for processes in (old, new))
    for rank in range(old):
        flats = [flats[rank] for _, flats in before]
        used = [
            min(len(flat), max(0, sum(map(len, group.values())) - rank * len(flat)))
            for group, flat in zip(groups, flats, strict=True)
        ]
        shard = {
            elastic.MASTERS: [flat[:size].clone() for flat, size in zip(flats, used, strict=True)],
            "group_paddings": [len(flat) - size for flat, size in zip(flats, used, strict=True)],
            elastic.BASE: {
                "state": {number: state_of(flat, 2.0) for number, flat in enumerate(flats)},
                "param_groups": [{"lr": 0.5, "params": [0]}, {"lr": 0.5, "params": [1]}],
            },
            "loss_scaler": 1.0,
        }
        torch.save({elastic.OPTIMIZER: shard}, tmp_path / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    shapes = [{name: group[name].shape for name in order} for group, (order, _) in zip(groups, before, strict=True)]
    torch.save({elastic.SHAPES: shapes}, tmp_path / "mp_rank_00_model_states.pt")
    tensors = [[groups[number][name] for name in order] for number, (order, _) in enumerate(after)]
    names = ById({id(groups[number][name]): name for number, (order, _) in enumerate(after) for name in order})
    for rank in range(new):
        monkeypatch.setattr(elastic.dist, "get_rank", lambda rank=rank: rank)
        optimizer = SimpleNamespace(
            single_partition_of_fp32_groups=[flats[rank] for _, flats in after], round_robin_bit16_groups=tensors,
            round_robin_bit16_padding=[[0], [0]],
        )  # fmt: skip
        mine = elastic.deal_zero2(SimpleNamespace(optimizer=optimizer, param_names=names), tmp_path)
        for number, (_, flats) in enumerate(after):
            assert torch.equal(mine[elastic.MASTERS][number], flats[rank])
            state, wanted = mine[elastic.BASE]["state"][number], state_of(flats[rank], 2.0)
            assert all(torch.equal(state[key], wanted[key]) for key in wanted)
        assert mine[elastic.BASE]["param_groups"][0]["lr"] == 0.5
        assert mine["loss_scaler"] == 1.0


class ById:
    """DeepSpeed's table of names, whose keys are parameters."""

    def __init__(self, names: dict[int, str]) -> None:
        self._names = names

    def __getitem__(self, parameter: object) -> str:
        return self._names[id(parameter)]


def cut(values: torch.Tensor, processes: int, rank: int) -> torch.Tensor:
    """A process's part of a parameter, as ZeRO-3 cuts it."""
    share = -(-len(values) // processes)
    padded = torch.cat([values, torch.zeros(share * processes - len(values))])
    return padded[rank * share : (rank + 1) * share]


@pytest.mark.parametrize(("old", "new"), COUNTS)
def test_zero3_shards(tmp_path: Path, monkeypatch, old: int, new: int):
    """The sub-groups are others after: their bounds follow from the number of processes."""
    draw = random.Random(old * 10 + new)
    parameters = draw_parameters(draw)
    names = list(parameters)
    before, after = ([names[:at], names[at:]] if at else [names] for at in (len(names) // 2, len(names) // 3))
    for rank in range(old):
        flats = [torch.cat([cut(parameters[name], old, rank) for name in group]) for group in before]
        shard = {
            elastic.FLAT_GROUPS: flats,
            elastic.OPTIMIZER: {
                "state": {number: state_of(flat, 2.0) for number, flat in enumerate(flats)},
                "param_groups": [{"lr": 0.5, "params": list(range(len(flats)))}],
            },
        }
        torch.save({elastic.OPTIMIZER: shard}, tmp_path / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    shapes = [{name: parameters[name].shape for name in group} for group in before]
    torch.save({elastic.SHAPES: shapes}, tmp_path / "zero_pp_rank_0_mp_rank_00_model_states.pt")
    for rank in range(new):
        monkeypatch.setattr(elastic.dist, "get_world_size", lambda: new)
        monkeypatch.setattr(elastic.dist, "get_rank", lambda rank=rank: rank)
        flats = [torch.cat([cut(parameters[name], new, rank) for name in group]) for group in after]
        groups = [[SimpleNamespace(name=name, ds_numel=len(parameters[name])) for name in group] for group in after]
        optimizer = SimpleNamespace(
            fp16_groups=groups, fp32_partitioned_groups_flat=flats, sub_group_to_group_id=dict.fromkeys(range(9), 0)
        )
        table = ById({id(one): one.name for group in groups for one in group})
        mine = elastic.deal_zero3(SimpleNamespace(optimizer=optimizer, param_names=table), tmp_path)
        for number, flat in enumerate(flats):
            assert torch.equal(mine[elastic.FLAT_GROUPS][number], flat)
            state, wanted = mine[elastic.OPTIMIZER]["state"][number], state_of(flat, 2.0)
            assert all(torch.equal(state[key], wanted[key]) for key in wanted)
        assert mine[elastic.OPTIMIZER]["param_groups"] == [{"lr": 0.5, "params": list(range(len(after)))}]


def test_states_that_are_no_numbers_an_element_are_refused():
    """An 8-bit or factored optimizer's scales belong to the blocks of one cut."""
    states = [{"step": 3, "exp_avg_sq_row": torch.ones(4)} for _ in range(2)]
    with pytest.raises(InputError, match="--optim: its state exp_avg_sq_row belongs to 2 devices"):
        elastic.deal_states(states, [16, 16], deal=lambda flats: flats[0])


def test_a_parameter_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"layer\.0: 0 of 3 elements"):
        elastic.fill_flat(3, [("layer.0", elastic.Piece(0, 3, 0))], {}, [torch.zeros(3)])


@pytest.mark.slow  # compiles DeepSpeed's CPU optimizer where nobody has yet
def test_the_cpu_optimizer_goes_on_as_if_it_had_never_been_stopped():
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    def start() -> DeepSpeedCPUAdam:
        return DeepSpeedCPUAdam([torch.nn.Parameter(torch.linspace(-1, 1, 4096))], lr=0.01, betas=(0.9, 0.95))

    def take(optimizer: DeepSpeedCPUAdam, steps: range) -> torch.Tensor:
        (parameter,) = optimizer.param_groups[0]["params"]
        for step in steps:
            parameter.grad = torch.randn(4096, generator=torch.Generator().manual_seed(step))
            optimizer.step()
        return parameter.detach()

    whole = take(start(), range(60))
    moved = []
    for count in (elastic.count_up, lambda _: None):
        first, second = start(), start()
        take(first, range(23))
        second.load_state_dict(first.state_dict())
        with torch.no_grad():
            second.param_groups[0]["params"][0].copy_(first.param_groups[0]["params"][0])
        count(second)
        moved.append(bool((take(second, range(23, 60)) == whole).all()))
    assert moved == [True, False]
