"""What is known of the state slots of a program: which position each stands at.

In: the slots that steps bring, and copies. Out: E0100 where a sequence would go on from a state
that isn't its own. Part of the border of native code, as `InputCheck` is for everything else.
"""

from collections.abc import Sequence

from ..base.errors import LlmcError


class CheckedSlots:
    """What is known of each slot: how many tokens it has seen, -1 where that is nobody's business.

    The border of native code, as `InputCheck` is for everything else.
    """

    __slots__ = ("_positions",)

    def __init__(self, slots: int) -> None:
        self._positions = [-1] * slots

    def check(self, slots: Sequence[int], firsts: Sequence[int], lengths: Sequence[int]) -> None:
        """Raises E0100 unless each sequence has a slot of its own that stands at its first query
        position, or begins; then notes the `lengths` that they will have."""
        positions = self._positions
        if len(slots) != len(lengths) or len({*slots}) != len(slots):
            raise _wrong("each sequence needs a state slot of its own")
        if slots and (min(slots) < 0 or max(slots) >= len(positions)):
            raise _wrong("a state slot is out of range")
        for slot, first in zip(slots, firsts, strict=True):
            if first and positions[slot] != first:
                raise _wrong(f"state slot {slot} stands at {positions[slot]}, not at {first}")
        for slot, length in zip(slots, lengths, strict=True):
            positions[slot] = length

    def copied(self, source: int, target: int) -> None:
        """Notes that a slot holds what another one does."""
        self._positions[target] = self._positions[source]


def _wrong(cause: str) -> LlmcError:
    return LlmcError("LLMC-E0100", f"step inputs: {cause}")
