"""How far long work has come: a bar on a terminal, a line per stage elsewhere, on stderr.

In: calls `progress("writing weights", 0.4)`. Out: what a person or a build log can follow.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TextIO

from .failures import raise_if_stopped

Progress = Callable[[str, float], None]
"""`progress(stage, fraction)`: what is being done, and how much of it is done (0 to 1)."""


def silent(stage: str, fraction: float) -> None:
    """A `Progress` that says nothing."""


class Beside:
    """A `Progress` of work that is done beside other work, and shown when that has ended."""

    def __init__(self) -> None:
        self._last: tuple[str, float] | None = None

    def __call__(self, stage: str, fraction: float) -> None:
        self._last = stage, fraction

    def show(self, progress: Progress, low: float, high: float) -> None:
        """Tell what was said last. It takes from `low` to `high` of the whole."""
        if self._last is not None:
            stage, fraction = self._last
            progress(stage, low + (high - low) * fraction)


@contextmanager
def reporter(out: TextIO | None = None, *, quiet: bool = False) -> Iterator[Progress]:
    """Give a `Progress` that writes to `out` (stderr) while the block runs."""
    stream = sys.stderr if out is None else out
    if quiet:
        yield silent
    else:
        with _bar(stream) if stream.isatty() else _lines(stream) as progress:
            yield progress


@contextmanager
def _bar(out: TextIO) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Bars(*columns, console=Console(file=out), transient=True) as bars:
        task = bars.add_task("starting", total=1.0)

        def progress(stage: str, fraction: float) -> None:
            raise_if_stopped()
            bars.update(task, description=stage, completed=fraction)

        yield progress


@contextmanager
def _lines(out: TextIO) -> Iterator[Progress]:
    """One line when a stage begins, with the seconds since the start: logs keep every line."""
    began, seen = perf_counter(), set[str]()

    def progress(stage: str, fraction: float) -> None:
        raise_if_stopped()
        if stage not in seen:  # work that is done side by side tells of its stages in turn
            seen.add(stage)
            print(f"llmc: {perf_counter() - began:6.1f} s  {stage}", file=out, flush=True)

    yield progress
