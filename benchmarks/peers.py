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

import typer
from llmc.base.machine import available_cores
from llmc.benchmarks.peer_bench import arguments, options, picture
from llmc.benchmarks.peer_bench.cases import CASES, MODELS, TARGETS, Scheme
from llmc.benchmarks.peer_bench.environments import ENVIRONMENTS, unresolved
from llmc.benchmarks.peer_bench.results import Report, merge
from llmc.benchmarks.peer_bench.session import Asked, run
from llmc.benchmarks.peer_bench.table import tables
from rich.console import Console

EVERYBODY = ",".join(ENVIRONMENTS)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    models: options.Models = None,
    schemes: options.Schemes = None,
    cases: options.Cases = None,
    peers: options.Peers = EVERYBODY,
    targets: options.Targets = TARGETS[0],
    rounds: options.Rounds = 3,
    threads: options.Threads = None,
    short: options.Short = False,
    set_up: options.SetUp = False,
    resolve: options.Resolve = False,
    peer_python: options.PeerPython = None,
    json: options.Json = None,
    merge_with: options.MergeWith = None,
    picture_file: options.PictureFile = None,
    keep_artifacts: options.KeepArtifacts = False,
    patience: options.Patience = 60,
    under: options.Under = "",
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
    _show(report, json, picture_file)
    failed = set_up and (report.missing or any(row.error for row in report.rows))
    raise typer.Exit(1 if failed else 0)


def _show(report: Report, json: Path | None, picture_file: Path | None) -> None:
    """The tables on stdout, and the files that were asked for."""
    if json is not None:
        report.write(json)
    if picture_file is not None:
        picture_file.write_text(picture.draw(report), encoding="utf-8")
    Console(width=None if Console().is_terminal else 140).print(tables(report))


def _resolve(asked: Asked, console: Console) -> int:
    """Say for each peer whether its requirements can be had; exit status."""
    found = unresolved(asked.peers)
    for name in asked.peers:
        console.log(f"{ENVIRONMENTS[name].label}: {found.get(name, 'can be installed')}")
    return 1 if found else 0


if __name__ == "__main__":
    app()
