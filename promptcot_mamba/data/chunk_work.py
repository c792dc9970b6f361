"""First pass, one chunk at a time and in any process: raw rows -> filtered, checked, tokenised rows on disk.

A finished chunk is `N.tokens` (all kept rows' tokens end to end), `N.rows.arrow` (one line a kept row),
`N.prompts.arrow` (one line a different prompt, with what near-duplicates are found by), `N.dropped.arrow` (one line a
row left out), and `N.json`, written last: its presence says that the chunk is done. Each appears whole: a node that
was given up may still be writing the chunk that another does again.
"""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from promptcot_mamba.chat_format import THINK_END, THINK_START
from promptcot_mamba.chat_markup import Parts, whole_text
from promptcot_mamba.data.adapters import Adapter
from promptcot_mamba.data.canonical import CanonicalRow, UnusableRowError, hash_text
from promptcot_mamba.data.conversation import OURS, Reading, format_of, render_row
from promptcot_mamba.data.decontaminate import Decontaminator, Hit
from promptcot_mamba.data.dedup import BANDS, make_band_keys, make_shingles, normal_form
from promptcot_mamba.data.encode import Encoded, Encoder
from promptcot_mamba.data.filters import explain_fault, find_fault
from promptcot_mamba.data.reread import as_asked
from promptcot_mamba.data.row_files import Chunk, iter_rows
from promptcot_mamba.data.sources import SourceSpec
from promptcot_mamba.data.words import symbol_words
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import replace_atomically, write_json

BATCH_CHARACTERS = 1 << 20  # text handed to the tokenizer at a time
BATCH_ROWS = 256
SAMPLES = 2  # places named per reason and chunk
HITS = ("contaminated", "reported")

# Named in the log, with what is wrong or what keeps such rows.
SHOWN_FAULTS = ("turn_order", "unknown_role", "not_text", "think_pair", "chat_markers")
ROWS_SCHEMA = pa.schema([
    ("id", pa.binary(16)), ("same", pa.uint64()), ("prompt", pa.int32()), ("length", pa.int32()),
    ("prompt_length", pa.int32()), ("domain", pa.string()), ("origin", pa.string()), ("licence", pa.string()),
    ("place", pa.string()),
])  # fmt: skip
DROPPED_SCHEMA = pa.schema([
    ("source", pa.string()), ("place", pa.string()), ("id", pa.string()), ("reason", pa.string()),
    ("detail", pa.string()),
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
    reading: Reading = field(default_factory=Reading)
    allowed: frozenset[str] = frozenset()  # ids of rows that a reader found clean, whatever they share


def chunk_path(folder: Path, number: int, kind: str) -> Path:
    return folder / f"{number:06d}.{kind}"


def read_hits(folder: Path, chunks: int, kind: str) -> Iterator[dict[str, str]]:
    """All chunks' `contaminated` or `reported` rows, in chunk order."""
    for number in range(chunks):
        yield from json.loads(chunk_path(folder, number, "json").read_text(encoding="utf-8"))[kind]


@dataclass
class _Tally:
    """What became of a chunk's rows; `notes` counts what kept rows are told of."""

    source: str
    rows: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    samples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    dropped: list[tuple[str, str, str, str, str]] = field(default_factory=list)  # as DROPPED_SCHEMA
    contaminated: list[dict[str, Any]] = field(default_factory=list)
    reported: list[dict[str, Any]] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    prompts: list[str] = field(default_factory=list)  # some that are not in our format

    def drop(self, reason: str, where: str, row: CanonicalRow | None = None, detail: str = "") -> None:
        self.reasons[reason] += 1
        self.dropped.append((self.source, where, row.id.hex() if row else "", reason, detail))
        if len(self.samples[reason]) < SAMPLES:
            self.samples[reason].append(f"{where}: {detail}" if detail and reason in SHOWN_FAULTS else where)


@dataclass
class _Prompt:
    """What is the same for every answer to one prompt."""

    number: int | None  # in the chunk's prompt table, once a row of it is kept
    hit: Hit | None
    near: list[Hit]


class ChunkWorker:
    """Does chunks; one is made in each process."""

    def __init__(self, context: ChunkContext, agrees: Callable[[str, str], bool] | None = None):
        from tokenizers import Tokenizer

        self.context = context
        self.agrees = agrees
        self.encoder = Encoder(Tokenizer.from_file(str(context.tokenizer.path)), context.tokenizer.eos_id)
        self.adapters = {name: spec.make_adapter(context.reading) for name, spec in context.specs.items()}
        self.loaded = {
            name: self.adapters[name].load_context(folder)  # type: ignore[misc]
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
        self.adapter: Adapter = worker.adapters[source]
        self.rules = self.spec.make_rules(worker.context.reading.control_text)
        self.loaded = worker.loaded.get(source)
        self.tally = _Tally(source)
        self.prompts: dict[bytes, _Prompt] = {}  # by hash: a chunk may be large
        self.told: dict[bytes, Hit | None] = {}  # by hash: what system turns and earlier answers hold
        self.prompt_rows: list[tuple[Any, ...]] = []  # as PROMPTS_SCHEMA
        self.kept: list[tuple[Any, ...]] = []  # as ROWS_SCHEMA
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
        shown = Path(chunk.shown).name  # outputs do not tell where inputs lie
        with replace_atomically(chunk_path(folder, self.number, "tokens"), "wb") as tokens:
            for place, raw in iter_rows(chunk, columns, on_bad_line):
                where = place.replace(chunk.shown, shown, 1)
                try:
                    fit = [(row, where) for row in self._read(raw, where)]
                except InputError as error:
                    raise InputError(f"{place}: {error}") from None
                self.waiting += fit
                self.waiting_characters += sum(len(row.completion) for row, _ in fit)
                if self.waiting_characters >= BATCH_CHARACTERS or len(self.waiting) >= BATCH_ROWS:
                    self._flush(tokens)
            self._flush(tokens)
        self._write_tables(folder)
        self.seconds["all"] = time.perf_counter() - started
        tally = self.tally
        return {
            "source": self.source, "file": shown, "rows": tally.rows, "kept": len(self.kept),
            "tokens": self.tokens, "encoded": self.encoded, "dropped": dict(sorted(tally.reasons.items())),
            "samples": tally.samples, "notes": tally.notes, "formats": tally.formats, "prompts": tally.prompts,
            "contaminated": tally.contaminated, "reported": tally.reported, "seconds": self.seconds,
        }  # fmt: skip

    def _drop_unreadable(self, error: InputError) -> None:
        self.tally.rows += 1
        self.tally.drop("unreadable", str(error))

    def _read(self, raw: dict[str, Any], where: str) -> Iterator[CanonicalRow]:
        """The canonical rows that are fit and clean; what is not is counted."""
        for column in self.adapter.columns:
            if column not in raw:
                raise InputError(f"missing column {column!r}; found {', '.join(raw)}")
        try:
            found = self.adapter.convert(raw, self.loaded)
        except UnusableRowError as unusable:
            self.tally.rows += 1
            self.tally.drop(unusable.reason, where, detail=str(unusable))
            return
        for row in [found] if isinstance(found, CanonicalRow) else found:
            self.tally.rows += 1
            row = as_asked(row, self.spec, self.adapter)
            if self._is_fit(row, where):
                yield row

    def _is_fit(self, row: CanonicalRow, where: str) -> bool:
        if self.spec.domains is not None and row.domain not in self.spec.domains:
            self.tally.drop("other_domain", where, row)
            return False
        fault = find_fault(row, self.rules, self.worker.agrees)
        if fault is not None:
            self.tally.drop(fault, where, row, explain_fault(row, fault))
            return False
        prompt = self._prompt(row.topic)
        hit = prompt.hit
        checker = self.worker.context.decontaminator
        if hit is None and checker is not None:
            hit = self._find_told(row, checker) or checker.check_completion(row.completion)
        if hit is not None and row.id.hex() not in self.worker.context.allowed:
            self.tally.drop("contaminated", where, row, f"{hit.benchmark} {hit.problem}")
            self.tally.contaminated.append(self._evidence(row, where, hit))
            return False
        self.tally.reported += [self._evidence(row, where, near) for near in prompt.near]
        return True

    def _find_told(self, row: CanonicalRow, checker: Decontaminator) -> Hit | None:
        """The first hit in what others than the user said before the question: a system turn, earlier answers."""
        for role, text in row.history:
            if role == "user":
                continue  # part of what is asked
            key = hash_text(role, text)
            if key not in self.told:
                self.told[key] = checker.check(text)[0] if role == "system" else checker.check_completion(text)
            if self.told[key] is not None:
                return self.told[key]
        return None

    def _evidence(self, row: CanonicalRow, where: str, hit: Hit) -> dict[str, Any]:
        return {"id": row.id.hex(), "source": self.source, "row": where, **vars(hit)}

    def _prompt(self, text: str) -> _Prompt:
        key = hash_text(text)
        found = self.prompts.get(key)
        if found is None:
            checker = self.worker.context.decontaminator
            hit, near = checker.check(text) if checker is not None else (None, [])
            found = self.prompts[key] = _Prompt(None, hit, near)
        return found

    def _flush(self, tokens: IO[bytes]) -> None:
        context = self.worker.context
        pairs = [render_row(row, self.spec.instruction) for row, _ in self.waiting]
        started = time.perf_counter()
        documents = self.worker.encoder.encode(pairs)
        self.seconds["tokenize"] += time.perf_counter() - started
        for (row, where), (parts, _), document in zip(self.waiting, pairs, documents, strict=True):
            length = len(document.ids)
            self.encoded += length
            if not context.min_tokens <= length <= context.max_tokens:
                self.tally.drop("too_short" if length < context.min_tokens else "too_long", where, row)
                continue
            if document.spells_control and context.reading.control_text == "drop":
                self.tally.drop("control_text", where, row)
                continue
            tokens.write(document.ids.astype(context.tokenizer.dtype).tobytes())
            self._keep(row, where, parts, document)
        self.waiting, self.waiting_characters = [], 0

    def _keep(self, row: CanonicalRow, where: str, parts: Parts, document: Encoded) -> None:
        tally, length = self.tally, len(document.ids)
        prompt = self._prompt(row.topic)
        if prompt.number is None:
            prompt.number = len(self.prompt_rows)
            shingles = make_shingles(row.topic)
            key = _number(" ".join(symbol_words(row.topic)))
            self.prompt_rows.append((key, shingles, *make_band_keys(shingles).tolist()))
        asked = "".join(f"{role}:{text}" for role, text in row.history) + row.prompt
        same = _number(normal_form(asked), normal_form(row.completion))
        licence = row.meta.get("licence") or self.spec.licence or self.adapter.licence
        origin = row.meta.get("source") or self.source
        numbers = (prompt.number, length, document.prompt_length)
        self.kept.append((row.id, same, *numbers, row.domain, origin, licence, where))
        self.tokens += length
        tally.notes["control_text"] += document.spells_control
        tally.notes["no_thought"] += THINK_END not in row.completion and THINK_START not in row.completion
        name = format_of(row)
        tally.formats[name] += 1
        if name != OURS and len(tally.prompts) < SAMPLES:
            tally.prompts.append(whole_text(parts))

    def _write_tables(self, folder: Path) -> None:
        for kind, rows, schema in (
            ("rows.arrow", self.kept, ROWS_SCHEMA),
            ("prompts.arrow", self.prompt_rows, PROMPTS_SCHEMA),
            ("dropped.arrow", self.tally.dropped, DROPPED_SCHEMA),
        ):
            with replace_atomically(chunk_path(folder, self.number, kind), "wb") as sink:
                with pa.ipc.new_file(sink, schema) as writer:
                    writer.write_batch(_batch(rows, schema))


def _batch(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.RecordBatch:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.record_batch(
        [pa.array(values, item.type) for values, item in zip(columns, schema, strict=True)], schema=schema
    )


def _number(*texts: str) -> int:
    """64 bits that depend on the texts."""
    return int.from_bytes(hash_text(*texts)[:8], "big")
