"""Concept sets as a stage: statistics and embeddings in, distinct (concepts, level) rows out.

The mathematics is in `concept_sampling.py`; this file reads, deduplicates, resumes and writes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import DurableAppender, Row, iter_jsonl
from promptcot_mamba.log import logger
from promptcot_mamba.records import derive_seed
from promptcot_mamba.synthesis.concept_sampling import ConceptTable, Weights, draw_sets, make_concept_table
from promptcot_mamba.synthesis.concepts import DEFAULT_LEVEL
from promptcot_mamba.synthesis.embeddings import embed_texts
from promptcot_mamba.synthesis.stage import Context, content_key

MOST_DRAWS = 4  # draws per set wanted before giving up on finding new ones


@dataclass(frozen=True)
class Settings:
    """count sets of `size` concepts each; see `concept_sampling` for the weights.

    embedding_model: a folder sentence-transformers reads, or the model's name on the server `embedding_url`, or None
    for co-occurrence alone; levels: labels that sets are given in equal shares, at random.
    """

    count: int
    size: int = 5
    temperature: float = 0.2
    cooccurrence_weight: float = 1.0
    similarity_weight: float = 1.0
    association: str = "pmi"
    embedding_model: str | None = None
    embedding_url: str | None = None
    levels: list[str] = field(default_factory=lambda: [DEFAULT_LEVEL])
    workers: int = 1


def run(settings: Settings, context: Context) -> None:
    """concepts.jsonl -> concept_sets.jsonl."""
    if not settings.levels:
        raise InputError("concept_sampling: levels is empty; give at least one label")
    rows = context.read("concepts")
    output = context.output("concept_sets", settings, concepts=context.path("concepts"))
    if output.complete:
        return
    table = build_table([row["concepts"] for row in rows], settings, context.path("concept_embeddings"))
    output.begin()
    with DurableAppender(output.path) as file:
        written = [row for _, row in iter_jsonl(output.path)]
        new = draw_rows(table, settings, context.seed, written)
        with tqdm(total=settings.count, initial=len(written), desc="concept sets", unit="set") as bar:
            for row in new:
                file.append(row)
                bar.update()
    final = [row for _, row in iter_jsonl(output.path)]
    if len(final) < settings.count:
        logger.info("concept sets: only %d different sets of %d wanted were found", len(final), settings.count)
    output.finish(final, wanted=settings.count, draws=final[-1]["draw"] + 1 if final else 0)


def build_table(concept_lists: Sequence[Sequence[str]], settings: Settings, cache: Path) -> ConceptTable:
    """Statistics, with embeddings where a model is named; `cache` keeps embeddings between runs."""
    embeddings = None
    if settings.embedding_model is not None:
        names = sorted({concept for concepts in concept_lists for concept in concepts})
        embeddings = embed_texts(names, settings.embedding_model, cache, settings.embedding_url)
    return make_concept_table(concept_lists, embeddings, settings.association)


def draw_rows(table: ConceptTable, settings: Settings, seed: int, written: Sequence[Row]) -> Iterator[Row]:
    """New rows after those `written`: sets not seen before as (unordered concepts, level)."""
    weights = Weights(settings.temperature, settings.cooccurrence_weight, settings.similarity_weight)
    seen = {row["key"] for row in written}
    first = written[-1]["draw"] + 1 if written else 0
    most = settings.count * MOST_DRAWS
    sets = draw_sets(table, most, settings.size, weights, seed, workers=settings.workers, first=first)
    for draw, concepts in enumerate(sets, start=first):
        if len(seen) == settings.count:
            return
        level = settings.levels[derive_seed(seed, "level", draw) % len(settings.levels)]
        key = content_key(sorted(concepts), level)
        if key not in seen:
            seen.add(key)
            yield {"key": key, "draw": draw, "concepts": list(concepts), "level": level}
