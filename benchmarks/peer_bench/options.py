"""The options of `benchmarks/peers.py`, as typer reads them."""

from pathlib import Path
from typing import Annotated

import typer
from llmc.benchmarks.peer_bench.cases import CASES, MODELS, TARGETS, Scheme
from llmc.benchmarks.peer_bench.environments import ENVIRONMENTS

Models = Annotated[str | None, typer.Option(metavar="NAME,…", help=f"Models: {', '.join(MODELS)}.")]
Schemes = Annotated[
    str | None, typer.Option(metavar="NAME,…", help=f"Schemes: {', '.join(Scheme)}.")
]
Cases = Annotated[str | None, typer.Option(metavar="NAME,…", help=f"Cases: {', '.join(CASES)}.")]
Peers = Annotated[
    str, typer.Option(metavar="NAME,…", help=f"Peers: {', '.join(ENVIRONMENTS)}; or none.")
]
Targets = Annotated[
    str, typer.Option(metavar="NAME,…", help=f"Targets of llmc: {', '.join(TARGETS)}.")
]
Rounds = Annotated[
    int, typer.Option(min=0, help="Turns of everybody; medians count. 0: only what is merged.")
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads of everybody (default: all usable cores).")
]
Short = Annotated[
    bool,
    typer.Option(
        "--short",
        help="SmolLM2, int4 and bf16, prompt of 512: the least in which every peer takes part.",
    ),
]
SetUp = Annotated[
    bool,
    typer.Option(
        "--set-up",
        help="Make the environments and models, start each once; 1 if anybody is missing.",
    ),
]
Resolve = Annotated[
    bool,
    typer.Option("--resolve", help="Only ask pip whether it could install the peers."),
]
PeerPython = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=PATH", help="Use this Python for a peer; may be repeated."),
]
Json = Annotated[Path | None, typer.Option(help="Write the report here.")]
MergeWith = Annotated[
    list[Path] | None,
    typer.Option("--merge", help="Add the rows of an earlier report; may be repeated."),
]
PictureFile = Annotated[Path | None, typer.Option("--picture", help="Write an SVG of bars here.")]
KeepArtifacts = Annotated[
    bool, typer.Option("--keep-artifacts", help="Use what llmc compiled in an earlier run.")
]
Patience = Annotated[
    float,
    typer.Option(metavar="SECONDS", min=0, help="How long to wait for others to be calm."),
]
Under = Annotated[
    str, typer.Option(metavar="WORDS", help='Put before each process: "taskset -c 0,1".')
]
