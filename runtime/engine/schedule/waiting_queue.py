"""Who is next: the queue of sequences that wait for a place and for blocks.

Each gets a key when it arrives, in seconds, and the smallest is next: the time of its arrival, plus
a handicap for its priority and for every request of that priority that its client has waiting. So
a higher priority overtakes who came up to so many seconds earlier, a client with a long queue of
its own lets others in between, and nobody waits forever, since later arrivals have ever larger
keys. A preempted sequence keeps its key, so it is next again.
"""

import heapq
from collections import Counter
from itertools import count
from time import monotonic
from typing import Generic

from .sequence import AnySequence, Sequence

PRIORITY_SECONDS = 10.0
"""How much earlier a request must come to make up for one level of priority."""
CLIENT_SECONDS = 0.5
"""The same for each further request of the same client in the queue."""


class WaitingQueue(Generic[AnySequence]):
    """Sequences in the order of their keys."""

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[float, int], AnySequence]] = []
        self._waiting: dict[int, AnySequence] = {}
        self._of_client: Counter[tuple[str, int]] = Counter()
        self._arrivals = count()

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, sequence: AnySequence) -> bool:
        return id(sequence) in self._waiting

    def push(self, sequence: AnySequence) -> None:
        """Adds a sequence; one that was here before takes its old place."""
        if sequence.key is None:
            handicap = sequence.priority * PRIORITY_SECONDS
            handicap += self._of_client[_account(sequence)] * CLIENT_SECONDS
            sequence.key = (monotonic() + handicap, next(self._arrivals))
        heapq.heappush(self._heap, (sequence.key, sequence))
        self._waiting[id(sequence)] = sequence
        self._of_client[_account(sequence)] += 1

    def join(self, sequence: Sequence, other: Sequence) -> None:
        """Gives a sequence that never waited the place right behind another one's."""
        assert other.key is not None
        sequence.key = (other.key[0], next(self._arrivals))

    def peek(self) -> AnySequence | None:
        """Who is next; None if nobody waits."""
        while self._heap and self._heap[0][1] not in self:
            heapq.heappop(self._heap)
        return self._heap[0][1] if self._heap else None

    def remove(self, sequence: AnySequence) -> None:
        """Takes a sequence out, wherever it stands."""
        del self._waiting[id(sequence)]
        account = _account(sequence)
        self._of_client[account] -= 1
        if not self._of_client[account]:
            del self._of_client[account]
        if len(self._heap) > 2 * len(self._waiting) + 64:  # mostly removed ones
            self._heap = [item for item in self._heap if item[1] in self]
            heapq.heapify(self._heap)


def _account(sequence: Sequence) -> tuple[str, int]:
    return sequence.client, sequence.priority
