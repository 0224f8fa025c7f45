"""`llmc inspect`."""

from typing import Annotated

import typer

from .options import Artifact, Json, print_result


def inspect(
    artifact: Artifact,
    graph: Annotated[bool, typer.Option("--graph", help="Print the compiled graph.")] = False,
    memory: Annotated[bool, typer.Option("--memory", help="Print the memory plan.")] = False,
    as_json: Json = False,
) -> None:
    """Show what is inside an artifact.

    \b
    llmc inspect smol.llmc
    llmc inspect smol.llmc --graph | less
    """
    from ..artifact.inspection import Inspection

    inspection = Inspection(artifact)
    if as_json:
        return print_result(True, inspection.as_json(graph=graph, memory=memory), "")
    parts = [inspection.graph] if graph else []
    parts += [inspection.memory()] if memory else []
    return print_result(False, {}, "\n\n".join(parts or [inspection.summary()]))
