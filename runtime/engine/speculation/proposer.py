"""What guesses how sequences go on. One file a proposer, beside this one.

A wrong guess costs a query token and a row of logits of one step, never the text: see
`verification.py`.
"""

from collections.abc import Sequence as SequenceOf
from typing import Protocol

from ....artifact.program import Program
from ....artifact.stateful_program import keeps_state
from ..schedule.sequence import Sequence


class Proposer(Protocol):
    """Is asked before each step, on the engine's thread, for those that decode and may draft."""

    def propose(
        self, sequences: SequenceOf[Sequence], most: SequenceOf[int]
    ) -> SequenceOf[SequenceOf[int]]:
        """For each sequence the ids that may follow its `tokens`, at most `most[i]` of them (more
        are cut off), none where there is no good guess. Ids of the program's vocabulary. May keep
        what it likes about a sequence, whose tokens only grow, and changes nothing of it."""
        ...

    def finished(self, sequence: Sequence) -> None:
        """A sequence has ended, with these tokens; it may never have been asked about."""
        ...


def usable_proposer(proposer: Proposer | None, program: Program) -> Proposer | None:
    """The proposer, if its drafts can be of use. A program of uniform steps would have to widen
    everybody's for one sequence's, and state can't go back to where it was before a wrong one."""
    if proposer is not None and keeps_state(program):
        from logging import getLogger  # imported here: it takes longer than all of the engine

        getLogger("llmc.engine").warning(
            "the program keeps state that a wrong draft would spoil: nothing is drafted"
        )
        return None
    return None if program.limits.uniform_query else proposer
