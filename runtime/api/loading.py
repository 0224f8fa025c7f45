"""From an open artifact to a running program: which variant, of which context, which executor."""

from msgspec.structs import replace

from ...artifact.manifest import Variant
from ...artifact.program import Program
from ...artifact.reader import ArtifactReader
from ...artifact.stateful_program import keeps_state
from ...artifact.targets import TrtProgramOptions
from ...base import machine
from ...base.errors import LlmcError
from ..executors.registry import executor_module, runnable_variant
from .cache_plan import plan_cache


def with_context(variant: Variant, max_context: int | None) -> Variant:
    """A variant of slots for shorter sequences than it was compiled for: its slots are shorter.

    (A paged one needs no change: its blocks are as long as ever, and only fewer. Nor can one change
    whose programs have the slots' length compiled in, which then is among its options.)
    """
    limits = variant.limits
    if not limits.uniform_query or max_context is None or max_context >= limits.max_context:
        return variant
    if isinstance(variant.options, TrtProgramOptions):
        return replace(variant, limits=replace(limits, max_context=max_context))
    length = limits.block_size - limits.max_context + max_context
    limits = replace(limits, max_context=max_context, block_size=length)
    groups = [replace(group, block_size=length) for group in variant.cache_groups]
    groups = [replace(g, bytes_per_block=g.expected_bytes_per_block()) for g in groups]
    return replace(variant, limits=limits, cache_groups=groups)


def open_program(
    variant: Variant,
    program: bytes | memoryview,
    weights: memoryview | None,
    *,
    threads: int | None = None,
    max_context: int | None = None,
    memory: int | None = None,
) -> Program:
    """Starts the program of a variant. `weights`: the data section of its weights entry.

    Errors: E0205, E0509, E0600, E0601.
    """
    variant = with_context(variant, max_context)
    nbytes = len(program) if weights is None else len(weights)
    runs = executor_module(variant.target)
    blocks, slots = plan_cache(
        variant,
        weights_bytes=nbytes,
        max_context=max_context,
        memory=memory,
        available=runs.available_memory(),
        share=runs.CACHE_SHARE,
    )
    threads = threads if threads is not None else machine.available_cores()
    if threads < 1:
        raise LlmcError("LLMC-E0205", f"threads cannot be {threads}")
    opened = runs.open_program(
        variant, program, weights, threads=threads, cache_blocks=blocks, state_slots=slots
    )
    if variant.state is not None and not keeps_state(opened):
        opened.close()
        raise LlmcError("LLMC-E0509", f"programs of target {variant.target} keep no state here")
    return opened


def open_artifact_program(
    reader: ArtifactReader,
    *,
    target: str | None = None,
    threads: int | None = None,
    max_context: int | None = None,
    memory: int | None = None,
) -> tuple[Variant, Program]:
    """The best variant of an open artifact (of `target`, if it is given), running."""
    variant = runnable_variant(reader.manifest, target)
    weights = None if variant.weights is None else reader.weights_data(variant.weights)
    program = open_program(
        variant,
        reader.read(variant.program),
        weights,
        threads=threads,
        max_context=max_context,
        memory=memory,
    )
    return variant, program
