"""`llmc compile`."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ..base.errors import LlmcError
from ..base.sizes import parse_size
from .options import Json, print_result
from .targets import CPU_LEVELS, TARGETS, chosen_targets

SCHEMES = ("f32", "bf16", "fp16", "int8", "int4", "int4-sym", "fp8")
CACHES = ("f32", "bf16", "fp16", "int8")


def compile_(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A catalog name, a Hugging Face folder, a .gguf file, or a Hub id.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to write (default: NAME.llmc).")
    ] = None,
    target: Annotated[
        str, typer.Option(metavar="TARGET,…", help=f"What runs it: {', '.join(TARGETS)}.")
    ] = TARGETS[0],
    int8: Annotated[bool, typer.Option("--int8", help="Short for --quant int8.")] = False,
    int4: Annotated[bool, typer.Option("--int4", help="Short for --quant int4.")] = False,
    fp8: Annotated[bool, typer.Option("--fp8", help="Short for --quant fp8 (trt).")] = False,
    quant: Annotated[
        str | None,
        typer.Option(metavar="SCHEME", help=f"{', '.join(SCHEMES)} (default: {SCHEMES[0]})."),
    ] = None,
    kv_cache: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help=f"{', '.join(CACHES)} (default: the scheme's own)."),
    ] = None,
    cpu: Annotated[
        str | None,
        typer.Option(
            metavar="LEVEL,…",
            help=f"Instruction sets of cpu and inductor: {', '.join(CPU_LEVELS)} "
            f"(default: {CPU_LEVELS[0]}).",
        ),
    ] = None,
    onnx_dialect: Annotated[
        str | None,
        typer.Option(
            help="ort (default): ONNX Runtime's fused operators; standard: those of ONNX alone."
        ),
    ] = None,
    onnx_provider: Annotated[
        str | None,
        typer.Option(metavar="NAME,…", help="What ONNX Runtime computes on: cpu (default), cuda."),
    ] = None,
    sm: Annotated[
        str | None,
        typer.Option(metavar="N,…", help="GPUs that trt engines are for, such as 86,89,120."),
    ] = None,
    timing_cache: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep what the trt builder measured.")
    ] = None,
    refit: Annotated[
        bool, typer.Option("--refit", help="Let the trt engine take other weights later.")
    ] = False,
    max_ram: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Most memory to use, such as 2GB.")
    ] = None,
    max_context: Annotated[
        int | None, typer.Option(help="Longest sequence (default: the model's own, at most 8192).")
    ] = None,
    max_kl: Annotated[
        float | None, typer.Option(help="Refuse if KL against the source exceeds this (nats).")
    ] = None,
    allow_field: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Say nothing of this config field, which none reads."),
    ] = None,
    strict_config: Annotated[
        bool, typer.Option("--strict-config", help="Refuse config fields that nothing reads.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run model code from the checkpoint.")
    ] = False,
    format: Annotated[str, typer.Option(help="file (one .llmc) or dir.")] = "file",
    emit: Annotated[
        str, typer.Option(help="llmc: an artifact; onnx: a plain folder that needs no llmc.")
    ] = "llmc",
    as_json: Json = False,
) -> None:
    """Compile a model into an artifact.

    \b
    llmc compile smollm2-135m --int4 -o smol.llmc
    llmc compile ./my-checkpoint --quant bf16 --cpu x86-64-v3,x86-64-v4,portable -o my.llmc
    llmc compile smollm2-135m --int4 --target cpu,onnx -o both.llmc
    llmc compile smollm2-135m --int8 --target trt --sm 86,89 -o gpu.llmc
    """
    scheme = scheme_of(int8, int4, fp8, quant)
    targets = chosen_targets(
        target, cpu=cpu, onnx_dialect=onnx_dialect, onnx_provider=onnx_provider, sm=sm,
        timing_cache=timing_cache, refit=refit,
    )  # fmt: skip
    _require("--kv-cache", "LLMC-E0201", kv_cache or CACHES[0], CACHES)
    _require("--format", "LLMC-E0200", format, ("file", "dir"))
    _require("--emit", "LLMC-E0200", emit, ("llmc", "onnx"))
    options: dict[str, Any] = {
        **targets, "scheme": scheme, "kv_cache": kv_cache,
        "output": output, "max_context": max_context, "max_kl": max_kl, "format": format,
        "max_ram": None if max_ram is None else parse_size(max_ram),
        "allow_fields": tuple(allow_field or ()), "strict_config": strict_config,
        "trust_remote_code": trust_remote_code,
    }  # fmt: skip
    _require_places(model)
    write = _writer(model, output, emit, options)
    with collection_paused():
        from ..compiler.driver import compile
    from ..base.progress import reporter

    with reporter() as progress:
        report = write(partial(compile, progress=progress))
    for note in report.notes:
        typer.echo(f"note: {note}", err=True)
    size = f"{report.bytes / 1e6:.1f} MB, {report.seconds:.1f} s, {report.peak_rss_mb:.0f} MB peak"
    print_result(as_json, asdict(report), f"{report.artifact}  ({size})")


def _writer(
    model: str, output: Path | None, emit: str, options: dict[str, Any]
) -> Callable[[Callable[..., Any]], Any]:
    """What turns `compile` into the report, once the destination is found to be fit."""
    if emit == "onnx":
        from ..compiler.onnx_folder import check_folder, emit_folder, folder_path

        folder = folder_path(output, model)
        check_folder(folder, model)
        return lambda compile: emit_folder(compile, model, folder, options)
    from ..compiler.destination import check_output, output_path

    check_output(output_path(output, model), options["format"], model)
    return lambda compile: compile(model, **options)


def _require_places(model: str) -> None:
    if "\0" in model:
        raise LlmcError("LLMC-E0409", f"{model!r} names nothing")
    try:
        Path.cwd()  # without one, importing torch would end the process
    except FileNotFoundError as error:
        raise LlmcError("LLMC-E0707", "the current folder no longer exists", "cd to one") from error


def scheme_of(int8: bool, int4: bool, fp8: bool, quant: str | None) -> str:
    """The scheme that these options mean together; E0200 if they exclude one another."""
    chosen = ["int8"] * int8 + ["int4"] * int4 + ["fp8"] * fp8 + ([quant] if quant else [])
    if len(chosen) > 1:
        raise LlmcError("LLMC-E0200", f"{' and '.join(chosen)} exclude one another")
    scheme = chosen[0] if chosen else SCHEMES[0]
    _require("--quant", "LLMC-E0201", scheme, SCHEMES)
    return scheme


def _require(option: str, identifier: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise LlmcError(identifier, f"{option}: {value!r} is not one of {', '.join(allowed)}")


@contextmanager
def collection_paused() -> Iterator[None]:
    """Import something large without looking for garbage on the way."""
    gc.disable()  # importing torch makes a million objects that stay
    try:
        yield
        gc.freeze()  # nor are they looked through again later
    finally:
        gc.enable()
