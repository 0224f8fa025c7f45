"""What several verbs take and give: shared options, and printing a result."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

Artifact = Annotated[Path, typer.Argument(metavar="FILE", help="An artifact (.llmc).")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Threads = Annotated[
    int | None, typer.Option(help="Threads of the program (default: all usable cores).")
]
Target = Annotated[
    str | None, typer.Option(help="Which program, of an artifact for several targets.")
]


def print_result(as_json: bool, content: dict[str, Any], text: str) -> None:
    """Print `content` as one JSON object, or else `text`."""
    typer.echo(json.dumps(content, default=str, allow_nan=False) if as_json else text)
