"""`llmc compile`."""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import typer

from ..artifact.targets import AS_STORED, CACHES, SCHEMES, TARGETS
from ..base.errors import LlmcError
from ..base.failures import one_line
from ..base.sizes import parse_size
from . import compile_options as options
from .options import Json, print_result
from .target_flags import chosen_targets, with_target_flags

DEFAULT_TARGET = next(iter(TARGETS))


@with_target_flags
def compile_(
    model: options.Model,
    output: options.Output = None,
    lora: options.Lora = None,
    target: options.Target = DEFAULT_TARGET,
    int8: options.Int8 = False,
    int4: options.Int4 = False,
    fp8: options.Fp8 = False,
    quant: options.Quant = None,
    kv_cache: options.KvCache = None,
    max_ram: options.MaxRam = None,
    max_context: options.MaxContext = None,
    max_kl: options.MaxKl = None,
    allow_field: options.AllowField = None,
    strict_config: options.StrictConfig = False,
    trust_remote_code: options.TrustRemoteCode = False,
    format: options.Format = "file",
    emit: options.Emit = "llmc",
    stop_after: options.StopAfter = None,
    as_json: Json = False,
    **flags: Any,
) -> None:
    """Compile a model into an artifact.

    \b
    llmc compile smollm2-135m --int4 -o smol.llmc
    llmc compile ./my-checkpoint --quant bf16 --cpu x86-64-v3,x86-64-v4,portable -o my.llmc
    llmc compile smollm2-135m --int4 --target cpu,onnx -o both.llmc
    llmc compile smollm2-135m --int4 --target triton --sm 90 -o gpu.llmc
    llmc compile smollm2-135m --int8 --target trt --sm 86,89 -o rtx.llmc
    llmc compile ./my-base --lora ./my-adapter --int4 -o tuned.llmc
    """
    scheme = scheme_of(int8, int4, fp8, quant)
    asked: dict[str, Any] = {
        **chosen_targets(target, **flags), "scheme": scheme, "kv_cache": kv_cache,
        "max_context": max_context, "trust_remote_code": trust_remote_code,
        "lora": tuple(lora or ()),
    }  # fmt: skip
    _require("--kv-cache", "LLMC-E0201", kv_cache or CACHES[0], CACHES)
    _require("--format", "LLMC-E0200", format, ("file", "dir"))
    _require("--emit", "LLMC-E0200", emit, ("llmc", "onnx"))
    _require_places(model)
    if stop_after is not None:
        _require("--stop-after", "LLMC-E0200", stop_after, options.PHASES)
        _print_graph(model, output, stop_after, asked, as_json)
        return
    asked |= {
        "output": output, "max_kl": max_kl, "format": format,
        "max_ram": None if max_ram is None else parse_size(max_ram),
        "allow_fields": tuple(allow_field or ()), "strict_config": strict_config,
    }  # fmt: skip
    _compile(_writer(model, output, emit, asked), as_json)


def _compile(write: Callable[[Callable[..., Any]], Any], as_json: bool) -> None:
    """Compile with a progress bar, and say what came of it."""
    with collection_paused():
        from ..compiler.driver import compile
    from ..base.progress import reporter

    with reporter() as progress:
        report = write(partial(compile, progress=progress))
    for note in report.notes:
        typer.echo(f"note: {one_line(note)}", err=True)
    size = f"{report.bytes / 1e6:.1f} MB, {report.seconds:.1f} s, {report.peak_rss_mb:.0f} MB peak"
    print_result(as_json, asdict(report), f"{report.artifact}  ({size})")


def _print_graph(
    model: str, output: Path | None, phase: str, asked: dict[str, Any], as_json: bool
) -> None:
    """The graph after a phase, as text on stdout or in a file."""
    with collection_paused():
        from ..compiler.stages import graph_after
    text = graph_after(model, phase, **asked)
    if output is not None:
        output.write_text(text, encoding="utf-8")
    place = {} if output is None else {"output": str(output)}
    shown = str(output) if output is not None else text.rstrip("\n")
    print_result(as_json, {"phase": phase, **place} | ({} if output else {"graph": text}), shown)


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


def scheme_of(int8: bool, int4: bool, fp8: bool, quant: str | None) -> str | None:
    """The scheme that these options mean together, None without any.

    Raises:
        LlmcError: E0200 if they exclude one another, E0201 for an unknown scheme.
    """
    chosen = ["int8"] * int8 + ["int4"] * int4 + ["fp8"] * fp8 + ([quant] if quant else [])
    if len(chosen) > 1:
        raise LlmcError("LLMC-E0200", f"{' and '.join(chosen)} exclude one another")
    if chosen:
        _require("--quant", "LLMC-E0201", chosen[0], (*SCHEMES, AS_STORED))
    return chosen[0] if chosen else None


def _require(option: str, identifier: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise LlmcError(identifier, f"{option}: {value!r} is not one of {', '.join(allowed)}")


@contextmanager
def collection_paused() -> Iterator[None]:
    """Import something large without looking for garbage on the way.

    Nor does torch get to see Triton, which it would import for types of kernels that nobody here
    traces: that takes its time, and what isn't collected in the end makes it complain on stderr.
    """
    gc.disable()  # importing torch makes a million objects that stay
    hidden = "triton" not in sys.modules
    if hidden:
        sys.modules["triton"] = None  # type: ignore[assignment]
    try:
        yield
        gc.freeze()  # nor are they looked through again later
    finally:
        gc.enable()
        if hidden:
            del sys.modules["triton"]
