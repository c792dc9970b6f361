"""Training rows on disk -> examples, whatever their shape: files, folders, globs, data sets saved to disk."""

import glob
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from promptcot_mamba.chat_markup import Parts, whole_text
from promptcot_mamba.data.adapters import recognise_rows
from promptcot_mamba.data.canonical import CanonicalRow, UnusableRowError
from promptcot_mamba.data.conversation import OURS, Reading, format_of, render_row
from promptcot_mamba.data.row_files import SUFFIXES, TABLE_SUFFIXES, Chunk, iter_rows, saved_files
from promptcot_mamba.data.shapes import Shape, describe, read_row
from promptcot_mamba.errors import InputError
from promptcot_mamba.hub import DATASET, fetch, hint, is_hub_name, match_first
from promptcot_mamba.log import logger
from promptcot_mamba.records import problem_id

# Of a data set named on the hub, the first of these that it has: its training split, else what lies at its top.
HUB_FILES = (
    *("data/train-*.parquet", "*/train-*.parquet"),
    *(f"{folder}train*{suffix}" for folder in ("", "data/") for suffix in SUFFIXES),
    *("data/*.parquet", *(f"*{suffix}" for suffix in SUFFIXES)),
)
TRAIN_WORDS = frozenset(["train", "training"])
OTHER_WORDS = frozenset(["test", "testing", "validation", "valid", "val", "dev", "eval", "evaluation"])
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
    try:
        files = fetch(repo, DATASET, lambda names: match_first(names, HUB_FILES))
    except InputError as error:
        mend = f"{hint(repo, DATASET, 'DIR')} and pass --data_path DIR"
        raise InputError(f"--data_path {repo}: no such file, folder or glob; {repo}: {error}; {mend}") from None
    if not files:
        raise InputError(f"--data_path {repo}: the hub has no {', '.join(SUFFIXES)} file of it")
    return files


def find_row_files(data_path: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files that a `--data_path` names, in sorted order: a file, a folder's row files, a glob, or several of these.

    A folder may be one that `datasets` saved; `owner/name` that lies nowhere here is fetched from the hub.

    Raises InputError if a path names nothing, or a file of another format.
    """
    if not isinstance(data_path, (str, Path)):
        return [file for part in data_path for file in find_row_files(part)]
    path = Path(data_path)
    if path.is_dir():
        files = saved_files(path)
        files = folder_files(path) if files is None else files
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
    """The row files of a folder and of those in it, in sorted order: its training split, where names tell of splits."""
    files = sorted(file for file in folder.rglob("*") if file.name.endswith(SUFFIXES) and file.is_file())
    # Side files of a prepared folder (X.run.json) and of the `datasets` library are not rows.
    files = [file for file in files if not file.name.endswith((".run.json", "dataset_info.json", "_infos.json"))]
    tables = [file for file in files if file.name.endswith(TABLE_SUFFIXES)]
    files = [file for file in files if file not in tables] or tables  # beside rows they are notes about them
    return training_split(files, folder)


def training_split(files: Sequence[Path], folder: Path) -> list[Path]:
    """A folder's files without those that their names give to another split than training, if any is named for that.

    The name of a file counts before those of the folders it lies in: `test-00000-of-00001.parquet`, `test/a.jsonl`.
    """
    splits = {file: _split_of(file.relative_to(folder)) for file in files}
    left_out = [file for file, split in splits.items() if split == "other"]
    if not left_out or "train" not in splits.values():
        return list(files)
    shown = ", ".join(file.name for file in left_out[:SHOWN_FILES]) + ", ..." * (len(left_out) > SHOWN_FILES)
    logger.warning(
        "%s: %d files of other splits are left out (%s); name them to read them", folder, len(left_out), shown
    )
    return [file for file in files if splits[file] != "other"]


def _split_of(path: Path) -> str | None:
    """`train` or `other` by the nearest name that tells, None where none does."""
    for name in (path.name, *reversed(path.parent.parts)):
        words = set(re.split(r"[^a-z]+", name.lower()))
        if words & TRAIN_WORDS:
            return "train"
        if words & OTHER_WORDS:
            return "other"
    return None


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
            rows = read_row(raw, shape, reading)
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


def has_lone_surrogates(text: str) -> bool:
    """Whether a text has code points that no encoding writes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


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
            prompt, completion = render_row(row)
            if has_lone_surrogates(whole_text(prompt)) or has_lone_surrogates(completion):
                raise InputError(
                    f"{where}: holds lone surrogates (\\ud800 to \\udfff), which are no text; mend the row"
                )
            if formats is not None:
                formats.add(row, prompt)
            yield Example(id=identity, source=source, parts=prompt, completion=completion)
