"""Requests as OpenTelemetry spans, for who asks for them.

    model.thread.observe(RequestTracer(trace.get_tracer("my-app"), "my-model"))

Each request becomes a span with up to three children: `queue` (until its first step), `prefill`
(until its first token) and `decode`. Its parent is the span that was current where the request was
submitted. The spans are made when the request has ended, from the times that the engine keeps
anyway; a processor that exports in the background (`BatchSpanProcessor`) keeps that from the
engine's thread. Attributes have the names of OpenTelemetry's conventions for generative AI, 1.37.
"""

from time import monotonic_ns, time_ns
from typing import TYPE_CHECKING, Any

from ....base.errors import LlmcError
from ..request import Request

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

_OPERATION = "text_completion"


class RequestTracer:
    """Makes the spans of one engine's requests. `model`: the name that the spans carry. E0703
    without the package opentelemetry-api."""

    def __init__(self, tracer: "Tracer", model: str) -> None:
        try:
            from opentelemetry import context, trace
        except ImportError as error:
            raise LlmcError(
                "LLMC-E0703",
                "tracing needs the package opentelemetry-api, which isn't installed",
                hint="pip install opentelemetry-sdk",
            ) from error
        self._tracer, self._model = tracer, model
        self._current_context = context.get_current
        self._api = trace
        self._contexts: dict[Request, Context] = {}

    def submitted(self, request: Request) -> None:
        """On the submitting thread: remembers what the request belongs to."""
        self._contexts[request] = self._current_context()

    def refused(self, request: Request) -> None:
        """It was not submitted after all."""
        self._contexts.pop(request, None)

    def finished(self, request: Request) -> None:
        """On the engine's thread: makes the spans of a request that has ended."""
        to_wall = time_ns() - monotonic_ns()
        times, parent = request.timings, self._contexts.pop(request, None)

        def wall(moment: float) -> int:
            return int(moment * 1e9) + to_wall

        span = self._tracer.start_span(
            f"{_OPERATION} {self._model}",
            context=parent,
            start_time=wall(times.arrived),
            attributes=self._attributes(request),
        )
        if request.error is not None:
            span.set_attribute("error.type", request.error.id)
            status = self._api.Status(self._api.StatusCode.ERROR, str(request.error))
            span.set_status(status)
        inside = self._api.set_span_in_context(span, parent)
        moments = [times.arrived, times.scheduled, times.first_token, times.finished]
        for index, phase in enumerate(("queue", "prefill", "decode")):
            if not moments[index]:
                break
            end = moments[index + 1] or times.finished
            child = self._tracer.start_span(phase, inside, start_time=wall(moments[index]))
            child.end(wall(end))
        span.end(wall(times.finished))

    def _attributes(self, request: Request) -> dict[str, Any]:
        params, times = request.params, request.timings
        found = {
            "gen_ai.operation.name": _OPERATION,
            "gen_ai.provider.name": "llmc",
            "gen_ai.request.model": self._model,
            "gen_ai.response.model": self._model,
            "gen_ai.request.max_tokens": request.max_tokens,
            "gen_ai.request.temperature": params.temperature,
            "gen_ai.request.top_p": params.top_p,
            "gen_ai.request.top_k": params.top_k,
            "gen_ai.request.frequency_penalty": params.frequency_penalty,
            "gen_ai.request.presence_penalty": params.presence_penalty,
            "gen_ai.usage.input_tokens": len(request.prompt),
            "gen_ai.usage.cache_read.input_tokens": request.cached_tokens,
            "gen_ai.usage.output_tokens": len(request.output),
            "gen_ai.response.finish_reasons": [request.finish_reason or "aborted"],
        }
        if params.seed is not None and params.seed < 2**63:  # attributes are signed
            found["gen_ai.request.seed"] = params.seed
        if times.first_token:
            found["gen_ai.response.time_to_first_chunk"] = times.first_token - times.arrived
        return found
