"""What `llmc compile` takes for single targets: flags made of the table of targets.

In: `artifact/targets.py`. Out: parameters for typer, and what their values mean together. Nothing
of the compiler is imported to print its help.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from msgspec import Meta

from ..artifact.targets import TARGETS, TargetInfo
from ..base.errors import LlmcError

Chosen = dict[str, Any]
"""The arguments `target`, `levels` and `target_options` of `llmc.compile`."""


def with_target_flags(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, whose `**flags` typer sees as one option for each flag of the table."""
    signature = inspect.signature(command)
    fixed = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    flags = {**_level_flags(), **_option_flags()}
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter(name, keyword, default=default, annotation=annotation)
        for name, (annotation, default) in flags.items()
    ]
    command.__signature__ = signature.replace(parameters=[*fixed, *added])  # type: ignore[attr-defined]
    command.__annotations__ |= {name: annotation for name, (annotation, _) in flags.items()}
    return command


def _level_flags() -> dict[str, tuple[Any, Any]]:
    """Annotation and default of the flags that name machines."""
    return {
        _parameter(row.flag): (
            Annotated[str | None, typer.Option(row.flag, metavar=row.metavar, help=row.level_help)],
            None,
        )
        for row in TARGETS.values()
    }


def _option_flags() -> dict[str, tuple[Any, Any]]:
    """Annotation and default of the flags that are options of one target."""
    found = {}
    for row in TARGETS.values():
        for flag, kind, help, metavar, _ in _options(row):
            if kind is bool:
                shown: Any = Annotated[bool, typer.Option(flag, help=help)]
                found[_parameter(flag)] = (shown, False)
            else:
                shown = Annotated[str | None, typer.Option(flag, metavar=metavar, help=help)]
                found[_parameter(flag)] = (shown, None)
    return found


def _options(row: TargetInfo) -> list[tuple[str, Any, str, str | None, str]]:
    """(flag, type, help, metavar, field) of each option of a target."""
    options = []
    for field, hint in get_type_hints(row.request, include_extras=True).items():
        kind, meta = get_args(hint)
        assert isinstance(meta, Meta)
        extra = meta.extra or {}
        options.append((extra["flag"], kind, meta.description or "", extra.get("metavar"), field))
    return options


def _parameter(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def chosen_targets(target: str, **given: Any) -> Chosen:
    """What the values of the flags mean together.

    Raises:
        LlmcError: E0203 an unknown target; E0202 an unknown level, E0200 another unknown word or an
            option of a target that isn't compiled for.
    """
    targets = _words("--target", "LLMC-E0203", target, tuple(TARGETS))
    _refuse_strangers(targets, given)
    levels, options = {}, {}
    for name, row in TARGETS.items():
        words = _levels(row, given.get(_parameter(row.flag)))
        if name in targets and words:
            levels[name] = words
        said = {}
        for flag, kind, _, _, field in _options(row):
            value = given.get(_parameter(flag))
            if value not in (None, False):
                said[field] = _value(flag, kind, value)
        if said:
            options[name] = said
    return {"target": targets, "levels": levels, "target_options": options}


def _refuse_strangers(targets: tuple[str, ...], given: Mapping[str, Any]) -> None:
    """E0200 for a flag none of whose targets is compiled for."""
    owners: dict[str, list[str]] = {}
    for name, row in TARGETS.items():
        for flag in (row.flag, *(option[0] for option in _options(row))):
            owners.setdefault(flag, []).append(name)
    for flag, names in owners.items():
        if given.get(_parameter(flag)) not in (None, False) and not set(names) & set(targets):
            raise LlmcError("LLMC-E0200", f"{flag} is an option of {' and '.join(names)}")


def _levels(row: TargetInfo, text: str | None) -> tuple[str, ...]:
    if not row.levels:
        return _split(text)
    return _words(row.flag, row.level_error, text, row.levels)


def _value(flag: str, kind: Any, value: Any) -> Any:
    if get_origin(kind) is Literal and value not in get_args(kind):
        allowed = ", ".join(get_args(kind))
        raise LlmcError("LLMC-E0200", f"{flag}: {value!r} is not one of {allowed}")
    return str(value) if isinstance(value, Path) else value


def _words(
    option: str, identifier: str, text: str | None, allowed: tuple[str, ...]
) -> tuple[str, ...]:
    words = _split(text)
    for word in words if text is None else words or ("",):
        if word not in allowed:
            raise LlmcError(identifier, f"{option}: {word!r} is not one of {', '.join(allowed)}")
    return words


def _split(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())
