"""Digests of weight files, computed beside the compile.

In: open files by name. Out: their sha256, when it is asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from .row_file import RowFile


class WeightDigests:
    """sha256 of the weight files, computed beside the compile (hashing releases the GIL)."""

    def __init__(self, files: Mapping[str, RowFile]) -> None:
        self._files = dict(sorted(files.items()))
        self._found: dict[str, str] = {}
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin hashing in the background."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="weight digests", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            for name, file in self._files.items():
                self._found[name] = file.sha256()
        except BaseException as error:  # handed to the thread that asks for the result
            self._error = error

    def result(self) -> dict[str, str]:
        """`{file name: hexadecimal sha256}`, sorted by name; waits until it is known.

        Raises:
            LlmcError: a file could not be read.
        """
        self.start()
        assert self._thread is not None
        self._thread.join()
        if self._error is not None:
            raise self._error
        return dict(self._found)
