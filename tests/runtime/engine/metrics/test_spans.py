"""Spans of requests, read from OpenTelemetry's own exporter for tests."""

import time

import pytest

pytest.importorskip("opentelemetry.sdk")

from llmc.base.errors import LlmcError
from llmc.runtime.api.model import Model
from llmc.runtime.engine.loop.thread import EngineThread
from llmc.runtime.engine.metrics.spans import RequestTracer
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

pytestmark = pytest.mark.fast


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider.get_tracer("test")


def traced(program, tracer) -> Model:
    model = Model(program)
    model.thread.observe(RequestTracer(tracer, "toy"))
    return model


def test_a_request_is_a_span_with_its_phases(toy, tracer, exporter):
    began = time.time_ns()
    with traced(toy(), tracer) as model:
        prompt = list(range(60))  # two steps of prefill
        list(model.generate(prompt, max_tokens=5, temperature=0.5, top_p=0.9, seed=3))
        with tracer.start_as_current_span("my call") as mine:
            stream = model.generate(prompt, max_tokens=5)
        list(stream)
    ended = time.time_ns()
    spans = exporter.get_finished_spans()
    first, second = [s for s in spans if s.name == "text_completion toy"]
    phases = [s for s in spans if s.parent and s.parent.span_id == first.context.span_id]
    assert [s.name for s in phases] == ["queue", "prefill", "decode"]
    assert began <= first.start_time == phases[0].start_time
    assert [s.end_time for s in phases[:2]] == [s.start_time for s in phases[1:]]
    assert phases[2].end_time == first.end_time <= ended
    assert all(s.start_time <= s.end_time for s in phases)
    assert first.parent is None
    assert second.parent is not None
    assert second.parent.span_id == mine.get_span_context().span_id
    attributes = dict(first.attributes)
    assert 0 < attributes.pop("gen_ai.response.time_to_first_chunk") < 60
    assert attributes == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "llmc",
        "gen_ai.request.model": "toy",
        "gen_ai.response.model": "toy",
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.top_k": 0,
        "gen_ai.request.seed": 3,
        "gen_ai.request.frequency_penalty": 0.0,
        "gen_ai.request.presence_penalty": 0.0,
        "gen_ai.usage.input_tokens": 60,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.response.finish_reasons": ("length",),
    }
    assert second.attributes["gen_ai.usage.cache_read.input_tokens"] >= 32
    assert second.attributes["gen_ai.request.temperature"] == 0


def test_a_failure_is_an_error_of_its_span(toy, tracer, exporter):
    class Failing(toy):
        def step(self, inputs):
            raise LlmcError("LLMC-E0102", "the compiled program failed (code -2)")

    with traced(Failing(), tracer) as model:
        with pytest.raises(LlmcError, match="E0102"):
            list(model.generate([1]))
        with pytest.raises(LlmcError, match="E0104"):
            model.generate([1])
    (span,) = [s for s in exporter.get_finished_spans() if s.parent is None]
    assert not span.status.is_ok
    assert span.attributes["error.type"] == "LLMC-E0102"
    names = [s.name for s in exporter.get_finished_spans() if s.parent is not None]
    assert names == ["queue", "prefill"], "it has no first token"


def test_a_failing_observer_harms_nobody(toy, caplog):
    class Broken:
        def submitted(self, request) -> None: ...
        def refused(self, request) -> None: ...
        def finished(self, request) -> None:
            raise OSError("no collector")

    model = Model(toy())
    model.thread.observe(Broken())
    assert [t for c in model.generate([4], max_tokens=4) for t in c.token_ids] == toy.greedy([4], 4)
    model.close()
    assert "no collector" in caplog.text


def test_nothing_is_kept_of_a_refused_request(toy, tracer):
    model = Model(toy())
    observer = RequestTracer(tracer, "toy")
    model.thread.observe(observer)
    model.close()
    thread: EngineThread = model.thread
    with pytest.raises(LlmcError, match="E0104"):
        thread.submit(model.make_request([1]), object())  # type: ignore[arg-type]
    assert not observer._contexts
