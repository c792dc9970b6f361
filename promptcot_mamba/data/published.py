"""Which files of a published data set are its training rows: as its card says (`configs:`), else as their names say.

The card is asked only where names leave a choice. Names are paths inside the set, as the hub lists them. Parts that are
no split of one another (configs such as `all` beside `math`, `train_sft` beside `train_gen`) are never read together:
one of them may hold the rows of the others.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from promptcot_mamba.data.row_files import SUFFIXES, TABLE_SUFFIXES
from promptcot_mamba.errors import InputError
from promptcot_mamba.hub import DATASET, fetch, match
from promptcot_mamba.log import logger

CARD_FILE = "README.md"
TRAIN_WORDS = frozenset(["train", "training"])
OTHER_WORDS = frozenset(["test", "testing", "validation", "valid", "val", "dev", "eval", "evaluation"])
SIDE_FILES = (".run.json", "dataset_info.json", "_infos.json")  # a prepared folder's, the `datasets` library's
# Endings of the same format, packed or not. One set often has its rows in several formats, of which the first is read.
FORMATS = (
    (".parquet",),
    *(tuple(s for s in SUFFIXES if s.startswith(plain)) for plain in ((".jsonl", ".ndjson"), (".json",))),
    (".arrow",),
    TABLE_SUFFIXES,
)
PLACES = ("data", ".")  # where a set without configs has its rows, the usual one first
SHOWN = 12
_SHARD = re.compile(r"[-_.]?\d+(-of-\d+)?(-[0-9a-f]{16})?$")  # train-00000-of-00002-6ef3991c06080e14, part_3
_SPLIT = re.compile(r"(\w+)-\d{5}-of-\d{5}\b")  # so named by the hub's own library

Card = dict[str, Any]


class SeveralPartsError(InputError):
    """A set has several parts, none of which is its default; `example` is a glob that names one of them."""

    def __init__(self, kind: str, parts: Mapping[str, str]):
        shown = ", ".join(f"{name} ({files})" for name, files in list(parts.items())[:SHOWN])
        more = f" and {len(parts) - SHOWN} more" if len(parts) > SHOWN else ""
        super().__init__(f"has several {kind}, none of which is its default: {shown}{more}")
        self.example = next(iter(parts.values()))


def fetch_training(repo: str) -> list[Path]:
    """The training files of a data set on the hub, [] where it has no rows.

    Raises SeveralPartsError where one has to be chosen, InputError if the hub or its cache does not serve.
    """

    def choose(names: list[str]) -> list[str]:
        def read() -> Card:
            return read_card(fetch(repo, DATASET, lambda _: [CARD_FILE])[0]) if CARD_FILE in names else {}

        return choose_by_card(names, read) or choose_by_names(of_training(rows_of(names)))

    return fetch(repo, DATASET, choose)


def read_card(path: Path) -> Card:
    """The front matter of a data set's card, {} where there is none that can be read."""
    from huggingface_hub.repocard import metadata_load
    from yaml import YAMLError

    if not path.is_file():
        return {}
    try:
        return metadata_load(path) or {}
    except (ValueError, YAMLError) as error:  # ValueError: not UTF-8, or no mapping
        logger.warning("%s: its front matter cannot be read (%s)", path, str(error).splitlines()[0])
        return {}


def rows_of(names: Sequence[str]) -> list[str]:
    """The files that hold rows. Tables beside other rows are notes about them."""
    rows = [name for name in names if name.endswith(SUFFIXES) and not name.endswith(SIDE_FILES)]
    return [name for name in rows if not name.endswith(TABLE_SUFFIXES)] or rows


def of_training(names: Sequence[str]) -> list[str]:
    """The files without those that their names give to another split than training, if any is named for that.

    The name of a file counts before those of the folders it lies in: `test-00000-of-00001.parquet`, `test/a.jsonl`.
    """
    splits = [split_of(name) for name in names]
    if "train" not in splits:
        return list(names)
    return [name for name, split in zip(names, splits, strict=True) if split != "other"]


def split_of(name: str) -> str | None:
    """`train` or `other` by the nearest name that tells, None where none does."""
    for part in reversed(PurePosixPath(name).parts):
        words = set(re.split(r"[^a-z]+", part.lower()))
        if words & TRAIN_WORDS:
            return "train"
        if words & OTHER_WORDS:
            return "other"
    return None


def _ending(name: str) -> str:
    return max((suffix for suffix in SUFFIXES if name.endswith(suffix)), key=len)


def _format_of(name: str) -> int:
    return next(number for number, endings in enumerate(FORMATS) if _ending(name) in endings)


def is_one_part(names: Sequence[str]) -> bool:
    """Whether files are one, or numbered parts of one."""
    parts = {(_SHARD.sub("", name.removesuffix(_ending(name))), _format_of(name)) for name in names}
    return len(parts) <= 1


def choose_by_card(names: Sequence[str], read: Callable[[], Card]) -> list[str] | None:
    """The training files of the config that a card makes its default; None where names settle it, or no config does.

    A config none of whose files is here does not count: a part of the set may have been downloaded.
    Raises SeveralPartsError for several configs without a default, or several splits of which none is called train.
    """
    if is_one_part(of_training(rows_of(names))):
        return None
    listed = read().get("configs")
    configs = [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
    found = {str(one.get("config_name")): splits for one in configs if (splits := _splits_of(one, names))}
    if not found:
        return None
    default = [name for name in found if name == "default"] or [
        str(one["config_name"]) for one in configs if one.get("default") and str(one.get("config_name")) in found
    ]
    if len(found) > 1 and len(default) != 1:
        raise SeveralPartsError("configs", {name: _shown(splits) for name, splits in found.items()})
    config = default[0] if len(found) > 1 else next(iter(found))
    splits = found[config]
    if "train" not in splits:
        splits = {name: globs for name, globs in splits.items() if split_of(name) != "other"} or splits
    if "train" not in splits and len(splits) > 1:
        raise SeveralPartsError("splits", {name: " ".join(globs) for name, globs in splits.items()})
    split = "train" if "train" in splits else next(iter(splits))
    logger.info("%s: config %s, split %s (%s)", CARD_FILE, config, split, " ".join(splits[split]))
    chosen = _named(splits[split], names)
    only_a_folder = any(str(one.get("config_name")) == config and not one.get("data_files") for one in configs)
    return of_training(rows_of(chosen)) if only_a_folder else chosen


def _shown(splits: Mapping[str, list[str]]) -> str:
    return " ".join(splits["train"] if "train" in splits else next(iter(splits.values())))


def _named(globs: Sequence[str], names: Sequence[str]) -> list[str]:
    rows = [name for name in names if name.endswith(SUFFIXES)]
    return list(dict.fromkeys(name for one in globs for name in match(rows, one)))


def _splits_of(config: Mapping[str, Any], names: Sequence[str]) -> dict[str, list[str]]:
    """split -> globs of a config's `data_files`: a text or a list of them is train, else a list of {split, path}."""
    told = config.get("data_files") or (f"{config['data_dir']}/**" if config.get("data_dir") else [])
    told = told if isinstance(told, list) else [told]
    splits: dict[str, list[str]] = {}
    for one in told:
        split, path = (one.get("split"), one.get("path")) if isinstance(one, Mapping) else ("train", one)
        globs = [str(glob).removeprefix("./") for glob in (path if isinstance(path, list) else [path])]
        splits.setdefault(str(split), []).extend(globs)
    return {split: globs for split, globs in splits.items() if _named(globs, names)}


def choose_by_names(names: Sequence[str]) -> list[str]:
    """The training files of a set whose card has no configs: named for training before others, `data/` before its top.

    Raises SeveralPartsError for several folders, and for several splits of which none is called train.
    """
    if not names:
        return []

    def rank(name: str) -> tuple[bool, int]:
        folder = str(PurePosixPath(name).parent)
        return split_of(name) != "train", PLACES.index(folder) if folder in PLACES else len(PLACES)

    best = min(map(rank, names))
    found = sorted(name for name in names if rank(name) == best)
    first = min(map(_format_of, found))
    whole = {name.removesuffix(_ending(name)): name for name in reversed(found) if _format_of(name) == first}
    return one_split(one_folder(sorted(whole.values())))


def one_folder(names: Sequence[str]) -> list[str]:
    folders = dict.fromkeys(str(PurePosixPath(name).parent) for name in names)
    if len(folders) > 1:
        raise SeveralPartsError("folders", {folder: f"{folder}/*" for folder in folders})
    return list(names)


def one_split(names: Sequence[str]) -> list[str]:
    """The files of `train`, where shards are named for several splits: `train_sft-00000-of-00003.parquet`."""
    splits: dict[str, list[str]] = {}
    for name in names:
        if found := _SPLIT.match(PurePosixPath(name).name):
            splits.setdefault(found[1], []).append(name)
    if len(splits) < 2:
        return list(names)
    if "train" not in splits:
        raise SeveralPartsError(
            "splits", {split: str(PurePosixPath(own[0]).parent / f"{split}-*") for split, own in splits.items()}
        )
    return splits["train"]
