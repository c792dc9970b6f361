"""Near-duplicates against the plain definition: all pairs, exact Jaccard."""

from __future__ import annotations

import random

import numpy as np

from promptcot_mamba.data.dedup import (
    BANDS,
    count_earlier,
    find_leaders,
    jaccard,
    make_band_keys,
    make_shingles,
    mark_repeats,
    propose_pairs,
)
from tests.data.planted import BASE, nearly


def leaders_of(prompts: list[str], threshold: float = 0.8) -> tuple[np.ndarray, list[np.ndarray]]:
    shingles = [make_shingles(prompt) for prompt in prompts]
    keys = np.stack([make_band_keys(own) for own in shingles])
    assert keys.shape == (len(prompts), BANDS)
    pairs = propose_pairs(lambda band: keys[:, band], len(prompts))
    return find_leaders(pairs, len(prompts), shingles.__getitem__, threshold), shingles


def test_pairs_above_nine_tenths_are_found_and_none_below_one_half():
    rng = random.Random(2)
    prompts = []
    for low, high in [(0.9, 1.0)] * 200 + [(0.1, 0.5)] * 200:
        first = rng.choices(BASE, k=rng.randint(50, 120))
        prompts += [" ".join(first), " ".join(nearly(first, rng, low, high - 1e-9))]
    leaders, shingles = leaders_of(prompts)
    found = sum(leaders[number + 1] == number for number in range(0, 400, 2))
    assert found >= 0.99 * 200
    for number, leader in enumerate(leaders):
        if leader != number:
            assert jaccard(shingles[number], shingles[leader]) >= 0.5
    assert all(leaders[number] == number for number in range(400, 800))


def test_a_chain_of_small_edits_does_not_drift_away_from_its_first_prompt():
    rng = random.Random(3)
    words = rng.choices(BASE, k=80)
    prompts = []
    for _ in range(60):
        words = nearly(words, rng, 0.85, 0.99)
        prompts.append(" ".join(words))
    leaders, shingles = leaders_of(prompts)
    assert len(set(leaders.tolist())) > 1
    assert all(jaccard(shingles[number], shingles[leader]) >= 0.5 for number, leader in enumerate(leaders))


def test_signs_tell_questions_apart_and_spacing_does_not():
    assert leaders_of(["Compute $x+y$ now", "compute $ x + y $  now"])[0].tolist() == [0, 0]
    assert leaders_of(["Compute $x+y$ now", "Compute $x-y$ now"])[0].tolist() == [0, 1]
    assert leaders_of(["a", "a", "b", ""])[0].tolist() == [0, 0, 2, 3]


def test_a_bucket_of_thousands_costs_a_bounded_number_of_pairs():
    keys = np.zeros(1500, dtype=np.uint64)
    pairs = propose_pairs(lambda band: keys, 1500)
    assert len(pairs) < 34 * 1500
    assert (pairs[:, 0] < pairs[:, 1]).all()


def test_repeats_and_ranks_follow_the_order_of_rows():
    ids = np.array([5, 3, 5, 5, 3, 9], dtype=np.uint64)
    assert mark_repeats(ids).tolist() == [False, False, True, True, True, False]
    assert count_earlier(ids).tolist() == [0, 0, 1, 2, 1, 0]
    assert count_earlier(np.empty(0, np.uint64)).tolist() == []
