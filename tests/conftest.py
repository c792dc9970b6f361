"""What every test starts from, whichever tests its process ran before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from promptcot_mamba.log import logger


@pytest.fixture(autouse=True)
def our_logger_as_it_was() -> Iterator[None]:
    """A program called in this process may quiet our logger, as chat and all ranks but the first do."""
    level = logger.level
    yield
    logger.setLevel(level)
