"""Embeddings of concepts, by sentence-transformers, kept on disk by text and model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import DurableAppender, iter_jsonl

BATCH = 256


def embed_texts(texts: Sequence[str], model_path: str, cache: Path) -> dict[str, list[float]]:
    """Text -> embedding; only texts not yet in `cache` for this model are embedded.

    Raises InputError if sentence-transformers is not installed or the folder holds no such model.
    """
    with DurableAppender(cache) as file:
        known = {row["text"]: row["embedding"] for _, row in iter_jsonl(cache) if row["model"] == model_path}
        missing = [text for text in texts if text not in known]
        if missing:
            model = _load(model_path)
            for start in range(0, len(missing), BATCH):
                batch = missing[start : start + BATCH]
                for text, vector in zip(batch, model.encode(batch, show_progress_bar=False), strict=True):
                    known[text] = [float(value) for value in vector]
                    file.append({"text": text, "model": model_path, "embedding": known[text]})
    return {text: known[text] for text in texts}


def _load(model_path: str):
    try:
        from sentence_transformers import SentenceTransformer
    except ModuleNotFoundError:
        raise InputError(
            "embedding_model: needs the package sentence-transformers (pip install sentence-transformers), "
            "or leave embedding_model out to draw by co-occurrence alone"
        ) from None
    if not Path(model_path).is_dir():
        raise InputError(f"embedding_model {model_path}: no such folder; download the model there first")
    return SentenceTransformer(model_path)
