"""Encoded documents on disk, memory-mapped: written once per (data, tokenizer), read by every process without a copy.

A store is a folder: `tokens.bin` (int32, all documents end to end), `index.npz` (where each starts, how much of it is
prompt), `documents.jsonl` (id and source of each), `formats.json` (how its prompts are rendered). It is complete or
absent: it is written beside and moved.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from promptcot_mamba.chat_format import THINK_END, THINK_START
from promptcot_mamba.data.conversation import OURS, OWN, UNKNOWN, Reading, own_template
from promptcot_mamba.data.encode import encode_examples
from promptcot_mamba.data.rows import Example, Formats, iter_examples
from promptcot_mamba.jsonl import write_json
from promptcot_mamba.log import logger
from promptcot_mamba.new_folder import new_folder

STORE_VERSION = 7  # raise whenever the tokens of an unchanged file would change
FORMATS_FILE = "formats.json"
ENCODE_BATCH = 512  # examples per tokenizer call
ENCODE_CHARACTERS = 1 << 22  # or this much text: a tokenizer's own results take about 100 bytes a token
LOG_EVERY = 64 * ENCODE_BATCH  # examples


@dataclass(frozen=True)
class TokenStore:
    """Document `i` is `tokens[starts[i]:starts[i + 1]]`, the first `prompt_lengths[i]` of them its prompt."""

    tokens: np.ndarray  # (tokens) int32, memory-mapped
    starts: np.ndarray  # (docs + 1) int64
    prompt_lengths: np.ndarray  # (docs) int32
    ids: list[str]
    sources: list[str]
    formats: Formats = field(default_factory=Formats)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    def input_ids(self, document: int) -> np.ndarray:
        return np.asarray(self.tokens[self.starts[document] : self.starts[document + 1]])


def _batches(examples: Iterator[Example]) -> Iterator[list[Example]]:
    """Examples for one call of the tokenizer each, few where they are long."""
    batch: list[Example] = []
    characters = 0
    for example in examples:
        batch.append(example)
        characters += len(example.prompt) + len(example.completion)
        if len(batch) == ENCODE_BATCH or characters >= ENCODE_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


@dataclass
class _Written:
    """What a store's index says of its documents."""

    starts: list[int] = field(default_factory=lambda: [0])
    prompt_lengths: list[int] = field(default_factory=list)
    spelled: int = 0  # documents whose data spells control tokens
    unclosed: int = 0  # and whose thought never ends


def _never_answers(example: Example) -> bool:
    """Whether a thought opens, in the prompt or the completion, and does not close: an answer that was cut off."""
    return THINK_END not in example.completion and THINK_START in example.parts[-1].text + example.completion


def _write_documents(
    examples: Iterator[Example], tokenizer: Any, control_text: str, tokens: IO[bytes], documents: IO[str]
) -> _Written:
    """Stream every document out."""
    written = _Written()
    for batch in _batches(examples):
        encoded = encode_examples(tokenizer, [(example.parts, example.completion) for example in batch])
        for example, document in zip(batch, encoded, strict=True):
            written.spelled += document.spells_control
            if document.spells_control and control_text == "drop":
                continue
            written.unclosed += _never_answers(example)
            tokens.write(document.ids.tobytes())
            documents.write(json.dumps([example.id, example.source]) + "\n")
            written.starts.append(written.starts[-1] + len(document.ids))
            written.prompt_lengths.append(document.prompt_length)
        if len(written.prompt_lengths) // LOG_EVERY > (len(written.prompt_lengths) - len(batch)) // LOG_EVERY:
            logger.info(
                "tokenized %s examples, %s tokens", f"{len(written.prompt_lengths):,}", f"{written.starts[-1]:,}"
            )
    return written


Reader = Callable[[Sequence[Path], Reading, Formats], Iterator[Example]]


def build_store(
    folder: Path, files: Sequence[Path], tokenizer: Any, reading: Reading | None = None, read: Reader = iter_examples
) -> None:
    """Encode every example that `read` finds in `files` into a new store at `folder`, unless it is already there.

    `reading` says how rows are read; a store of another reading belongs in another folder (`Reading.key`). Prompts
    that the tokenizer's own chat template rendered are recognised too.

    Raises InputError for a bad row (nothing is left behind) or an unwritable folder.
    """
    if folder.exists():
        return
    reading = replace(reading or Reading(), own=own_template(tokenizer))
    formats = Formats()
    with new_folder(folder) as temporary:
        examples = read(files, reading, formats)
        with (temporary / "tokens.bin").open("wb") as tokens, (temporary / "documents.jsonl").open("w") as documents:
            written = _write_documents(examples, tokenizer, reading.control_text, tokens, documents)
        if written.spelled:
            done = "dropped" if reading.control_text == "drop" else "kept as text"
            logger.info("%s examples spell control tokens of the tokenizer: %s", f"{written.spelled:,}", done)
        if written.unclosed:
            logger.warning(
                "%s examples open a thought and never close it: they teach thinking without end; drop them, or mend "
                "their %s", f"{written.unclosed:,}", THINK_END,
            )  # fmt: skip
        told = {OURS: "in our chat format", OWN: "in the tokenizer's own", UNKNOWN: "kept as they are"}
        kinds = (f"{count:,} {told.get(name, f'in {name}')}" for name, count in formats.counts.items())
        logger.info("prompts: %s", ", ".join(kinds))
        np.savez(
            temporary / "index.npz",
            starts=np.asarray(written.starts, dtype=np.int64),
            prompt_lengths=np.asarray(written.prompt_lengths, dtype=np.int32),
        )
        write_json(temporary / FORMATS_FILE, {"counts": formats.counts, "samples": formats.samples})


def open_store(folder: Path) -> TokenStore:
    """Memory-map a finished store."""
    with np.load(folder / "index.npz") as index:
        starts, prompt_lengths = index["starts"], index["prompt_lengths"]
    with (folder / "documents.jsonl").open() as file:
        documents = [json.loads(line) for line in file]
    formats = json.loads((folder / FORMATS_FILE).read_text(encoding="utf-8"))
    return TokenStore(
        tokens=np.memmap(folder / "tokens.bin", dtype=np.int32, mode="r"),
        starts=starts,
        prompt_lengths=prompt_lengths,
        ids=[identity for identity, _ in documents],
        sources=[source for _, source in documents],
        formats=Formats(Counter(formats["counts"]), formats["samples"]),
    )
