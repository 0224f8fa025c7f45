"""`llmc explain`."""

from dataclasses import asdict
from typing import Annotated

import typer

from ..base.error_table import ERRORS
from ..base.errors import LlmcError
from .options import Json, print_result


def explain(
    identifier: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Such as LLMC-E0401.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say more about an error, or list them all.

    \b
    llmc explain LLMC-E0401
    """
    if identifier is None:
        titles = {name: info.title for name, info in ERRORS.items()}
        lines = [f"{name}  {title}" for name, title in titles.items()]
        return print_result(as_json, {"errors": titles}, "\n".join(lines))
    name = identifier.upper()
    if name not in ERRORS:
        raise LlmcError("LLMC-E0207", f"there is no error {identifier}")
    info = ERRORS[name]
    text = f"{name}: {info.title}\n\n{info.explanation}\n\nWhat to do: {info.advice}"
    return print_result(as_json, {"id": name, **asdict(info)}, text)
