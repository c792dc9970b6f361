"""What a preparation reads: the inputs' checksums, the tokenizer's files, and files unpacked where they need to be."""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from promptcot_mamba.data.canonical import CanonicalRow, UnusableRowError
from promptcot_mamba.data.chunk_work import TokenizerFiles
from promptcot_mamba.data.conversation import Reading
from promptcot_mamba.data.encode import hash_tokenizer
from promptcot_mamba.data.row_files import STREAMED, Chunk, iter_rows, kind_of, plan_chunks, unpack
from promptcot_mamba.data.sources import FoundSource
from promptcot_mamba.data.workers import do_all
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import hash_file, write_json
from promptcot_mamba.ray_jobs import RayCluster

SAMPLE_ROWS = 2000  # of each source


def digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def hash_sources(sources: Sequence[FoundSource], work: Path, workers: int) -> dict[str, list[dict[str, Any]]]:
    """sha256 of every input file, by source; remembered for files whose size and time have not changed."""
    memory = work / "hashes.json"
    known = json.loads(memory.read_text()) if memory.exists() else {}
    files = sorted({file for source in sources for file in source.files})
    keys = {file: f"{file.resolve()} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files}
    new = [file for file in files if keys[file] not in known]
    with ThreadPoolExecutor(workers) as pool:  # hashing lets go of the interpreter
        known |= dict(zip((keys[file] for file in new), pool.map(hash_file, new), strict=True))
    write_json(memory, known)
    return {
        source.spec.name: [
            {"file": file.name, "bytes": file.stat().st_size, "sha256": known[keys[file]]} for file in source.files
        ]
        for source in sources
    }


def save_tokenizer(tokenizer: Any, path: str, folder: Path) -> tuple[TokenizerFiles, str]:
    """Write what workers need of a tokenizer; return that and its hash. Raises InputError if it cannot serve."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InputError(f"--tokenizer_path {path}: has no tokenizer.json (a slow tokenizer); convert it to a fast one")
    if tokenizer.eos_token_id is None:
        raise InputError(f"--tokenizer_path {path}: the tokenizer has no eos_token; set one and save it")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "tokenizer.json"
    file.write_text(backend.to_str(), encoding="utf-8")
    dtype = "uint16" if len(tokenizer) <= 1 << 16 else "int32"
    return TokenizerFiles(file, tokenizer.eos_token_id, dtype), hash_tokenizer(tokenizer)


def plan_jobs(
    sources: Sequence[FoundSource], folder: Path, workers: int, cluster: RayCluster | None = None
) -> list[tuple[int, str, Chunk]]:
    """`(number, source, chunk)` of all chunks; what has no middle to enter at is unpacked under `folder` first."""
    packed = {file for source in sources for file in source.files if kind_of(file) in STREAMED}
    unpacked = {
        file: folder / f"{digest([str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns])}.jsonl"
        for file in sorted(packed)
    }
    if unpacked:
        do_all(partial(partial, unpack), list(unpacked.items()), workers, "unpacking", cluster)
    pieces = []
    for source in sources:
        for file in source.files:
            chunks = plan_chunks(unpacked.get(file, file))
            name = str(file) if file in unpacked else None
            pieces += [(source.spec.name, replace(chunk, name=name)) for chunk in chunks]
    return [(number, name, chunk) for number, (name, chunk) in enumerate(pieces)]


def sample_questions(
    sources: Sequence[FoundSource], jobs: Sequence[tuple[int, str, Chunk]], contexts: dict[str, Path], reading: Reading
) -> list[str]:
    """The questions of every source's first SAMPLE_ROWS rows, by which one sees what is common in the corpus."""
    questions: list[str] = []
    for source in sources:
        adapter = source.spec.make_adapter(reading)
        context = adapter.load_context(contexts[source.spec.name]) if adapter.load_context else None
        columns = (*adapter.columns, *adapter.optional)
        chunks = [chunk for _, name, chunk in jobs if name == source.spec.name]
        raws = (raw for chunk in chunks for _, raw in iter_rows(chunk, columns, on_bad_line=lambda _: None))
        for raw in islice(raws, SAMPLE_ROWS):
            try:
                found = adapter.convert(raw, context)
            except (UnusableRowError, InputError, KeyError):
                continue  # counted, or refused, where rows are read one by one
            questions += [row.topic for row in ([found] if isinstance(found, CanonicalRow) else found)]
    return questions
