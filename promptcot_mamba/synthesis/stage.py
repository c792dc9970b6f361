"""What every stage shares: tasks with addresses, rows appended as replies come, resuming, and provenance.

A stage reads JSONL and writes `X.jsonl`; beside it stand `X.rejected.jsonl` (replies that could not be used, with the
reason) and `X.run.json` (settings, input fingerprints, counts, whether it finished). A finished file is in the order
of its tasks, whatever order the replies came in.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from promptcot_mamba.errors import InputError
from promptcot_mamba.jsonl import DurableAppender, Row, iter_jsonl, read_jsonl, write_jsonl
from promptcot_mamba.log import logger
from promptcot_mamba.run_info import side_path, write_run_info
from promptcot_mamba.synthesis.asking import Asker, Model, Parse, Task
from promptcot_mamba.synthesis.replies import Rejected
from promptcot_mamba.synthesis.spending import Price, Spending, Used, count_usage
from promptcot_mamba.synthesis.templates import Format, load_format

SPEED_ONLY = ("workers",)  # settings that change no row
LATER = {"later": True}  # metadata of a setting that came later: with its default, files of before it stay valid


def content_key(*parts: Any) -> str:
    """A short hash of JSON values: the same content has the same key in any run."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=10).hexdigest()


def file_fingerprint(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=10)).hexdigest()


def settings_from(cls: type, values: dict[str, Any], where: str) -> Any:
    """A stage's settings from its YAML mapping; raises InputError naming unknown or missing keys."""
    known = {field.name for field in fields(cls)}
    if unknown := sorted(set(values) - known):
        raise InputError(f"{where}: unknown setting {unknown[0]!r}; known: {', '.join(sorted(known))}")
    try:
        return cls(**values)
    except (TypeError, InputError) as error:
        raise InputError(f"{where}: {error}") from None


def decisive_settings(settings: Any) -> dict[str, Any]:
    """A stage's settings as JSON values, without those that change speed alone or are as if they were not there."""
    absent = set()
    for each in fields(settings):
        default = each.default if each.default_factory is MISSING else each.default_factory()
        if "later" in each.metadata and getattr(settings, each.name) == default:
            absent.add(each.name)
    kept = {name: value for name, value in asdict(settings).items() if name not in SPEED_ONLY and name not in absent}
    return json.loads(json.dumps(kept, default=str))


def read_stage_input(path: Path) -> list[Row]:
    """Rows of an earlier stage's output.

    Raises InputError if the file is missing or empty, its stage has not finished, or keys repeat.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file; run the stage that writes it first")
    info = read_run_info(path)
    if info is not None and not info.get("complete"):
        raise InputError(f"{path}: its stage has not finished; run that stage again to complete it")
    rows = read_jsonl(path)
    seen: set[str] = set()
    for row in rows:
        key = row.get("key")
        if key is not None and key in seen:
            raise InputError(f"{path}: key {key!r} occurs twice; remove the duplicate row")
        seen.add(str(key))
    return rows


def read_run_info(output: Path) -> dict[str, Any] | None:
    """The `X.run.json` beside an output, or None."""
    path = side_path(output, "run.json")
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


class StageOutput:
    """One stage's output file: refuses to mix settings, knows what is done, finishes in task order.

    `config` is everything that changes rows: settings, model identity, fingerprints of the inputs.
    """

    def __init__(self, path: Path, config: dict[str, Any]):
        self.path = path
        self.config = json.loads(json.dumps(config, default=str))
        info = read_run_info(path)
        self.complete = bool(info and info.get("complete"))
        if info is not None:
            self._refuse_other_config(info.get("config", {}))
        elif path.exists():
            raise InputError(f"{path}: exists without its {side_path(path, 'run.json').name}; move it away")

    def _refuse_other_config(self, old: dict[str, Any]) -> None:
        differing = [name for name in sorted({*old, *self.config}) if old.get(name) != self.config.get(name)]
        if differing:
            changes = "; ".join(f"{name}: {old.get(name)!r} then, {self.config.get(name)!r} now" for name in differing)
            raise InputError(
                f"{self.path}: was written with other settings ({changes}); move it away or choose another work_dir"
            )

    def finish(self, rows: Iterable[Row], **counts: Any) -> None:
        """Write the final rows and mark the stage complete; raises InputError if nothing survived."""
        written = write_jsonl(self.path, rows)
        write_run_info(self.path, self.config, complete=True, rows=written, **counts)
        self.complete = True
        if not written:
            shown = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise InputError(f"{self.path}: no rows survived this stage ({shown}); see its settings")

    def begin(self) -> None:
        """Record the settings before the first row, so that a killed run can be continued only with them."""
        write_run_info(self.path, self.config, complete=False)


class AskSettings(Protocol):
    """What the settings of a stage that asks have in common."""

    @property
    def model(self) -> str: ...

    @property
    def max_tokens(self) -> int: ...

    @property
    def attempts(self) -> int: ...


def ask_model(
    context: Context,
    name: str,
    settings: AskSettings,
    tasks: Sequence[Task],
    parse: Parse,
    inputs: dict[str, Path],
    *,
    seed: int | None = None,
    keep_rejected: Callable[[str], Row] | None = None,
    finalise: Callable[[list[Row]], list[Row]] = list,
) -> None:
    """Ask every task not yet answered; append each parsed reply to `name`.jsonl; finish it when all are answered.

    `inputs` are the files that the tasks were made from, `seed` is by default the pipeline's. A reply that `parse`
    rejects, that is empty or that ran into `max_tokens` is asked again as `Asker` says, up to `attempts` times and one
    repair; then it goes to `X.rejected.jsonl`, or, where `keep_rejected` makes a row of its reason, to the output.
    `finalise` sees all rows, in task order, before the file is finished.
    """
    model = context.model(settings.model)
    output = context.output(name, settings, model, **inputs)
    duplicated = [key for key, count in Counter(task.key for task in tasks).items() if count > 1]
    if duplicated:
        raise InputError(f"{output.path}: two tasks have the same content (key {duplicated[0]}); deduplicate the input")
    if output.complete:
        logger.info("%s: complete, nothing to do", output.path)
        return
    rejected_path = side_path(output.path, "rejected.jsonl")
    output.begin()
    with (
        DurableAppender(output.path) as file,
        DurableAppender(rejected_path) as rejected_file,
        context.spending.open(context.work_dir, name) as usage,
    ):
        answered = {row["key"] for path in (output.path, rejected_path) for _, row in iter_jsonl(path)}
        todo = [task for task in tasks if task.key not in answered]
        if len(todo) < len(tasks):
            logger.info("%s: resuming, %d of %d tasks are done", output.path, len(tasks) - len(todo), len(tasks))
        seed = context.seed if seed is None else seed
        limits = (settings.max_tokens, settings.attempts)
        asker = Asker(settings.model, model, context.format(settings.model), seed, *limits, context.spending, usage)
        with tqdm(total=len(tasks), initial=len(tasks) - len(todo), desc=output.path.stem, unit="reply") as bar:
            for each in asker.replies(todo, parse):
                own = {"key": each.task.key, "attempt": each.ask.attempt}
                row = own | each.task.row | own  # first in the row, and whatever keys a user's rows have
                row = {**row, "repaired": True} if each.ask.is_repair else row
                if not isinstance(each.result, Rejected):
                    file.append({**row, **each.result})
                elif keep_rejected is not None:
                    file.append({**row, **keep_rejected(each.result.reason), "reply": each.text})
                else:
                    rejected_file.append({**row, "reason": each.result.reason, "reply": each.text})
                bar.update()
    used = count_usage(row for _, row in iter_jsonl(usage.path)).get(settings.model, Used())
    _finish_asked(output, tasks, used, finalise)


def _finish_asked(
    output: StageOutput, tasks: Sequence[Task], used: Used, finalise: Callable[[list[Row]], list[Row]]
) -> None:
    """Put what was answered and what was rejected in task order, and count both."""
    rejected_path = side_path(output.path, "rejected.jsonl")
    place = {task.key: i for i, task in enumerate(tasks)}
    rows = sorted((row for _, row in iter_jsonl(output.path)), key=lambda row: place[row["key"]])
    rejected = sorted((row for _, row in iter_jsonl(rejected_path)), key=lambda row: place[row["key"]])
    write_jsonl(rejected_path, rejected)
    reasons = Counter(f"rejected: {row['reason']}" for row in rejected)
    repaired = sum(bool(row.get("repaired")) for row in rows)
    asked = {"requests": used.requests, "asked again": used.again, "repaired": repaired}
    output.finish(finalise(rows), tasks=len(tasks), **reasons, **asked)


@dataclass
class Context:
    """What a run of the pipeline gives each stage: where files live, the base seed, and models by name.

    `recipe`: for each output what its stage would be set to now; an input made with other settings is refused.
    `spending`: what is asked and may be, by default of this folder alone and without a budget; `prices` by model.
    """

    work_dir: Path
    seed: int
    open_model: Callable[[str], Model]
    recipe: dict[str, Any] = field(default_factory=dict)
    spending: Spending = None  # type: ignore[assignment]
    prices: Mapping[str, Price] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.spending = self.spending or Spending(self.work_dir)

    def format(self, name: str) -> Format:
        """How a model is asked and answers; ours where whoever opens models knows no other."""
        find = getattr(self.open_model, "format", None)
        return load_format() if find is None else find(name)

    def path(self, name: str) -> Path:
        """The file of a stage's output."""
        return self.work_dir / f"{name}.jsonl"

    def read(self, name: str) -> list[Row]:
        """The rows of an earlier stage's output, checked.

        Raises InputError as `read_stage_input` does, or if the file was made with other settings than the recipe's, or
        from an input that has changed since.
        """
        path = self.path(name)
        rows = read_stage_input(path)
        config = (read_run_info(path) or {}).get("config", {})
        self._refuse_other_settings(path, name, config)
        for key, fingerprint in config.items():
            source = self.path(key.removesuffix("_fingerprint"))
            if key.endswith("_fingerprint") and source.exists() and file_fingerprint(source) != fingerprint:
                raise InputError(f"{path}: was made from another {source.name}; move it away and run its stage again")
        return rows

    def _refuse_other_settings(self, path: Path, name: str, config: dict[str, Any]) -> None:
        wanted = {"seed": self.seed}
        if name in self.recipe:
            wanted |= decisive_settings(self.recipe[name])
            wanted.pop("model", None)  # a name only; beside the rows stands the identity of what answered
        for key, value in wanted.items():
            if key in config and config[key] != value:
                raise InputError(
                    f"{path}: was made with another recipe ({key}: {config[key]!r} then, {value!r} now); move it away "
                    "and run its stage again, or mend the recipe"
                )

    def model(self, name: str) -> Model:
        """A model named in the configuration, opened on first use."""
        return self.open_model(name)

    def output(self, name: str, settings: Any, model: Model | None = None, /, **inputs: Path) -> StageOutput:
        """An output whose rows depend on these settings, this model and the bytes of these input files."""
        config = {**decisive_settings(settings), "seed": self.seed}
        if model is not None:
            config["model"] = model.identity
        for name_, path in inputs.items():
            if not path.exists():
                raise InputError(f"{path}: no such file; run the stage that writes it first")
            config[f"{name_}_fingerprint"] = file_fingerprint(path)
        return StageOutput(self.path(name), config)
