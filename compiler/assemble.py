"""The parts of an artifact: weights, variants, text entries, manifest, conformance vectors.

In: what a backend compiled and a source holds. Out: entries in an `ArtifactWriter` and the manifest
that describes them. Everything here is a function of the inputs alone; measurements go into the
certificate (`certificate.py`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import msgspec
import numpy as np
from tokenizers import Tokenizer

from ..artifact.manifest import (
    CHAT_TEMPLATE,
    GENERATION,
    NAMED_TEMPLATES,
    TEXT_VECTORS,
    TOKENIZER,
    AdapterSource,
    ConformanceVector,
    Generation,
    Manifest,
    Source,
    Tensor,
    Variant,
    Weights,
    decode,
    encode,
)
from ..artifact.targets import AnyProgramOptions
from ..artifact.writer import ArtifactWriter
from ..base.errors import LlmcError
from ..base.progress import Progress
from ..ir.graph import Graph, Value
from ..ir.ops import Embedding, GroupedLinear, TopK
from ..runtime.api.conformance import record
from ..runtime.api.loading import open_program
from ..runtime.api.model import Model
from ..runtime.executors.registry import runnable_variant
from ..runtime.text.templates import DEFAULT
from ..weights.recipes import Pack, Recipe
from ..weights.stream import DATA_ALIGNMENT, WeightStream
from ..weights.table import WeightTable
from ..weights.values import TensorReader
from .frontend.generation_fields import SAMPLING_FIELDS, token_ids
from .frontend.model_source import ModelSource, TextAssets
from .sbom import bill_of_materials
from .targets import Program

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
TOOLS = ("llmc-compiler", "torch", "transformers")
PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
)
TOLERANCE = {"f32": 2e-3, "bf16": 0.25}
"""Largest difference of a logit between machine levels with an f32 cache; 0.1 for quantized
schemes, whose integer arithmetic is exact."""
ROUNDED_TOLERANCE = 1.0
"""With caches that some levels multiply in another precision than others, or where that moves int8
codes of activations: of SmolLM2's 49152 logits, the largest difference is 0.8 in a median row,
though the KL divergence from the source is the same on both levels."""


def write_weights(
    writer: ArtifactWriter, programs: Sequence[Program], reader: TensorReader, progress: Progress
) -> dict[str, Weights]:
    """Stream every weights entry once; what the manifest says of each, by its name."""
    tables = {p.target.weights_entry: p.table for p in programs}
    total = sum(table.nbytes for table in tables.values() if table is not None)
    written, done = {}, 0
    for entry, table in tables.items():
        if entry is None or table is None:
            continue

        def report(at: int, _: int, before: int = done) -> None:
            progress("writing weights", 0.3 + 0.6 * (before + at) / max(total, 1))

        written[entry] = _write_table(writer, entry, table, reader, report)
        done += table.nbytes
    return written


def _write_table(
    writer: ArtifactWriter,
    entry: str,
    table: WeightTable,
    reader: TensorReader,
    report: Callable[[int, int], None],
) -> Weights:
    """Its data section starts where the manifest will say."""
    stream = WeightStream(table.tensors, table.nbytes)
    with writer.open_stream(entry, stream.size) as out:
        stream.write(out, reader, table.layout, report)  # type: ignore[arg-type]
    offset = stream.size - stream.data_bytes
    assert offset % DATA_ALIGNMENT == 0
    tensors = {
        t.name: Tensor(offset=t.offset, nbytes=t.nbytes, format=t.dtype.value, shape=list(t.shape))
        for t in table.tensors
    }
    return Weights(data_offset=offset, nbytes=stream.data_bytes, tensors=tensors)


def variant_of(program: Program, level: str) -> Variant:
    """What the manifest says about one program."""
    target, compiled = program.target, program.compiled
    required = target.requirements(level)
    return Variant(
        target=target.name,
        level=level,
        system=required.system,
        machine=required.machine,
        required_features=sorted(required.features),
        packages=dict(required.packages),
        options=compiled.options(level),
        program=program.entry(level),
        weights=target.weights_entry,
        limits=compiled.limits,
        cache_groups=compiled.cache_groups,
        state=compiled.state,
        memory_plan=compiled.memory_plan,
        vocab_size=compiled.vocab_size,
        decode_weight_bytes=decode_bytes(program),
    )


def with_options(manifest: Manifest, entry: str, options: AnyProgramOptions | None) -> Manifest:
    """The manifest with what building has found out about the program at `entry`."""
    if options is None:
        return manifest
    variants = [
        msgspec.structs.replace(v, options=options) if v.program == entry else v
        for v in manifest.variants
    ]
    return msgspec.structs.replace(manifest, variants=variants)


def decode_bytes(program: Program) -> int:
    """Weight bytes that a decode step of one sequence reads: all but tables and idle experts."""
    if program.table is None:
        return 0
    shares: dict[Recipe, float] = {}
    for value, share in _reads(program.graph):
        shares[value.recipe] = max(shares.get(value.recipe, 0.0), share)
    tensors = program.table.tensors
    return round(sum(t.nbytes * shares.get(_content(t.recipe), 0.0) for t in tensors))


def _content(recipe: Recipe) -> Recipe:
    """The constant that a tensor holds, whatever its layout."""
    return recipe.arg if isinstance(recipe, Pack) else recipe


def _reads(graph: Graph) -> list[tuple[Value, float]]:
    """(constant, share of it that one token reads) for each use, through calls."""
    reads = []
    for node in graph.nodes:
        body = graph.bodies.get(getattr(node.op, "body", ""))
        inner = dict(_reads(body)) if body is not None else {}
        for i, value in enumerate(node.inputs):
            if body is not None:
                reads.append((value, inner.get(body.inputs[i], 0.0)))
            elif isinstance(node.op, Embedding) and i == 0:
                reads.append((value, 0.0))
            elif isinstance(node.op, GroupedLinear) and value.type.rank == 3:
                reads.append((value, _active(graph) / value.type.shape[0]))  # type: ignore[operator]
            else:
                reads.append((value, 1.0))
    return reads


def _active(graph: Graph) -> int:
    """Experts that a token goes to."""
    return max((n.op.k for n in graph.nodes if isinstance(n.op, TopK)), default=1)


def draft_manifest(
    source: ModelSource,
    text: Mapping[str, bytes],
    variants: Sequence[Variant],
    options: dict[str, Any],
    tools: Sequence[str],
) -> Manifest:
    """The manifest before anything is written: without digests, weights and answers.

    Raises:
        LlmcError: E0409, the source's name can't be written down; E0508, it isn't one that the
            runtime reads.
    """
    manifest = Manifest(
        source=_source(source, {}, with_digests=False),
        options=options,
        variants=list(variants),
        weights={},
        tokenizer=TOKENIZER if TOKENIZER in text else None,
        chat_template=CHAT_TEMPLATE if CHAT_TEMPLATE in text else None,
        named_templates={n: e for n, e in template_entries(source.text).items() if n != DEFAULT},
        generation=GENERATION,
        text_vectors=TEXT_VECTORS if TEXT_VECTORS in text else None,
        tool_versions={name: version(name) for name in dict.fromkeys((*TOOLS, *tools))},
    )
    try:
        decode(encode(manifest))
    except UnicodeEncodeError as error:
        message = f"the name {error.object!r} is not UTF-8"
        raise LlmcError("LLMC-E0409", message, "rename the model's file or folder") from error
    return manifest


def add_text_entries(
    writer: ArtifactWriter,
    source: ModelSource,
    text: Mapping[str, bytes],
    graph: Graph,
    manifest: Manifest,
    weights: dict[str, Weights],
) -> Manifest:
    """Add tokenizer, template, graph, license and bill of materials; the manifest so far."""
    digests = {**source.digests.result(), "config": hashlib.sha256(source.config_bytes).hexdigest()}
    license = source.text.license
    entries: dict[str, bytes | None] = {
        **text,
        "graph.txt": str(graph).encode(),
        "LICENSE": license.encode() if license else None,
        "sbom.cdx.json": bill_of_materials(source, digests, manifest.tool_versions),
    }
    for name, data in entries.items():
        if data is not None:
            writer.add(name, data)
    told = _source(source, digests, with_digests=True)
    return msgspec.structs.replace(manifest, source=told, weights=weights)


def _source(source: ModelSource, digests: dict[str, str], with_digests: bool) -> Source:
    """What the manifest says of where the model and its adapters came from."""
    adapters = [
        AdapterSource(
            id=adapter.id,
            revision=adapter.revision,
            digests=adapter.file_digests() if with_digests else {},
        )
        for adapter in source.adapters
    ]
    return Source(id=source.id, revision=source.revision, digests=digests, adapters=adapters)


def template_sources(text: TextAssets) -> dict[str, str]:
    """All chat templates by name."""
    default = {DEFAULT: text.chat_template} if text.chat_template else {}
    return {**text.named_templates, **default}


def template_entries(text: TextAssets) -> dict[str, str]:
    """The entry of each chat template by its name, which may be any text."""
    entries = {}
    for number, name in enumerate(sorted(text.named_templates)):
        plain = name if _PLAIN_NAME.fullmatch(name) else f"_{number}"
        entries[name] = f"{NAMED_TEMPLATES}/{plain}.jinja"
    return {**entries, **({DEFAULT: CHAT_TEMPLATE} if text.chat_template else {})}


def generation_defaults(source: ModelSource, tokenizer: Tokenizer | None = None) -> Generation:
    """`generation.json`: stop tokens and the author's sampling defaults.

    `tokenizer` is the source's own, where it has been read already.

    Raises:
        LlmcError: E0418 for an end of text that is no token id.
    """
    raw = source.text.generation
    ends, _ = token_ids(raw.get("eos_token_id"), f"{source.id}: eos_token_id")
    sampling = {name: raw[name] for name in SAMPLING_FIELDS if raw.get(name) is not None}
    special = source.text.special_tokens
    return Generation(
        eos_token_ids=_list(ends),
        special_tokens=dict(_tokens_by_id(source, tokenizer) if special is None else special),
        split_special_tokens=source.text.split_special_tokens,
        **sampling,
    )


def _tokens_by_id(source: ModelSource, tokenizer: Tokenizer | None) -> dict[str, str]:
    """The text of `bos_token`, `eos_token`, … where only their ids are known (GGUF files)."""
    if source.text.tokenizer is None:
        return {}
    tokenizer = tokenizer or Tokenizer.from_str(source.text.tokenizer.decode())
    tokens = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        for number in _list(source.text.generation.get(f"{name}_id"))[:1]:
            text = tokenizer.id_to_token(number)
            if text is not None:
                tokens[name] = text
    return tokens


def _list(ids: int | list[int] | None) -> list[int]:
    return ids if isinstance(ids, list) else [] if ids is None else [ids]


def running_model(writer: ArtifactWriter, manifest: Manifest, target: str | None) -> Model | None:
    """The best variant that this machine runs, out of the unfinished artifact; None if none."""
    try:
        variant = runnable_variant(manifest, target)
    except LlmcError:
        return None
    weights = None
    if variant.weights is not None:
        offset = manifest.weights[variant.weights].data_offset
        weights = writer.view(variant.weights)[offset:]
    context = min(variant.limits.max_context, 1024)
    program = open_program(variant, writer.view(variant.program), weights, max_context=context)
    tokenizer = writer.view(manifest.tokenizer) if manifest.tokenizer else None
    return Model(
        program, manifest=manifest, variant=variant, tokenizer=tokenizer, max_context=context
    )


def record_vectors(writer: ArtifactWriter, manifest: Manifest, scheme: str) -> Manifest:
    """Run the model on fixed prompts and put its answers into the manifest, target by target."""
    vectors = []
    for target in dict.fromkeys(variant.target for variant in manifest.variants):
        model = running_model(writer, manifest, target)
        if model is not None:
            with model:
                prompts = _prompt_ids(model, manifest)
                vectors += [_vector(model, target, prompt, scheme) for prompt in prompts]
    return msgspec.structs.replace(manifest, conformance=vectors)


def _vector(model: Model, target: str, prompt: list[int], scheme: str) -> ConformanceVector:
    if not np.isfinite(model.logits(prompt)).all():
        raise LlmcError(
            "LLMC-E0408",
            "the compiled model answers with NaN or infinity",
            hint=f"a weight may be too large for {scheme}: try --quant f32",
        )
    return record(model, prompt, tolerance=_tolerance(scheme, model), target=target)


def _tolerance(scheme: str, model: Model) -> float:
    caches = {group.dtype for group in model.program.cache_groups}
    if caches <= {"f32"}:
        return TOLERANCE.get(scheme, 0.1)
    is_quantized = scheme not in TOLERANCE or "i8" in caches
    return ROUNDED_TOLERANCE if is_quantized else TOLERANCE["bf16"]


def _prompt_ids(model: Model, manifest: Manifest) -> list[list[int]]:
    """The fixed prompts; without a tokenizer, fixed pseudo-random ids."""
    context = manifest.variants[0].limits.max_context
    if model.has_tokenizer:
        prompts = [model.encode(p, raw=True) for p in PROMPTS]
    else:
        random = np.random.default_rng(1)
        vocab = manifest.variants[0].vocab_size
        prompts = [random.integers(0, vocab, n).tolist() for n in (5, 21)]
    room = max(1, min(context, 1024) - 17)
    return [p[:room] for p in prompts]


def content_digest(manifest: Manifest) -> str:
    """sha256 of the manifest, which holds the digest of every entry but the certificate's."""
    return hashlib.sha256(encode(manifest)).hexdigest()
