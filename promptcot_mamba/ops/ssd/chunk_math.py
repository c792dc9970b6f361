"""The chunked form of the SSD on tensors already cut into chunks: forward, and gradients by hand.

Letters: `c` chunks of `q` tokens, `h` heads of `p` channels, `g` groups, `n` states, `k = h / g` heads a group.
Inside a chunk, with `s_i` the sum of `dt A` up to token i, the recurrence unrolls to

    y_i = sum_(j <= i) (C_i . B_j) exp(s_i - s_j) dt_j x_j  +  exp(s_i) C_i state_in
    state_out = exp(s_last) state_in + sum_j exp(s_last - s_j) dt_j x_j B_j^T

The first sum is a masked product like attention's, one per head; everything that touches a state is one matrix
product per group, the heads of the group side by side. Only loops over groups and heads see the (q, q) scores, so
they stay in cache and are never held for all heads.

The gradient of the decays is built from sums over pairs `j < t <= i` directly. The cheaper difference of row and
column sums loses the digits that matter: each pair outside appears in both and must cancel.
"""

import itertools
from dataclasses import dataclass

import torch

from promptcot_mamba.ops.packing import ChunkTable


@dataclass
class Gradients:
    """Gradients in the layout of the inputs."""

    x: torch.Tensor  # (c, q, h, p)
    dt: torch.Tensor  # (c, q, h)
    A: torch.Tensor  # (h)
    B: torch.Tensor  # (c, q, g, n)
    C: torch.Tensor  # (c, q, g, n)
    D: torch.Tensor | None  # (h)
    initial_states: torch.Tensor | None  # (docs, h, p, n)


def _group_states(states: torch.Tensor, g: int) -> torch.Tensor:
    """(docs, h, p, n) -> (docs, g, n, k*p): the layout the stacked products write."""
    docs, h, p, n = states.shape
    return states.reshape(docs, g, h // g * p, n).transpose(2, 3)


def _ungroup_states(states: torch.Tensor, h: int) -> torch.Tensor:
    """(docs, g, n, k*p) -> (docs, h, p, n)."""
    docs, _, n, _ = states.shape
    return states.transpose(2, 3).reshape(docs, h, -1, n)


def _per_head(weights: torch.Tensor, g: int, p: int) -> torch.Tensor:
    """Per-chunk, per-head numbers (c, h) -> (c, g, 1, k*p), to scale states by."""
    return weights.unflatten(1, (g, -1)).repeat_interleave(p, dim=2)[:, :, None, :]


def _pass_states(
    local: torch.Tensor, decay: torch.Tensor, initial: torch.Tensor | None, table: ChunkTable
) -> torch.Tensor:
    """Turn each chunk's own contribution into the state that enters it, in place; return the final states.

    local: (g, c, n, k*p), overwritten by the incoming states. decay: (c, g, 1, k*p). initial: (docs, g, n, k*p).
    """
    finals = []
    for document, (start, end) in enumerate(itertools.pairwise(table.first_chunks.tolist())):
        state = torch.zeros_like(local[:, 0]) if initial is None else initial[document]
        for chunk in range(start, end):
            left = torch.addcmul(local[:, chunk], state, decay[chunk])
            local[:, chunk] = state
            state = left
        finals.append(state)
    return torch.stack(finals)


def _pass_gradients(
    local: torch.Tensor, decay: torch.Tensor, finals: torch.Tensor | None, table: ChunkTable
) -> torch.Tensor:
    """The transpose of `_pass_states`: `local` becomes the gradient of each chunk's outgoing state, in place.

    Returns the gradients of the initial states (docs, g, n, k*p).
    """
    initial = []
    for document, (start, end) in enumerate(itertools.pairwise(table.first_chunks.tolist())):
        state = torch.zeros_like(local[:, 0]) if finals is None else finals[document]
        for chunk in reversed(range(start, end)):
            entered = torch.addcmul(local[:, chunk], state, decay[chunk])
            local[:, chunk] = state
            state = entered
        initial.append(state)
    return torch.stack(initial)


class ChunkedSSD:
    """One evaluation of the SSD over chunks, and its gradients.

    Args (all in the computing dtype):
        x: (c, q, h, p). dt: (c, q, h), zero in the padding. A: (h). B, C: (c, q, g, n). D: (h) or None.
        initial_states: (docs, h, p, n) or None.
        table: which chunks follow one another.
    """

    def __init__(self, x, dt, A, B, C, D, initial_states, table: ChunkTable):
        self.x, self.dt, self.A, self.B, self.C, self.D, self.table = x, dt, A, B, C, D, table
        self.initial_states = initial_states
        self.c, self.q, self.h, self.p = x.shape
        self.g, self.n = B.shape[2:]
        self.k = self.h // self.g
        self.sums = (dt * A).cumsum(1)  # (c, q, h) s_i
        self.decay_in = self.sums.exp()  # (c, q, h) of the incoming state, at each token
        self.decay_out = (self.sums[:, -1:] - self.sums).exp()  # (c, q, h) from each token to the chunk's end
        self.decay = self.decay_in[:, -1]  # (c, h) across the chunk
        self.later = torch.full((self.q, self.q), -torch.inf, device=x.device, dtype=x.dtype).triu(1)
        self._compute_states()

    def _stacked(self, tensor: torch.Tensor, group: int) -> torch.Tensor:
        """The heads of one group side by side: (c, q, h, p) -> (c, q, k*p), a view."""
        return tensor.flatten(2)[..., group * self.k * self.p : (group + 1) * self.k * self.p]

    def _compute_states(self) -> None:
        self.xdt = self.x * self.dt[..., None]  # (c, q, h, p)
        kept = self.xdt * self.decay_out[..., None]
        self.states = self.x.new_empty(self.g, self.c, self.n, self.k * self.p)
        for group in range(self.g):
            torch.bmm(self.B[:, :, group].mT, self._stacked(kept, group), out=self.states[group])
        self.state_decay = _per_head(self.decay, self.g, self.p)
        initial = None if self.initial_states is None else _group_states(self.initial_states, self.g)
        self.final_states = _pass_states(self.states, self.state_decay, initial, self.table)

    def _scores(self, group: int) -> torch.Tensor:
        """C_i . B_j of one group: (c, q, q)."""
        return torch.bmm(self.C[:, :, group], self.B[:, :, group].mT)

    def _decays(self, head: int) -> torch.Tensor:
        """exp(s_i - s_j) for j <= i and 0 above: (c, q, q)."""
        sums = self.sums[:, :, head]
        return torch.sub(sums[:, :, None], sums[:, None, :]).add_(self.later).exp_()

    def _heads(self, group: int) -> range:
        return range(group * self.k, (group + 1) * self.k)

    def _from_states(self, group: int) -> torch.Tensor:
        """What the incoming state adds to a group's outputs: (c, q, k, p)."""
        read = torch.bmm(self.C[:, :, group], self.states[group]).unflatten(2, (self.k, self.p))
        return read.mul_(self.decay_in[:, :, group * self.k : (group + 1) * self.k, None])

    def output(self) -> torch.Tensor:
        """y (c, q, h, p)."""
        y = torch.empty_like(self.x, memory_format=torch.contiguous_format)
        for group in range(self.g):
            scores = self._scores(group)
            heads = self._heads(group)
            y[:, :, heads.start : heads.stop] = self._from_states(group)
            for head in heads:
                y[:, :, head] += torch.bmm(self._decays(head).mul_(scores), self.xdt[:, :, head])
        if self.D is not None:
            y += self.D[:, None] * self.x
        return y

    def finals(self) -> torch.Tensor:
        """The states after each document: (docs, h, p, n)."""
        return _ungroup_states(self.final_states, self.h)

    def gradients(self, dy: torch.Tensor, dfinals: torch.Tensor | None) -> Gradients:
        """Gradients of every input from those of y (c, q, h, p; zero in the padding) and of the final states."""
        entering = dy * self.decay_in[..., None]  # (c, q, h, p)
        dstates = torch.empty_like(self.states)  # (g, c, n, k*p)
        for group in range(self.g):
            torch.bmm(self.C[:, :, group].mT, self._stacked(entering, group), out=dstates[group])
        dfinals = None if dfinals is None else _group_states(dfinals, self.g)
        dentered = _pass_gradients(dstates, self.state_decay, dfinals, self.table)

        dxdt = torch.empty_like(dy)  # (c, q, h, p)
        dB, dC = torch.empty_like(self.B), torch.empty_like(self.C)
        d_in = torch.empty_like(self.dt)  # (c, q, h) of the exponent in decay_in: all t <= i feel it
        d_out = torch.empty_like(self.dt)  # of the exponent in decay_out: all t > j feel it
        d_pairs = torch.empty_like(self.dt)  # of the exponents inside the chunk: all j < t <= i feel them
        suffix = torch.ones(self.q, self.q, device=dy.device, dtype=dy.dtype).triu()  # (t, i): i >= t
        for group in range(self.g):
            heads = self._heads(group)
            span = slice(heads.start, heads.stop)
            d_in[:, :, span] = (self._from_states(group) * dy[:, :, span]).sum(-1)
            left = torch.bmm(self.B[:, :, group], dstates[group]).unflatten(2, (self.k, self.p))
            left.mul_(self.decay_out[:, :, span, None])  # (c, q, k, p)
            d_out[:, :, span] = (left * self.xdt[:, :, span]).sum(-1)
            dxdt[:, :, span] = left
            scores = self._scores(group)
            dscores = torch.zeros_like(scores)
            for head in heads:
                decays = self._decays(head)
                dweights = torch.bmm(dy[:, :, head], self.xdt[:, :, head].mT).mul_(decays)  # (c, q, q)
                dscores += dweights
                weights = decays.mul_(scores)
                dxdt[:, :, head] += torch.bmm(weights.mT, dy[:, :, head])
                pairs = torch.matmul(suffix, dweights.mul_(scores))  # (c, t, j): sums over i >= t
                d_pairs[:, :, head] = pairs.tril_(-1).sum(-1)
            kept = self._stacked(self.xdt, group).unflatten(2, (self.k, self.p)) * self.decay_out[:, :, span, None]
            dB[:, :, group] = torch.bmm(dscores.mT, self.C[:, :, group])
            dB[:, :, group] += torch.bmm(kept.flatten(2), dstates[group].mT)
            dC[:, :, group] = torch.bmm(dscores, self.B[:, :, group])
            dC[:, :, group] += torch.bmm(self._stacked(entering, group), self.states[group].mT)

        crossing = (self.states * dstates).sum(2).unflatten(2, (self.k, self.p)).sum(-1)  # (g, c, k)
        crossing = crossing.permute(1, 0, 2).flatten(1) * self.decay  # (c, h)
        after = d_in.flip(1).cumsum(1).flip(1)  # over i >= t
        before = d_out.cumsum(1) - d_out  # over j < t
        da = d_pairs + after + before + crossing[:, None]  # (c, q, h) of dt A
        ddt = (dxdt * self.x).sum(-1) + da * self.A
        dx = dxdt * self.dt[..., None]
        dD = None
        if self.D is not None:
            dx += self.D[:, None] * dy
            dD = (dy * self.x).sum((0, 1, 3))
        dinitial = None if self.initial_states is None else _ungroup_states(dentered, self.h)
        return Gradients(dx, ddt, (da * self.dt).sum((0, 1)), dB, dC, dD, dinitial)
