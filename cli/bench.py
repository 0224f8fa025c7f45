"""`llmc bench`."""

from dataclasses import asdict
from typing import Annotated

import typer

from .options import Artifact, Json, Target, Threads, print_result


def bench(
    artifact: Artifact,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of each prompt.")] = 512,
    output_tokens: Annotated[int, typer.Option(help="Tokens to generate.")] = 64,
    batch: Annotated[int, typer.Option(help="Sequences at once.")] = 1,
    target: Target = None,
    threads: Threads = None,
    repeat: Annotated[int, typer.Option(help="Repetitions; medians are reported.")] = 3,
    profile: Annotated[
        str | None,
        typer.Option(metavar="TRACE", help="Show each kernel; write a trace for Perfetto."),
    ] = None,
    price_per_hour: Annotated[
        float | None, typer.Option(metavar="USD", help="Price of this machine.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure speed, latency and memory use.

    \b
    llmc bench smol.llmc
    llmc bench smol.llmc --profile trace.json
    llmc bench smol.llmc --batch 8 --prompt-tokens 128 --price-per-hour 0.20 --json
    """
    from ..base.progress import reporter
    from ..runtime.api.benchmark import Load, describe
    from ..runtime.api.benchmark import bench as measure
    from ..runtime.api.profile import describe_profile
    from ..runtime.api.profile import profile as record

    shape = Load(prompt_tokens, output_tokens, batch, repeat, threads, target)
    with reporter() as progress:
        kernels = record(artifact, shape, profile, progress=progress) if profile else None
        result = measure(artifact, shape, price_per_hour=price_per_hour, progress=progress)
    found, text = asdict(result), describe(result)
    if kernels is not None:
        found["kernels"] = [asdict(row) for row in kernels.rows]
        text = f"{text}\n\n{describe_profile(kernels)}"
    print_result(as_json, found, text)
