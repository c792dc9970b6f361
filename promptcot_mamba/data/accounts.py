"""What became of every row, from the chunks' tallies and the selection: counts for the manifest, drops one by one."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from promptcot_mamba.data.chunk_work import DROPPED_SCHEMA, SHOWN_FAULTS, chunk_path
from promptcot_mamba.data.row_files import Chunk
from promptcot_mamba.data.selection import REASONS_AFTER, RowTable, Selection, read_table
from promptcot_mamba.jsonl import replace_atomically
from promptcot_mamba.log import logger

FORMAT_SAMPLES = 64
NOTES = {
    "control_text": "rows spell control tokens of the tokenizer; they are kept as text",
    "no_thought": "answers have no thought and are trained under an empty one",
}


def sum_tallies(names: Sequence[str], parts: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Chunk tallies added up by source, in chunk order."""
    totals: dict[str, dict[str, Any]] = {
        name: {"rows": 0, "kept": 0, "tokens": 0, "dropped": Counter(), "notes": Counter(), "samples": {}}
        for name in names
    }
    for part in parts:
        total = totals[part["source"]]
        for key in ("rows", "kept", "tokens"):
            total[key] += part[key]
        for key in ("dropped", "notes"):
            total[key].update(part[key])
        for reason, places in part["samples"].items():
            total["samples"].setdefault(reason, places)
    return totals


def log_drops(tallies: dict[str, dict[str, Any]]) -> None:
    for name, tally in tallies.items():
        drops = ", ".join(f"{reason} {count:,}" for reason, count in tally["dropped"].most_common()) or "nothing"
        logger.info("%s: %s rows, %s kept; dropped: %s", name, f"{tally['rows']:,}", f"{tally['kept']:,}", drops)
        for note, count in tally["notes"].items():
            if count:
                logger.info("%s: %s %s", name, f"{count:,}", NOTES[note])
        for reason in SHOWN_FAULTS:
            for place in tally["samples"].get(reason, ()):
                if ": " in place:  # says why
                    logger.warning("%s: dropped %s", name, place)


def sum_formats(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How the kept rows' prompts are rendered, with samples of those not in our format."""
    counts: Counter[str] = Counter()
    samples: list[str] = []
    for part in parts:
        counts.update(part["formats"])
        samples += part["prompts"][: FORMAT_SAMPLES - len(samples)]
    return {"counts": counts, "samples": samples}


def count_by(codes: np.ndarray, names: list[str], table: RowTable, selection: Selection) -> dict[str, Any]:
    """Documents and tokens of the mixture by name."""
    chosen = codes[selection.rows]
    documents = np.bincount(chosen, minlength=len(names))
    tokens = np.bincount(chosen, weights=table.length[selection.rows], minlength=len(names))
    return {
        name: {"documents": int(count), "tokens": int(size)}
        for name, count, size in sorted(zip(names, documents, tokens, strict=True))
        if count
    }


def write_dropped(
    path: Path, chunks: Path, jobs: Sequence[tuple[int, str, Chunk]], table: RowTable, selection: Selection
) -> None:
    """Every row left out, in the order of the inputs, with its reason: `source, place, id, reason, detail`."""
    reasons = np.array([*REASONS_AFTER, ""], dtype=object)
    starts = np.searchsorted(table.chunk, np.arange(len(jobs) + 1))
    with replace_atomically(path, "wb") as file, pq.ParquetWriter(file, DROPPED_SCHEMA, compression="zstd") as writer:
        for number, source, _ in jobs:
            writer.write_table(read_table(chunk_path(chunks, number, "dropped.arrow")))
            left_out = selection.left_out[starts[number] : starts[number + 1]]
            out = np.flatnonzero(left_out >= 0)
            if not len(out):
                continue
            rows = read_table(chunk_path(chunks, number, "rows.arrow")).select(["id", "place"]).take(out)
            columns = [
                pa.array([source] * len(out)), rows["place"],
                pa.array([identity.hex() for identity in rows["id"].to_pylist()]),
                pa.array(reasons[left_out[out]].tolist()), pa.array([""] * len(out)),
            ]  # fmt: skip
            writer.write_table(pa.table(columns, schema=DROPPED_SCHEMA))


def count_rows(tallies: dict[str, Any], selection: Selection, shards: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "rows": sum(shard["rows"] for shard in shards),
        "documents": sum(shard["documents"] for shard in shards),
        "tokens": sum(shard["tokens"] for shard in shards),
        "labels": sum(shard["labels"] for shard in shards),
        "near_duplicate_prompts": selection.families,
        "sources": {
            name: {
                "read": tally["rows"],
                "dropped": dict(sorted(tally["dropped"].items())),
                "available": selection.available[name],
                "in_mixture": selection.drawn[name],
            }
            for name, tally in tallies.items()
        },
    }
