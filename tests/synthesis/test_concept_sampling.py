"""The fast sampler against its dense definition."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats

from promptcot_mamba.errors import InputError
from promptcot_mamba.synthesis import concept_sampling
from promptcot_mamba.synthesis.concept_sampling import (
    Weights,
    _Drawer,
    _inverse_cdf,
    draw_sets,
    make_concept_table,
    next_probabilities,
)


def make_lists(concepts: int = 12, problems: int = 60, seed: int = 0) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    return [[f"c{i:03}" for i in rng.choice(concepts, size=4, replace=False)] for _ in range(problems)]


def make_embeddings(lists, width: int = 8, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=width) for name in sorted({name for names in lists for name in names})}


def slow_score(lists, embeddings, names, chosen: list[int], j: int, association: str) -> float:
    """score(j | chosen) from the raw lists, pair by pair."""

    def holds(*wanted):
        return sum(all(name in concepts for name in wanted) for concepts in lists)

    total = 0.0
    for i in chosen:
        both = holds(names[i], names[j])
        if association == "log_count":
            total += np.log(1 + both)
        elif both:
            total += max(0.0, np.log(both * len(lists) / (holds(names[i]) * holds(names[j]))))
        a, b = embeddings[names[i]], embeddings[names[j]]
        total += a @ b / np.sqrt((a @ a) * (b @ b))
    return total / len(chosen)


@pytest.mark.parametrize("association", ["pmi", "log_count"])
@pytest.mark.parametrize("chosen", [[3], [0, 7], [5, 1, 9]])
@pytest.mark.parametrize("temperature", [0.05, 0.2, 3.0])
def test_probabilities_follow_the_definition(association, chosen, temperature):
    lists = make_lists()
    embeddings = make_embeddings(lists)
    table = make_concept_table(lists, embeddings, association)
    exponents = {
        j: np.exp(slow_score(lists, embeddings, table.names, chosen, j, association) / temperature)
        for j in range(len(table))
        if j not in chosen
    }
    got = next_probabilities(table, chosen, Weights(temperature))
    for j, value in exponents.items():
        assert abs(got[j] - value / sum(exponents.values())) < 1e-9
    assert all(got[j] == 0 for j in chosen)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("with_embeddings", [True, False])
def test_the_drawer_uses_those_probabilities(temperature, with_embeddings):
    lists = make_lists()
    table = make_concept_table(lists, make_embeddings(lists) if with_embeddings else None)
    weights = Weights(temperature, cooccurrence=0.7, similarity=1.3)
    drawer = _Drawer(table, 4, weights, seed=0)
    chosen = torch.tensor([[0, 7], [5, 1], [5, 3]])
    scores = torch.zeros((3, len(table)), dtype=torch.float64)
    for step in range(2):
        drawer._add(scores, chosen[:, step])
    scores.scatter_(1, chosen, -torch.inf)
    got = drawer._weigh(scores, 2)
    assert not got[:, len(table) :].any()
    for row in range(3):
        expected = next_probabilities(table, chosen[row].tolist(), weights)
        np.testing.assert_allclose(got[row, : len(table)] / got[row].sum(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("uniform", "index"), [(0.0, 1), (0.49, 1), (0.51, 3), (1 - 2**-53, 3), (1.0, 3)])
def test_entries_of_zero_weight_are_never_drawn(uniform, index):
    cumulative = torch.tensor([[0.0, 0.5, 0.5, 1.0, 1.0]], dtype=torch.float64)
    got, share = _inverse_cdf(cumulative, torch.tensor([[uniform]], dtype=torch.float64))
    assert int(got) == index
    assert float(share) == pytest.approx((uniform - (index == 3) * 0.5) / 0.5)
    assert 0 <= float(share) < 1


@pytest.mark.parametrize("chunk", [1, 2, 5, 256])
def test_looking_in_chunks_finds_what_one_running_sum_finds(monkeypatch, chunk):
    monkeypatch.setattr(concept_sampling, "CHUNK", chunk)
    lists = make_lists()
    table = make_concept_table(lists, make_embeddings(lists))
    drawer = _Drawer(table, 2, Weights(0.3), seed=0)
    scores = torch.from_numpy(np.random.default_rng(5).normal(size=(concept_sampling.ROWS, len(table))))
    scores[:, [0, 4, 5, 11]] = -torch.inf
    uniforms = torch.linspace(0, 1, concept_sampling.ROWS, dtype=torch.float64)[:, None]
    got = drawer._pick(scores, 1, uniforms)
    cumulative = drawer._weigh(scores, 1)[:, : len(table)].cumsum(1)
    assert got.tolist() == _inverse_cdf(cumulative, uniforms)[0].tolist()


def test_frequencies_agree_by_chi_squared():
    lists = make_lists(concepts=6, problems=30)
    table = make_concept_table(lists, make_embeddings(lists))
    weights = Weights(0.5)
    count = 20_000
    seen = Counter(draw_sets(table, count, 2, weights, seed=3))
    first = next_probabilities(table, [], weights)
    observed, expected = [], []
    for i, a in enumerate(table.names):
        second = next_probabilities(table, [i], weights)
        for j, b in enumerate(table.names):
            if i != j:
                observed.append(seen[a, b])
                expected.append(count * first[i] * second[j])
    assert sum(observed) == count
    assert stats.chisquare(observed, expected).pvalue > 1e-3


@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1e-40, 1e-9, 1e-3, 1.0, 1e300])
@pytest.mark.parametrize("problems", [1, 3, 200])
@pytest.mark.parametrize("float32", [False, True])
def test_no_nan_and_no_repeats_at_any_temperature(monkeypatch, temperature, problems, float32):
    monkeypatch.setattr(concept_sampling, "FLOAT32_FROM", 1 if float32 else 8192)
    lists = make_lists(problems=problems)
    table = make_concept_table(lists, make_embeddings(lists))
    size = min(4, len(table))
    for names in draw_sets(table, 50, size, Weights(temperature), seed=0):
        assert len(set(names)) == size
    probabilities = next_probabilities(table, [0], Weights(temperature))
    assert np.isfinite(probabilities).all()
    assert abs(probabilities.sum() - 1) < 1e-12


def test_temperature_zero_is_the_arg_max():
    lists = make_lists()
    table = make_concept_table(lists, make_embeddings(lists))
    for a, b in draw_sets(table, 100, 2, Weights(0.0), seed=0):
        assert table.names[int(np.argmax(next_probabilities(table, [table.names.index(a)], Weights(1.0))))] == b


def test_a_set_can_be_all_concepts():
    table = make_concept_table([["a", "b"], ["b", "c"]])
    assert all(sorted(names) == ["a", "b", "c"] for names in draw_sets(table, 20, 3, Weights(), seed=0))


@pytest.mark.parametrize("float32", [False, True])
def test_workers_and_resuming_change_nothing(monkeypatch, float32):
    if float32:
        monkeypatch.setattr(concept_sampling, "FLOAT32_FROM", 1)
    lists = make_lists(concepts=40, problems=200)
    table = make_concept_table(lists, make_embeddings(lists))
    alone = list(draw_sets(table, 300, 5, Weights(), seed=7))
    assert len(alone) == 300
    assert list(draw_sets(table, 300, 5, Weights(), seed=7, first=101)) == alone[101:]
    assert list(draw_sets(table, 200, 5, Weights(), seed=7)) == alone[:200]
    if not float32:  # a spawned worker does not see the patched constant
        assert list(draw_sets(table, 300, 5, Weights(), seed=7, workers=2)) == alone
    assert list(draw_sets(table, 300, 5, Weights(), seed=8)) != alone


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_concept_table([]), "no concepts"),
        (lambda: make_concept_table([["a"]], {}), "'a'"),
        (lambda: make_concept_table([["a", "b"]], {"a": [1.0], "b": [1.0, 2.0]}), "different lengths"),
        (lambda: make_concept_table([["a"]], {"a": [0.0]}), "zero or not finite"),
        (lambda: make_concept_table([["a"]], association="count"), "association"),
        (lambda: list(draw_sets(make_concept_table([["a"]]), 1, 2, Weights(), 0)), "size 2"),
        (lambda: Weights(-1.0), "temperature"),
        (lambda: Weights(float("nan")), "temperature"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(InputError, match=message):
        make()
