"""`llmc verify`."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from ..base.errors import LlmcError
from ..base.failures import as_content, as_lines
from .options import Artifact, Json, Threads, print_result


def verify(
    artifact: Artifact,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Compile the source again and compare.")
    ] = False,
    source: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Where the source is, for --rebuild.")
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR", help="Where an adapter of the source is, for --rebuild."),
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Run model code from the source, for --rebuild."),
    ] = False,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Check digests and recorded answers.

    \b
    llmc verify smol.llmc
    llmc verify smol.llmc --rebuild --source ./my-checkpoint
    """
    from ..runtime.api.conformance import verify as check

    checks = check(artifact, threads=threads)
    if rebuild and all(one.ok for one in checks):
        from ..base.progress import reporter
        from ..compiler.rebuild import rebuild as compile_again

        with reporter() as progress:
            checks += compile_again(
                artifact, source, progress, lora=lora, trust_remote_code=trust_remote_code
            )
    failed = [one for one in checks if not one.ok]
    content: dict[str, Any] = {"ok": not failed, "checks": [asdict(one) for one in checks]}
    lines = [f"{'ok    ' if one.ok else 'FAILED'}  {one.name}: {one.detail}" for one in checks]
    if not failed:
        return print_result(as_json, content, "\n".join(lines))
    kinds = {"digest": "LLMC-E0504", "source": "LLMC-E0511", "rebuilt": "LLMC-E0511"}
    identifier = kinds.get(failed[0].name.split()[0], "LLMC-E0510")
    error = LlmcError(identifier, f"{failed[0].name}: {failed[0].detail}")
    print_result(as_json, {**content, **as_content(error)}, "\n".join([*lines, *as_lines(error)]))
    raise typer.Exit(error.exit_code)
