"""Follows the output of a request under its grammar, and gives the masks of what may come next.

In: tokens, one after the other. Out: for each next one a mask, which threads compute while the
program runs. The work is llguidance's, with the GIL released.
"""

import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from ....base.errors import LlmcError
from ...executors.native_memory import address_of
from ...text.grammar_limits import refused

if TYPE_CHECKING:
    from llguidance import LLMatcher

MAX_MASK_SECONDS = 2.0
"""A request whose mask takes longer during generation ends with an error."""


class Matcher:
    """Follows one output. `mask` and `accept` raise E0211, after which it is of no more use."""

    def __init__(self, matcher: "LLMatcher", words: int) -> None:
        self._matcher = matcher
        self._mask = memoryview(bytearray(4 * words))
        self._address = address_of(self._mask)
        self._ready = False
        self._job: Future[None] | None = None

    def start(self, workers: ThreadPoolExecutor) -> None:
        """Begins to compute the mask of the next token, if it isn't known."""
        if not self._ready and self._job is None:
            self._job = workers.submit(self._compute)

    def mask(self) -> memoryview:
        """Bit i: whether token i may come next. Valid until the next token is accepted."""
        job, self._job = self._job, None
        if job is not None:
            try:
                job.result(MAX_MASK_SECONDS)
            except TimeoutError:
                if not job.cancel():
                    raise refused("the grammar takes too long to follow") from None
        if not self._ready:  # nobody began
            self._compute()
        return self._mask

    def _compute(self) -> None:
        try:
            self._matcher.unsafe_compute_mask_ptr(self._address, self._mask.nbytes)
        except BaseException as error:
            raise unless_stopping(error) from error
        self._check()
        self._ready = True

    def accept(self, token: int) -> bool:
        """Notes that `token` came. True if the output is complete and nothing more may come."""
        self._ready = False
        self._matcher.consume_token(token)
        self._check()
        return self._matcher.is_stopped()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise refused(brief(self._matcher.get_error()))


class MaskWorkers:
    """A few threads that compute masks while the program runs."""

    def __init__(self) -> None:
        count = max(1, min(4, (os.cpu_count() or 1) - 1))
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="llmc-grammar")

    def start(self, matchers: Iterable[Matcher]) -> None:
        """Begins with the masks of these."""
        for matcher in matchers:
            matcher.start(self._pool)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def unless_stopping(error: BaseException) -> BaseException:
    """What to raise for whatever came out of llguidance: E0211, unless somebody wants to stop."""
    stopping = isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit | LlmcError)
    return error if stopping else refused(brief(str(error)))


def brief(message: str) -> str:
    """The first lines of a message of llguidance."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return "; ".join(lines[:3])[:300] or "it can't be compiled"
