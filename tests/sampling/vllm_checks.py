"""What only a real engine can show, as a program: one engine start, several checks, one JSON line of results.

python -m tests.sampling.vllm_checks <checkpoint>
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import replace

from promptcot_mamba.checkpoint import load_tokenizer
from promptcot_mamba.records import derive_seed
from promptcot_mamba.sampling.backend import Generated, Request, SamplingSettings
from promptcot_mamba.sampling.vllm_engine import EngineSettings, VllmEngine
from promptcot_mamba.token_scores import TokenScores

CONTEXT = 2048


def make_requests(count: int) -> list[Request]:
    """Prompts of 1 to 700 tokens with their own seeds; lengths differ, so batches change all the time."""
    numbers = random.Random(0)
    lengths = [1, 2, 31, 32, 33, 700, *(numbers.randrange(3, 100) for _ in range(count - 6))]
    prompts = [[numbers.randrange(3, 384) for _ in range(length)] for length in lengths]
    return [Request(unit, 0, 100 + unit, "", prompt, numbers.randrange(8, 64)) for unit, prompt in enumerate(prompts)]


def generate(engine: VllmEngine, requests: list[Request]) -> dict[int, Generated]:
    for request in requests:
        engine.submit(request)
    finished: dict[int, Generated] = {}
    while len(finished) < len(requests):
        finished |= {each.unit: each for each in engine.poll(1.0)}
    return finished


def same(one: dict[int, Generated], other: dict[int, Generated]) -> bool:
    def shown(each: Generated) -> tuple:
        return each.text, each.finish_reason, each.completion_tokens

    return one.keys() == other.keys() and all(shown(one[unit]) == shown(other[unit]) for unit in one)


def continued(engine: VllmEngine, requests: list[Request]) -> list[tuple[list[int], list[int]]]:
    """Greedy chains under a strong penalty, whole and continued from their middle: their ids, pair by pair."""
    engine.set_sampling(SamplingSettings(0.0, 1.0, 1.3, (), ignore_eos=True))  # to their last token
    whole = generate(engine, requests)
    halves = []
    for request in requests:
        kept = whole[request.unit].token_ids[: request.max_tokens // 2]
        halves.append(replace(request, kept=kept, max_tokens=request.max_tokens - len(kept)))
    again = generate(engine, halves)
    return [(list(whole[unit].token_ids), list(again[unit].token_ids)) for unit in whole]


def joint_counts(engine: VllmEngine, prompt: list[int], seed: int, *, cut: bool) -> list[int]:
    """Of 2,000 chains: how often their first and second token, of eight kinds each, come together. Those that are cut
    behind the first go on as the scheduler goes on."""
    kinds = [0] * 64
    seeds = [derive_seed(seed, "p", chain, 0) for chain in range(2000)]
    chains = [Request(unit, 0, each, "", prompt, 1 if cut else 2) for unit, each in enumerate(seeds)]
    drawn = generate(engine, chains)
    if cut:
        halves = [
            replace(chain, kept=drawn[chain.unit].token_ids, seed=derive_seed(chain.seed, "after", 1))
            for chain in chains
        ]
        drawn = generate(engine, halves)
    for each in drawn.values():
        first, second = each.token_ids
        kinds[first % 8 * 8 + second % 8] += 1
    return kinds


def reread(engine: VllmEngine, request: Request, drawn: Generated) -> float:
    """log p of a chain's tokens after its prompt, from reading them."""
    [score] = engine.log_likelihoods([([*request.prompt_ids, *drawn.token_ids], len(request.prompt_ids))])
    return score


def readable(each: Generated) -> str:
    """The text without the marks of broken characters, of which a random model writes many."""
    return each.text.replace("\ufffd", "")


def main(checkpoint: str) -> dict[str, object]:
    tokenizer = load_tokenizer(checkpoint)
    seeded = SamplingSettings(0.8, 0.95, 1.1, (tokenizer.eos_token_id,))
    settings = EngineSettings(checkpoint, "float32", "float32", CONTEXT, 16, on_cpu=True, cache_bytes=64 << 20)
    engine = VllmEngine(settings, seeded, is_mamba2=True, tokenizer=tokenizer)
    requests = make_requests(20)
    results: dict[str, object] = {}
    for name, sampling in (("seeded", seeded), ("greedy", SamplingSettings(0.0, 1.0, 1.0, seeded.stop_token_ids))):
        engine.set_sampling(sampling)
        together = generate(engine, requests)
        alone = {}
        for request in requests[:7]:
            alone |= generate(engine, [request])
        shuffled = requests[:]
        random.Random(1).shuffle(shuffled)
        results[f"{name}_together_as_alone"] = same({unit: together[unit] for unit in alone}, alone)
        results[f"{name}_in_another_order"] = same(together, generate(engine, shuffled))
        results[f"{name}_texts"] = len({each.text for each in together.values()})

    # What the model is said to have thought of its tokens is what it thinks of them when it reads them.
    engine.set_sampling(seeded)
    unscored = generate(engine, requests)
    scored = [replace(request, scores=TokenScores()) for request in requests]
    drawn = generate(engine, scored)
    results["scores_change_nothing"] = same(unscored, drawn)
    results["scores"] = [
        (len(request.scores), drawn[request.unit].completion_tokens, sum(request.scores.logprobs),
         reread(engine, request, drawn[request.unit]), min(request.scores.entropies), max(request.scores.entropies))
        for request in scored
    ]  # fmt: skip

    # A request that is dropped never comes back, and its neighbours do not notice.
    for request in requests:
        engine.submit(request)
    engine.poll(1.0)
    for unit in range(0, 20, 2):
        engine.drop(unit)
    left: dict[int, Generated] = {}
    while engine.running():
        left |= {each.unit: each for each in engine.poll(1.0)}
    results["dropped"] = [unit for unit in left if unit % 2 == 0]
    results["undropped_same"] = same(left, {unit: drawn[unit] for unit in left})
    results["undropped"] = len(left)

    results["continued"] = continued(engine, requests[5:12])
    engine.set_sampling(SamplingSettings(0.6, 0.95, 1.0, (), ignore_eos=True))
    results["pairs"] = [joint_counts(engine, [5, 6, 7], seed, cut=cut) for seed, cut in ((3, False), (4, True))]

    # To the last bit: a difference of 1e-6 in a logit changes a word in a thousand samples, too few to be seen above.
    read = [(request.prompt_ids, 1) for request in requests if 1 < len(request.prompt_ids) < 100]
    results["read_together"] = list(engine.log_likelihoods(read))
    results["read_alone"] = [score for each in read for score in engine.log_likelihoods([each])]

    # A penalty below 1 rewards repetition, so greedy chains fall into a loop.
    long = [Request(unit, 0, unit, "", [5 + unit] * 4, 700) for unit in range(4)]
    engine.set_sampling(SamplingSettings(0.0, 1.0, 0.3, seeded.stop_token_ids, stop_on_loop=True))
    cut = generate(engine, long)
    engine.set_sampling(SamplingSettings(0.0, 1.0, 0.3, seeded.stop_token_ids))
    uncut = generate(engine, long)
    results["loops"] = [
        (cut[unit].finish_reason, cut[unit].completion_tokens, readable(uncut[unit]).startswith(readable(cut[unit])))
        for unit in cut
    ]
    results["still_running"] = engine.running()
    engine.close()
    return results


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
