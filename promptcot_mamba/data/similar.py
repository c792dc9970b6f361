"""Questions that mean what a benchmark problem means, by sentence embeddings: reported to readers, never removed.

Words can all be others where the meaning is the same (translations, full rewrites), which no comparison of words finds;
and embeddings call two problems of one topic alike, so that they must not decide. The model is a folder that
sentence-transformers reads; the package is optional.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from itertools import islice
from typing import Any

import numpy as np

from promptcot_mamba.data.adapters import Adapter
from promptcot_mamba.data.canonical import CanonicalRow, hash_text
from promptcot_mamba.data.decontaminate import BenchmarkText
from promptcot_mamba.data.sources import SourceSpec
from promptcot_mamba.errors import InputError

SIMILAR_FILE = "similar_benchmark.jsonl"
SIMILAR = 0.75  # cosine from which a pair is reported: with all-MiniLM-L6-v2 full rewrites lie at 0.75 to 0.80
BATCH = 512
Embed = Callable[[Sequence[str]], np.ndarray]  # texts -> (texts, d), of length 1


def require_package() -> None:
    """Raise InputError unless sentence-transformers is installed."""
    if find_spec("sentence_transformers") is None:
        raise InputError(
            "--embedding_model: needs the package sentence-transformers (pip install sentence-transformers); "
            "without the flag nothing else changes, it only reports"
        )


def load_embedder(folder: str) -> Embed:
    """Raises InputError if the package is missing or the folder holds no model it reads."""
    require_package()
    from sentence_transformers import SentenceTransformer

    try:
        model = SentenceTransformer(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"--embedding_model {folder}: sentence-transformers cannot read it ({reason})") from None

    def embed(texts: Sequence[str]) -> np.ndarray:
        return np.asarray(model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False))

    return embed


def iter_questions(
    rows: Iterable[tuple[SourceSpec, Adapter, str, CanonicalRow]],
) -> Iterator[tuple[str, str, str]]:
    """`(source, place, question)` of every different question."""
    seen: set[bytes] = set()
    for spec, _, place, row in rows:
        key = hash_text(row.topic)
        if key not in seen:
            seen.add(key)
            yield spec.name, place, row.topic


def find_similar(
    questions: Iterable[tuple[str, str, str]], problems: Sequence[BenchmarkText], embed: Embed
) -> Iterator[dict[str, Any]]:
    """A row for each question whose nearest problem is SIMILAR or more, the cosine beside it."""
    known = embed([problem.text for problem in problems])  # (problems, d)
    questions = iter(questions)
    while batch := list(islice(questions, BATCH)):
        cosines = embed([text for _, _, text in batch]) @ known.T  # (batch, problems)
        nearest = cosines.argmax(axis=1)
        for (source, place, text), number, row in zip(batch, nearest.tolist(), cosines, strict=True):
            if row[number] >= SIMILAR:
                problem = problems[number]
                yield {
                    "source": source, "row": place, "benchmark": problem.benchmark, "problem": problem.problem,
                    "cosine": round(float(row[number]), 4), "question": text[:300],
                }  # fmt: skip
