"""Embeddings of concepts, by sentence-transformers or a server's `/embeddings`, kept on disk by text and model."""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import DurableAppender, iter_jsonl
from promptcot_mamba.log import logger
from promptcot_mamba.sampling.endpoint_errors import AWAY, BUSY
from promptcot_mamba.sampling.endpoint_protocol import api_key, normal_url

BATCH = 256
REQUEST_SECONDS = 300.0
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # seconds between the tries of one request

Embed = Callable[[Sequence[str]], list[list[float]]]


def embed_texts(texts: Sequence[str], model: str, cache: Path, base_url: str | None = None) -> dict[str, list[float]]:
    """Text -> embedding; only texts not yet in `cache` for this model are embedded.

    `model` is a folder that sentence-transformers reads or, with `base_url`, the name of a served embedding model
    (vLLM's pooling models, or any OpenAI-compatible server). Raises InputError if there is no such package, folder or
    server.
    """
    with DurableAppender(cache) as file:
        known = {row["text"]: row["embedding"] for _, row in iter_jsonl(cache) if row["model"] == model}
        missing = [text for text in texts if text not in known]
        embed: Embed | None = None
        for start in range(0, len(missing), BATCH):
            embed = embed or (partial(ask_server, normal_url(base_url), model) if base_url else _load(model))
            batch = missing[start : start + BATCH]
            for text, vector in zip(batch, embed(batch), strict=True):
                known[text] = vector
                file.append({"text": text, "model": model, "embedding": vector})
    return {text: known[text] for text in texts}


def _load(model_path: str) -> Embed:
    try:
        from sentence_transformers import SentenceTransformer
    except ModuleNotFoundError:
        raise InputError(
            "embedding_model: needs the package sentence-transformers (pip install sentence-transformers), a server "
            "(embedding_url), or leave it out to draw by co-occurrence alone"
        ) from None
    if not Path(model_path).is_dir():
        raise InputError(f"embedding_model {model_path}: no such folder; download the model there first")
    model = SentenceTransformer(model_path)
    return lambda batch: [[float(value) for value in row] for row in model.encode(batch, show_progress_bar=False)]


def ask_server(url: str, model: str, batch: Sequence[str]) -> list[list[float]]:
    """One request; asked again after growing pauses while the server is away. Raises InputError if it stays so."""
    headers = {"Content-Type": "application/json"}
    if key := api_key():
        headers["Authorization"] = f"Bearer {key}"
    body = json.dumps({"model": model, "input": list(batch)}).encode()
    request = urllib.request.Request(f"{url}/embeddings", body, headers)
    pauses = iter(PAUSES)
    while True:
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as answer:
                rows = sorted(json.load(answer)["data"], key=lambda row: row["index"])
                vectors = [row["embedding"] for row in rows]
            trouble, passing = f"{len(vectors)} embeddings of {len(batch)} texts", False
            if len(vectors) == len(batch):
                return vectors
        except urllib.error.HTTPError as error:
            trouble, passing = f"status {error.code}", error.code in (*AWAY, *BUSY) or error.code >= 500
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            trouble, passing = str(error), True
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            trouble, passing = f"an answer without {error}", False
        pause = next(pauses, None)
        if not passing or pause is None:
            raise InputError(f"embedding_url {url}: {trouble}; does it serve the embedding model {model}?")
        logger.warning("%s: %s; asked again in %.0f s", url, trouble, pause)
        time.sleep(pause)
