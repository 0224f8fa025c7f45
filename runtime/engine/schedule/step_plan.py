"""What one step computes, as the scheduler decides it and everybody else reads it."""

from typing import Generic, NamedTuple

from msgspec import Struct

from ..cache.hold import NO_COPIES, CacheHold, Copies
from .sequence import AnySequence


class Decodes(NamedTuple):
    """Of sequences that all decode: the token that each brings, its position, and what they hold
    of the cache."""

    tokens: list[int]
    positions: list[int]
    holds: list[CacheHold]


class StepPlan(Struct, Generic[AnySequence], frozen=True):
    """Immutable: the engine executes it, nobody amends it.

    Sequence i brings `counts[i]` of its tokens from its first uncomputed one on, and behind them
    `drafts[i]`, tokens that are only guessed (no entries at all where nobody has any). Logits are
    wanted after the last `rows[i]` of both. `copies` are to be made first. `admitted`: who is here
    for the first time or again; `preempted`: how many had to go. `decoding`: how many of the
    sequences decode.
    """

    sequences: tuple[AnySequence, ...] = ()
    counts: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    drafts: tuple[tuple[int, ...], ...] = ()
    copies: Copies = NO_COPIES
    admitted: tuple[AnySequence, ...] = ()
    preempted: int = 0
    decoding: int = 0
    decodes: Decodes | None = None
    """Where it was made for sequences that all decode; there may be drafts besides."""

    @property
    def only_decodes(self) -> bool:
        """Whether every sequence brings its one token and nothing else: most steps."""
        return self.decoding == len(self.sequences) and not self.drafts

    @property
    def due(self) -> list[tuple[int, int]]:
        """Who gets a token: places in the plan, and rows of logits behind their own tokens. To be
        read before the plan is recorded as executed."""
        found, end = [], 0
        for place, sequence in enumerate(self.sequences):
            end += self.rows[place]
            if sequence.computed + self.counts[place] == len(sequence.tokens):
                drafts = len(self.drafts[place]) if self.drafts else 0
                found.append((place, end - drafts - 1))
        return found

    @property
    def drafted(self) -> int:
        """Draft tokens of all sequences."""
        return sum(map(len, self.drafts)) if self.drafts else 0

    @property
    def tokens(self) -> int:
        """T, the query tokens of the step."""
        return sum(self.counts) + self.drafted
