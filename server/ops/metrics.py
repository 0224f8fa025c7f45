"""`/metrics`: what the engines count, in Prometheus' text format, and what the server refused."""

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from ..served_models import Catalog
from ..server_state import state_of
from .prometheus import EngineCollector


class ServerCollector(Collector):
    """What only the server knows."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def collect(self) -> Iterator[Any]:
        """One family for each metric."""
        refused = CounterMetricFamily(
            "llmc_refused_requests_total",
            "Requests that were refused because too many were running and waiting.",
            labels=["model"],
        )
        capacity = GaugeMetricFamily(
            "llmc_capacity_sequences",
            "Sequences of the longest context that the cache holds at once.",
            labels=["model"],
        )
        for served in self._catalog:
            refused.add_metric([served.name], served.refused)
            capacity.add_metric([served.name], served.capacity.sequences)
        yield refused
        yield capacity


def registry_of(catalog: Catalog) -> CollectorRegistry:
    """All metrics of a server."""
    registry = CollectorRegistry()
    registry.register(EngineCollector(lambda: ((one.name, one.model) for one in catalog)))
    registry.register(ServerCollector(catalog))
    return registry


async def metrics(http: Request) -> Response:
    """Metrics of all models."""
    text = generate_latest(registry_of(state_of(http).catalog))
    return Response(text, media_type=CONTENT_TYPE_LATEST)
