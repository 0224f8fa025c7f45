"""Counters, histograms and rates of an engine."""

import random
import re
import subprocess
import sys
import threading
from pathlib import Path
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llmc.runtime.engine.metrics import counters as metrics
from llmc.runtime.engine.metrics.counters import EngineCounters, Gauges, Histogram
from llmc.runtime.engine.request import Request, Timings

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parents[4]
IDLE = Gauges(running=0, waiting=0, cache_used=0, cache_cached=0, cache_total=10)


def request(reason=None, **timings: float) -> Request:
    made = Request((1, 2, 3), 4, timings=Timings(**timings))
    made.finish_reason = reason
    made.cached_tokens = 2
    return made


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(1, 5)), max_size=50))
def test_a_histogram_counts_each_value_in_its_bucket(values):
    bounds = (0.5, 1.0, 10.0)
    histogram = Histogram(bounds)
    for value, count in values:
        histogram.observe(value, count)
    for upper, seen in zip(
        [*bounds, float("inf")],
        [sum(histogram.counts[: i + 1]) for i in range(4)],
        strict=True,
    ):
        assert seen == sum(n for v, n in values if v <= upper)
    assert histogram.count == sum(n for _, n in values)
    assert histogram.sum == pytest.approx(sum(v * n for v, n in values))


def test_quantiles_are_of_the_last_values():
    histogram = Histogram((1.0,))
    assert histogram.quantiles(0.5, 0.99) == [0.0, 0.0]
    values = [random.Random(0).random() * 100 for _ in range(10)]
    for value in values:
        histogram.observe(value)
    assert histogram.quantiles(0.0, 1.0) == [min(values), max(values)]
    for _ in range(512):
        histogram.observe(7.0)
    assert histogram.quantiles(0.0, 0.5, 1.0) == [7.0, 7.0, 7.0]
    assert len(histogram.recent) == 512


def test_the_life_of_a_request_is_counted():
    counters = EngineCounters()
    done = request("stop", arrived=10.0, scheduled=10.5, first_token=12.0, finished=20.0)
    counters.added(done)
    counters.scheduled(done)
    counters.first_token(done)
    counters.finished(done)
    counters.preempted()
    counters.inter_token(0.02, 3)
    shot = counters.snapshot(IDLE)
    assert shot["requests_added"] == 1
    assert shot["requests_finished"] == {
        "stop": 1, "length": 0, "aborted": 0, "timeout": 0, "error": 0,
    }  # fmt: skip
    assert (shot["prompt_tokens"], shot["cached_tokens"], shot["preemptions"]) == (3, 2, 1)
    assert shot["latency"]["queue"]["p50"] == 0.5
    assert shot["latency"]["ttft"]["p99"] == 2.0
    assert shot["latency"]["request"]["p90"] == 10.0
    assert counters.inter_token_seconds.count == 3
    assert shot["cache_total"] == 10


def test_rates_are_of_the_last_seconds_and_fall_to_zero(monkeypatch):
    now = 100.0
    monkeypatch.setattr(metrics, "monotonic", lambda: now)
    counters = EngineCounters()
    now += 3600  # idle for an hour: the rate isn't spread over it
    counters.added(request())
    for _ in range(50):
        counters.tokens(4)
        now += 0.1
        counters.step(0.1, 4, 4)
    assert counters.rates()["generated_tokens_per_s"] == pytest.approx(40, rel=0.02)
    assert counters.rates()["steps_per_s"] == pytest.approx(10, rel=0.02)
    now += 8
    assert 0 < counters.rates()["generated_tokens_per_s"] < 40
    now += 10
    assert set(counters.rates().values()) == {0.0}
    assert counters.snapshot(IDLE)["uptime"] == pytest.approx(3623)


def test_reading_while_it_is_written():
    """Copies of what a writer changes meanwhile never fail, and never lose a value."""
    counters = EngineCounters()
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            counters.step(0.001, 5, 5)
            counters.inter_token(0.001, 5)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = [counters.snapshot(IDLE)["steps"] for _ in range(300)]
    finally:
        stop.set()
        writer.join()
    assert seen == sorted(seen)
    assert counters.step_seconds.count == counters.steps


def test_a_step_costs_microseconds():
    counters = EngineCounters()
    began = perf_counter()
    for _ in range(2000):
        counters.step(0.01, 64, 64)
        counters.tokens(64)
        counters.inter_token(0.01, 64)
    assert (perf_counter() - began) / 2000 < 100e-6  # 3 on an idle machine


def test_counting_imports_nothing_heavy():
    script = (
        "import sys, llmc.runtime.engine.metrics.counters as m; m.EngineCounters()\n"
        "print(sorted({'numpy', 'prometheus_client', 'logging'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# ---- Prometheus


@pytest.fixture
def scrape(toy):
    """A model that has worked, and the samples that Prometheus reads of it."""
    parser = pytest.importorskip("prometheus_client.parser")
    from llmc.runtime.api.model import Model
    from llmc.server.ops.prometheus import EngineCollector
    from prometheus_client import CollectorRegistry, generate_latest

    model = Model(toy())
    registry = CollectorRegistry()
    registry.register(EngineCollector({"a toy": model}.items))

    def scrape() -> dict[str, dict[tuple[str, ...], float]]:
        found: dict[str, dict[tuple[str, ...], float]] = {}
        text = generate_latest(registry).decode()
        for family in parser.text_string_to_metric_families(text):
            for sample in family.samples:
                labels = dict(sample.labels)
                assert labels.pop("model") == "a toy"
                found.setdefault(sample.name, {})[tuple(labels.values())] = sample.value
        return found

    with model:
        yield model, scrape


def test_prometheus_reads_what_happened(scrape):
    model, read = scrape
    before = read()
    assert set(before["llmc_requests_total"].values()) == {0}
    assert before["llmc_cache_blocks"] == {("used",): 0, ("cached",): 0, ("free",): 64}
    prompt = list(range(40))
    for _ in range(2):
        assert len([t for c in model.generate(prompt, max_tokens=10) for t in c.token_ids]) == 10
    model.generate(prompt, max_tokens=10).close()
    with model.thread.paused():
        after = read()
    assert after["llmc_requests_total"][("length",)] == 2
    assert after["llmc_requests_total"][("aborted",)] == 1
    assert after["llmc_generated_tokens_total"][()] >= 20
    assert after["llmc_prompt_tokens_total"][()] >= 80
    assert after["llmc_cached_prompt_tokens_total"][()] >= 32, "the second prompt is the first"
    assert after["llmc_steps_total"][()] == after["llmc_step_seconds_count"][()] >= 20
    assert after["llmc_time_to_first_token_seconds_count"][()] >= 2
    assert after["llmc_inter_token_seconds_count"][()] >= 18
    assert after["llmc_request_seconds_count"][()] == 3
    buckets = list(after["llmc_queue_seconds_bucket"].values())
    assert buckets == sorted(buckets)
    assert buckets[-1] == after["llmc_queue_seconds_count"][()]
    assert after["llmc_requests_running"][()] == 0
    assert sum(after["llmc_cache_blocks"].values()) == 64
    assert after["llmc_cache_blocks"][("cached",)] > 0
    assert 0 < after["llmc_uptime_seconds"][()] < 600


def test_the_reference_names_every_metric():
    from llmc.server.ops.prometheus import METRICS

    page = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `llmc_")]
    assert rows == [
        f"| `{m.name}` | {m.kind} | {f'`{m.label}` ' if m.label else ''}| {m.help} |"
        for m in METRICS
    ]
    assert set(metrics.REASONS) <= set(re.findall(r"`(\w+)`", page))
