"""A request while it waits or runs: its sequence, and what is made of the tokens that it gets.

In: one token after the other. Out: text, log-probabilities, whether the request has ended and why,
and the deltas that tell its reader.
"""

from msgspec import field

from .request import Delta, FinishReason, Request
from .sampling.request_state import SamplingState, sampling_state
from .schedule.sequence import Sequence


class Running(Sequence, eq=False, kw_only=True):
    """A request that isn't finished. `state`: None if the program's argmax is the answer."""

    request: Request
    state: SamplingState | None = None
    untold: int = 0
    """How many of the latest output ids are in no delta yet: their text isn't certain."""
    text: str = ""
    """What has become certain and is in no delta yet."""
    followers: list["Running"] = field(default_factory=list)

    @classmethod
    def of(cls, request: Request, max_length: int) -> "Running":
        """A new one, of which nothing is computed."""
        return cls(
            list(request.prompt),
            max_length,
            priority=request.priority,
            client=request.client,
            namespace=request.namespace,
            # Nothing tells about the first token, so a prompt of one needs no row at all.
            wants_all_rows=request.params.prompt_logprobs is not None and len(request.prompt) > 1,
            request=request,
            state=sampling_state(request),
        )

    def take(self, token: int) -> FinishReason | None:
        """Notes the next token. Returns why the request ends with it, None if it goes on."""
        request, state = self.request, self.state
        text, tokens = request.text, self.tokens
        tokens.append(token)
        request.output.append(token)
        self.untold += 1
        if state is not None:
            if state.error is not None:
                return self._fail(state)
            if state.last_logprob is not None:
                request.logprobs.append(state.last_logprob)
        if token in request.eos_ids:
            if text is not None and text.include_stop:
                self.text += text.push(token)
            request.stop_reason = token
            return "stop"
        if text is not None:
            self.text += text.push(token)
            if text.stopped:
                request.stop_reason = text.stop_string
                return "stop"
        if state is not None and state.ended:
            return "stop"
        if len(tokens) > self.max_length:  # it would have to be computed next
            return "length"
        return None

    def _fail(self, state: SamplingState) -> FinishReason:
        """No token could be chosen: what stands in its place means nothing."""
        self.request.error = state.error
        self.request.output.pop()
        self.tokens.pop()
        self.untold -= 1
        return "error"

    def delta(self) -> Delta | None:
        """What there is to tell; None if the text of the last tokens isn't certain yet."""
        request = self.request
        text, untold = self.text, self.untold
        if not text and request.text is not None:
            return None
        self.text, self.untold = "", 0
        output = request.output
        ids = (output[-1],) if untold == 1 else tuple(output[-untold:])
        return Delta(request, ids, text, None)

    def last_delta(self, reason: FinishReason) -> Delta:
        """What there is to tell at the end, with which the request gets its finish reason."""
        request, text = self.request, self.text
        if request.text is not None and reason in ("stop", "length"):
            text += request.text.flush()
            if request.text.stopped and request.stop_reason is None:
                reason, request.stop_reason = "stop", request.text.stop_string
        request.finish_reason = reason
        ids = tuple(request.output[len(request.output) - self.untold :])
        return Delta(request, ids, text, reason)


Taken = tuple[Running, int, FinishReason | None]
"""Who has got tokens in a step, how many, and why the request ends with the last one."""
