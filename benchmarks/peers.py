"""Measures llmc beside other CPU runtimes, interleaved in one run, against this machine's limits.

    python benchmarks/peers.py --short
    python benchmarks/peers.py --json peers.json --picture peers.svg
    python benchmarks/peers.py --models llama-1b --cases batch-8,batch-16 --merge peers.json

Every measurement is a fresh process with a warm-up inside; contenders take turns, round by round,
and medians are reported. Beside each figure stands the fraction of the machine's limit that it
reaches, with the limits measured around it. `benchmarks/README.md` says more.
"""

import shlex
from pathlib import Path
from typing import Annotated

import typer
from llmc.benchmarks.peer_bench import picture
from llmc.benchmarks.peer_bench.cases import CASES, MODELS, TARGETS, Scheme
from llmc.benchmarks.peer_bench.environments import ENVIRONMENTS
from llmc.benchmarks.peer_bench.results import Report, merge
from llmc.benchmarks.peer_bench.session import Asked, run
from llmc.benchmarks.peer_bench.table import tables
from llmc.runtime.machine import available_cores
from rich.console import Console

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    models: Annotated[
        str, typer.Option(metavar="NAME,…", help=f"Models: {', '.join(MODELS)}.")
    ] = ",".join(MODELS),
    schemes: Annotated[
        str, typer.Option(metavar="NAME,…", help=f"Schemes: {', '.join(Scheme)}.")
    ] = ",".join(Scheme),
    cases: Annotated[
        str, typer.Option(metavar="NAME,…", help=f"Cases: {', '.join(CASES)}.")
    ] = ",".join(CASES),
    peers: Annotated[
        str, typer.Option(metavar="NAME,…", help=f"Peers: {', '.join(ENVIRONMENTS)}; or none.")
    ] = ",".join(ENVIRONMENTS),
    targets: Annotated[
        str, typer.Option(metavar="NAME,…", help=f"Targets of llmc: {', '.join(TARGETS)}.")
    ] = TARGETS[0],
    rounds: Annotated[int, typer.Option(min=0, help="Turns of everybody; medians count.")] = 3,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of everybody (default: all usable cores).")
    ] = None,
    short: Annotated[
        bool,
        typer.Option(
            "--short",
            help="SmolLM2, int4, prompt of 512; no peer is built from source for it.",
        ),
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
        float, typer.Option(metavar="SECONDS", help="How long to wait for others to be calm.")
    ] = 60,
    under: Annotated[
        str, typer.Option(metavar="WORDS", help='Put before each process: "taskset -c 0,1".')
    ] = "",
) -> None:
    """Measure llmc beside other CPU runtimes, interleaved, against this machine's limits."""
    if short:
        models, schemes, cases = "smollm2-135m", "int4", "prompt-512"
    console = Console(stderr=True, log_path=False)
    asked = Asked(
        models=_names(models, list(MODELS), "--models"),
        schemes=[Scheme(one) for one in _names(schemes, list(Scheme), "--schemes")],
        cases=_names(cases, list(CASES), "--cases"),
        peers=_names("" if peers == "none" else peers, list(ENVIRONMENTS), "--peers"),
        targets=_names(targets, list(TARGETS), "--targets"),
        rounds=rounds,
        threads=threads or available_cores(),
        install_slow=not short,
        pythons=_pythons(peer_python or []),
        under=shlex.split(under),
        patience=patience,
        keep_artifacts=keep_artifacts,
    )
    earlier = [Report.read(path) for path in merge_with or []]

    def keep(report: Report) -> None:
        if json is not None:
            merge([*earlier, report]).write(json)

    report = merge([*earlier, *([run(asked, console.log, keep)] if rounds else [])])
    if json is not None:
        report.write(json)
    if picture_file is not None:
        picture_file.write_text(picture.draw(report), encoding="utf-8")
    Console(width=None if Console().is_terminal else 140).print(tables(report))


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
        if name not in ENVIRONMENTS or not separator or not Path(path).is_file():
            raise typer.BadParameter(f"{one}: NAME=PATH of a Python", param_hint="--peer-python")
        pythons[name] = Path(path).absolute()
    return pythons


if __name__ == "__main__":
    app()
