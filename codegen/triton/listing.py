"""A launch plan as text: one line a launch, for people and `LLMC_DUMP`.

     3  linear model.layers.0.self_attn.q_proj    8:k2 16:k2 …    r arena 0+1024, w arena 4096+512

In front the number of the launch, behind it the kernel of each form, then what it reads and writes.
"""

from __future__ import annotations

from ...artifact.launch_counts import launch_counts
from ...artifact.launch_plan import NO_KERNEL, Kernel, Launch, LaunchPlan, Number, Pointer, Size


def listing(plan: LaunchPlan) -> str:
    """Kernels, then launches, then what is launched to draw tokens."""
    lines = [f"# SM{plan.sm}: {len(plan.kernels)} kernels, {len(plan.launches)} launches"]
    for number, kernel in enumerate(plan.kernels):
        lines.append(f"k{number:<4} {kernel.label}: {kernel.threads} threads{_facts(kernel)}")
    lines += [f"# {line}" for line in launch_counts(plan)]
    lines += [_line(plan, i, launch) for i, launch in enumerate(plan.launches)]
    lines += ["# to draw tokens"] if plan.sampling else []
    lines += [_line(plan, i, launch) for i, launch in enumerate(plan.sampling)]
    return "\n".join(lines) + "\n"


def _facts(kernel: Kernel) -> str:
    """What is known of a kernel when it has been built."""
    if not kernel.nbytes:
        return ""
    registers, spilled = kernel.registers, kernel.spill_bytes
    return f", {kernel.shared} bytes shared, {registers} registers, {spilled} spilled"


def _line(plan: LaunchPlan, number: int, launch: Launch) -> str:
    forms = (
        f"{rows}:{'-' if form.kernel == NO_KERNEL else f'k{form.kernel}'}"
        for rows, form in zip(plan.forms, launch.forms, strict=True)
    )
    arguments = ", ".join(_argument(argument) for argument in launch.arguments)
    return f"{number:4}  {launch.label}    {' '.join(forms)}    {arguments}"


def _argument(argument: Pointer | Size | Number) -> str:
    if isinstance(argument, Pointer):
        space = f"{argument.space}{argument.group}" if argument.space == "cache" else argument.space
        return f"{argument.access} {space} {argument.offset}+{argument.nbytes}"
    if isinstance(argument, Size):
        return argument.extent.symbol or str(argument.extent.scale)
    return str(argument.value)
