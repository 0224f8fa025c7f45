"""One sequence as the scheduler sees it: tokens, and how far they are computed."""

from typing import TypeVar

from msgspec import Struct, field

from ..cache.hold import CacheHold


class Sequence(Struct, eq=False):
    """`tokens` grow; the first `computed` of them are in the cache, which `hold` is a part of.

    `max_length` counts tokens that are ever computed: the last sampled token isn't. `key`: its
    place in the order of service (smaller first), given by the waiting queue. `wants_all_rows`:
    logits are wanted after every token that it brings, so nothing may come from the prefix cache;
    it is never so for one that decodes. `cuts`: positions at which chunks of its prompt end, since
    a snapshot of its state is taken there.
    """

    tokens: list[int]
    max_length: int
    priority: int = 0
    client: str = ""
    namespace: str = ""
    wants_all_rows: bool = False
    computed: int = 0
    cached: int = 0
    """How many of `computed` were found in the cache when it was last admitted."""
    hold: CacheHold | None = None
    key: tuple[float, int] | None = None
    cuts: list[int] = field(default_factory=list)

    @property
    def uncomputed(self) -> int:
        """Tokens that are not yet in the cache."""
        return len(self.tokens) - self.computed

    @property
    def chunk(self) -> int:
        """How many of them one step may compute, of a sequence that doesn't decode."""
        end = self.cuts[0] if self.cuts else len(self.tokens)
        return end - self.computed

    @property
    def decodes(self) -> bool:
        """Whether all but its last token is computed, so that one query token gives the next."""
        return len(self.tokens) - self.computed == 1


AnySequence = TypeVar("AnySequence", bound=Sequence)
"""What a scheduler keeps: sequences, or something that knows more."""
