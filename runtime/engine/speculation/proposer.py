"""What guesses how sequences go on. One file a proposer, beside this one.

A wrong guess costs a query token and a row of logits of one step, never the text: see
`verification.py`.
"""

from collections.abc import Sequence as SequenceOf
from typing import Protocol

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
