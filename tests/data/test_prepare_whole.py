"""The planted corpus at full size: 100,000 rows over all raw shapes, every count exact."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.data.planted import SOURCES, plant, recipe_sources
from tests.data.test_prepare import make_recipe, prepare
from tests.tiny import make_tokenizer


@pytest.mark.slow
def test_a_hundred_thousand_planted_rows_are_counted_exactly(tmp_path):
    corpus = plant(tmp_path / "raw", 16_700, seed=11)
    assert sum(corpus.rows.values()) >= 100_000
    recipe = make_recipe(recipe_sources(corpus), shard_tokens=1 << 22)
    result = prepare(recipe, tmp_path / "out", make_tokenizer(), corpus, workers=2)
    near = 0
    for source in SOURCES:
        counts = result.manifest["counts"]["sources"][source]
        dropped = dict(counts["dropped"])
        near += (found := dropped.pop("near_duplicate"))
        assert dropped == dict(corpus.expected[source]), source
        assert counts["in_mixture"] == corpus.clean[source] + corpus.close_prompts[source] - found
    planted = Counter(corpus.close_prompts).total()
    assert 0.99 * planted <= near <= planted
