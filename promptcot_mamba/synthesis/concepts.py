"""Concept extraction: seed problems -> k foundational concepts each, near-identical ones merged.

Reads rows with `problem` (or `question`), optionally `level` and any other keys, which travel along; writes them with
`concepts`, canonical, and `concepts_said`, as the model wrote them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row, iter_jsonl
from promptcot_mamba.synthesis.asking import Task
from promptcot_mamba.synthesis.concept_replies import parse_concepts
from promptcot_mamba.synthesis.embeddings import embed_texts
from promptcot_mamba.synthesis.merging import COSINE, merge_concepts
from promptcot_mamba.synthesis.replies import Rejected
from promptcot_mamba.synthesis.stage import Context, ask_model, content_key

DEFAULT_LEVEL = "competition"

Embed = Callable[[Sequence[str]], dict[str, list[float]]]


@dataclass(frozen=True)
class Settings:
    """seeds: JSONL of problems; model: a name under `models`; k: concepts a problem.

    embedding_model, embedding_url: as of concept sampling; with them concepts of nested words are merged too where
    their cosine is at least `merge_cosine`.
    """

    seeds: str
    model: str
    k: int = 5
    max_tokens: int = 1024
    attempts: int = 2
    embedding_model: str | None = None
    embedding_url: str | None = None
    merge_cosine: float = COSINE


def read_seeds(path: Path) -> list[Row]:
    """Seed problems with `problem` and `level` filled in; a bad or repeated one raises InputError naming its line."""
    if not path.exists():
        raise InputError(f"concepts: seeds {path}: no such file; give JSONL rows with 'problem', and 'level' if known")
    rows: dict[str, Row] = {}
    for number, row in iter_jsonl(path):
        problem = row.get("problem") or row.get("question")
        if not isinstance(problem, str) or not problem.strip():
            raise InputError(f"{path}:{number}: expected a non-empty 'problem' or 'question'; found {', '.join(row)}")
        key = content_key(problem)
        if key in rows:
            raise InputError(f"{path}:{number}: the same problem stood in the file before; deduplicate the seeds")
        rows[key] = {**row, "problem": problem, "level": row.get("level") or DEFAULT_LEVEL}
    if not rows:
        raise InputError(f"{path}: no seed problems")
    return list(rows.values())


def run(settings: Settings, context: Context) -> None:
    """seeds -> concepts.jsonl."""
    seeds = Path(settings.seeds)
    rows, k = read_seeds(seeds), settings.k
    form = context.format(settings.model)
    tasks = [
        Task(content_key(row["problem"], k), form.render("concepts", problem=row["problem"], k=k), row) for row in rows
    ]
    ask_model(
        context,
        "concepts",
        settings,
        tasks,
        lambda _, reply: _row_or_rejected(parse_concepts(reply, settings.k)),
        {"seeds": seeds},
        finalise=lambda rows: apply_merge(rows, _embed(settings, context), settings.merge_cosine),
    )


def _embed(settings: Settings, context: Context) -> Embed | None:
    model, cache = settings.embedding_model, context.path("concept_embeddings")
    if model is None:
        return None
    return lambda texts: embed_texts(texts, model, cache, settings.embedding_url)


def _row_or_rejected(parsed: list[str] | Rejected) -> Row | Rejected:
    return parsed if isinstance(parsed, Rejected) else {"concepts_said": parsed}


def apply_merge(rows: Sequence[Row], embed: Embed | None = None, cosine: float = COSINE) -> list[Row]:
    """Rows with canonical `concepts`; what the model said stays in `concepts_said`.

    `embed` gives a vector for each text, where a model for that is at hand.
    """
    said = [row["concepts_said"] for row in rows]
    embeddings = None if embed is None else embed(sorted({concept for concepts in said for concept in concepts}))
    canonical = merge_concepts(said, embeddings, cosine)
    return [
        {**row, "concepts": list(dict.fromkeys(canonical[concept] for concept in row["concepts_said"]))} for row in rows
    ]
