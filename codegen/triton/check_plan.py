"""Proves that a launch plan has no races, and that every byte is written before it is read.

In: a `LaunchPlan`, and the sizes of its spaces. Out: nothing, or LLMC-E0103 with the launches and
the bytes. It knows nothing of graphs or buffers: it looks at what the GPU will be told.

What is proven, in each form:
- pointers stay within their spaces, and only arena, cache and `kept` are written;
- of two launches that may run at the same time, neither writes what the other touches;
- what is read from the arena was written earlier in the step, and all of it as one value:
  pointers reach to the end of a value, so what was written must end where the read ends. A value
  that was overwritten while it was still needed, or a wrong offset, is found by that.

Launches run in order. One whose kernel `overlaps` may begin while those before it run, back to the
last that doesn't overlap; until it waits for them it reads its `early` arguments only. So a launch
is two nodes of a `networkx.DiGraph`: its early and its main part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import networkx as nx

from ...artifact.launch_plan import NO_KERNEL, Launch, LaunchPlan, Pointer
from ...base.errors import LlmcError
from .written_bytes import Span, WrittenBytes

Part = tuple[int, Literal["early", "main"]]
"""A node: the launch's number, and which part of it."""

_WRITABLE = ("arena", "cache", "kept")


@dataclass(frozen=True)
class Touch:
    """A node reads or writes bytes [start, end) of `place`."""

    part: Part
    place: str
    start: int
    end: int
    writes: bool


def check_plan(
    plan: LaunchPlan,
    arena: int,
    weights: int | None = None,
    cache: Sequence[int] | None = None,
) -> None:
    """Check all forms of a plan.

    `arena`, `weights`: bytes of the spaces; `cache`: of a block of each cache group. Pointers to
    spaces whose size isn't known here may reach anywhere.

    Raises:
        LlmcError: LLMC-E0103, naming the launches and what is wrong.
    """
    launches = [*plan.launches, *plan.sampling]
    room = _room(plan, arena, weights, cache)
    for launch in launches:
        _check_pointers(launch, plan, room)
    for form, rows in enumerate(plan.forms):
        present = [i for i, it in enumerate(launches) if it.forms[form].kernel != NO_KERNEL]
        _check_values(launches, present, rows)
        order = order_of(plan, form)
        for first, second in find_races(order, list(_touches(launches, order.nodes))):
            names = f"{_name(launches, first.part[0])} and {_name(launches, second.part[0])}"
            where = f"{max(first.start, second.start)} of {first.place}"
            raise _wrong(f"{names} may run at the same time and meet at byte {where}", rows)


def order_of(plan: LaunchPlan, form: int) -> nx.DiGraph:
    """What is over before what begins: nodes are `Part`s, of the launches that the form has."""
    order = nx.DiGraph()
    before: int | None = None
    fence: int | None = None
    for index, launch in enumerate([*plan.launches, *plan.sampling]):
        number = launch.forms[form].kernel
        if number == NO_KERNEL:
            continue
        order.add_edge((index, "early"), (index, "main"))
        if before is not None:
            order.add_edge((before, "main"), (index, "main"))
        if not plan.kernels[number].overlaps:
            fence = before
        if fence is not None:
            order.add_edge((fence, "main"), (index, "early"))
        before = index
    return order


def find_races(order: nx.DiGraph, touches: Sequence[Touch]) -> Iterator[tuple[Touch, Touch]]:
    """Pairs of touches of the same bytes, one of them a write, that no path orders.

    One sweep over the bytes of each place: which nodes are reading and writing there is a set of
    bits, and so is which nodes may run beside one.
    """
    beside = _beside(order)
    by_place: dict[str, list[Touch]] = {}
    for touch in touches:
        by_place.setdefault(touch.place, []).append(touch)
    for of_place in by_place.values():
        if any(touch.writes for touch in of_place):
            yield from _sweep(of_place, beside)


@dataclass(frozen=True)
class _Beside:
    """`bit` of each node, and the bits of those that may run beside it."""

    bit: Mapping[Part, int]
    mask: Mapping[Part, int]


def _beside(order: nx.DiGraph) -> _Beside:
    sequence = list(nx.topological_sort(order))
    bit = {part: 1 << index for index, part in enumerate(sequence)}
    behind, ahead = dict.fromkeys(sequence, 0), dict.fromkeys(sequence, 0)
    for part in reversed(sequence):
        for successor in order.successors(part):
            behind[part] |= behind[successor] | bit[successor]
    for part in sequence:
        for predecessor in order.predecessors(part):
            ahead[part] |= ahead[predecessor] | bit[predecessor]
    every = (1 << len(sequence)) - 1
    mask = {part: every & ~(behind[part] | ahead[part] | bit[part]) for part in sequence}
    return _Beside(bit, mask)


def _sweep(touches: Sequence[Touch], beside: _Beside) -> Iterator[tuple[Touch, Touch]]:
    # At the same byte, ends come before beginnings: ranges are half open.
    events = sorted(
        [(touch.start, 1, index) for index, touch in enumerate(touches)]
        + [(touch.end, 0, index) for index, touch in enumerate(touches)]
    )
    open_now: dict[int, Touch] = {}
    bits = {True: _Counted(), False: _Counted()}
    for _, begins, index in events:
        touch = touches[index]
        bit = beside.bit[touch.part]
        if not begins:
            del open_now[index]
            bits[touch.writes].remove(bit)
            continue
        others = bits[True].bits | (bits[False].bits if touch.writes else 0)
        if others & beside.mask[touch.part]:
            yield from _pairs(touch, open_now.values(), beside)
        open_now[index] = touch
        bits[touch.writes].add(bit)


def _pairs(touch: Touch, others: Iterable[Touch], beside: _Beside) -> Iterator[tuple[Touch, Touch]]:
    for other in others:
        unordered = beside.bit[other.part] & beside.mask[touch.part]
        if unordered and (touch.writes or other.writes):
            yield other, touch


class _Counted:
    """A set of bits, each of which may be in it several times."""

    def __init__(self) -> None:
        self.bits = 0
        self._counts: dict[int, int] = {}

    def add(self, bit: int) -> None:
        self._counts[bit] = self._counts.get(bit, 0) + 1
        self.bits |= bit

    def remove(self, bit: int) -> None:
        self._counts[bit] -= 1
        if not self._counts[bit]:
            self.bits ^= bit


def _touches(launches: Sequence[Launch], parts: Iterable[Part]) -> Iterator[Touch]:
    for index, part in parts:
        for pointer in _pointers(launches[index]):
            # An early argument may be read later, too.
            if pointer.nbytes and (part == "main" or pointer.early):
                start, end = pointer.offset, pointer.offset + pointer.nbytes
                place, writes = _place(pointer), "w" in pointer.access
                yield Touch((index, part), place, start, end, writes)


def _room(
    plan: LaunchPlan, arena: int, weights: int | None, cache: Sequence[int] | None
) -> dict[str, int]:
    """Bytes of every place whose size is known; cache groups that don't exist have none."""
    room = {"arena": arena, "step": plan.step_bytes, "kept": plan.kept_bytes}
    if weights is not None:
        room["weights"] = weights
    if cache is None:
        return room
    launches = (*plan.launches, *plan.sampling)
    groups = {p.group for it in launches for p in _pointers(it) if p.space == "cache"}
    none = {f"cache {group}": 0 for group in groups}
    return room | none | {f"cache {group}": nbytes for group, nbytes in enumerate(cache)}


def _check_pointers(launch: Launch, plan: LaunchPlan, room: Mapping[str, int]) -> None:
    if len(launch.forms) != len(plan.forms):
        raise _wrong(f"{launch.label} has {len(launch.forms)} forms, not {len(plan.forms)}")
    numbers = [form.kernel for form in launch.forms]
    if any(number != NO_KERNEL and not 0 <= number < len(plan.kernels) for number in numbers):
        raise _wrong(f"{launch.label} has kernels {numbers} of {len(plan.kernels)}")
    for pointer in _pointers(launch):
        place, end = _place(pointer), pointer.offset + pointer.nbytes
        limit = room.get(place, end)
        if end > limit:
            raise _wrong(f"{launch.label} reaches to byte {end} of {place}, which has {limit}")
        if "w" in pointer.access and (pointer.space not in _WRITABLE or pointer.early):
            when = "before it waits" if pointer.early else "which stays as it is"
            raise _wrong(f"{launch.label} writes to {place}, {when}")


def _check_values(launches: Sequence[Launch], present: Sequence[int], rows: int) -> None:
    """Bytes of the arena, in order of the launches: those that are read, then those written."""
    written = WrittenBytes()
    for index in present:
        inside = [p for p in _pointers(launches[index]) if p.space == "arena" and p.nbytes]
        spans = [(Span(p.offset, p.offset + p.nbytes), p.access) for p in inside]
        for span, access in spans:
            why = written.unlike(span) if "r" in access else None
            if why is not None:
                what = f"reads bytes {span.start} to {span.end} of the arena"
                raise _wrong(f"{_name(launches, index)} {what}, {why}", rows)
        for span, access in spans:
            if "w" in access:
                written.write(span, _name(launches, index))


def _pointers(launch: Launch) -> list[Pointer]:
    return [argument for argument in launch.arguments if isinstance(argument, Pointer)]


def _place(pointer: Pointer) -> str:
    return f"cache {pointer.group}" if pointer.space == "cache" else pointer.space


def _name(launches: Sequence[Launch], index: int) -> str:
    return f"launch {index} ({launches[index].label})"


def _wrong(what: str, rows: int | None = None) -> LlmcError:
    form = "" if rows is None else f" for up to {rows} rows"
    return LlmcError("LLMC-E0103", f"the launch plan{form}: {what}")
