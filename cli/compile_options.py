"""The options of `llmc compile` that don't belong to one target, as typer reads them."""

from pathlib import Path
from typing import Annotated

import typer

from ..artifact.targets import AS_STORED, CACHES, SCHEMES, TARGETS

PHASES = ("traced", "model", "fused", "quantized", "serving")
"""As `ir/phase.py` has them."""

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A catalog name, a Hugging Face folder, a .gguf file, or a Hub id."
    ),
]
Lora = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="DIR",
        help="Merge this LoRA adapter (a folder or Hub id); once for each of several.",
    ),
]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", help="Where to write (default: NAME.llmc).")
]
Target = Annotated[
    str, typer.Option(metavar="TARGET,…", help=f"What runs it: {', '.join(TARGETS)}.")
]
Int8 = Annotated[bool, typer.Option("--int8", help="Short for --quant int8.")]
Int4 = Annotated[bool, typer.Option("--int4", help="Short for --quant int4.")]
Fp8 = Annotated[bool, typer.Option("--fp8", help="Short for --quant fp8 (trt, triton).")]
Quant = Annotated[
    str | None,
    typer.Option(
        metavar="SCHEME",
        help=f"{', '.join(SCHEMES)}, {AS_STORED} (default: {SCHEMES[0]}; "
        f"{AS_STORED} for quantized checkpoints).",
    ),
]
KvCache = Annotated[
    str | None,
    typer.Option(metavar="TYPE", help=f"{', '.join(CACHES)} (default: the scheme's own)."),
]
MaxRam = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Most memory to use, such as 2GB.")
]
MaxContext = Annotated[
    int | None, typer.Option(help="Longest sequence (default: the model's own, at most 8192).")
]
MaxKl = Annotated[
    float | None, typer.Option(help="Refuse if KL against the source exceeds this (nats).")
]
AllowField = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Say nothing of this config field, which none reads."),
]
StrictConfig = Annotated[
    bool, typer.Option("--strict-config", help="Refuse config fields that nothing reads.")
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run model code from the checkpoint.")
]
Format = Annotated[str, typer.Option(help="file (one .llmc) or dir.")]
Emit = Annotated[
    str, typer.Option(help="llmc: an artifact; onnx: a plain folder that needs no llmc.")
]
StopAfter = Annotated[
    str | None,
    typer.Option(
        metavar="PHASE",
        help=f"Print the graph after {', '.join(PHASES)}, and compile nothing.",
    ),
]
