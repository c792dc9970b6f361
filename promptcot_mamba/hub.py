"""Repositories of the Hugging Face hub: their names, and single files of them brought onto this machine.

Only what is asked for is fetched, never a whole snapshot; what lies in the cache already needs no network. Where the
hub cannot be reached, the error says in one line how to go on from a folder.
"""

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase, translate
from glob import escape
from pathlib import Path, PurePosixPath

from promptcot_mamba.errors import InputError
from promptcot_mamba.log import logger

MODEL, DATASET = "model", "dataset"
ANSWER_SECONDS = 20.0
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
Choose = Callable[[list[str]], list[str]]


def is_hub_name(path: str | Path) -> bool:
    """Whether a path that is not on this machine may be `owner/name` of a repository.

    `outputs/phase1` beside a folder `outputs` is a mistyped path, not a name.
    """
    text = str(path)
    return bool(_NAME.fullmatch(text)) and not Path(text).exists() and not Path(text).parent.exists()


def match(names: Sequence[str], pattern: str) -> list[str]:
    """The files of a repository that a glob names: `*` stays inside a folder, `**` does not."""
    if "**" in pattern:
        whole = re.compile(translate(pattern.replace("**/", "*")))
        return sorted(name for name in names if whole.fullmatch(name))
    parts = PurePosixPath(pattern).parts
    return sorted(
        name
        for name in names
        if len(own := PurePosixPath(name).parts) == len(parts)
        and all(fnmatchcase(part, wanted) for part, wanted in zip(own, parts, strict=True))
    )


def match_first(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The files of the first pattern that names any."""
    return next((files for pattern in patterns if (files := match(names, pattern))), [])


def fetch(repo: str, kind: str, choose: Choose) -> list[Path]:
    """The files of a repository that `choose` takes from the list of all, as paths on this machine.

    Raises InputError, one line without a way on (that is the caller's to say), if the hub cannot be reached and the
    cache does not hold them, or if the repository is not there or does not let us in.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted = choose(sorted(_list_files(repo, kind)))
    if not wanted:
        return []
    logger.info("%s: %s files of it, from the hub or its cache", repo, f"{len(wanted):,}")
    try:
        folder = Path(snapshot_download(repo, repo_type=kind, allow_patterns=list(map(escape, wanted))))
    except LocalEntryNotFoundError as error:
        raise InputError(f"the hub cannot be reached and its cache lacks files ({describe(error)})") from None
    except (OSError, transport_error()) as error:
        raise InputError(f"the hub broke off ({describe(error)}); the same command goes on") from None
    return [folder / name for name in wanted]


def _list_files(repo: str, kind: str) -> list[str]:
    """All files of a repository: as the hub says, or as it said when its cache was filled."""
    from huggingface_hub import HfApi, get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, HFValidationError, RepositoryNotFoundError

    try:
        info = HfApi().repo_info(repo, repo_type=kind, timeout=ANSWER_SECONDS)
        return [sibling.rfilename for sibling in getattr(info, "siblings", None) or []]
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InputError(f"the hub refuses ({describe(error)})") from None
    except (OSError, transport_error()) as error:
        try:
            return [file.path for file in get_cached_repo_tree(repo, repo_type=kind)]
        except CachedRepoTreeNotFoundError:
            raise InputError(f"the hub cannot be reached ({describe(error)})") from None


def transport_error() -> type[Exception]:
    """What the hub's client raises where no answer comes, beside OSError: its HTTP library's own errors."""
    import httpx2

    return httpx2.HTTPError


def describe(error: Exception) -> str:
    """The first line of what the hub's client says."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")


def hint(repo: str, kind: str, place: str | Path, files: Sequence[str] = ()) -> str:
    """How to get a repository onto a machine without internet."""
    typed = "" if kind == MODEL else f" --repo-type {kind}"
    wanted = f"{' or '.join(files)} of " if files else ""
    where = "" if kind == MODEL else "datasets/"
    return (
        f"download {wanted}https://huggingface.co/{where}{repo} to {place} "
        f"(on a machine with internet: hf download {repo}{typed} --local-dir {place})"
    )
