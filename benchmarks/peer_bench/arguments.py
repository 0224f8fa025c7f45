"""What `peers.py` was asked for, checked before anything is made or measured.

In: the texts of options. Out: names, paths and reports, or a usage error that names the option:
a run takes hours, and what is wrong with it must not be found at its end.
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import typer

from .cases import CASES, MODELS, Scheme, groups
from .environments import ENVIRONMENTS
from .results import Report
from .session import Asked


class Scope(NamedTuple):
    """Comma-separated names."""

    models: str
    schemes: str
    cases: str


EVERYTHING = Scope(",".join(MODELS), ",".join(Scheme), ",".join(CASES))
SHORT = Scope("smollm2-135m", "int4,bf16", "prompt-512")
"""The least in which every peer takes part: `torch.compile` has bf16 only, others int4."""
STARTED = "start"
"""The case of a set-up: a process loads its model and gives one token."""


def scope(
    models: str | None, schemes: str | None, cases: str | None, *, short: bool, set_up: bool
) -> Scope:
    """The three that options mean together.

    Raises:
        typer.BadParameter: an option that another one decides.
    """
    given = {"--models": models, "--schemes": schemes, "--cases": cases}
    decided = {"--short": tuple(given) if short else (), "--set-up": ("--cases",) if set_up else ()}
    for option, names in decided.items():
        for name in names:
            if given[name] is not None:
                raise typer.BadParameter(f"{option} chooses by itself", param_hint=name)
    plain = SHORT if short else EVERYTHING
    own = zip(plain, given.values(), strict=True)
    found = Scope(*(default if text is None else text for default, text in own))
    return found._replace(cases=STARTED) if set_up else found


def names(text: str, known: Sequence[str], option: str) -> list[str]:
    """The names in `text`, each of which must be known and stand there once.

    Raises:
        typer.BadParameter: one isn't or doesn't, or there is none.
    """
    found = [name.strip() for name in text.split(",") if name.strip()]
    for name in found:
        if name not in known:
            raise typer.BadParameter(f"{name} is none of {', '.join(known)}", param_hint=option)
        if found.count(name) > 1:
            raise typer.BadParameter(f"{name} is named twice", param_hint=option)
    if not found:
        raise typer.BadParameter(f"name one of {', '.join(known)}", param_hint=option)
    return found


def pythons(given: Sequence[str]) -> dict[str, Path]:
    """`NAME=PATH`s as paths by peer.

    Raises:
        typer.BadParameter: no such peer or no such file.
    """
    found = {}
    for one in given:
        name, separator, path = one.partition("=")
        if name not in ENVIRONMENTS or not separator or not os.access(path, os.X_OK):
            raise typer.BadParameter(f"{one}: NAME=PATH of a Python", param_hint="--peer-python")
        found[name] = Path(path).absolute()
    return found


def under(text: str) -> list[str]:
    """The words of a command line, which must begin with a command.

    Raises:
        typer.BadParameter: they can't be told apart, or there is no such command.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text}: {error}", param_hint="--under") from error
    if words and shutil.which(words[0]) is None:
        raise typer.BadParameter(f"there is no command {words[0]}", param_hint="--under")
    return words


def seconds(value: float) -> float:
    """A time that comes to an end; typer has seen to it that it is not negative.

    Raises:
        typer.BadParameter: it doesn't.
    """
    if not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no time", param_hint="--patience")
    return value


def report(path: Path) -> Report:
    """An earlier report.

    Raises:
        typer.BadParameter: there is none at `path`.
    """
    try:
        return Report.read(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        message = f"{path} is no report: {reason}"
        raise typer.BadParameter(message, param_hint="--merge") from error


def require_work(asked: Asked, earlier: Sequence[Report]) -> None:
    """Refuse a run that would measure nothing and has nothing to show.

    Raises:
        typer.BadParameter: that is so.
    """
    if not asked.rounds:
        if not earlier:
            message = "0 rounds measure nothing; only an earlier report could be shown (--merge)"
            raise typer.BadParameter(message, param_hint="--rounds")
        return
    wanted = (list(asked.models), list(asked.schemes), list(asked.cases), list(asked.peers))
    for group in groups(*wanted, asked.targets):
        if not group.contenders:
            raise typer.BadParameter(
                f"nobody takes part in {group.title}", param_hint="--targets or --peers"
            )


def require_writable(path: Path | None, option: str) -> None:
    """Refuse a place where nothing can be written.

    Raises:
        typer.BadParameter: `path` is one.
    """
    if path is None:
        return
    if path.is_dir() or not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise typer.BadParameter(f"{path} can't be written", param_hint=option)
