"""One logger for every program: short lines on stderr, so stdout stays free for tables."""

import logging
import sys
from functools import cache

ROOT = "promptcot_mamba"


def _make_logger() -> logging.Logger:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    made = logging.getLogger(ROOT)
    made.addHandler(handler)
    made.setLevel(logging.INFO)
    made.propagate = False
    return made


logger = _make_logger()


@cache
def log_once(message: str) -> None:
    """Log a choice (a backend, a fallback, a default) the first time it is made."""
    logger.info(message)
