"""The engines' counters as Prometheus metrics.

    registry.register(EngineCollector({"smol": model}.items))
    text = prometheus_client.generate_latest(registry)

In: models by name, asked for anew at every scrape. Out: the metrics of `METRICS`, each with the
label `model`. Everything is read where the engine keeps it; between scrapes this costs nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from msgspec.structs import asdict
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from ...runtime.engine.metrics.counters import EngineCounters, Gauges, Histogram

if TYPE_CHECKING:
    from ...runtime.api.model import Model


class Metric(NamedTuple):
    """`read`: from counters and gauges to a number, numbers by label value, or a histogram."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    read: Callable[[EngineCounters, Gauges], Any]
    label: str = ""
    """The label besides `model`, if there is one."""


METRICS = (
    Metric(
        "llmc_requests_total",
        "counter",
        "Requests that have ended, by reason.",
        lambda counters, gauges: counters.requests_finished,
        "reason",
    ),
    Metric(
        "llmc_prompt_tokens_total",
        "counter",
        "Tokens of the prompts that were begun, cached ones included.",
        lambda counters, gauges: counters.prompt_tokens,
    ),
    Metric(
        "llmc_cached_prompt_tokens_total",
        "counter",
        "Prompt tokens that were found in the prefix cache.",
        lambda counters, gauges: counters.cached_tokens,
    ),
    Metric(
        "llmc_generated_tokens_total",
        "counter",
        "Tokens that were generated.",
        lambda counters, gauges: counters.generated_tokens,
    ),
    Metric(
        "llmc_preemptions_total",
        "counter",
        "Times that a running request gave its cache blocks to an older one.",
        lambda counters, gauges: counters.preemptions,
    ),
    Metric(
        "llmc_steps_total",
        "counter",
        "Steps of the program.",
        lambda counters, gauges: counters.steps,
    ),
    Metric(
        "llmc_step_seconds",
        "histogram",
        "How long a step of the program takes.",
        lambda counters, gauges: counters.step_seconds,
    ),
    Metric(
        "llmc_step_tokens",
        "histogram",
        "Query tokens of a step: one of each decoding request, and of prompts what fits.",
        lambda counters, gauges: counters.step_tokens,
    ),
    Metric(
        "llmc_step_requests",
        "histogram",
        "Requests that share a step.",
        lambda counters, gauges: counters.step_sequences,
    ),
    Metric(
        "llmc_queue_seconds",
        "histogram",
        "From the arrival of a request to its first step.",
        lambda counters, gauges: counters.queue_seconds,
    ),
    Metric(
        "llmc_time_to_first_token_seconds",
        "histogram",
        "From the arrival of a request to its first token.",
        lambda counters, gauges: counters.ttft_seconds,
    ),
    Metric(
        "llmc_inter_token_seconds",
        "histogram",
        "Between two consecutive tokens of a request.",
        lambda counters, gauges: counters.inter_token_seconds,
    ),
    Metric(
        "llmc_request_seconds",
        "histogram",
        "From the arrival of a request to its end, however it ended.",
        lambda counters, gauges: counters.request_seconds,
    ),
    Metric(
        "llmc_requests_running",
        "gauge",
        "Requests that take part in steps.",
        lambda counters, gauges: gauges.running,
    ),
    Metric(
        "llmc_requests_waiting",
        "gauge",
        "Requests that wait for a place or for cache blocks.",
        lambda counters, gauges: gauges.waiting,
    ),
    Metric(
        "llmc_cache_blocks",
        "gauge",
        "Cache blocks: used by requests, cached (a prefix nobody uses now), or free.",
        lambda counters, gauges: {
            "used": gauges.cache_used,
            "cached": gauges.cache_cached,
            "free": gauges.cache_total - gauges.cache_used - gauges.cache_cached,
        },
        "state",
    ),
    Metric(
        "llmc_state_slots",
        "gauge",
        "Slots of state: used by requests, snapshots (of a prefix nobody uses now), or free.",
        lambda counters, gauges: {
            "used": gauges.state_used,
            "snapshot": gauges.state_snapshots,
            "free": gauges.state_total - gauges.state_used - gauges.state_snapshots,
        },
        "state",
    ),
    Metric(
        "llmc_snapshots_total",
        "counter",
        "Snapshots of state: taken, gone on from (used), or given up for their slots (evicted).",
        lambda counters, gauges: asdict(counters.snapshots),
        "event",
    ),
    Metric(
        "llmc_uptime_seconds",
        "gauge",
        "Since the model was loaded.",
        lambda counters, gauges: monotonic() - counters.started,
    ),
)
"""Every metric of an engine, in the order of `docs/metrics.md`."""

_FAMILIES = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


class EngineCollector(Collector):
    """Reads the engines at each scrape. `models`: gives (name, model) pairs."""

    def __init__(self, models: Callable[[], Iterable[tuple[str, "Model"]]]) -> None:
        self._models = models

    def describe(self) -> list[Any]:
        """Nothing: so that registering doesn't read the engines."""
        return []

    def collect(self) -> Iterator[Any]:
        """One family for each metric, with the samples of all models."""
        engines = [
            (name, model.engine.counters, model.engine.gauges()) for name, model in self._models()
        ]
        for metric in METRICS:
            labels = ["model", *([metric.label] if metric.label else [])]
            family: Any = _FAMILIES[metric.kind](metric.name, metric.help, labels=labels)
            for name, counters, gauges in engines:
                _add(family, name, metric.read(counters, gauges))
            yield family


def _add(family: Any, model: str, value: Any) -> None:
    if isinstance(value, Histogram):
        counts, total, buckets = list(value.counts), 0, []
        for bound, count in zip((*value.bounds, float("inf")), counts, strict=True):
            total += count
            buckets.append((floatToGoString(bound), total))
        family.add_metric([model], buckets, sum_value=value.sum)
    elif isinstance(value, dict):
        for label, number in value.items():
            family.add_metric([model, label], number)
    else:
        family.add_metric([model], value)
