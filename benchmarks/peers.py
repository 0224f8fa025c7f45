"""Measures llmc beside other CPU runtimes, interleaved in one run, against this machine's limits.

    python benchmarks/peers.py --short
    python benchmarks/peers.py --short --set-up
    python benchmarks/peers.py --json peers.json --picture peers.svg
    python benchmarks/peers.py --models llama-1b --cases batch-8,batch-16 --merge peers.json

Every measurement is a fresh process with a warm-up inside; contenders take turns, round by round,
and medians are reported. Beside each figure stands the fraction of the machine's limit that it
reaches, with the limits measured around it. `benchmarks/README.md` says more.
"""

from pathlib import Path
from typing import Annotated

import typer
from llmc.base.machine import available_cores
from llmc.benchmarks.peer_bench import arguments, picture
from llmc.benchmarks.peer_bench.cases import CASES, MODELS, TARGETS, Scheme
from llmc.benchmarks.peer_bench.environments import ENVIRONMENTS, unresolved
from llmc.benchmarks.peer_bench.results import Report, merge
from llmc.benchmarks.peer_bench.session import Asked, run
from llmc.benchmarks.peer_bench.table import tables
from rich.console import Console

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    models: Annotated[
        str | None, typer.Option(metavar="NAME,…", help=f"Models: {', '.join(MODELS)}.")
    ] = None,
    schemes: Annotated[
        str | None, typer.Option(metavar="NAME,…", help=f"Schemes: {', '.join(Scheme)}.")
    ] = None,
    cases: Annotated[
        str | None, typer.Option(metavar="NAME,…", help=f"Cases: {', '.join(CASES)}.")
    ] = None,
    peers: Annotated[
        str, typer.Option(metavar="NAME,…", help=f"Peers: {', '.join(ENVIRONMENTS)}; or none.")
    ] = ",".join(ENVIRONMENTS),
    targets: Annotated[
        str, typer.Option(metavar="NAME,…", help=f"Targets of llmc: {', '.join(TARGETS)}.")
    ] = TARGETS[0],
    rounds: Annotated[
        int, typer.Option(min=0, help="Turns of everybody; medians count. 0: only what is merged.")
    ] = 3,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of everybody (default: all usable cores).")
    ] = None,
    short: Annotated[
        bool,
        typer.Option(
            "--short",
            help="SmolLM2, int4 and bf16, prompt of 512: the least in which every peer takes part.",
        ),
    ] = False,
    set_up: Annotated[
        bool,
        typer.Option(
            "--set-up",
            help="Make the environments and models, start each once; 1 if anybody is missing.",
        ),
    ] = False,
    resolve: Annotated[
        bool,
        typer.Option("--resolve", help="Only ask pip whether it could install the peers."),
    ] = False,
    peer_python: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="Use this Python for a peer; may be repeated."),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the report here.")] = None,
    merge_with: Annotated[
        list[Path] | None,
        typer.Option("--merge", help="Add the rows of an earlier report; may be repeated."),
    ] = None,
    picture_file: Annotated[
        Path | None, typer.Option("--picture", help="Write an SVG of bars here.")
    ] = None,
    keep_artifacts: Annotated[
        bool, typer.Option("--keep-artifacts", help="Use what llmc compiled in an earlier run.")
    ] = False,
    patience: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0, help="How long to wait for others to be calm."),
    ] = 60,
    under: Annotated[
        str, typer.Option(metavar="WORDS", help='Put before each process: "taskset -c 0,1".')
    ] = "",
) -> None:
    """Measure llmc beside other CPU runtimes, interleaved, against this machine's limits."""
    scope = arguments.scope(models, schemes, cases, short=short, set_up=set_up)
    console = Console(stderr=True, log_path=False)
    asked = Asked(
        models=arguments.names(scope.models, list(MODELS), "--models"),
        schemes=[Scheme(x) for x in arguments.names(scope.schemes, list(Scheme), "--schemes")],
        cases=arguments.names(scope.cases, list(CASES), "--cases"),
        peers=[] if peers == "none" else arguments.names(peers, list(ENVIRONMENTS), "--peers"),
        targets=arguments.names(targets, list(TARGETS), "--targets"),
        rounds=1 if set_up else rounds,
        threads=threads or available_cores(),
        pythons=arguments.pythons(peer_python or []),
        under=arguments.under(under),
        patience=0 if set_up else arguments.seconds(patience),
        keep_artifacts=keep_artifacts,
    )
    earlier = [arguments.report(path) for path in merge_with or []]
    arguments.require_work(asked, earlier)
    for option, path in (("--json", json), ("--picture", picture_file)):
        arguments.require_writable(path, option)
    if resolve:
        raise typer.Exit(_resolve(asked, console))

    def keep(report: Report) -> None:
        if json is not None:
            merge([*earlier, report]).write(json)

    made = [run(asked, console.log, keep)] if asked.rounds else []
    report = merge([*earlier, *made])
    if json is not None:
        report.write(json)
    if picture_file is not None:
        picture_file.write_text(picture.draw(report), encoding="utf-8")
    Console(width=None if Console().is_terminal else 140).print(tables(report))
    failed = set_up and (report.missing or any(row.error for row in report.rows))
    raise typer.Exit(1 if failed else 0)


def _resolve(asked: Asked, console: Console) -> int:
    """Say for each peer whether its requirements can be had; exit status."""
    found = unresolved(asked.peers)
    for name in asked.peers:
        console.log(f"{ENVIRONMENTS[name].label}: {found.get(name, 'can be installed')}")
    return 1 if found else 0


if __name__ == "__main__":
    app()
