"""Does a manifest agree with itself and with the entries beside it?

In: a manifest of the right schema, and the sizes of all entries. Out: nothing, or E0508 with the
first thing that leads nowhere or reaches beyond what it is about.
"""

from collections.abc import Mapping
from math import prod

from .launch_plan_check import Surroundings, plan_problem
from .manifest import (
    CERTIFICATE,
    MANIFEST,
    SLOT_HEADER,
    SUMS,
    WEIGHTS_ALIGNMENT,
    Manifest,
    Variant,
    Weights,
    invalid,
)
from .targets import TritonProgramOptions


def check(manifest: Manifest, sizes: Mapping[str, int]) -> None:
    """Raises E0508 unless every name in the manifest leads somewhere and every range is inside.

    `sizes`: bytes of each entry that the container really holds.
    """
    listed = {name: entry.size for name, entry in manifest.entries.items()}
    present = {n: s for n, s in sizes.items() if n not in (MANIFEST, CERTIFICATE, SUMS)}
    if listed != present:
        wrong = sorted(listed.items() ^ present.items())
        raise invalid(f"entries and manifest disagree about {wrong[0][0]}")
    text = (manifest.tokenizer, manifest.chat_template, manifest.generation, manifest.text_vectors)
    for name in (*text, *manifest.named_templates.values()):
        if name is not None and name not in sizes:
            raise invalid(f"there is no entry {name}")
    for name, weights in manifest.weights.items():
        _check_weights(name, weights, sizes)
    for variant in manifest.variants:
        _check_variant(variant, manifest, sizes)


def _check_weights(name: str, weights: Weights, sizes: Mapping[str, int]) -> None:
    if name not in sizes:
        raise invalid(f"there is no entry {name}")
    if weights.data_offset < 8 or weights.data_offset + weights.nbytes != sizes[name]:
        raise invalid(f"{name}: the data section isn't the rest of the entry")
    if weights.data_offset % WEIGHTS_ALIGNMENT:
        raise invalid(f"{name}: the data section isn't aligned to {WEIGHTS_ALIGNMENT} bytes")
    for tensor_name, tensor in weights.tensors.items():
        if tensor.offset + tensor.nbytes > weights.nbytes:
            raise invalid(f"{name}: {tensor_name} lies outside the data section")


def _check_variant(variant: Variant, manifest: Manifest, sizes: Mapping[str, int]) -> None:
    label = f"variant {variant.target}/{variant.level}"
    if variant.options.__struct_config__.tag != variant.target:
        raise invalid(f"{label}: its options are of another target")
    if variant.program not in sizes:
        raise invalid(f"{label}: there is no entry {variant.program}")
    if variant.weights is not None and variant.weights not in manifest.weights:
        raise invalid(f"{label}: {variant.weights} is not listed as weights")
    plan = variant.memory_plan
    for buffer in plan.buffers:
        if buffer.offset + buffer.nbytes > plan.arena_bytes:
            raise invalid(f"{label}: buffer {buffer.name} lies outside the arena")
    for group in variant.cache_groups:
        if group.block_size != variant.limits.block_size:
            raise invalid(f"{label}: cache group {group.name} has another block size")
        if group.bytes_per_block != group.expected_bytes_per_block():
            raise invalid(f"{label}: cache group {group.name} has a wrong bytes_per_block")
        if group.kind != "latent" and (group.kind == "sliding") != (group.window > 0):
            raise invalid(f"{label}: cache group {group.name} has a wrong window")
        if group.kind == "latent":
            fits = group.value_dim == 0 < group.latent_dim <= group.key_dim
        else:
            fits = group.latent_dim == 0
        if not fits:
            raise invalid(f"{label}: cache group {group.name} has wrong sizes")
    if variant.state is not None:
        end = SLOT_HEADER
        for part in variant.state.parts:
            if part.offset < end or part.offset % 64:
                raise invalid(f"{label}: state part {part.name} of site {part.site} is misplaced")
            end = part.offset + 4 * prod(part.shape)
        if end > variant.state.bytes_per_slot:
            raise invalid(f"{label}: its state doesn't fit into a slot")
    if isinstance(variant.options, TritonProgramOptions):
        problem = plan_problem(variant.options.plan, _surroundings(variant, manifest, sizes))
        if problem is not None:
            raise invalid(f"{label}: {problem}")


def _surroundings(variant: Variant, manifest: Manifest, sizes: Mapping[str, int]) -> Surroundings:
    """What a launch plan of this variant has to fit."""
    return Surroundings(
        program_bytes=sizes[variant.program],
        spaces={
            "arena": variant.memory_plan.arena_bytes,
            "weights": 0 if variant.weights is None else manifest.weights[variant.weights].nbytes,
        },
        block_bytes=[group.bytes_per_block for group in variant.cache_groups],
        limits=variant.limits,
        vocab_size=variant.vocab_size,
    )
