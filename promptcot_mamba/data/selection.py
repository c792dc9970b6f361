"""Between the passes: all kept rows of all chunks as columns -> duplicates dropped, the mixture drawn, shards cut.

Everything here is arrays over rows (about 40 bytes each), in the order of the recipe's sources, their files and rows.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from promptcot_mamba.data.chunk_work import chunk_path
from promptcot_mamba.data.dedup import count_earlier, find_leaders, mark_repeats, propose_pairs
from promptcot_mamba.data.mixture import MixturePlan, choose_rows, count_targets, cut_shards, order_rows
from promptcot_mamba.data.sources import SourceSpec

REASONS_AFTER = ("exact_duplicate", "near_duplicate", "too_many_answers", "not_selected")


@dataclass
class RowTable:
    """The kept rows of the first pass; all arrays are (rows)."""

    source: np.ndarray  # int16: position in the recipe
    chunk: np.ndarray  # int32
    offset: np.ndarray  # int64: first token within the chunk's token file
    length: np.ndarray  # int32
    prompt_length: np.ndarray  # int32
    id: np.ndarray  # uint64: first half of the content hash, what rows are told apart by
    id_rest: np.ndarray  # uint64: second half
    same: np.ndarray  # uint64: equal for rows that differ in case and white space alone
    origin: np.ndarray  # int32: position in `origins`
    licence: np.ndarray  # int32: position in `licences`
    prompt: np.ndarray  # int64: number of the (chunk, prompt) pair
    origins: list[str]
    licences: list[str]

    def __len__(self) -> int:
        return len(self.id)


@dataclass
class PromptTable:
    """The different prompts of each chunk; equal prompts of two chunks have equal keys."""

    key: np.ndarray  # (prompts) uint64
    chunk: np.ndarray  # (prompts) int32
    within: np.ndarray  # (prompts) int32


def read_table(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _codes(column: pa.ChunkedArray, known: dict[str, int]) -> np.ndarray:
    """(rows) int32: the number of each text in `known`, which learns new ones."""
    encoded = column.combine_chunks().dictionary_encode()
    codes = [known.setdefault(text, len(known)) for text in encoded.dictionary.to_pylist()]
    return np.array(codes, dtype=np.int32)[encoded.indices.to_numpy()] if codes else np.empty(0, np.int32)


def load_rows(folder: Path, chunk_sources: Sequence[int]) -> tuple[RowTable, PromptTable]:
    """All chunks' kept rows, in chunk order; `chunk_sources[n]` is the source of chunk n."""
    arrays = [name for name in RowTable.__annotations__ if name not in ("origins", "licences")]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in arrays}
    names: dict[str, dict[str, int]] = {"origin": {}, "licence": {}}
    prompts: dict[str, list[np.ndarray]] = {name: [] for name in PromptTable.__annotations__}
    prompt_count = 0
    for chunk, source in enumerate(chunk_sources):
        rows = read_table(chunk_path(folder, chunk, "rows.arrow"))
        length = rows["length"].to_numpy()
        parts["source"].append(np.full(len(rows), source, np.int16))
        parts["chunk"].append(np.full(len(rows), chunk, np.int32))
        parts["offset"].append(np.cumsum(length, dtype=np.int64) - length)
        parts["length"].append(length)
        parts["prompt_length"].append(rows["prompt_length"].to_numpy())
        halves = np.frombuffer(b"".join(rows["id"].to_pylist()), dtype=">u8").astype(np.uint64)
        parts["id"].append(halves[::2])
        parts["id_rest"].append(halves[1::2])
        parts["same"].append(rows["same"].to_numpy())
        for name, known in names.items():
            parts[name].append(_codes(rows[name], known))
        parts["prompt"].append(rows["prompt"].to_numpy().astype(np.int64) + prompt_count)
        keys = read_table(chunk_path(folder, chunk, "prompts.arrow"))["key"].to_numpy()
        prompts["key"].append(keys.copy())
        prompts["chunk"].append(np.full(len(keys), chunk, np.int32))
        prompts["within"].append(np.arange(len(keys), dtype=np.int32))
        prompt_count += len(keys)
    return (
        RowTable(
            **{name: np.concatenate(arrays) for name, arrays in parts.items()},
            origins=list(names["origin"]),
            licences=list(names["licence"]),
        ),
        PromptTable(**{name: np.concatenate(arrays) for name, arrays in prompts.items()}),
    )


class _PromptReader:
    """Band keys and shingles of chosen prompts, read from the chunks' files as they are asked for."""

    def __init__(self, folder: Path, prompts: PromptTable, chosen: np.ndarray):
        self._folder, self._prompts, self._chosen = folder, prompts, chosen
        self._tables: dict[int, pa.Table] = {}

    def _table(self, chunk: int) -> pa.Table:
        if chunk not in self._tables:
            self._tables[chunk] = read_table(chunk_path(self._folder, chunk, "prompts.arrow"))
        return self._tables[chunk]

    def band(self, band: int) -> np.ndarray:
        """(chosen) uint64."""
        chunks = self._prompts.chunk[self._chosen]
        keys = np.empty(len(self._chosen), dtype=np.uint64)
        for chunk in np.unique(chunks):
            here = chunks == chunk
            column = self._table(int(chunk))[f"band_{band}"].to_numpy()
            keys[here] = column[self._prompts.within[self._chosen[here]]]
        return keys

    def shingles(self, number: int) -> np.ndarray:
        prompt = self._chosen[number]
        column = self._table(int(self._prompts.chunk[prompt]))["shingles"].chunk(0)
        edges = column.offsets
        within = int(self._prompts.within[prompt])
        return column.values.slice(edges[within].as_py(), edges[within + 1].as_py() - edges[within].as_py()).to_numpy()


@dataclass
class Selection:
    """What enters the shards: `rows` (entries) int64 in final order, cut at `edges`; and what the steps dropped."""

    rows: np.ndarray
    edges: np.ndarray
    dropped: dict[str, Counter[str]]
    available: dict[str, int]  # rows of a source that the mixture could draw
    drawn: dict[str, int]
    families: int  # near-duplicate prompts found
    left_out: np.ndarray  # (rows of the table) int8: position in REASONS_AFTER, -1 where the row entered


def drop_duplicates(
    folder: Path, table: RowTable, prompts: PromptTable, specs: Sequence[SourceSpec], threshold: float
) -> tuple[np.ndarray, dict[str, Counter[str]], int]:
    """`(left_out (rows) int8, drops by source, near-duplicate prompts)`; earlier rows win.

    `threshold` is the Jaccard index from which prompts are near-duplicates; 0 looks for none.
    """
    dropped: dict[str, Counter[str]] = {spec.name: Counter() for spec in specs}

    def drop(mask: np.ndarray, reason: str) -> None:
        mask = mask & (left_out < 0)
        left_out[mask] = REASONS_AFTER.index(reason)
        for position, spec in enumerate(specs):
            count = int(np.count_nonzero(mask & (table.source == position)))
            if count:
                dropped[spec.name][reason] += count

    left_out = np.full(len(table), -1, dtype=np.int8)
    drop(mark_repeats(table.same), "exact_duplicate")
    family = prompts.key[table.prompt]  # (rows) uint64
    near_count = 0
    checked = np.array([spec.near_duplicates for spec in specs])[table.source] & (left_out < 0)
    if threshold > 0 and checked.any():
        # The first appearance of every different prompt, in row order.
        _, first = np.unique(family[checked], return_index=True)
        chosen = table.prompt[np.flatnonzero(checked)[np.sort(first)]]
        reader = _PromptReader(folder, prompts, chosen)
        leaders = find_leaders(propose_pairs(reader.band, len(chosen)), len(chosen), reader.shingles, threshold)
        followers = prompts.key[chosen[leaders != np.arange(len(chosen))]]
        near_count = len(followers)
        drop(checked & np.isin(family, followers), "near_duplicate")
    limits = np.array([spec.max_answers_per_prompt or 0 for spec in specs])[table.source]
    if limits.any():
        alive = np.flatnonzero(left_out < 0)
        over = np.zeros(len(table), dtype=bool)
        over[alive] = (limits[alive] > 0) & (count_earlier(family[alive]) >= limits[alive])
        drop(over, "too_many_answers")
    return left_out, dropped, near_count


def select_rows(
    folder: Path, table: RowTable, prompts: PromptTable, specs: Sequence[SourceSpec], plan: MixturePlan
) -> Selection:
    """Drop duplicates, draw the mixture, order it and cut it into shards.

    Raises InputError if nothing is left of a source, or it would be passed over more often than allowed.
    """
    left_out, dropped, families = drop_duplicates(folder, table, prompts, specs, plan.near_duplicate_threshold)
    by_source = [np.flatnonzero((left_out < 0) & (table.source == position)) for position in range(len(specs))]
    available = [len(rows) for rows in by_source]
    lengths = [table.length[rows] for rows in by_source]
    targets = count_targets(specs, lengths, [table.id[rows] for rows in by_source], plan)
    entries, copies = [], []
    for spec, rows, target in zip(specs, by_source, targets, strict=True):
        chosen, copy = choose_rows(table.id[rows], target, spec.name, plan.seed)
        entries.append(rows[chosen])
        copies.append(copy)
        if target < len(rows):
            dropped[spec.name]["not_selected"] += len(rows) - target
            left_out[np.setdiff1d(rows, rows[chosen])] = REASONS_AFTER.index("not_selected")
    rows, copy = np.concatenate(entries), np.concatenate(copies)
    rows = rows[order_rows(table.id[rows], copy, table.length[rows], plan)]
    names = [spec.name for spec in specs]
    return Selection(
        rows=rows,
        edges=cut_shards(table.length[rows], plan.shard_tokens),
        dropped=dropped,
        available=dict(zip(names, available, strict=True)),
        drawn=dict(zip(names, targets, strict=True)),
        families=families,
        left_out=left_out,
    )
