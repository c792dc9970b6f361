"""Read prediction files: one row a sample (`completion`) or one row a problem (`completions`, a list)."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from promptcot_mamba import chat_format
from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import Row, checksum, iter_jsonl
from promptcot_mamba.log import logger
from promptcot_mamba.records import Grade, problem_id, ungroup
from promptcot_mamba.run_info import side_path
from promptcot_mamba.token_scores import read_scores

MAX_LISTED = 10


@dataclass(frozen=True)
class Prediction:
    """One sampled completion of one problem, its row (of a grouped one, its share) and the line it was read from."""

    problem_id: str
    run: int
    completion: str
    row: Row = field(repr=False)
    line: int

    @property
    def source(self) -> str | None:
        return self.row.get("source")

    @property
    def cut_short(self) -> bool:
        """Whether the sampler says that it stopped the text, not the model."""
        return self.row.get("finish_reason") in ("length", "loop")

    @property
    def refused(self) -> bool:
        """Whether the server's filter or policy said no, so that no model has answered."""
        return self.row.get("finish_reason") == "refused"

    @property
    def completion_hash(self) -> str:
        """What a grade says it is of: two models' answers may have the same length."""
        return hash_text(self.completion)

    def is_graded_by(self, grade: Row) -> bool:
        """Whether a grade was given for this very text; files older than the hash have its length."""
        if "completion_hash" in grade:
            return bool(grade["completion_hash"] == self.completion_hash)
        return bool(grade.get("completion_chars", len(self.completion)) == len(self.completion))


def hash_text(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()


def read_predictions(path: str | Path) -> list[Prediction]:
    """Every prediction of a file, in its order.

    A missing `run` is the row's ordinal among those of its problem. Where one (problem, run) stands twice the later
    row counts (a retry follows what it retries) and a warning says how many.

    Raises InputError, naming file and line, for a row without completion or identity, for a prompt that is no text (a
    chat's messages are not what was sent), and for one whose problem has the id of another source's: no gold, tests or
    run number could be told to be its own.
    """
    found: dict[tuple[str, int], Prediction] = {}
    seen: Counter[str] = Counter()
    owners: dict[str, tuple[object, int]] = {}
    replaced = 0
    for number, row in iter_jsonl(path):
        where = f"{path}:{number}"
        try:
            own_rows = ungroup(row)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        for own in own_rows:
            if not isinstance(own.get("prompt"), str | None):
                kind = type(own["prompt"]).__name__
                raise InputError(f"{where}: 'prompt' must be the text that was sent, found {kind}")
            identity, (run, text) = identify(own, where), _run_and_text(own, where)
            source, line = owners.setdefault(identity, (own.get("source"), number))
            if source != own.get("source"):
                raise InputError(
                    f"{where}: problem {identity} of source {own.get('source')!r} has the id of one of {source!r} in "
                    f"line {line}; score each source's file alone, or number their rows by 'idx' instead of 'id'"
                )
            if run is None:
                run = seen[identity]
            seen[identity] += 1
            replaced += (identity, run) in found
            found.pop((identity, run), None)
            found[identity, run] = Prediction(identity, run, as_sampled(own, text), own, number)
    if not found:
        raise InputError(f"{path}: the file is empty, expected one prediction a line")
    if replaced:
        logger.warning("%s: %d rows repeat a (problem, run); the later row of each counts", path, replaced)
    return list(found.values())


def as_sampled(row: Row, text: str) -> str:
    """A completion as it is graded: beginning with `<think>` also where only the prompt holds it.

    Our sampler has written it so by the prompt that it sent, which an old row's `prompt` need not be.
    """
    if "thinking" in row or "format_valid" in row:
        return text
    return chat_format.with_open_thought(row.get("prompt") or "", text)


def identify(row: Row, where: str) -> str:
    """A row's problem: its id, or the hash of its prompt where a published row carries none."""
    identity = problem_id(row)
    if identity is not None:
        return identity
    prompt = row.get("prompt") or row.get("question")
    if isinstance(prompt, str) and prompt:
        return f"prompt-{hash_text(prompt)}"
    raise InputError(f"{where}: no id and no 'prompt' to tell problems apart; add 'idx' or 'prompt'")


def _run_and_text(row: Row, where: str) -> tuple[int | None, str]:
    """A sample's run and completion; run is None where the row does not say."""
    if "completion" not in row:
        raise InputError(f"{where}: missing key 'completion' (or a list 'completions'); found {', '.join(row)}")
    run, text = row.get("run"), row["completion"]
    if isinstance(run, float) and run.is_integer():  # as pandas writes it
        run = int(run)
    if run is not None and (not isinstance(run, int) or isinstance(run, bool) or run < 0):
        raise InputError(f"{where}: 'run' must be a whole number from 0, found {run!r}")
    if not isinstance(text, str):
        raise InputError(f"{where}: a completion must be text, found {type(text).__name__}")
    return run, text


def warn_of_missing(path: str | Path, lacking: dict[str, list[int]]) -> None:
    """Name the problems that lack runs, the first of them one by one."""
    for name, runs in list(lacking.items())[:MAX_LISTED]:
        logger.warning("%s: problem %s lacks runs %s", path, name, ", ".join(map(str, runs)))
    if len(lacking) > MAX_LISTED:
        logger.warning("%s: %d more problems lack runs (all in X.metrics.json)", path, len(lacking) - MAX_LISTED)


def missing_runs(predictions: Iterable[Prediction], expected: int) -> dict[str, list[int]]:
    """For each problem with fewer than `expected` runs, the run numbers of 0..expected-1 it lacks."""
    runs: dict[str, set[int]] = defaultdict(set)
    for prediction in predictions:
        runs[prediction.problem_id].add(prediction.run)
    lacking = {name: sorted(set(range(expected)) - have) for name, have in runs.items()}
    return {name: lack for name, lack in lacking.items() if lack}


def _is_scored_by(prediction: Prediction, scores: Row) -> bool:
    """Whether log-probabilities are of this very text; of lines that are older than the checksum, of its attempt."""
    crc = scores["completion_crc"]
    is_attempt = scores["attempt"] == prediction.row.get("attempt", 0)
    return bool(is_attempt and crc in (None, checksum(prediction.completion)))


def add_confidence(path: str | Path, predictions: Sequence[Prediction], grades: Sequence[Grade]) -> None:
    """Write into each grade how sure the model was of its tokens, where `--save_logprobs` saved it."""
    saved = read_scores(side_path(path, "logprobs.jsonl"))
    for prediction, grade in zip(predictions, grades, strict=True):
        scores = saved.get((prediction.problem_id, prediction.run))
        if scores is not None and _is_scored_by(prediction, scores):
            grade.extra.update((name, scores[name]) for name in ("mean_logprob", "mean_entropy"))
