"""How sure a model was of every token that it drew: log-probability and entropy, and their file beside the samples.

`X.logprobs.jsonl` holds a line for each attempt at a sample: `problem_id`, `run`, `attempt`, its text's
`completion_crc`, the number of `tokens`, and two texts, `logprobs` and `entropies`: base64 of zlib of little-endian
float16, in nats. NaN stands where nobody told: a token that was written for the model (a thought closed by its budget),
or drawn before the run was asked to save. Both are the model's own, before temperature, penalties and nuclei.
"""

from __future__ import annotations

import base64
import math
import zlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from promptcot_mamba.jsonl import Line, Row, read_lines
from promptcot_mamba.log import logger

TOP = 20  # alternatives a token's entropy is taken over: what vLLM and OpenAI-like chat servers give at most
_WIDEST = 65504.0  # of float16


@dataclass
class TokenScores:
    """Log-probability of each drawn token and entropy of the distribution it was drawn from, in nats."""

    logprobs: array = field(default_factory=lambda: array("f"))
    entropies: array = field(default_factory=lambda: array("f"))

    def __len__(self) -> int:
        return len(self.logprobs)

    def add(self, logprobs: Iterable[float], entropies: Iterable[float]) -> None:
        self.logprobs.extend(logprobs)
        self.entropies.extend(entropies)

    def fit(self, length: int) -> None:
        """Make it so many tokens long: what is beyond goes, and nothing is known of what is missing."""
        del self.logprobs[length:]
        del self.entropies[length:]
        missing = [math.nan] * (length - len(self))
        self.add(missing, missing)

    def after(self, start: int) -> TokenScores:
        """Those of the tokens from `start` on."""
        return TokenScores(self.logprobs[start:], self.entropies[start:])

    def pack(self) -> Row:
        """The two texts of a line, and how many tokens they are of."""
        return {"tokens": len(self), "logprobs": _pack(self.logprobs), "entropies": _pack(self.entropies)}

    @classmethod
    def unpack(cls, row: Row) -> TokenScores:
        """Raises ValueError for a row that `pack` did not write."""
        scores = cls(_unpack(row["logprobs"]), _unpack(row["entropies"]))
        if not len(scores.logprobs) == len(scores.entropies) == row["tokens"]:
            raise ValueError(f"{len(scores)} log-probabilities of {row['tokens']} tokens")
        return scores


def _pack(values: array) -> str:
    narrow = np.clip(np.asarray(values, dtype=np.float32), -_WIDEST, _WIDEST).astype("<f2")
    return base64.b64encode(zlib.compress(narrow.tobytes())).decode("ascii")


def _unpack(text: str) -> array:
    try:
        narrow = np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), dtype="<f2")
    except zlib.error as error:
        raise ValueError(str(error)) from None
    return array("f", narrow.astype(np.float32))


def entropy_of(logprobs: Sequence[float]) -> float:
    """Entropy in nats of a distribution whose likeliest events have these log-probabilities, the rest taken as one.

    A lower bound: r ln m too low where m events share the rest r.
    """
    known = [value for value in logprobs if value > -_WIDEST]
    rest = 1.0 - math.fsum(map(math.exp, known))
    entropy = -math.fsum(value * math.exp(value) for value in known)
    return entropy - rest * math.log(rest) if rest > 1e-7 else entropy


def mean(values: Sequence[float]) -> float | None:
    """The mean of those that are known; None where none is."""
    known = [value for value in values if value == value]
    return math.fsum(known) / len(known) if known else None


def scores_row(line: Line) -> tuple[Row, TokenScores]:
    """A line of the file that is whole, and its scores; raises ValueError saying what is wrong with it."""
    if line.row is None:
        raise ValueError(line.trouble)
    try:
        for name, kind in (("problem_id", str), ("run", int), ("attempt", int)):
            if not isinstance(line.row[name], kind):
                raise ValueError(f"{name!r} is {line.row[name]!r:.40}")
        return line.row, TokenScores.unpack(line.row)
    except KeyError as error:
        raise ValueError(f"no {error}") from None
    except TypeError as error:
        raise ValueError(str(error)) from None


def read_scores(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """By problem and run, the last line of each: what it is of, and the means of `logprobs` and `entropies`.

    `completion_crc` is None in files that are older than it. A line that cannot be read is named and left out; no file
    is no scores.
    """
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for line in read_lines(path):
        try:
            row, scores = scores_row(line)
        except ValueError as error:
            logger.warning("%s:%d: unreadable (%s); left out", path, line.number, error)
            continue
        found[row["problem_id"], row["run"]] = {
            "attempt": row["attempt"],
            "completion_crc": row.get("completion_crc"),
            "mean_logprob": mean(scores.logprobs),
            "mean_entropy": mean(scores.entropies),
        }
    return found
