"""vLLM's CPU build, where it samples Mamba-2: the same bits whatever is sampled beside a chain, in less time.

Prompts are read together, and a prompt's last bits depend on those beside it. torch's elementwise operations take the
last few numbers of a tensor, or of a thread's share of it, one by one and the others a vector at a time, and softplus
rounds differently in the two. vLLM applies it to dt of all prompts of a step at once, [tokens, heads]; a logit then
moves by 1e-6, and one sample in a thousand takes another word. In whole vectors on one thread (`alike`), every number
is computed alike wherever it stands.

Before the scan, vLLM convolves prompt by prompt and layer by layer, a dozen small calls each: 1 ms a prompt of a model
of four layers, a tenth of a run of short chains. All prompts of a step are convolved at once here, number by number in
one fixed order.

For the repetition penalty vLLM makes a tensor of all that every chain has said, anew at every step, and counts each
token of the vocabulary in it: a step of 16 chains takes half as long again once they are 4,000 tokens long. Here a
chain's distinct tokens are kept from step to step, and they alone are looked at.

A chain has one state from its first token to its last, and vLLM's scheduler asks at every token which blocks of memory
it needs, to find none: 6 % of a step.

For top-p vLLM sorts the vocabulary of each chain, which torch does number by number, with each one's place: 15 % of a
step of 64 chains. Values alone are sorted a vector at a time; what is kept is the same.

Each token is drawn by a seed from the chain's own generator, 14 us apiece and 4 % of a step; 32 of them are taken at
once, and are the same numbers.
"""

from __future__ import annotations

import functools
import weakref
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

WHOLE_VECTORS = 64  # numbers: torch's loops take two vectors at a time, of at most 16 (AVX-512)
ONE_THREAD = 32768 - WHOLE_VECTORS  # numbers that torch does not share out among threads


SEEDS_END = 2**31  # vLLM's
SEEDS_AHEAD = 32


def alike(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """`function` of each number of x, its bits the same whatever stands before or behind it."""
    import torch
    from torch.nn import functional as F

    padded = F.pad(x.flatten(), (0, -x.numel() % WHOLE_VECTORS))
    if len(padded) <= ONE_THREAD:
        return function(padded)[: x.numel()].view_as(x)
    return torch.cat([function(piece) for piece in padded.split(ONE_THREAD)])[: x.numel()].view_as(x)


def softplus_alike(x: torch.Tensor) -> torch.Tensor:
    from torch.nn import functional as F

    return alike(F.softplus, x)


def keep_nucleus(logits: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor | None:
    """Logits (b, v) without the tokens outside each row's nucleus, by vLLM's rule; None where two are alike at its
    edge, of which the sorting of all with their places keeps one.

    The likelihoods are summed from the least on; what they sum to at most 1 - top_p goes, the likeliest stays. NumPy
    sorts values alone, a vector at a time: 7 times as fast as torch sorts them with their places.
    """
    import numpy as np
    import torch

    values = torch.from_numpy(np.sort(logits.numpy(), axis=-1))
    outside = values.softmax(-1).cumsum(-1) <= 1 - top_p[:, None]
    outside[:, -1] = False
    count = outside.sum(-1, keepdim=True)
    edge = values.gather(1, count)
    if bool(((values.gather(1, (count - 1).clamp_(min=0)) == edge) & (count > 0)).any()):
        return None
    return logits.masked_fill_(logits < edge, -float("inf"))


def penalise(logits: torch.Tensor, tokens: torch.Tensor, penalties: torch.Tensor) -> torch.Tensor:
    """Logits (b, v), in place, with the repetition penalty (b) on each row's `tokens` (b, any number, repeated or not).

    As vLLM counts it: a positive logit times 1 / penalty, another times the penalty.
    """
    import torch

    values, penalties = logits.gather(1, tokens), penalties[:, None]
    return logits.scatter_(1, tokens, values * torch.where(values > 0, 1.0 / penalties, penalties))


@dataclass
class Seen:
    """One chain's distinct tokens, its prompt's first: `said` is vLLM's own list of what it has said, which grows."""

    said: list[int]
    distinct: array
    known: set[int]
    read: int = 0  # of `said`

    def read_on(self) -> None:
        for token in self.said[self.read :]:
            if token not in self.known:
                self.known.add(token)
                self.distinct.append(token)
        self.read = len(self.said)


class SeenTokens:
    """The distinct tokens of the chains that are sampled now, kept from step to step."""

    def __init__(self) -> None:
        self._chains: dict[int, Seen] = {}

    def rows(self, prompts: torch.Tensor, said: list[list[int]], vocabulary: int) -> torch.Tensor | None:
        """(chains, most distinct tokens), shorter rows filled with their own first token; None where a token is not
        known yet. `prompts` (chains, longest) is padded with the vocabulary's size, as vLLM pads it."""
        import numpy as np
        import torch

        chains: dict[int, Seen] = {}
        for row, ids in enumerate(said):
            seen = self._chains.get(id(ids))
            if seen is None or len(ids) < seen.read:  # new, or begun again
                prompt = prompts[row]
                distinct = prompt[prompt < vocabulary].unique().tolist()
                seen = Seen(ids, array("q", distinct), set(distinct))
            if (ids and ids[-1] < 0) or not seen.distinct:
                return None
            seen.read_on()
            chains[id(ids)] = seen  # which keeps the list, so that no other gets its id
        self._chains = chains
        table = np.empty((len(said), max(len(seen.distinct) for seen in chains.values())), dtype=np.int64)
        for line, ids in zip(table, said, strict=True):
            distinct = chains[id(ids)].distinct
            line[: len(distinct)] = np.frombuffer(distinct, dtype=np.int64)
            line[len(distinct) :] = distinct[0]
        return torch.from_numpy(table)


def convolve(
    x: torch.Tensor, lengths: list[int], states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The causal depthwise convolution and SiLU of prompts that stand one behind another.

    x (tokens, dim), of prompts of these lengths; states (prompts, width - 1, dim): what came before each; weight
    (dim, width), bias (dim). Returns (tokens, dim) and the new states, in float32.
    """
    import torch
    from torch.nn import functional as F

    before = weight.shape[1] - 1
    line = torch.cat([part for pair in zip(states, x.split(lengths), strict=True) for part in pair]).float()
    sums = torch.zeros(len(line) - before, x.shape[1])
    if bias is not None:
        sums += bias.float()
    product = torch.empty_like(sums)
    for tap in range(before + 1):
        sums += torch.mul(line[tap : tap + len(sums)], weight[:, tap].float(), out=product)
    sizes = [before + length for length in lengths]
    behind = torch.stack([part[-before:] for part in line.split(sizes)])
    sizes[-1] -= before  # behind the last prompt stands none whose state would have to be left out
    return alike(F.silu, torch.cat([part[:n] for part, n in zip(sums.split(sizes), lengths, strict=True)])), behind


class SeedsAhead:
    """The numbers that generators would give one by one, taken many at a time."""

    def __init__(self) -> None:
        self._drawn: weakref.WeakKeyDictionary[torch.Generator, list[int]] = weakref.WeakKeyDictionary()

    def take(self, generators: Mapping[int, torch.Generator], rows: int) -> torch.Tensor:
        """A seed for each row (rows,), of its own generator."""
        import torch

        seeds = []
        for row in range(rows):
            generator = generators[row]
            left = self._drawn.get(generator)
            if not left:
                drawn = torch.randint(0, SEEDS_END, (SEEDS_AHEAD,), generator=generator, dtype=torch.long)
                left = self._drawn[generator] = drawn.tolist()[::-1]
            seeds.append(left.pop())
        return torch.tensor(seeds)


def patch_vllm() -> None:
    """Put all of this in vLLM's places; a second call in a process changes nothing."""
    from vllm.model_executor.layers.mamba import mamba_mixer2
    from vllm.model_executor.layers.mamba.ops import ssd_combined
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.sample import sampler
    from vllm.v1.sample.ops import topk_topp_sampler

    _replace(topk_topp_sampler.TopKTopPSampler, "forward_cpu", functools.partial(_draw_ahead, SeedsAhead()))
    _replace(KVCacheManager, "allocate_slots", _keep_state)
    _replace(mamba_mixer2, "causal_conv1d_fn", _convolve_at_once)
    _replace(ssd_combined, "_mamba_chunk_scan_combined_fwd", _scan_apart)
    _replace(sampler, "apply_all_penalties", functools.partial(_penalise_seen, SeenTokens()))
    _replace(topk_topp_sampler, "apply_top_k_top_p_pytorch", _sort_values)


def _replace(place: Any, name: str, around: Callable[..., Any]) -> None:
    """Have `around(original, ...)` stand for a function of vLLM's."""
    original = getattr(place, name)
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def replacement(*args: Any, **kwargs: Any) -> Any:
        return around(original, *args, **kwargs)

    setattr(place, name, replacement)


def _keep_state(allocate, cache, request, num_new_tokens, *args, **kwargs):
    """No new blocks for one more token of a chain whose state is the model's whole cache."""
    managers = cache.coordinator.single_type_managers
    if num_new_tokens == 1 and not args and kwargs == {"num_lookahead_tokens": 0} and len(managers) == 1:
        states = managers[0]
        if getattr(states, "mamba_cache_mode", None) == "none":
            room = len(states.req_to_blocks.get(request.request_id, ())) * states.block_size
            if request.num_computed_tokens < room:
                return cache.empty_kv_cache_blocks
    return allocate(cache, request, num_new_tokens, *args, **kwargs)


def _draw_ahead(seeds, draw, sampler, logits, generators, k, p):
    """vLLM's draw where every chain has a generator and the sampler need not tell what it drew from."""
    from vllm.v1.sample.ops import topk_topp_sampler

    if sampler.use_fp64_gumbel or sampler.logprobs_mode.startswith("processed") or len(generators) < len(logits):
        return draw(sampler, logits, generators, k, p)
    kept = topk_topp_sampler.apply_top_k_top_p(logits, k, p)
    return topk_topp_sampler.torch.ops._C.fused_gumbel_argmax(kept.float(), seeds.take(generators, len(kept))), None


def _convolve_at_once(
    one_by_one, x, weight, bias, conv_states, query_start_loc, cache_indices=None, has_initial_state=None,
    activation="silu", **kwargs,
):  # fmt: skip
    """`convolve` in vLLM's layout, x (dim, tokens) and states (slots, dim, width - 1 or more), where all prompts are
    whole; vLLM's own for whatever else it may ask."""
    lengths = query_start_loc.diff().tolist()
    whole = cache_indices is not None and has_initial_state is not None and weight.shape[1] > 1
    whole = whole and activation in ("silu", "swish", True)
    if not whole or min(lengths) < 1 or sum(lengths) != x.shape[1] or int(cache_indices.min()) < 0:
        rest = {"has_initial_state": has_initial_state, "activation": activation, **kwargs}
        return one_by_one(x, weight, bias, conv_states, query_start_loc, cache_indices, **rest)
    slots, before = cache_indices.long(), weight.shape[1] - 1
    states = conv_states[slots, :, :before].transpose(1, 2).masked_fill(~has_initial_state[:, None, None], 0)
    out, states = convolve(x.transpose(0, 1), lengths, states, weight, bias)
    conv_states[slots, :, :before] = states.transpose(1, 2).to(conv_states.dtype)
    return out.transpose(0, 1).to(x.dtype)


def _scan_apart(scan, x, dt, *args, dt_bias=None, dt_softplus=False, **kwargs):
    """Give vLLM's scan a dt that is through softplus already."""
    if dt_softplus:
        dt = softplus_alike(dt.float() if dt_bias is None else dt.float() + dt_bias.float())
        dt_bias = None
    return scan(x, dt, *args, dt_bias=dt_bias, dt_softplus=False, **kwargs)


def _penalise_seen(seen, count, logits, prompts, presence, frequency, repetition, said):
    """`penalise` where no other penalty is asked for."""
    if not presence.any() and not frequency.any():
        tokens = seen.rows(prompts, said, logits.shape[1])
        if tokens is not None:
            return penalise(logits, tokens, repetition)
    return count(logits, prompts, presence, frequency, repetition, said)


def _sort_values(keep, logits, k, p, *args, **kwargs):
    """`keep_nucleus` where top-p alone is asked for."""
    if k is None and p is not None and str(logits.dtype) == "torch.float32":
        kept = keep_nucleus(logits, p)
        if kept is not None:
            return kept
    return keep(logits, k, p, *args, **kwargs)
