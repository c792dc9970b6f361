"""Chains under way, on disk: what a killed machine would lose of them stands in `X.partial.jsonl`.

Every few seconds the new tokens of each chain are appended and synced: a chain's lines, put together, are its tokens
so far. Lines of settled chains are dead; once they are most of the file it is written anew without them, and when the
run is complete it is removed. The lock of the journal guards it.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from promptcot_mamba.jsonl import DurableAppender, dump_row, replace_atomically
from promptcot_mamba.log import get_logger
from promptcot_mamba.sampling.chain import Chain, Key
from promptcot_mamba.token_scores import TokenScores

logger = get_logger(__name__)

DEAD_BYTES = 4 << 20  # of settled chains, before the file is written anew
BYTES_PER_ID, BYTES_PER_LINE = 6, 200  # about, in JSON


@dataclass
class Saved:
    """What the file holds of one chain."""

    seed: int
    prompt_crc: int
    ids: array = field(default_factory=lambda: array("i"))
    seconds: float = 0.0
    continued: tuple[int, ...] = ()
    closed: int | None = None
    scores: TokenScores | None = None  # of `ids`, where they are saved

    def add(self, row: dict[str, Any]) -> bool:
        """Take one more line; False where lines before it are missing."""
        if row["at"] > len(self.ids):
            return False
        fresh = TokenScores.unpack(row) if "logprobs" in row else None
        if fresh is not None or self.scores is not None:
            self.scores = self.scores or TokenScores()
            self.scores.fit(row["at"])
            self.scores.add(*((fresh.logprobs, fresh.entropies) if fresh is not None else ((), ())))
            self.scores.fit(row["at"] + len(row["ids"]))
        del self.ids[row["at"] :]
        self.ids.extend(row["ids"])
        self.seconds, self.continued, self.closed = row["seconds"], tuple(row["continued"]), row["closed"]
        return True


def read_partial(path: Path) -> dict[Key, Saved]:
    """The chains of a partial file; a damaged line is named, and its chain ends before it."""
    chains: dict[Key, Saved] = {}
    if not path.exists():
        return chains
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                key = (row["problem_id"], row["run"], row["attempt"])
                whole = chains.setdefault(key, Saved(row["seed"], row["prompt_crc"])).add(row)
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                logger.warning("%s:%d: unreadable (%s); its chain is continued from before", path, number, error)
                continue
            if not whole:
                logger.warning("%s:%d: lines before it are missing; left out", path, number)
    return {key: saved for key, saved in chains.items() if saved.ids}


class PartialFile:
    """Appends what chains have said since it was last told; `found` is what an earlier run left."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.found = read_partial(self.path)
        self._lengths: dict[Key, int] = {key: len(saved.ids) for key, saved in self.found.items()}
        self._bytes: dict[Key, int] = {key: BYTES_PER_ID * length for key, length in self._lengths.items()}
        self._file: DurableAppender | None = None  # not there before there is something to write

    def save(self, chain: Chain, ids: Sequence[int], seconds: float = 0.0) -> None:
        """Append the tokens of a chain that the file lacks; `sync` makes them safe."""
        before = self._lengths.get(chain.key, 0)
        if len(ids) <= before:
            return
        row = {
            "problem_id": chain.problem_id, "run": chain.run, "attempt": chain.attempt, "seed": chain.seed,
            "prompt_crc": chain.prompt_crc, "at": before, "ids": list(ids[before:]), "seconds": round(seconds, 3),
            "continued": chain.continued, "closed": chain.closed,
        }  # fmt: skip
        if chain.scores is not None:
            row |= chain.scores.after(before).pack()
        if self._file is None:
            self._file = DurableAppender(self.path, sync_seconds=float("inf"))
        self._file.append(row)
        self._lengths[chain.key] = len(ids)
        self._bytes[chain.key] = self._bytes.get(chain.key, 0) + BYTES_PER_ID * (len(ids) - before) + BYTES_PER_LINE

    def forget(self, key: Key) -> None:
        """A chain is settled: its lines are dead."""
        self.found.pop(key, None)
        self._lengths.pop(key, None)
        self._bytes.pop(key, None)

    def sync(self) -> None:
        if self._file is not None:
            self._file.sync()
            if self.path.stat().st_size > 2 * sum(self._bytes.values()) + DEAD_BYTES:
                self._compact()

    def _compact(self) -> None:
        """Write the file anew with the living chains alone, one line each."""
        assert self._file is not None
        self._file.close()
        self._file = None
        with replace_atomically(self.path, "wb") as file:
            for (problem_id, run, attempt), saved in read_partial(self.path).items():
                key = (problem_id, run, attempt)
                if key in self._lengths:
                    row = {"problem_id": problem_id, "run": run, "attempt": attempt, **vars(saved), "at": 0}
                    scores = row.pop("scores")
                    line = dump_row(row | {"ids": list(saved.ids)} | (scores.pack() if scores is not None else {}))
                    self._bytes[key] = len(line)
                    file.write(line)

    def close(self, *, complete: bool = False) -> None:
        """Close the file; of a complete run nothing is left to continue, and it is removed."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if complete:
            self.path.unlink(missing_ok=True)
