"""First pass, one chunk at a time and in any process: raw rows -> filtered, checked, tokenised rows on disk.

A finished chunk is three files: `N.tokens` (all kept rows' tokens end to end), `N.rows.arrow` (one line a kept row),
`N.prompts.arrow` (one line a different prompt, with what near-duplicates are found by), and `N.json`, written last:
its presence says that the chunk is done.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from promptcot_mamba.chat_format import THINK_START, join, with_open_thought
from promptcot_mamba.data.adapters import Adapter
from promptcot_mamba.data.canonical import CanonicalRow, UnusableRowError, hash_text, render_for
from promptcot_mamba.data.decontaminate import Decontaminator, Hit
from promptcot_mamba.data.dedup import BANDS, make_band_keys, make_shingles
from promptcot_mamba.data.filters import find_fault
from promptcot_mamba.data.row_files import Chunk, iter_rows
from promptcot_mamba.data.sources import SourceSpec
from promptcot_mamba.data.words import symbol_words
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import write_json

BATCH_CHARACTERS = 1 << 20  # text handed to the tokenizer at a time
BATCH_ROWS = 256
SAMPLES = 2  # places named per reason and chunk
HITS = ("contaminated", "reported")

ROWS_SCHEMA = pa.schema([
    ("id", pa.binary(16)), ("prompt", pa.int32()), ("length", pa.int32()), ("prompt_length", pa.int32()),
    ("domain", pa.string()),
])  # fmt: skip
PROMPTS_SCHEMA = pa.schema(
    [
        ("key", pa.uint64()),
        ("shingles", pa.list_(pa.uint32())),
        *((f"band_{band}", pa.uint64()) for band in range(BANDS)),
    ]
)


@dataclass(frozen=True)
class TokenizerFiles:
    """What a worker needs of a tokenizer: its `tokenizer.json`, and the id that ends every document."""

    path: Path
    eos_id: int
    dtype: str  # of the tokens on disk: the narrowest that holds the vocabulary


@dataclass(frozen=True)
class ChunkContext:
    """Everything that a chunk's result depends on, beside the chunk."""

    folder: Path
    specs: dict[str, SourceSpec]
    contexts: dict[str, Path]  # source -> folder of its adapter's companion data
    tokenizer: TokenizerFiles
    decontaminator: Decontaminator | None
    min_tokens: int
    max_tokens: int


def chunk_path(folder: Path, number: int, kind: str) -> Path:
    return folder / f"{number:06d}.{kind}"


def read_hits(folder: Path, chunks: int, kind: str) -> Iterator[dict[str, str]]:
    """All chunks' `contaminated` or `reported` rows, in chunk order."""
    for number in range(chunks):
        yield from json.loads(chunk_path(folder, number, "json").read_text(encoding="utf-8"))[kind]


@dataclass
class _Tally:
    """What became of a chunk's rows."""

    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    samples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    contaminated: list[dict[str, str]] = field(default_factory=list)
    reported: list[dict[str, str]] = field(default_factory=list)

    def drop(self, reason: str, where: str) -> None:
        self.dropped[reason] += 1
        if len(self.samples[reason]) < SAMPLES:
            self.samples[reason].append(where)


@dataclass
class _Prompt:
    """What is the same for every answer to one prompt."""

    number: int | None  # in the chunk's prompt table, once a row of it is kept
    hit: Hit | None
    near: list[Hit]


class _Encoder:
    """Texts -> token ids exactly as `data/encode.py` makes them, through the tokenizers library's batch call."""

    def __init__(self, files: TokenizerFiles):
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(files.path))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._eos = files.eos_id

    def encode(self, pairs: list[tuple[str, str]]) -> list[tuple[list[int], int]]:
        """`(ids, prompt_length)` of each `(prompt, completion)`."""
        joined = [join(prompt, completion) for prompt, completion in pairs]
        different = list(dict.fromkeys(prompt for prompt, _ in joined))
        encoded = self._tokenizer.encode_batch_fast(different)
        prompts = {prompt: encoding.ids for prompt, encoding in zip(different, encoded, strict=True)}
        completions = self._tokenizer.encode_batch_fast([text for _, text in joined], add_special_tokens=False)
        documents = []
        for (prompt, _), encoding in zip(joined, completions, strict=True):
            head, tail = prompts[prompt], encoding.ids
            end = [] if tail and tail[-1] == self._eos else [self._eos]
            documents.append((head + tail + end, len(head)))
        return documents


class ChunkWorker:
    """Does chunks; one is made in each process."""

    def __init__(self, context: ChunkContext, agrees: Callable[[str, str], bool] | None = None):
        self.context = context
        self._agrees = agrees
        self._encoder = _Encoder(context.tokenizer)
        self._adapters = {name: spec.make_adapter() for name, spec in context.specs.items()}
        self._loaded = {
            name: self._adapters[name].load_context(folder)  # type: ignore[misc]
            for name, folder in context.contexts.items()
        }

    def run(self, number: int, source: str, chunk: Chunk) -> dict[str, Any]:
        """Do one chunk unless it is done; return its tally, without the rows it names one by one (`read_hits`)."""
        done = chunk_path(self.context.folder, number, "json")
        if not done.exists():
            write_json(done, _ChunkRun(self, number, source).run(chunk))
        tally = json.loads(done.read_text(encoding="utf-8"))
        return {key: value for key, value in tally.items() if key not in HITS}


class _ChunkRun:
    def __init__(self, worker: ChunkWorker, number: int, source: str):
        self.worker, self.number, self.source = worker, number, source
        self.spec = worker.context.specs[source]
        self.adapter: Adapter = worker._adapters[source]
        self.loaded = worker._loaded.get(source)
        self.tally = _Tally()
        self.prompts: dict[bytes, _Prompt] = {}  # by hash: a chunk may be a whole compressed file
        self.prompt_rows: list[tuple[int, np.ndarray, np.ndarray]] = []
        self.kept: list[tuple[bytes, int, int, int, str]] = []
        self.waiting: list[tuple[CanonicalRow, str]] = []
        self.waiting_characters = 0
        self.tokens = 0  # of kept rows
        self.encoded = 0  # of all that were tokenised
        self.seconds = {"all": 0.0, "tokenize": 0.0}

    def run(self, chunk: Chunk) -> dict[str, Any]:
        started = time.perf_counter()
        folder = self.worker.context.folder
        columns = (*self.adapter.columns, *self.adapter.optional)
        on_bad_line = None if self.spec.bad_rows == "refuse" else self._drop_unreadable
        with chunk_path(folder, self.number, "tokens").open("wb") as tokens:
            for place, raw in iter_rows(chunk, columns, on_bad_line):
                self.tally.rows += 1
                where = place.replace(str(chunk.path), chunk.path.name, 1)  # outputs do not tell where inputs lie
                try:
                    row = self._read(raw, where)
                except InputError as error:
                    raise InputError(f"{place}: {error}") from None
                if row is None:
                    continue
                self.waiting.append((row, where))
                self.waiting_characters += len(row.completion)
                if self.waiting_characters >= BATCH_CHARACTERS or len(self.waiting) >= BATCH_ROWS:
                    self._flush(tokens)
            self._flush(tokens)
            tokens.flush()
            os.fsync(tokens.fileno())
        self._write_tables(folder)
        self.seconds["all"] = time.perf_counter() - started
        return {
            "source": self.source, "file": chunk.path.name, "rows": self.tally.rows, "kept": len(self.kept),
            "tokens": self.tokens, "encoded": self.encoded, "dropped": dict(sorted(self.tally.dropped.items())),
            "samples": self.tally.samples, "contaminated": self.tally.contaminated, "reported": self.tally.reported,
            "seconds": self.seconds,
        }  # fmt: skip

    def _drop_unreadable(self, error: InputError) -> None:
        self.tally.rows += 1
        self.tally.drop("unreadable", str(error))

    def _read(self, raw: dict[str, Any], where: str) -> CanonicalRow | None:
        """The canonical row if it is fit and clean; what is not is counted."""
        for column in self.adapter.columns:
            if column not in raw:
                raise InputError(f"missing column {column!r}; found {', '.join(raw)}")
        try:
            row = self.adapter.convert(raw, self.loaded)
        except UnusableRowError as unusable:
            self.tally.drop(unusable.reason, where)
            return None
        if self.spec.domains is not None and row.domain not in self.spec.domains:
            self.tally.drop("other_domain", where)
            return None
        if self.spec.thought_opened:
            row = replace(row, completion=with_open_thought(THINK_START, row.completion))
        fault = find_fault(row, self.spec.rules, self.worker._agrees)
        if fault is not None:
            self.tally.drop(fault, where)
            return None
        prompt = self._prompt(row.prompt)
        if prompt.hit is not None:
            self.tally.drop("contaminated", where)
            self.tally.contaminated.append(self._evidence(row, where, prompt.hit))
            return None
        self.tally.reported += [self._evidence(row, where, near) for near in prompt.near]
        return row

    def _evidence(self, row: CanonicalRow, where: str, hit: Hit) -> dict[str, str]:
        return {"id": row.id.hex(), "source": self.source, "row": where, **vars(hit)}

    def _prompt(self, text: str) -> _Prompt:
        key = hash_text(text)
        found = self.prompts.get(key)
        if found is None:
            checker = self.worker.context.decontaminator
            hit, near = checker.check(text) if checker is not None else (None, [])
            found = self.prompts[key] = _Prompt(None, hit, near)
        return found

    def _render(self, row: CanonicalRow) -> str:
        if not self.spec.published_prompt:
            return render_for(row, self.spec.instruction)
        if row.published_prompt is None:
            raise InputError(f"sources.{self.source}: adapter {self.spec.adapter!r} has no published chat text")
        return row.published_prompt

    def _flush(self, tokens: IO[bytes]) -> None:
        context = self.worker.context
        pairs = [(self._render(row), row.completion) for row, _ in self.waiting]
        started = time.perf_counter()
        documents = self.worker._encoder.encode(pairs)
        self.seconds["tokenize"] += time.perf_counter() - started
        for (row, where), (ids, prompt_length) in zip(self.waiting, documents, strict=True):
            self.encoded += len(ids)
            if not context.min_tokens <= len(ids) <= context.max_tokens:
                self.tally.drop("too_short" if len(ids) < context.min_tokens else "too_long", where)
                continue
            prompt = self._prompt(row.prompt)
            if prompt.number is None:
                prompt.number = len(self.prompt_rows)
                shingles = make_shingles(row.prompt)
                key = int.from_bytes(hash_text(" ".join(symbol_words(row.prompt)))[:8], "big")
                self.prompt_rows.append((key, shingles, make_band_keys(shingles)))
            tokens.write(np.asarray(ids, dtype=context.tokenizer.dtype).tobytes())
            self.kept.append((row.id, prompt.number, len(ids), prompt_length, row.domain))
            self.tokens += len(ids)
        self.waiting, self.waiting_characters = [], 0

    def _write_tables(self, folder: Path) -> None:
        columns = list(zip(*self.kept, strict=True)) or [()] * len(ROWS_SCHEMA)
        arrays = [pa.array(values, item.type) for values, item in zip(columns, ROWS_SCHEMA, strict=True)]
        rows = pa.record_batch(arrays, schema=ROWS_SCHEMA)
        keys = np.array([key for key, _, _ in self.prompt_rows], dtype=np.uint64)
        bands = np.array([band for _, _, band in self.prompt_rows], dtype=np.uint64).reshape(-1, BANDS)
        edges = np.cumsum([0, *(len(shingles) for _, shingles, _ in self.prompt_rows)]).astype(np.int32)
        values = np.concatenate([np.empty(0, np.uint32), *(shingles for _, shingles, _ in self.prompt_rows)])
        prompts = pa.record_batch(
            [
                pa.array(keys),
                pa.ListArray.from_arrays(pa.array(edges), pa.array(values)),
                *(pa.array(np.ascontiguousarray(bands[:, band])) for band in range(BANDS)),
            ],
            schema=PROMPTS_SCHEMA,
        )
        for kind, batch in (("rows.arrow", rows), ("prompts.arrow", prompts)):
            with pa.OSFile(str(chunk_path(folder, self.number, kind)), "wb") as sink:
                with pa.ipc.new_file(sink, batch.schema) as writer:
                    writer.write_batch(batch)
