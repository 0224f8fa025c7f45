"""Logging on stderr that never harms the server: a full disk or a closed stderr loses lines,
nothing else."""

import logging
import sys
from contextlib import suppress


class StderrHandler(logging.Handler):
    """Writes lines as long as that is possible."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Exception):
            if sys.stderr is not None:
                sys.stderr.write(self.format(record) + "\n")
                sys.stderr.flush()


def start_logging() -> None:
    """Warnings of the server and of uvicorn, and the access log if it is asked for."""
    handler = StderrHandler()
    handler.setFormatter(logging.Formatter("llmc: %(asctime)s %(levelname)s %(message)s"))
    for name, level in (
        ("llmc", logging.INFO),
        ("uvicorn", logging.WARNING),
        ("asyncio", logging.ERROR),
    ):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
