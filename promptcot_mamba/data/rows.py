"""Training rows on disk -> examples, whatever their shape: files, folders, globs, data sets saved to disk."""

import glob
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from promptcot_mamba.chat_markup import Parts, whole_text
from promptcot_mamba.data.adapters import recognise_rows
from promptcot_mamba.data.canonical import CanonicalRow, UnusableRowError
from promptcot_mamba.data.conversation import OURS, Reading, format_of, render_row
from promptcot_mamba.data.published import (
    CARD_FILE,
    SeveralPartsError,
    choose_by_card,
    fetch_training,
    of_training,
    one_split,
    read_card,
    rows_of,
    split_of,
)
from promptcot_mamba.data.row_files import SUFFIXES, Chunk, iter_rows, saved_files
from promptcot_mamba.data.shapes import Shape, describe, read_row, shape_of
from promptcot_mamba.errors import InputError
from promptcot_mamba.hub import DATASET, hint, is_hub_name
from promptcot_mamba.log import logger
from promptcot_mamba.records import problem_id

SHOWN_FILES = 3
SAMPLES = 64  # rendered prompts kept to tell their template by


@dataclass(frozen=True)
class Example:
    """One supervised example: the text before the loss in parts, the text under it, and where it came from."""

    id: str
    source: str
    parts: Parts
    completion: str

    @property
    def prompt(self) -> str:
        return whole_text(self.parts)


@dataclass
class Formats:
    """How the prompts of a data set are rendered, counted as they are read; `samples` of those not in our format."""

    counts: Counter[str] = field(default_factory=Counter)
    samples: list[str] = field(default_factory=list)

    def add(self, row: CanonicalRow, prompt: Parts) -> None:
        name = format_of(row)
        self.counts[name] += 1
        if name != OURS and len(self.samples) < SAMPLES:
            self.samples.append(whole_text(prompt))


def find_on_hub(repo: str) -> list[Path]:
    """A data set's files by its name; raises InputError saying how to go on from a folder."""
    on_disk = f"{hint(repo, DATASET, 'DIR')} and pass"
    try:
        files = fetch_training(repo)
    except SeveralPartsError as error:
        raise InputError(
            f"--data_path {repo}: {error}; {on_disk} one of them: --data_path 'DIR/{error.example}'"
        ) from None
    except InputError as error:
        mend = f"{on_disk} --data_path DIR"
        raise InputError(f"--data_path {repo}: no such file, folder or glob; {repo}: {error}; {mend}") from None
    if not files:
        raise InputError(f"--data_path {repo}: the hub has no {', '.join(SUFFIXES)} file of it")
    return files


def find_row_files(data_path: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files that a `--data_path` names, in sorted order: a file, a folder's row files, a glob, or several of these.

    A folder may be one that `datasets` saved; `owner/name` that lies nowhere here is fetched from the hub.

    Raises InputError if a path names nothing, or a file of another format, or a data set of several parts.
    """
    if not isinstance(data_path, (str, Path)):
        return [file for part in data_path for file in find_row_files(part)]
    path = Path(data_path)
    if path.is_dir():
        files = saved_files(path)
        try:
            files = folder_files(path) if files is None else files
        except SeveralPartsError as error:
            mend = f"pass one of them: --data_path '{path / error.example}'"
            raise InputError(f"--data_path {data_path}: {error}; {mend}") from None
        if not files:
            raise InputError(f"--data_path {data_path}: no {', '.join(SUFFIXES)} file in this folder")
        return files
    names = [path] if path.is_file() else glob.glob(str(data_path), recursive=True)  # noqa: PTH207 (may be absolute)
    files = sorted(Path(name) for name in names)
    if not files and is_hub_name(data_path) and not path.name.endswith(SUFFIXES):
        return find_on_hub(str(data_path))
    if not files:
        raise InputError(f"--data_path {data_path}: no such file, folder or glob")
    for file in files:
        if not file.name.endswith(SUFFIXES):
            raise InputError(f"{file}: unknown format; expected one of {', '.join(SUFFIXES)}")
    return files


def folder_files(folder: Path) -> list[Path]:
    """The row files of a folder and of those in it, in sorted order: its training split, where names tell of splits.

    Where a data set's card lies beside them and has configs, those of its default config. Raises SeveralPartsError
    where the card, or shards named for several splits, leave a choice.
    """
    paths = sorted(file for file in folder.rglob("*") if file.name.endswith(SUFFIXES) and file.is_file())
    names = [path.relative_to(folder).as_posix() for path in paths]
    chosen = choose_by_card(names, lambda: read_card(folder / CARD_FILE))
    if chosen is None:
        rows = rows_of(names)
        chosen = of_training(rows)
        if all(split_of(name) == "train" for name in chosen) and len({str(Path(name).parent) for name in chosen}) == 1:
            chosen = one_split(chosen)
        left_out = [Path(name).name for name in sorted({*rows} - {*chosen})]
        if left_out:
            shown = ", ".join(left_out[:SHOWN_FILES]) + ", ..." * (len(left_out) > SHOWN_FILES)
            logger.warning(
                "%s: %d files of other splits are left out (%s); name them to read them", folder, len(left_out), shown
            )
    return [folder / name for name in chosen]


def hash_files(files: Sequence[Path]) -> str:
    """A hash of the files' contents, in order; their names and places do not matter."""
    whole = hashlib.blake2b(digest_size=16)
    for file in files:
        with file.open("rb") as stream:
            whole.update(hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).digest())
    return whole.hexdigest()


def iter_rows_of(file: Path, reading: Reading) -> Iterator[tuple[str, str, str, CanonicalRow]]:
    """`(place, id, source, row)` of every example in a file, by the shape of its columns.

    Raises InputError naming the place for a row that breaks its shape, and the file if it holds no row.
    """
    known: dict[tuple[str, ...], Shape] = {}
    number = 0
    for number, (where, raw) in enumerate(iter_rows(Chunk(file)), start=1):
        shape = known.get(columns := tuple(raw))
        if shape is None:
            shape = recognise_rows(columns, where)
            if shape not in known.values():
                logger.info("%s: recognised %s", file, describe(shape, columns))
            known[columns] = shape
        try:
            rows = read_row(raw, shape_of(raw, shape), reading)
        except (UnusableRowError, InputError) as error:
            raise InputError(f"{where}: {error}") from None
        identity = problem_id(raw)
        for position, row in enumerate(rows):
            own = identity if identity is None or len(rows) == 1 else f"{identity}/{position}"
            name = f"{file.name}:{number}" if len(rows) == 1 else f"{file.name}:{number}/{position}"
            yield where, own or name, str(raw.get("source") or stem(file)), row
    if number == 0:
        raise InputError(
            f"{file}: the file is empty, expected rows with 'prompt' and 'completion', or of another known shape"
        )


def render_checked(row: CanonicalRow, where: str) -> tuple[Parts, str]:
    """A row's prompt and completion; raises InputError naming its place for code points that no encoding writes."""
    prompt, completion = render_row(row)
    try:
        f"{whole_text(prompt)}{completion}".encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{where}: holds lone surrogates (\\ud800 to \\udfff), which are no text; mend the row"
        ) from None
    return prompt, completion


def stem(file: Path) -> str:
    """A row file's name without its endings."""
    suffix = max((suffix for suffix in SUFFIXES if file.name.endswith(suffix)), key=len, default=file.suffix)
    return file.name.removesuffix(suffix)


def iter_examples(
    files: Sequence[Path], reading: Reading | None = None, formats: Formats | None = None
) -> Iterator[Example]:
    """Read examples one by one, file after file; `formats` counts how their prompts are rendered.

    An example's id is its row's own (`id`, `question_id`...), else `file name:row number`, with the number of the
    answer where a conversation has several; its source is the row's `source`, else the file's stem.

    Raises InputError naming file and row (line of a JSONL file) for a row that breaks its shape, naming the file if it
    holds no row, and listing columns that make no known shape.
    """
    reading = reading or Reading()
    for file in files:
        for where, identity, source, row in iter_rows_of(file, reading):
            prompt, completion = render_checked(row, where)
            if formats is not None:
                formats.add(row, prompt)
            yield Example(id=identity, source=source, parts=prompt, completion=completion)
