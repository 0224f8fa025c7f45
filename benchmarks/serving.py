"""Measures the serving runtime: the engine's own work, HTTP, stalls, prefixes, and a soak.

    python benchmarks/serving.py model.llmc --short
    python benchmarks/serving.py model.llmc --cases overhead,http --json serving.json
    python benchmarks/serving.py model.llmc --cases soak --minutes 10
    python benchmarks/serving.py model.llmc --cases peers --rates 2,4 --streams 8,16

Measurements are fresh processes with a warm-up inside, contenders take turns, medians count. The
exit status is 1 if a limit is missed or anything broke. `benchmarks/README.md` says how everything
is counted.
"""

import importlib
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from llmc.base.machine import available_cores
from llmc.benchmarks.peer_bench.session import describe_machine
from llmc.benchmarks.serving_bench import calm, report
from llmc.benchmarks.serving_bench.options import Options
from llmc.benchmarks.serving_bench.statistics import CaseResult
from rich.console import Console

CASES = {
    "overhead": "overhead",
    "http": "throughput",
    "stall": "stall",
    "chat": "chat",
    "agent": "agent",
    "soak": "soak",
    "peers": "comparison",
}
"""By the name of a case, the module of `serving_bench` that measures it."""
PEERS = ("openvino", "llamacpp")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    artifact: Annotated[Path, typer.Argument(exists=True, help="A compiled model.")],
    cases: Annotated[
        str, typer.Option(metavar="NAME,…", help=f"Cases: {', '.join(CASES)}.")
    ] = ",".join(CASES),
    rounds: Annotated[int, typer.Option(min=1, help="Turns of everybody; medians count.")] = 3,
    short: Annotated[
        bool, typer.Option("--short", help="Little of everything, one round, a soak of a minute.")
    ] = False,
    minutes: Annotated[float, typer.Option(min=0.1, help="How long the soak takes.")] = 10,
    requests: Annotated[int, typer.Option(min=1, help="Requests of the soak.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the soak's requests.")] = 1,
    rates: Annotated[
        str, typer.Option(metavar="RATE,…", help="Requests per second of the open loops.")
    ] = "2,4",
    streams: Annotated[
        str, typer.Option(metavar="COUNT,…", help="Streams of the closed loops.")
    ] = "8,16",
    peers: Annotated[
        str, typer.Option(metavar="NAME,…", help=f"Peers: {', '.join(PEERS)}; or none.")
    ] = ",".join(PEERS),
    peer_python: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="Use this Python for a peer; may be repeated."),
    ] = None,
    llama_server: Annotated[
        Path | None, typer.Option(exists=True, help="llama.cpp's server, to be measured too.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the report here.")] = None,
    patience: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long to wait for others to be calm.")
    ] = 0,
) -> None:
    """Measure the serving runtime on a compiled model."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are ended
    console = Console(stderr=True, log_path=False)
    options = Options(
        artifact=str(artifact.absolute()),
        rounds=1 if short else rounds,
        short=short,
        minutes=min(minutes, 1) if short else minutes,
        requests=min(requests, 100) if short else requests,
        seed=seed,
        rates=[float(one) for one in rates.split(",") if one],
        streams=[int(one) for one in streams.split(",") if one],
        peers=_names("" if peers == "none" else peers, list(PEERS), "--peers"),
        pythons=_pythons(peer_python or []),
        llama_server=llama_server.absolute() if llama_server else None,
        threads=available_cores(),
        patience=patience,
        say=console.log,
    )
    results = _measured(_names(cases, list(CASES), "--cases"), options, json)
    Console(width=None if Console().is_terminal else 140).print(report.tables(results))
    if not all(result.passed for result in results):
        raise typer.Exit(1)


def _measured(cases: list[str], options: Options, json: Path | None) -> list[CaseResult]:
    """One result a case; the report is written after each, so that an abort loses only the rest."""
    results: list[CaseResult] = []
    for name in cases:
        module = importlib.import_module(f"llmc.benchmarks.serving_bench.{CASES[name]}")
        options.disturbances.clear()
        try:
            result = module.run(options)
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
            result = CaseResult(name, (), (), (f"could not be measured: {error}",))
        if options.disturbances:
            result = replace(result, notes=(*result.notes, calm.note(options)))
        results.append(result)
        if json is not None:
            date = datetime.now(UTC).date().isoformat()
            report.write(json, report.as_json(results, describe_machine(options.threads), date))
    return results


def _names(text: str, known: list[str], option: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    wrong = [name for name in names if name not in known]
    if wrong:
        raise typer.BadParameter(f"{wrong[0]} is none of {', '.join(known)}", param_hint=option)
    return names


def _pythons(given: list[str]) -> dict[str, Path]:
    pythons = {}
    for one in given:
        name, separator, path = one.partition("=")
        if name not in PEERS or not separator or not Path(path).is_file():
            raise typer.BadParameter(f"{one}: NAME=PATH of a Python", param_hint="--peer-python")
        pythons[name] = Path(path).absolute()
    return pythons


if __name__ == "__main__":
    app()
