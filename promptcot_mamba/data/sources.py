"""The sources of a mixture: what a recipe asks for, and where its files are (a path, --source_dir, or the hub)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from promptcot_mamba import hub
from promptcot_mamba.data.adapters import Adapter, get_adapter, recognise_rows
from promptcot_mamba.data.canonical import DOMAINS
from promptcot_mamba.data.conversation import Reading
from promptcot_mamba.data.filters import FilterRules
from promptcot_mamba.data.published import SeveralPartsError, fetch_training
from promptcot_mamba.data.row_files import kind_of, read_columns, saved_files
from promptcot_mamba.data.rows import folder_files
from promptcot_mamba.data.shapes import describe
from promptcot_mamba.errors import InputError
from promptcot_mamba.log import logger

BAD_ROWS = ("refuse", "drop")


@dataclass(frozen=True)
class SourceSpec:
    """One entry of a recipe's `sources`; the key it stands under is its name.

    How much of it enters the mixture is one of `epochs` (passes over it, may be a fraction), `examples` or `tokens`
    (counts) or `weight` (a share of --total_examples, or of --total_tokens).
    """

    name: str
    adapter: str
    path: str | None = None  # a file, folder or glob; else --source_dir/<repo>, else the hub
    repo: str | None = None  # overrides the adapter's
    files: list[str] | None = None  # patterns, overrides the adapter's
    columns: dict[str, str] | None = None  # generic adapter: field -> column
    domain: str | None = None  # generic adapter: of rows that do not say; null: by the form of their answer
    instruction: str | None = None  # after the question; null: as evaluation asks, by domain
    published_prompt: bool | None = None  # train on the source's own chat text; null: only the generic adapter does
    domains: list[str] | None = None  # keep only rows of these: math, code, other
    epochs: float | None = None
    examples: int | None = None
    tokens: int | None = None
    weight: float | None = None
    max_passes: float | None = None  # more passes than this over the source are refused; null: --max_passes
    max_answers_per_prompt: int | None = None
    thought_opened: bool = False  # completions continue a `<think>` that the teacher's template wrote, unseen here
    near_duplicates: bool = True  # whether prompts that nearly equal an earlier one are dropped
    require_answer: bool = True
    require_thought: bool | None = None  # refuse answers without a thought; null: but not those of conversations
    check_language: bool = True
    check_gold: bool = False
    bad_rows: str = "refuse"
    licence: str | None = None  # of rows that do not say; null: the adapter's

    def make_rules(self, control_text: str) -> FilterRules:
        return FilterRules(
            self.require_answer, self.check_language, self.check_gold, self.require_thought, control_text
        )

    def make_adapter(self, reading: Reading | None = None) -> Adapter:
        return get_adapter(self.adapter, self.columns, self.domain, reading)

    def keeps_rendered(self, adapter: Adapter) -> bool:
        return adapter.keeps_rendered if self.published_prompt is None else self.published_prompt


_TYPES: dict[str, tuple[type[Any], ...]] = {
    "epochs": (int, float), "weight": (int, float), "examples": (int,),
    "max_answers_per_prompt": (int,), "files": (list,), "domains": (list,), "columns": (dict,),
    "published_prompt": (bool,), "require_thought": (bool,), "tokens": (int,), "max_passes": (int, float),
    "near_duplicates": (bool,), "thought_opened": (bool,),
    "require_answer": (bool,), "check_language": (bool,), "check_gold": (bool,),
}  # fmt: skip


def parse_sources(recipe: Mapping[str, Any]) -> list[SourceSpec]:
    """Check a recipe's `sources` and return them in its order; raises InputError naming source, key and mend."""
    if not isinstance(recipe, Mapping) or not recipe:
        raise InputError("sources: expected at least one 'name: {adapter: ...}'")
    known = {item.name for item in fields(SourceSpec)} - {"name"}
    specs = []
    for name, entry in recipe.items():
        where = f"sources.{name}"
        if not isinstance(entry, Mapping) or "adapter" not in entry:
            raise InputError(f"{where}: expected '{{adapter: ...}}' with more keys as needed")
        for key, value in entry.items():
            if key not in known:
                raise InputError(f"{where}: unknown key {key!r}; known: {', '.join(sorted(known))}")
            wanted = _TYPES.get(key, (str,))
            if value is None:
                continue
            if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
                raise InputError(f"{where}.{key}: expected {wanted[-1].__name__}, found {value!r}")
            if wanted[0] is int and value <= 0:
                raise InputError(f"{where}.{key}: must be positive, found {value}")
        spec = SourceSpec(name=name, **{key: value for key, value in entry.items() if value is not None})
        if spec.bad_rows not in BAD_ROWS:
            raise InputError(f"{where}.bad_rows: expected one of {', '.join(BAD_ROWS)}, found {spec.bad_rows!r}")
        if sum(amount is not None for amount in (spec.epochs, spec.examples, spec.tokens, spec.weight)) > 1:
            raise InputError(f"{where}: give one of epochs, examples and weight, or tokens")
        for domain in spec.domains or ():
            if domain not in DOMAINS:
                raise InputError(f"{where}.domains: unknown domain {domain!r}; known: {', '.join(DOMAINS)}")
        try:
            spec.make_adapter()
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        specs.append(spec)
    weighted = [spec.weight is not None for spec in specs]
    if any(weighted) and not all(weighted):
        raise InputError("sources: give every source a weight or none")
    return specs


@dataclass(frozen=True)
class FoundSource:
    """A source whose files are on this machine."""

    spec: SourceSpec
    files: list[Path] = field(repr=False)


def _glob(pattern: str) -> list[Path]:
    path = Path(pattern)
    anchor = Path(path.anchor)
    return sorted(found for found in anchor.glob(str(path.relative_to(anchor))) if found.is_file())


def _match(root: Path, patterns: Sequence[str]) -> list[Path]:
    """The files of the first pattern that matches any."""
    for pattern in patterns:
        files = sorted(path for path in root.glob(pattern) if path.is_file() and not path.name.startswith("."))
        if files:
            return files
    return []


def find_repo_files(repo: str, patterns: Sequence[str], source_dir: str | Path | None) -> list[Path]:
    """A published data set's files: under `source_dir/<repo>` if a folder is given, else fetched from the hub.

    Of the hub only the files of the first pattern that names any are fetched; without patterns its training rows.
    Raises InputError saying which files to download and where to put them, SeveralPartsError where some have to be
    chosen.
    """
    place = Path(source_dir or "DIR") / repo
    mend = f"{hub.hint(repo, hub.DATASET, place, patterns)} and pass --source_dir {source_dir or 'DIR'}"
    wanted = ", ".join(patterns) or "files of rows"
    if source_dir is not None:
        files = _match(place, patterns) if patterns else folder_files(place)
        if not files:
            raise InputError(f"{place}: none of {wanted} is there; {mend}")
        return files
    try:
        if patterns:
            files = hub.fetch(repo, hub.DATASET, lambda names: hub.match_first(names, patterns))
        else:
            files = fetch_training(repo)
    except SeveralPartsError:
        raise
    except InputError as error:
        raise InputError(f"{repo}: {error}; {mend}") from None
    if not files:
        raise InputError(f"{repo}: the hub has none of {wanted}; name the files with sources.NAME.files")
    return files


def _folder_files(spec: SourceSpec, folder: Path) -> list[Path]:
    """The recipe's `files`, the data set's own, or whatever rows there are. Raises InputError for `files` of none."""
    if spec.files:
        files = _match(folder, spec.files)
        if not files:
            raise InputError(f"sources.{spec.name}.files: {folder} has none of {', '.join(spec.files)}")
        return files
    return saved_files(folder) or _match(folder, spec.make_adapter().files) or folder_files(folder)


def _find_files(spec: SourceSpec, source_dir: str | Path | None) -> list[Path]:
    """A source's files. Raises InputError if there are none, or a choice among several parts of a set is left."""
    adapter = spec.make_adapter()
    repo = spec.repo or adapter.repo
    try:
        if spec.path is not None:
            path = Path(spec.path)
            if path.is_dir():
                files = _folder_files(spec, path)
            else:
                files = [path] if path.is_file() else _glob(spec.path)
            if not files:
                raise InputError(f"sources.{spec.name}.path: {spec.path}: no such file, folder of rows or glob")
            return files
        if repo is None:
            raise InputError(
                f"sources.{spec.name}: adapter {spec.adapter!r} has no home on the hub; give 'path' or 'repo'"
            )
        return find_repo_files(repo, spec.files or adapter.files, source_dir)
    except SeveralPartsError as error:
        mend = f"name one of them: sources.{spec.name}.files: [{error.example}]"
        raise InputError(f"sources.{spec.name}: {spec.path or repo}: {error}; {mend}") from None


def find_source(spec: SourceSpec, source_dir: str | Path | None) -> FoundSource:
    """Locate a source's files and check that they have the columns its adapter needs.

    Raises InputError if there are none, or a file lacks a column (naming those it has).
    """
    adapter = spec.make_adapter()
    files = _find_files(spec, source_dir)
    for file in files:
        kind_of(file)
        if spec.adapter == "generic" and not spec.columns:
            columns = read_columns(file)
            told = describe(recognise_rows(columns, str(file)), columns)
            logger.info("sources.%s: %s: recognised %s", spec.name, file.name, told)
        missing = [column for column in adapter.columns if column not in read_columns(file)]
        if missing:
            raise InputError(
                f"{file}: missing column {', '.join(missing)} (adapter {spec.adapter!r} of sources.{spec.name}); "
                f"found {', '.join(read_columns(file))}"
            )
    return FoundSource(spec, files)
