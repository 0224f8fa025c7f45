"""`llmc opt`: graph text through passes, for who works on them. Not in the list of verbs."""

from pathlib import Path
from typing import Annotated

import typer

from ..base.errors import LlmcError
from .compile_options import PHASES
from .options import Json, print_result

FEATURES = ("paged", "slots")


def opt(
    graph: Annotated[
        Path, typer.Argument(metavar="GRAPH", help="Graph text, such as a file of LLMC_DUMP.")
    ],
    passes: Annotated[
        str | None, typer.Option(metavar="NAME,…", help="These passes, in this order.")
    ] = None,
    upto: Annotated[
        str | None,
        typer.Option(metavar="PHASE", help=f"Else all, up to one of {', '.join(PHASES)}."),
    ] = None,
    scheme: Annotated[str, typer.Option(help="Formats that passes may ask for.")] = "f32",
    features: Annotated[
        str, typer.Option(help=f"What a backend wants: {' or '.join(FEATURES)}.")
    ] = FEATURES[0],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to write (default: stdout).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run passes on a graph's text and print the graph.

    \b
    llmc opt dump/cpu/13-raise_head_norms.txt --passes fuse_gated,merge_projections
    llmc opt dump/cpu/00-traced.txt --upto fused
    """
    if upto is not None and upto.lower() not in PHASES:
        raise LlmcError("LLMC-E0200", f"--upto: {upto!r} is not one of {', '.join(PHASES)}")
    if features not in FEATURES:
        raise LlmcError("LLMC-E0200", f"--features: {features!r} is not {' or '.join(FEATURES)}")
    try:
        text = graph.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LlmcError("LLMC-E0200", f"{graph} can't be read: {error}") from error
    from ..compiler.stages import optimized

    names = [name.strip() for name in (passes or "").split(",") if name.strip()]
    result = optimized(text, names, upto=upto, scheme=scheme, features=features)
    if output is not None:
        output.write_text(result, encoding="utf-8")
    content = {"graph": result} if output is None else {"output": str(output)}
    print_result(as_json, content, result.rstrip("\n") if output is None else str(output))
