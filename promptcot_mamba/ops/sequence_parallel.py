"""One packed row held in slices by neighbouring ranks: what a mixer needs from the slice before it, and nothing else.

Outside the mixer every token is by itself. Inside, a slice that goes on with a document needs of the slice before it
the last w - 1 inputs of the convolution (the halo) and the document's state. With `S_r` the state that slice r's own
tokens leave and `a_r` the decay over them, the states at the borders are an exclusive scan,

    init_(r+1) = S_r + a_r init_r        (h, p, n);  a_r = 0 where a document began inside slice r

passed from neighbour to neighbour: one state of h p n numbers a border and direction, whatever the row's length. The
backward pass runs it the other way: with `G_r` the gradient of init_r and `g_r` its part from slice r's own outputs,

    G_r = g_r + a_r G_(r+1),   dS_r = G_(r+1),   da_r = <init_r, G_(r+1)>

Slices are computed at once; only the scans are in turn, and they are short. The forms of `fused_mixer` see nothing of
this: they take a halo and a state, and give those that leave. The definition is `fused_mixer` on the whole row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from promptcot_mamba.errors import InputError
from promptcot_mamba.ops.fused_mixer.staged import Stages
from promptcot_mamba.ops.packing import boundaries

Folded = tuple[torch.Tensor, torch.Tensor]  # (h, p, n) and the decay (h) over the same tokens


@dataclass
class SliceGroup:
    """The ranks that hold one row's slices, in the order of the slices, and this rank's place among them."""

    ranks: list[int]  # of the whole job
    index: int
    group: Any = None  # their process group; None for the default one
    bytes_sent: int = 0
    _sending: list[tuple[Any, torch.Tensor]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.ranks)

    def send(self, tensor: torch.Tensor, towards: int) -> None:
        """Start sending to the next (`towards` 1) or the previous (-1) rank; `finish_sending` waits for it."""
        tensor = tensor.contiguous()
        work = dist.isend(tensor, self.ranks[self.index + towards], group=self.group)
        self._sending.append((work, tensor))  # the tensor lives until it is sent
        self.bytes_sent += tensor.numel() * tensor.element_size()

    def receive(self, like: torch.Tensor, towards: int) -> torch.Tensor:
        """A tensor shaped `like` from the previous (`towards` -1) or the next (1) rank."""
        tensor = torch.empty_like(like, memory_format=torch.contiguous_format)
        dist.recv(tensor, self.ranks[self.index + towards], group=self.group)
        return tensor

    def finish_sending(self) -> None:
        for work, _ in self._sending:
            work.wait()
        self._sending.clear()


def make_slice_groups(size: int) -> SliceGroup:
    """Groups of `size` neighbouring ranks, made by every rank of the job; returns this rank's.

    Raises InputError if `size` does not divide the number of ranks.
    """
    world, rank = dist.get_world_size(), dist.get_rank()
    if size < 1 or world % size:
        raise InputError(f"--sequence_parallel_size {size}: must divide the number of processes, {world}")
    first = rank // size * size
    return SliceGroup(list(range(first, first + size)), rank - first, dist.new_subgroups(size)[0])


@dataclass(frozen=True)
class RowSlice:
    """A rank's part of a row: `continued` if its first document began earlier, `continues` if its last one goes on."""

    group: SliceGroup
    continued: bool
    continues: bool
    # By layer, what came in during a forward that will be repeated: [halo, state], each None at a document's start.
    held: dict[int, list[torch.Tensor | None]] = field(default_factory=dict)

    def neighbours(self, cu_seqlens: torch.Tensor, layer: int) -> Exchange:
        """For one mixer of the model, whose documents are those that this slice sees (`slice_documents`)."""
        return Exchange(self, cu_seqlens, layer)


def slice_bounds(length: int, size: int) -> list[int]:
    """Where a row of `length` tokens is cut into `size` slices of almost equal length: `size + 1` marks."""
    if length < size:
        raise InputError(f"--sequence_parallel_size {size}: a row of {length} tokens cannot be cut into as many slices")
    return [length * index // size for index in range(size + 1)]


def slice_documents(marks: list[int], start: int, end: int) -> tuple[list[int], bool, bool]:
    """A row's documents (`marks`, as cu_seqlens) as tokens start..end see them: their marks, continued, continues."""
    inside = [mark - start for mark in marks if start < mark < end]
    return [0, *inside, end - start], start not in marks, end not in marks


class Exchange:
    """One mixer's `Neighbours`: what crosses the borders of this rank's slice in one layer.

    A forward that is repeated for the backward pass asks nobody again: what came in the first time is held until then.
    """

    def __init__(self, place: RowSlice, cu_seqlens: torch.Tensor, layer: int):
        self.place, self.group, self.layer = place, place.group, layer
        marks = boundaries(cu_seqlens)
        self.length, self.last_start = marks[-1], marks[-2]
        # Whether what comes in from the left reaches the slice's right border.
        self.spanning = place.continued and len(marks) == 2
        self.held: list[torch.Tensor | None] | None = None

    def take_halo(self, xBC: torch.Tensor, width: int, again: bool) -> torch.Tensor | None:
        self.halo_rows = width - 1
        if self.layer in self.place.held:
            self.held = self.place.held[self.layer]
            return self.held[0]
        like = xBC.new_empty(xBC.shape[1], self.halo_rows)
        # A slice shorter than the halo that one document spans passes on what it was given; all others send at once.
        waits = self.spanning and self.length < self.halo_rows
        halo = self.group.receive(like, -1) if waits else None
        if self.place.continues:
            self.group.send(self._tail(xBC, halo), 1)
        if self.place.continued and not waits:
            halo = self.group.receive(like, -1)
        if again:
            self.place.held[self.layer] = [halo]
        return halo

    def _tail(self, xBC: torch.Tensor, halo: torch.Tensor | None) -> torch.Tensor:
        """The last document's last w - 1 inputs (d_conv, w - 1), reaching into the halo if it spans the slice."""
        rows = xBC[max(self.last_start, self.length - self.halo_rows) :].T  # (d, at most w - 1)
        missing = self.halo_rows - rows.shape[1]
        if not missing:
            return rows
        before = rows.new_zeros(rows.shape[0], missing)
        if self.spanning:
            assert halo is not None  # a spanning slice is a continued one
            before = halo[:, -missing:]
        return torch.cat([before, rows], dim=1)

    def pass_states(self, stages: Stages) -> torch.Tensor | None:
        """The scan: S_r is made before anybody waits, and sent on with what came in."""
        if self.held is not None:
            state = self.held[1]
            stages.pass_states(state)
            return state
        continued, continues = self.place.continued, self.place.continues
        state = None
        if not continued:
            left = stages.pass_states(None, final=continues)
            if left is not None:
                self.group.send(left, 1)
        else:
            made = self._fold(stages.fold_states, 1) if continues else None
            state = self._receive_state(stages, -1)
            if made is not None:
                self.group.send(made[0] + made[1][:, None, None] * state, 1)
            stages.pass_states(state)
        if self.layer in self.place.held:
            self.place.held[self.layer].append(state)
        self.group.finish_sending()
        return state

    def _fold(self, fold: Callable[[], Folded], towards: int) -> Folded | None:
        """What a slice adds to the scan, sent at once where nothing from the other side is to be added first."""
        own, decay = fold()
        if self.spanning:
            return own, decay
        self.group.send(own, towards)
        return None

    def _receive_state(self, stages: Stages, towards: int) -> torch.Tensor:
        zxbcdt, settings = stages.tensors[0], stages.settings
        wide = torch.float64 if zxbcdt.dtype == torch.float64 else torch.float32
        shape = (stages.heads, settings.head_dim, settings.state_size)
        return self.group.receive(torch.empty(shape, dtype=wide, device=zxbcdt.device), towards)

    def pass_gradients(self, stages: Stages) -> None:
        """The scan, from the last slice to the first."""
        self.place.held.pop(self.layer, None)
        continued, continues = self.place.continued, self.place.continues
        if not continues:
            asked = stages.pass_gradients(None, initial=continued)
            if asked is not None and continued:
                self.group.send(asked, -1)
            return
        own = self._fold(stages.fold_gradients, -1) if continued else None
        later = self._receive_state(stages, 1)
        if own is not None:
            self.group.send(own[0] + own[1][:, None, None] * later, -1)
        stages.pass_gradients(later)

    def return_halo(self, dxBC: torch.Tensor, dhalo: torch.Tensor | None) -> None:
        waits = self.spanning and self.length < self.halo_rows
        if dhalo is not None and not waits:
            self.group.send(dhalo, -1)
        if self.place.continues:
            dtail = self.group.receive(dxBC.new_empty(dxBC.shape[1], self.halo_rows), 1)
            own = min(self.length - self.last_start, self.halo_rows)
            dxBC[self.length - own :] += dtail[:, self.halo_rows - own :].T
            if waits:
                assert dhalo is not None  # a spanning slice is a continued one
                passed = self.halo_rows - own
                dhalo = dhalo.clone()
                dhalo[:, -passed:] += dtail[:, :passed]
        if waits:
            assert dhalo is not None
            self.group.send(dhalo, -1)
        self.group.finish_sending()
