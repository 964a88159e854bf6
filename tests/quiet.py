"""Logging as it was, after a test that set it up as `serve` does."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from proxy import logging as logs


@contextmanager
def logging_restored() -> Iterator[None]:
    """Put back every handler and level that `logs.configure` changes."""
    root = logging.getLogger()
    loggers = [root, *map(logging.getLogger, logs.TALKATIVE)]
    handlers, levels = root.handlers[:], [logger.level for logger in loggers]
    try:
        yield
    finally:
        root.handlers[:] = handlers
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        logging.captureWarnings(capture=False)
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
