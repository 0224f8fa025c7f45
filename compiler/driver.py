"""`compile()`: a model source in, an artifact out.

    source → trace → import → passes → backend lowering ─┬→ programs       ─┬→ artifact
                    (the last three for each target)     └→ packed weights ─┘

Programs are built while the architecture is probed and the weights are written. The artifact
appears under its name only when all of it is there, including the answers (conformance vectors)
that it gave on this machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

from ..artifact.manifest import Manifest
from ..artifact.targets import SCHEMES, AnyProgramOptions
from ..artifact.writer import ArtifactWriter
from ..base.errors import LlmcError
from ..base.failures import extras_named
from ..base.progress import Beside, Progress, silent
from ..codegen.contract import Build, Configured
from ..weights.values import RecipeValues
from .assemble import (
    add_text_entries,
    content_digest,
    draft_manifest,
    record_vectors,
    variant_of,
    with_options,
    write_weights,
)
from .block_notes import block_notes
from .calibration import sample_ids
from .certificate import Measured, certificate, peak_rss_mb
from .context import check_context, context_length, within_tables
from .destination import check_output, output_path
from .frontend.interfaces import EAGER
from .frontend.lower import TracedModel, trace_model
from .frontend.model_source import ModelSource
from .frontend.names import bind
from .frontend.probe import probe
from .frontend.sources import open_source
from .frontend.text_part import describe
from .frontend.trace import build_on_meta
from .quality import check_quality
from .targets import Program, default_scheme, lower_for, resolve_targets, settled_options
from .text_entries import text_entries

_LOOK_SECONDS = 0.1
"""Between two looks at a build, which may be told to stop in between."""


@dataclass
class CompileReport:
    """What a compile made and what it took. `notes` are lines for the user."""

    artifact: str
    sha256: str
    bytes: int
    seconds: float
    peak_rss_mb: float
    quality: dict[str, float] | None = None
    notes: list[str] = field(default_factory=list)


@extras_named()
def compile(
    model: str,
    *,
    lora: Sequence[str] = (),
    target: str | Sequence[str] = "cpu",
    scheme: str | None = None,
    kv_cache: str | None = None,
    levels: Sequence[str] | Mapping[str, Sequence[str]] = (),
    target_options: Mapping[str, Mapping[str, Any]] | None = None,
    output: str | Path | None = None,
    max_ram: int | None = None,
    max_context: int | None = None,
    max_kl: float | None = None,
    allow_fields: Sequence[str] = (),
    strict_config: bool = False,
    trust_remote_code: bool = False,
    format: Literal["file", "dir"] = "file",
    progress: Progress = silent,
) -> CompileReport:
    """Compile `model` (a directory, .gguf file, catalog name or Hub id) into an artifact.

    `lora`: adapters (directories or Hub ids) that are merged into it, in this order. `target`: one,
    or several, whose programs share one trace and what weights they can. `scheme`: without one
    `f32`, or `as-stored` if the checkpoint is quantized. `kv_cache`: its element type (`f32`,
    `bf16`, `int8`) if not the scheme's own. `levels`: machines, by target if several (this one);
    `target_options`, by target, what its backend takes beside; `max_ram` bytes of memory the
    compile may use; `max_kl` the largest mean KL divergence (nats) against the f32 source;
    `strict_config` refuses config fields that nothing reads, but for `allow_fields`.

    Raises:
        LlmcError: E02xx a wrong option, E03xx the quality gate, E04xx the model can't be compiled,
            E0602 `max_ram` doesn't suffice, E07xx disk, network, a missing extra.
    """
    began = time.perf_counter()
    names = target.split(",") if isinstance(target, str) else list(target)
    by_target = levels if isinstance(levels, Mapping) else dict.fromkeys(names, levels)
    options = target_options or {}
    resolved = partial(resolve_targets, names, kv_cache=kv_cache, levels=by_target, options=options)
    targets = resolved(scheme=scheme or SCHEMES[0])
    path = output_path(output, model)
    check_output(path, format, model)
    check_context(max_context)
    if max_kl is not None and not max_kl >= 0:
        raise LlmcError("LLMC-E0205", f"a KL divergence is never below 0, max_kl is {max_kl}")
    _check_memory(max_ram)
    progress("opening the model", 0.0)
    source = open_source(model, lora=lora, trust_remote_code=trust_remote_code)
    targets = targets if scheme else resolved(scheme=(scheme := default_scheme(source)))
    notes = [*source.notes, *_unread_note(source, allow_fields, strict_config)]
    asked = {
        "allow_fields": sorted(allow_fields), "kv_cache": kv_cache, "scheme": scheme,
        "target_options": {name: dict(given) for name, given in options.items()},
    }  # fmt: skip
    lowered = _lowered(source, targets, max_context, asked, progress)
    lowered.notes[:0] = notes
    _check_memory(max_ram)
    with ArtifactWriter(path, format=format) as writer:
        quality = _write(writer, lowered, max_kl, began, progress)
    progress("done", 1.0)
    return _report(path, began, quality, lowered)


@dataclass
class _Lowered:
    """A model of which everything is decided: what is to be built, written and said."""

    source: ModelSource
    text: Mapping[str, bytes]
    programs: list[Program]
    measured: Measured
    manifest: Manifest
    notes: list[str]


def _lowered(
    source: ModelSource,
    targets: Sequence[Configured],
    max_context: int | None,
    asked: dict[str, Any],
    progress: Progress,
) -> _Lowered:
    """Trace the model and lower it for every target. `asked`: what the manifest repeats of it.

    Raises:
        LlmcError: LLMC-E04xx, weights and model don't belong together, or can't be compiled.
    """
    text = text_entries(source)
    for digests in (source.digests, *(adapter.digests for adapter in source.adapters)):
        digests.start()
    with _one_torch_thread():
        traced, context, notes = _traced(source, max_context, progress)
        programs, models = lower_for(targets, traced, context)
    notes += [*traced.traced.notes, *block_notes(programs, source.reader)]
    options = {
        **asked,
        "target_options": settled_options(asked["target_options"], programs),
        "context": context,
        "levels": {t.name: list(t.levels) for t in targets},
        "target": [t.name for t in targets],
    }
    variants = [variant_of(p, level) for p in programs for level in p.target.levels]
    tools = [name for t in targets for name in t.tools]
    manifest = draft_manifest(source, text, variants, options, tools)
    measured = Measured(passes=[time for model in models for time in model.passes])
    return _Lowered(source, text, programs, measured, manifest, notes)


def _write(
    writer: ArtifactWriter,
    lowered: _Lowered,
    max_kl: float | None,
    began: float,
    progress: Progress,
) -> dict[str, float] | None:
    """Build programs beside the probe and the weights, and write all of it; the quality found."""
    source, programs, manifest = lowered.source, lowered.programs, lowered.manifest
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="llmc-")))
        beside = Beside()
        builds = stack.enter_context(_builds(programs, folder, source, beside))
        progress("probing the architecture", 0.2)
        with _one_torch_thread():
            wanted = [program.target.features for program in programs]
            lowered.notes.append(probe(source.config, source.config_bytes, wanted))
        weights = write_weights(writer, programs, source.reader, progress)
        progress("compiling programs", 0.9)
        for place, (program, level, file, built) in enumerate(builds):
            low, high = (0.9 + 0.05 * (place + more) / len(builds) for more in (0, 1))
            while not wait([built], timeout=_LOOK_SECONDS).done:
                beside.show(progress, low, high)
            manifest = with_options(manifest, program.entry(level), built.result())
            writer.add(program.entry(level), file)
    graph = programs[0].graph
    manifest = add_text_entries(writer, source, lowered.text, graph, manifest, weights)
    progress("recording answers", 0.95)
    scheme = manifest.options["scheme"]
    manifest = record_vectors(writer, manifest, scheme)
    quality = check_quality(writer, manifest, source, manifest.options["context"], max_kl)
    lowered.notes += _unanswered_note(manifest, [program.target for program in programs])
    measured = lowered.measured
    measured.seconds, measured.quality = time.perf_counter() - began, quality
    writer.add("certificate.json", certificate(measured, manifest))
    writer.write_manifest(manifest)
    lowered.manifest = manifest
    return quality


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Tiny tensors don't pay for threads, and waiting threads spin: tracing is faster alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _traced(
    source: ModelSource, max_context: int | None, progress: Progress
) -> tuple[TracedModel, int, list[str]]:
    """The trace, the context that it is for, and lines for the user about weights.

    Raises:
        LlmcError: LLMC-E0205, no table of positions is that long; E04xx, weights and model don't
            belong together, or can't be compiled.
    """
    binding = bind(build_on_meta(source.config, EAGER), source)
    progress("tracing the model", 0.05)
    context = context_length(source.config, max_context)
    traced = trace_model(source.config, context, lambda _: binding.recipes)
    left_out = binding.left_out | traced.left_out
    notes = [describe(left_out)] if left_out else []
    return traced, within_tables(context, max_context, traced.positions), notes


def _unread_note(source: ModelSource, allowed: Sequence[str], strict: bool) -> list[str]:
    """One line about config fields that transformers reads no more than we do.

    Raises:
        LlmcError: LLMC-E0411, there are such fields, and the compile is strict.
    """
    unread = [name for name in source.unread if name not in allowed]
    if unread and strict:
        raise LlmcError(
            "LLMC-E0411",
            f"config fields that no code of transformers reads: {', '.join(unread)}",
            hint=f"if they don't matter: --allow-field {' --allow-field '.join(unread)}",
        )
    return [f"transformers ignores these config fields: {', '.join(unread)}"] if unread else []


def _check_memory(max_ram: int | None) -> None:
    """Refuse before any weight is read if the compile would need more than it may use."""
    if max_ram is None:
        return
    needed = int(peak_rss_mb() * 1e6) + 400_000_000  # slices in flight, the C++ compiler beside it
    if needed > max_ram:
        raise LlmcError(
            "LLMC-E0602",
            f"the compile needs about {needed / 1e9:.1f} GB, --max-ram allows {max_ram / 1e9:.1f}",
        )


@contextmanager
def _builds(
    programs: Sequence[Program], folder: Path, source: ModelSource, progress: Progress
) -> Iterator[list[tuple[Program, str, Path, Future[AnyProgramOptions | None]]]]:
    """Programs being built, one after another; leaving early ends what runs at once."""
    pool = ThreadPoolExecutor(max_workers=1)
    build = Build(RecipeValues(source.reader), lambda: sample_ids(source), progress=progress)
    begun = []
    try:
        for program in programs:
            for level in program.target.levels:
                file = folder / f"{program.target.name}-{level}{program.target.suffix}"
                built = pool.submit(program.compiled.build, level, file, build)
                begun.append((program, level, file, built))
        yield begun
    finally:
        build.stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _unanswered_note(manifest: Manifest, targets: Sequence[Configured]) -> list[str]:
    """Targets whose programs can't be run where they were made."""
    answered = {vector.target for vector in manifest.conformance}
    silent = [target.name for target in targets if target.name not in answered]
    if not silent:
        return []
    return [
        f"no conformance vectors for {', '.join(silent)}: this machine runs none of its variants"
    ]


def _report(
    path: Path, began: float, quality: dict[str, float] | None, lowered: _Lowered
) -> CompileReport:
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    return CompileReport(
        artifact=str(path),
        sha256=content_digest(lowered.manifest),
        bytes=sum(f.stat().st_size for f in files),
        seconds=round(time.perf_counter() - began, 3),
        peak_rss_mb=round(peak_rss_mb(), 1),
        quality=quality,
        notes=lowered.notes,
    )
