"""Repositories of the Hugging Face hub: their names, and single files of them brought onto this machine.

Only what is asked for is fetched, never a whole snapshot; what lies in the cache already needs no network. Where the
hub cannot be reached, the error says in one line how to go on from a folder.
"""

import errno
import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase, translate
from glob import escape
from pathlib import Path, PurePosixPath

from promptcot_mamba.errors import InputError
from promptcot_mamba.log import logger

MODEL, DATASET = "model", "dataset"
ANSWER_SECONDS = 20.0
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)  # a folder that cannot be written
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
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted = choose(sorted(_list_files(repo, kind)))
    if not wanted:
        return []
    logger.info("%s: %s files of it, from the hub or its cache", repo, f"{len(wanted):,}")
    try:
        folder = Path(snapshot_download(repo, repo_type=kind, allow_patterns=list(map(escape, wanted))))
    except LocalEntryNotFoundError as error:
        reason = describe(error.__cause__ or error)
        raise InputError(f"the hub cannot be reached and its cache lacks files ({reason})") from None
    except (OSError, transport_error()) as error:
        if isinstance(error, OSError) and error.errno in CLOSED:
            place = f"the hub's cache {HF_HUB_CACHE} cannot be written ({error.strerror})"
            raise InputError(f"{place}; set HF_HOME to a folder with room that can be") from None
        broken = f"the hub broke off ({describe(error)}); the same command goes on"
        raise InputError(refusal(error) or broken) from None
    return [folder / name for name in wanted]


def _list_files(repo: str, kind: str) -> list[str]:
    """All files of a repository: as the hub says, or as it said when its cache was filled."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        info = HfApi().repo_info(repo, repo_type=kind, timeout=ANSWER_SECONDS)
        return [sibling.rfilename for sibling in getattr(info, "siblings", None) or []]
    except HFValidationError as error:
        raise InputError(f"the hub refuses ({describe(error)})") from None
    except RepositoryNotFoundError as error:
        raise InputError(refusal(error)) from None
    except (OSError, transport_error()) as error:
        if (cached := _cached_files(repo, kind)) is not None:
            return cached
        raise InputError(refusal(error) or f"the hub cannot be reached ({describe(error)})") from None


def _cached_files(repo: str, kind: str) -> list[str] | None:
    """All files as the hub's cache knows them, or, where an older client filled it, those that it holds; None where it
    knows nothing of the repository."""
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    try:
        return [file.path for file in get_cached_repo_tree(repo, repo_type=kind)]
    except CachedRepoTreeNotFoundError:
        pass
    try:
        folder = Path(snapshot_download(repo, repo_type=kind, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def transport_error() -> type[Exception]:
    """What the hub's client raises where no answer comes, beside OSError: its HTTP library's own errors."""
    import httpx2

    return httpx2.HTTPError


def refusal(error: Exception) -> str | None:
    """What an answer of the hub's other than the wanted means, in words; None where it did not answer."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    if not isinstance(error, HfHubHTTPError):
        return None
    reason, status = describe(error), error.response.status_code
    if isinstance(error, GatedRepoError):
        return f"the hub refuses ({reason}); accept its terms on its page, and set HF_TOKEN to a token of that account"
    if isinstance(error, RepositoryNotFoundError):
        return f"the hub refuses ({reason}); see its name, and set HF_TOKEN if it is private"
    if status in (401, 403):
        return f"the hub refuses ({reason}); see whether HF_TOKEN is a token that is valid and may read it"
    return f"the hub answers {status} ({reason}); the same command goes on when it answers again"


def describe(error: BaseException) -> str:
    """What the hub said, or else the first line of its client's that is more than a number."""
    said = getattr(error, "server_message", None) or str(error)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if not re.search(r"(Client|Server) Error|Request ID|Trace ID", line)]
    return (telling or lines or [type(error).__name__])[0].rstrip(".")


def hint(repo: str, kind: str, place: str | Path, files: Sequence[str] = ()) -> str:
    """How to get a repository onto a machine without internet."""
    typed = "" if kind == MODEL else f" --repo-type {kind}"
    wanted = f"{' or '.join(files)} of " if files else ""
    where = "" if kind == MODEL else "datasets/"
    return (
        f"download {wanted}https://huggingface.co/{where}{repo} to {place} "
        f"(on a machine with internet: hf download {repo}{typed} --local-dir {place})"
    )
