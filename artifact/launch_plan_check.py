"""Is a launch plan one that may run: does every number of it stay inside what it is about?

In: a plan as the manifest has it, hostile until here, and the sizes of the memory around it. Out:
nothing, or E0508's cause. The executor trusts what passes.
"""

from collections.abc import Iterable, Mapping

from .launch_plan import NO_KERNEL, Launch, LaunchPlan, Pointer, Region, Space

STEP_ARRAYS = ("token_ids", "positions", "query_start", "context_len", "logits_rows")
MAX_THREADS = 1024
MAX_SHARED = 1 << 20


def plan_problem(
    plan: LaunchPlan,
    *,
    program_bytes: int,
    spaces: Mapping[Space, int],
    block_bytes: list[int],
    step_sizes: Mapping[str, int],
) -> str | None:
    """What is wrong with a plan; None if nothing is.

    `spaces`: bytes of arena and weights; `block_bytes`: of each cache group; `step_sizes`: bytes
    that each array of the step takes at the limits.
    """
    limits = {**spaces, "step": plan.step_bytes, "kept": plan.kept_bytes}
    problems = (
        *_kernels(plan, program_bytes),
        *_regions("step", plan.step, plan.step_bytes, step_sizes),
        *_regions("kept", plan.kept, plan.kept_bytes, {"logits": 0, "argmax": 0}),
        *_launches(plan, (*plan.launches, *plan.sampling), limits, block_bytes),
    )
    return problems[0] if problems else None


def _kernels(plan: LaunchPlan, program_bytes: int) -> Iterable[str]:
    for number, kernel in enumerate(plan.kernels):
        if kernel.offset + kernel.nbytes > program_bytes:
            yield f"kernel {number} lies outside the program"
        if kernel.threads > MAX_THREADS or kernel.shared > MAX_SHARED:
            yield f"kernel {number} is larger than any GPU takes"
    if not plan.forms or plan.forms != sorted(plan.forms):
        yield "forms don't rise"


def _regions(
    space: str, regions: Mapping[str, Region], nbytes: int, wanted: Mapping[str, int]
) -> Iterable[str]:
    for name, least in wanted.items():
        if name not in regions:
            yield f"there is no {name} in {space}"
        elif regions[name].nbytes < least:
            yield f"{name} is too small"
    for name, region in regions.items():
        if region.offset + region.nbytes > nbytes:
            yield f"{name} lies outside {space}"


def _launches(
    plan: LaunchPlan, launches: Iterable[Launch], limits: Mapping[str, int], blocks: list[int]
) -> Iterable[str]:
    for launch in launches:
        if len(launch.forms) != len(plan.forms):
            yield f"{launch.label} has {len(launch.forms)} forms"
        for form in launch.forms:
            if not NO_KERNEL <= form.kernel < len(plan.kernels):
                yield f"{launch.label} launches a kernel that isn't there"
        for argument in launch.arguments:
            if isinstance(argument, Pointer) and not _inside(argument, limits, blocks):
                yield f"{launch.label} points outside {argument.space}"


def _inside(pointer: Pointer, limits: Mapping[str, int], blocks: list[int]) -> bool:
    end = pointer.offset + pointer.nbytes
    if pointer.space == "cache":
        return pointer.group < len(blocks) and end <= blocks[pointer.group]
    return end <= limits[pointer.space]
