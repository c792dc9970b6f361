"""Chains under way, on disk: what a killed machine would lose of them stands in `X.partial.jsonl`.

Every few seconds the new tokens of each chain are appended and synced: a chain's lines, put together, are its tokens
so far. Lines of settled chains are dead; once they are most of the file it is written anew without them, and when the
run is complete the ledger removes it. The lock of the journal guards it.
"""

import base64
import os
from array import array
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from promptcot_mamba.jsonl import (
    DurableAppender,
    decode_json,
    dump_row,
    read_lines,
    repair_torn_tail,
    replace_atomically,
)
from promptcot_mamba.log import logger
from promptcot_mamba.sampling.chain import Chain, Key
from promptcot_mamba.token_scores import TokenScores

DEAD_BYTES = 4 << 20  # of settled chains, before the file is written anew


def pack_ids(ids: Sequence[int]) -> str:
    """Token ids as base64 of little-endian int32: a quarter shorter than in JSON, and made in a tenth of the time."""
    return base64.b64encode(np.asarray(ids, dtype="<i4").tobytes()).decode("ascii")


def unpack_ids(text: str) -> list[int]:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<i4").tolist()


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
    size: int = 0  # bytes of its lines

    def add(self, row: dict[str, Any]) -> bool:
        """Take one more line; False where lines before it are missing."""
        if row["at"] > len(self.ids):
            return False
        ids = unpack_ids(row["packed"]) if "packed" in row else row["ids"]
        fresh = TokenScores.unpack(row) if "logprobs" in row else None
        if fresh is not None or self.scores is not None:
            self.scores = self.scores or TokenScores()
            self.scores.fit(row["at"])
            self.scores.add(*((fresh.logprobs, fresh.entropies) if fresh is not None else ((), ())))
            self.scores.fit(row["at"] + len(ids))
        del self.ids[row["at"] :]
        self.ids.extend(ids)
        self.seconds, self.continued, self.closed = float(row["seconds"]), tuple(row["continued"]), row["closed"]
        return True


def read_partial(path: Path, settings: str | None = None) -> dict[Key, Saved]:
    """The chains of a partial file; a damaged line is named, and its chain ends before it.

    With `settings` (a hash of them) lines of a run with others are left out, which is said once; lines that are older
    than the field are taken as run.json has them.
    """
    chains: dict[Key, Saved] = {}
    others = 0
    behind: dict[Key, list[int]] = {}  # lines that follow on a missing one
    for line in read_lines(path):
        row = line.row
        try:
            if row is None:
                raise ValueError(line.trouble)
            if settings is not None and row.get("settings", settings) != settings:
                others += 1
                continue
            key = (row["problem_id"], int(row["run"]), int(row["attempt"]))
            fresh = Saved(row["seed"], row["prompt_crc"])
            saved = chains.get(key)
            if saved is None or (saved.seed, saved.prompt_crc) != (fresh.seed, fresh.prompt_crc):
                saved = fresh  # from the beginning, or (the problem was edited) once more from there
            whole = saved.add(row)
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            logger.warning("%s:%d: unreadable (%s); its chain is continued from before", path, line.number, error)
            continue
        if whole:
            saved.size += len(line.raw)
            chains[key] = saved
        else:
            behind.setdefault(key, []).append(line.number)
    for first, *rest in behind.values():
        more = f" with {len(rest)} more of its chain" if rest else ""
        logger.warning("%s:%d: lines before it are missing; left out%s", path, first, more)
    if others:
        logger.warning("%s: %d line(s) are of a run with other settings; left out", path, others)
    return {key: saved for key, saved in chains.items() if saved.ids}


class PartialFile:
    """Appends what chains have said since it was last told; `found` is what an earlier run of the same settings left.

    `settings` is their hash. Without `write` what was left is continued, and nothing more is saved. Lines are gathered
    until `flush` or `sync`. The disk is waited for in a thread, so that the engine never is.
    """

    def __init__(self, path: str | Path, settings: str | None = None, *, write: bool = True):
        self.path = Path(path)
        repair_torn_tail(self.path)
        self.found = read_partial(self.path, settings)
        self._told = {} if settings is None else {"settings": settings}
        self._writes = write
        self._lengths: dict[Key, int] = {key: len(saved.ids) for key, saved in self.found.items()}
        self._bytes: dict[Key, int] = {key: saved.size for key, saved in self.found.items()}
        self._file: DurableAppender | None = None  # not there before there is something to write
        self._lines: list[bytes] = []
        self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="partial")
        self._syncing: Future[None] | None = None

    def save(self, chain: Chain, ids: Sequence[int], seconds: float = 0.0) -> None:
        """Take the tokens of a chain that the file lacks; `flush` and `sync` make them safe."""
        before = self._lengths.get(chain.key, 0)
        if len(ids) <= before or not self._writes:
            return
        row = {
            "problem_id": chain.problem_id, "run": chain.run, "attempt": chain.attempt, "seed": chain.seed,
            "prompt_crc": chain.prompt_crc, "at": before, "packed": pack_ids(ids[before:]),
            "seconds": round(seconds, 3), "continued": chain.continued, "closed": chain.closed, **self._told,
        }  # fmt: skip
        if chain.scores is not None:
            row |= chain.scores.after(before).pack()
        line = dump_row(row)
        self._lines.append(line)
        self._lengths[chain.key] = len(ids)
        self._bytes[chain.key] = self._bytes.get(chain.key, 0) + len(line)

    def forget(self, key: Key) -> None:
        """A chain is settled: its lines are dead."""
        self.found.pop(key, None)
        self._lengths.pop(key, None)
        self._bytes.pop(key, None)

    def sync(self) -> None:
        """`flush`, and have the disk keep it; raises OSError where an earlier line did not reach the disk."""
        self.flush()
        if self._file is None:
            return
        if self.path.stat().st_size > 2 * sum(self._bytes.values()) + DEAD_BYTES:
            self._wait()
            self._compact()
        elif self._syncing is None or self._syncing.done():
            self._wait()
            self._syncing = self._disk.submit(os.fsync, self._file.fileno())

    def flush(self) -> None:
        """Hand the kernel what was taken: a killed process loses none of it, a machine without power may."""
        if not self._lines:
            return
        if self._file is None:
            self._file = DurableAppender(self.path, sync_seconds=float("inf"))
        self._file.append_lines(b"".join(self._lines))
        self._lines.clear()

    def _wait(self) -> None:
        if self._syncing is not None:
            self._syncing.result()
            self._syncing = None

    def _compact(self) -> None:
        """Write the file anew with the lines of living chains alone, as they are, and count their bytes anew."""
        assert self._file is not None
        self._file.close()
        self._file = None
        self._bytes = dict.fromkeys(self._lengths, 0)
        with self.path.open("rb") as old, replace_atomically(self.path, "wb") as new:
            for line in old:
                key = _key_of(line)
                if key in self._bytes:
                    new.write(line)
                    self._bytes[key] += len(line)

    def close(self) -> None:
        self.flush()
        self._wait()
        self._disk.shutdown()
        if self._file is not None:
            self._file.close()
            self._file = None


def _key_of(line: bytes) -> Key | None:
    """Whose line it is; None for one that cannot be read, which nothing would be made of either."""
    try:
        row = decode_json(line)
        return row["problem_id"], row["run"], row["attempt"]
    except (ValueError, KeyError, TypeError):
        return None
