"""A program becomes the launch plan of one machine.

In: a `Program` whose memory is planned, and the machine. Out: which kernels must be compiled
(`Kernels`), and the plan that launches them, whose cubins have no place yet: `located` gives them
one when they are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from ...artifact.launch_plan import Argument, FormLaunch, Kernel, Launch, LaunchPlan, Pointer
from ...ir.plan import MemoryPlan
from .cubins import Cubin, KernelSpec
from .machines import Machine
from .operands import Choice, Operand, PlannedLaunch
from .program import Program, total_bytes
from .traffic import terms_of

POINTER_ALIGNMENT = 16
"""Bytes: pointers to such addresses let the compiler load 16 bytes at once."""


@dataclass(frozen=True)
class MachinePlan:
    """What one machine runs. `specs[i]` becomes the plan's kernel `i`."""

    specs: tuple[KernelSpec, ...]
    plan: LaunchPlan

    def located(self, cubins: Sequence[Cubin]) -> tuple[LaunchPlan, bytes]:
        """The plan with its kernels' facts, and the bytes of the program entry."""
        kernels, entry = [], bytearray()
        for spec, cubin in zip(self.specs, cubins, strict=True):
            offset = len(entry)
            entry += cubin.data + bytes(-len(cubin.data) % POINTER_ALIGNMENT)
            kernels.append(
                Kernel(
                    label=spec.label,
                    name=cubin.name,
                    offset=offset,
                    nbytes=len(cubin.data),
                    threads=cubin.threads,
                    shared=cubin.shared,
                    parameter_bytes=cubin.parameter_bytes,
                    scratch=cubin.scratch,
                    registers=cubin.registers,
                    spill_bytes=cubin.spill_bytes,
                    overlaps=spec.pdl,
                    cooperative=spec.cooperative,
                )
            )
        return msgspec.structs.replace(self.plan, kernels=kernels), bytes(entry)


class _Specs:
    """Kernels by number, each once."""

    def __init__(self) -> None:
        self.known: dict[KernelSpec, int] = {}

    def number(
        self, launch: PlannedLaunch, choice: Choice, arguments: Iterable[Argument], machine: Machine
    ) -> int:
        types = tuple((name, operand.type) for name, operand in launch.operands.items())
        named = zip(launch.operands, arguments, strict=True)
        spec = KernelSpec(
            function=launch.function,
            source=launch.source,
            types=types,
            constants=tuple(({"PORTABLE": False} | dict(choice.constants)).items()),
            num_warps=choice.num_warps,
            num_stages=choice.num_stages,
            unaligned=tuple(name for name, argument in named if not _is_aligned(argument)),
            pdl=machine.overlaps and not choice.cooperative,
            cooperative=choice.cooperative,
        )
        return self.known.setdefault(spec, len(self.known))


def plan_for(program: Program, memory: MemoryPlan, machine: Machine) -> MachinePlan:
    """The plan of `program` on `machine`, whose kernels are still to be made."""
    specs = _Specs()

    def planned(launches: Iterable[PlannedLaunch]) -> list[Launch]:
        return [_launch(launch, program, memory, machine, specs) for launch in launches]

    launches = [
        msgspec.structs.replace(launch, traffic=terms)
        for launch, terms in zip(planned(program.launches), terms_of(program), strict=True)
    ]
    sampling = planned(program.sampling)
    kernels = [
        Kernel(
            label=spec.label,
            name=spec.function,
            offset=0,
            nbytes=0,
            threads=spec.num_warps * 32,
            overlaps=spec.pdl,
            cooperative=spec.cooperative,
        )
        for spec in specs.known
    ]
    plan = LaunchPlan(
        sm=machine.sm,
        kernels=kernels,
        forms=[form.rows for form in program.forms],
        launches=launches,
        sampling=sampling,
        step=program.step,
        step_bytes=total_bytes(program.step),
        kept=program.kept,
        kept_bytes=total_bytes(program.kept),
        columns=program.columns,
        batch_invariant=program.batch_invariant,
    )
    return MachinePlan(tuple(specs.known), plan)


def _launch(
    launch: PlannedLaunch, program: Program, memory: MemoryPlan, machine: Machine, specs: _Specs
) -> Launch:
    arguments = [_placed(operand, memory) for operand in launch.operands.values()]
    forms = []
    for form in program.forms:
        choice = launch.choose(machine, form)
        if choice is None:
            forms.append(FormLaunch())
        else:
            number = specs.number(launch, choice, arguments, machine)
            forms.append(FormLaunch(number, choice.full_grid()))
    return Launch(label=launch.label, forms=forms, arguments=arguments)


def _placed(operand: Operand, memory: MemoryPlan) -> Argument:
    """The argument with the address that the memory plan gives its buffer."""
    if not operand.buffer:
        return operand.argument
    assert isinstance(operand.argument, Pointer)
    offset = memory.placements[operand.buffer].offset + operand.argument.offset
    return msgspec.structs.replace(operand.argument, offset=offset)


def _is_aligned(argument: Argument) -> bool:
    return not isinstance(argument, Pointer) or argument.offset % POINTER_ALIGNMENT == 0
