"""After which tokens of a text snapshots of its state are worth their slots.

In: the tokens of a prompt. Out: positions at which its chunks end, so that its state can be copied
there. Later texts mostly part from it where a turn ends: behind a system prompt, or at the end of
what a conversation had last time. Each such position costs a step of its own, about as long as one
of decoding, so none is worth it that saves a few tokens only.
"""

from collections.abc import Sequence

from msgspec import Struct


class SnapshotPlaces(Struct, frozen=True):
    """`turn_ids`: tokens that end a turn. `least`: shorter beginnings are computed again.
    `interval`: how far apart snapshots are where there are no turns. `near`: how many tokens before
    a position another snapshot makes up for one there, but never more than a twentieth of it.
    `lasting`: prompts from so many tokens on end a chunk before their last token, so that the same
    one can go on from there; of shorter ones this step would be a large part."""

    turn_ids: frozenset[int] = frozenset()
    least: int = 64
    interval: int = 1024
    near: int = 16
    lasting: int = 256

    def of(self, tokens: Sequence[int], computed: int) -> list[int]:
        """Positions behind `computed` at which chunks end: numbers of tokens, in their order."""
        turns = [
            place
            for place, token in enumerate(tokens, 1)
            if token in self.turn_ids and self.least <= place < len(tokens)
        ]
        places: list[int] = []
        for place in (*turns[:1], *turns[1:][-2:], *self._end(tokens, turns)):
            last = places[-1] if places else computed
            if place - last > min(self.near, place // 20):
                places.append(place)
        between = range(self.interval, len(tokens), self.interval)
        far = self.interval // 4
        places += [p for p in between if p > computed and all(abs(p - q) > far for q in places)]
        return sorted(places)

    def _end(self, tokens: Sequence[int], turns: list[int]) -> list[int]:
        """Where a snapshot serves who asks the same again, or goes on from all of a prompt."""
        length = len(tokens)
        if length < self.least or (turns and length - turns[-1] <= self.near):
            return []
        return [length - 1 if length >= self.lasting else length]
