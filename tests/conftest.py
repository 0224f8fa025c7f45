"""Settings for every test: no network, and one torch thread in each of several workers.

Set before torch or transformers are imported, since both read their environment once. And Ctrl-C
works, also where a background job of a shell has it ignored: some tests send it to a process.
"""

import os
import signal
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ("shared_work", "toy_program")
"""Fixtures for every test: what is done once in a run, and a toy model for the run tower."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`-m fast` reads only files that say so: importing the others would take as long again."""
    if config.option.markexpr != "fast" or not collection_path.name.startswith("test_"):
        return None
    return "pytest.mark.fast" not in collection_path.read_text() or None
