"""The server held to its own OpenAPI document: whatever is sent, the answer is one of those."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from llmc.server.app import create_app
from llmc.server.config import ServerConfig
from llmc.server.connection.api_keys import ApiKeys
from llmc.server.routes import ROUTES
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi import checks


@pytest.fixture(scope="module")
def app_schema(toy_model: Any) -> Iterator[Any]:
    model = toy_model()
    config = ServerConfig(max_output_tokens=4, max_n=4, request_timeout=5)
    app = create_app({"toy": model}, config, ApiKeys())
    load_all_checks()
    yield schemathesis.openapi.from_asgi("/openapi.json", app)
    assert not model.engine.has_work
    assert model.engine.gauges().cache_used == 0
    assert app.state.llmc.catalog.sequences == 0
    model.close()


TOO_LONG = "LLMC-E0223"
"""A request may give itself less time than it takes."""
OPERATIONS = [
    (route.method, route.path, mode)
    for route in ROUTES
    for mode in (("positive",) if route.body is None else ("positive", "negative"))
]


@pytest.mark.parametrize(("method", "path", "mode"), OPERATIONS, ids=str)
def test_every_answer_is_documented(app_schema: Any, method: str, path: str, mode: str) -> None:
    operation = app_schema[path][method]
    cases = operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode))

    @given(case=cases)
    @settings(
        max_examples=40 if method == "POST" else 3,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.filter_too_much),
    )
    def check(case: Any) -> None:
        answer = case.call()
        case.validate_response(
            answer,
            checks=[
                checks.status_code_conformance,
                checks.content_type_conformance,
                checks.response_schema_conformance,
            ],
        )
        assert answer.status_code < 500 or answer.json()["error"]["code"] == TOO_LONG
        assert "Traceback" not in answer.text

    check()
