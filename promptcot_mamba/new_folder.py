"""A folder that appears whole or not at all."""

import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from promptcot_mamba.errors import InputError

STALE_SECONDS = 3600


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A neighbour to write in, which becomes `target` if the block ends well and vanishes otherwise; where another
    process has made `target` meanwhile, that one stays.

    Its name is drawn: in a container every run has the same process id, a killed one's too.
    Raises InputError where no folder can be made.
    """
    _remove_stale(target)
    writing = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        writing.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{target.parent}: cannot write here ({error.strerror})") from None
    try:
        yield writing
        if not target.exists() or not any(target.iterdir()):
            writing.replace(target)
    finally:
        shutil.rmtree(writing, ignore_errors=True)


def _remove_stale(target: Path) -> None:
    """Remove what killed processes left: whatever nobody has written to for an hour."""
    for left in target.parent.glob(f".{target.name}.*.tmp"):
        with suppress(FileNotFoundError):  # its writer ends just now
            written = max(entry.stat().st_mtime for entry in (left, *left.iterdir()))
            if time.time() - written > STALE_SECONDS:
                shutil.rmtree(left)
