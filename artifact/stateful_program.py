"""Programs that keep state of a fixed size for each sequence, beside cache blocks or without any.

Convolutions and recurrences remember a sequence in a *slot*. A sequence has one slot for all of
them, from its first token to its last. A slot can be copied, and the copy is a *snapshot*: from it
a sequence with the same beginning goes on at the position where it was taken.
"""

from typing import Protocol, TypeGuard

from .manifest import StateSlots
from .program import Program


class StatefulProgram(Program, Protocol):
    """A program whose steps bring `state_slots`, a slot of its own for each sequence.

    A sequence whose query tokens begin at position 0 begins with an empty state, whatever its slot
    held; others go on from where the slot stands, and E0100 refuses any other position.
    """

    @property
    def state(self) -> StateSlots: ...
    @property
    def state_slots(self) -> int:
        """How many slots there are."""
        ...

    def copy_slot(self, source: int, target: int) -> None:
        """Copies a slot to another one, with its position. Between steps only."""
        ...


def keeps_state(program: Program) -> TypeGuard[StatefulProgram]:
    """Whether steps of this program bring slots."""
    return getattr(program, "state", None) is not None
