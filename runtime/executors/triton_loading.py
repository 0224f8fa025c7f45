"""A plan comes to the GPU: is it one for it, is there room; then memory, kernels and weights.

Everything that can be refused is refused before a byte of the weights is read.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

from ...artifact.launch_plan import NO_KERNEL, LaunchPlan
from ...artifact.manifest import READABLE_ABIS, SIGNATURE_VERSION, Variant
from ...base.errors import LlmcError
from . import gpu_device
from .gpu_device import GpuDevice, GpuProperties
from .triton_launches import Launches, Spaces, StepSizes
from .triton_upload import upload

LEAST_DRIVER = 12030
"""CUDA 12.3: the first whose graphs keep launches that may overlap."""
PTX_DRIVER = 12090
"""CUDA 12.9: the first that reads the PTX that is built for SM80."""
ARCH_SPECIFIC = 90
"""From this SM on, cubins run on exactly the SM that they are for."""


class LoadedProgram(NamedTuple):
    """Where its memory lies, its launches of a step, and those that draw tokens."""

    spaces: Spaces
    launches: Launches
    sampling: Launches


def gpu_problem(plan: LaunchPlan, found: GpuProperties) -> LlmcError | None:
    """E0514: why the kernels of a plan can't run on a GPU."""
    if not _runs(plan, found.sm):
        what = f"the kernels are for SM{plan.sm}; this GPU ({found.name}) is SM{found.sm}"
        return LlmcError("LLMC-E0514", what)
    needed = PTX_DRIVER if plan.ptx else LEAST_DRIVER
    if found.driver < needed:
        known, least = (f"{v // 1000}.{v % 1000 // 10}" for v in (found.driver, needed))
        what = f"the driver knows CUDA {known}, the kernels need {least}"
        return LlmcError("LLMC-E0514", what, hint="install a newer driver")
    shared = max((kernel.shared for kernel in plan.kernels), default=0)
    if shared > found.shared_bytes:
        what = f"a kernel needs {shared} bytes of shared memory; {found.name} has "
        return LlmcError("LLMC-E0514", f"{what}{found.shared_bytes}")
    return None


def _runs(plan: LaunchPlan, sm: int) -> bool:
    """Whether kernels of a plan run on a GPU of this compute capability."""
    if plan.ptx or sm == plan.sm:
        return sm >= plan.sm
    return plan.sm < ARCH_SPECIFIC and sm // 10 == plan.sm // 10 and sm > plan.sm


def load_program(
    variant: Variant,
    plan: LaunchPlan,
    program: memoryview,
    weights: memoryview,
    gpu: GpuDevice,
    cache_blocks: Sequence[int],
) -> LoadedProgram:
    """Allocates, and brings kernels and weights there. Errors: E0509, E0514, E0601, E0722."""
    if variant.signature_version != SIGNATURE_VERSION or variant.abi_version not in READABLE_ABIS:
        raise LlmcError("LLMC-E0509", "the program has another interface version")
    found, limits = gpu.properties, variant.limits
    problem = gpu_problem(plan, found)
    if problem is not None:
        raise problem
    most = StepSizes(limits.max_tokens, limits.max_sequences, limits.max_logits_rows)
    launches = Launches(plan, plan.launches, most, found.multiprocessors)
    sampling = Launches(plan, plan.sampling, most, found.multiprocessors)
    cache = [
        group.bytes_per_block * blocks
        for group, blocks in zip(variant.cache_groups, cache_blocks, strict=True)
    ]
    own = (variant.memory_plan.arena_bytes, weights.nbytes, plan.step_bytes, plan.kept_bytes)
    scratch_bytes = launches.scratch_bytes + sampling.scratch_bytes
    needed = sum((*own, *cache, scratch_bytes))
    if needed > found.free_memory:
        needs, has = (-(-needed >> 20), found.free_memory >> 20)
        what = f"the model needs {needs} MiB of the GPU, of which {has} MiB are free"
        raise LlmcError("LLMC-E0601", what)
    arena, weights_at, step, kept = (gpu.allocate(nbytes) for nbytes in own)
    spaces = Spaces(arena, weights_at, step, kept, tuple(gpu.allocate(n) for n in cache))
    scratch = gpu.allocate(scratch_bytes)
    gpu.fill(kept, 0, plan.kept_bytes)
    for address, nbytes in zip(spaces.cache, cache, strict=True):
        gpu.fill(address, 0, nbytes)  # what kernels mask must at least be numbers
    kernels: dict[int, gpu_device.Kernel] = {}
    loading = _load_kernels(plan, program, gpu, kernels)
    with closing(upload(gpu, weights_at, weights)) as pieces:
        for _ in pieces:
            next(loading, None)
    for _ in loading:
        pass
    launches.prepare(kernels, spaces, scratch)
    sampling.prepare(kernels, spaces, scratch + launches.scratch_bytes)
    return LoadedProgram(spaces, launches, sampling)


def _load_kernels(
    plan: LaunchPlan, program: memoryview, gpu: GpuDevice, kernels: dict[int, gpu_device.Kernel]
) -> Iterator[None]:
    """Loads the kernels that are launched, one at a time."""
    launches = (*plan.launches, *plan.sampling)
    used = {form.kernel for launch in launches for form in launch.forms} - {NO_KERNEL}
    for number in sorted(used):
        kernel = plan.kernels[number]
        cubin = program[kernel.offset : kernel.offset + kernel.nbytes]
        kernels[number] = gpu.load_kernel(cubin, kernel.name, kernel.shared)
        yield
