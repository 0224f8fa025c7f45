"""Is a launch plan one that may run: does every number of it stay inside what it is about?

In: a plan as the manifest has it, hostile until here, and the sizes of the memory around it. Out:
nothing, or E0508's cause. The executor trusts what passes. What kernels do with their arguments is
theirs: they are code, as the library of a CPU program is.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from math import isfinite
from typing import NamedTuple

from .device_choice import RECORD, RESULT
from .launch_plan import (
    NO_KERNEL,
    Argument,
    FormLaunch,
    Kernel,
    Launch,
    LaunchPlan,
    Number,
    Pointer,
    Region,
    Size,
    Space,
    parameter_layout,
)
from .manifest import Limits

MAX_THREADS = 1024
MAX_SHARED = 1 << 20
MAX_PARAMETERS = 32764
"""Bytes of one launch, from CUDA 12.1 on (CUDA C++ Programming Guide, `__global__`)."""
MAX_GRID = (2**31 - 1, 65535, 65535)
"""Blocks in each direction (same guide, "Technical Specifications per Compute Capability")."""
WRITABLE: frozenset[Space] = frozenset(("arena", "cache", "kept"))
_WARP, _WORD = 32, 4
_RANGES = {"i32": 2**31, "i64": 2**63}
_F32_MAX = 3.4028234663852886e38


class Surroundings(NamedTuple):
    """What a plan is checked against: bytes of the program entry, of arena and weights, of a block
    of each cache group; the limits of a step, and the vocabulary."""

    program_bytes: int
    spaces: Mapping[Space, int]
    block_bytes: list[int]
    limits: Limits
    vocab_size: int


def plan_problem(plan: LaunchPlan, around: Surroundings) -> str | None:
    """What is wrong with a plan; None if nothing is."""
    return next(_problems(plan, around), None)


def _problems(plan: LaunchPlan, around: Surroundings) -> Iterator[str]:
    limits = around.limits
    if not 0 <= plan.columns * limits.block_size - limits.max_context < limits.block_size:
        yield "block tables don't have the context's width"
    if not plan.forms or any(a >= b for a, b in pairwise(plan.forms)):
        yield "forms don't rise"
    for number, kernel in enumerate(plan.kernels):
        for what in _kernel(kernel, around.program_bytes):
            yield f"kernel {number} {what}"
    step, kept = _step_sizes(plan, around), _kept_sizes(plan, around)
    yield from _regions("step", plan.step, plan.step_bytes, step)
    yield from (f"{name} is nothing of a step" for name in plan.step.keys() - step.keys())
    yield from _regions("kept", plan.kept, plan.kept_bytes, kept)
    spaces = {**around.spaces, "step": plan.step_bytes, "kept": plan.kept_bytes}
    sizes = _most(limits)
    for launch in (*plan.launches, *plan.sampling):
        for what in _launch(launch, plan, spaces, around.block_bytes, sizes):
            yield f"{launch.label} {what}"


def _most(limits: Limits) -> dict[str, int]:
    return {"T": limits.max_tokens, "S": limits.max_sequences, "R": limits.max_logits_rows}


def _step_sizes(plan: LaunchPlan, around: Surroundings) -> dict[str, int]:
    """Bytes that each array of the step takes at the limits."""
    limits = around.limits
    counts = {
        "token_ids": limits.max_tokens,
        "positions": limits.max_tokens,
        "query_start": limits.max_sequences + 1,
        "context_len": limits.max_sequences,
        "logits_rows": limits.max_logits_rows,
    }
    for group in range(len(around.block_bytes)):
        counts[f"table.{group}"] = limits.max_sequences * plan.columns
    return {name: _WORD * count for name, count in counts.items()}


def _kept_sizes(plan: LaunchPlan, around: Surroundings) -> dict[str, int]:
    """Bytes of what the host reads and writes in the kept memory, by name."""
    rows = around.limits.max_logits_rows
    sizes = {"logits": _WORD * rows * around.vocab_size, "argmax": _WORD * rows}
    if plan.sampling:
        sizes |= {"choices": RECORD.size * rows, "results": RESULT.size * rows}
    if plan.sampling and "tokens" in plan.kept:
        sizes["tokens"] = _WORD * rows
    return sizes


def _kernel(kernel: Kernel, program_bytes: int) -> Iterator[str]:
    if not kernel.nbytes or kernel.offset + kernel.nbytes > program_bytes:
        yield "lies outside the program"
    if not (kernel.name.isascii() and kernel.name.isidentifier()):
        yield "has no name of a function"
    if kernel.threads > MAX_THREADS or kernel.threads % _WARP or kernel.shared > MAX_SHARED:
        yield "is larger than any GPU takes"


def _regions(
    space: str, regions: Mapping[str, Region], nbytes: int, wanted: Mapping[str, int]
) -> Iterator[str]:
    for name, least in wanted.items():
        if name not in regions:
            yield f"there is no {name} in {space}"
        elif regions[name].nbytes < least:
            yield f"{name} is too small"
    end, last = 0, ""
    for name, region in sorted(regions.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if region.offset % _WORD or region.offset + region.nbytes > nbytes:
            yield f"{name} lies outside {space}"
        if region.offset < end:
            yield f"{name} lies on {last}"
        end, last = region.offset + region.nbytes, name


def _launch(
    launch: Launch,
    plan: LaunchPlan,
    spaces: Mapping[str, int],
    blocks: list[int],
    sizes: dict[str, int],
) -> Iterator[str]:
    if len(launch.forms) != len(plan.forms):
        yield f"has {len(launch.forms)} forms"
    for argument in launch.arguments:
        yield from _argument(argument, spaces, blocks, sizes)
    parameters = parameter_layout(launch.arguments).size
    if parameters > MAX_PARAMETERS:
        yield "has too many arguments"
    for form in launch.forms:
        if form.kernel != NO_KERNEL:
            yield from _form(form, plan.kernels, parameters, sizes)


def _form(
    form: FormLaunch, kernels: list[Kernel], parameters: int, sizes: dict[str, int]
) -> Iterator[str]:
    if form.kernel >= len(kernels):
        yield "launches a kernel that isn't there"
    elif kernels[form.kernel].parameter_bytes != parameters:
        takes = kernels[form.kernel].parameter_bytes
        yield f"gives a kernel {parameters} bytes of parameters, not {takes}"
    for extent, most in zip(form.grid, MAX_GRID, strict=True):
        if extent.value(sizes) > most:
            yield "has a grid that is too large"


def _argument(
    argument: Argument, spaces: Mapping[str, int], blocks: list[int], sizes: dict[str, int]
) -> Iterable[str]:
    match argument:
        case Pointer():
            return _pointer(argument, spaces, blocks)
        case Size():
            fits = argument.extent.value(sizes) < _RANGES["i32"]
        case Number():
            fits = _fits(argument)
    return () if fits else ("has a number that is too large",)


def _fits(number: Number) -> bool:
    """Whether a number can be written as its type."""
    if number.dtype == "f32":
        return isfinite(number.value) and abs(number.value) <= _F32_MAX
    most = _RANGES[number.dtype]
    return isinstance(number.value, int) and -most <= number.value < most


def _pointer(pointer: Pointer, spaces: Mapping[str, int], blocks: list[int]) -> Iterator[str]:
    if pointer.access != "r" and pointer.space not in WRITABLE:
        yield f"writes to {pointer.space}"
    end = pointer.offset + pointer.nbytes
    if pointer.space == "cache":
        inside = pointer.group < len(blocks) and end <= blocks[pointer.group]
    else:
        inside = end <= spaces[pointer.space]
    if not inside:
        yield f"points outside {pointer.space}"
