"""An endpoint is its file and a row of the table: here is one that no other file knows."""

import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from annotated_types import Ge, Gt, Le, Lt
from llmc.runtime.api.generation_options import RequestOptions
from llmc.runtime.engine.sampling.parameters import SamplingParams
from llmc.server.api.generating_endpoint import Asked, generate
from llmc.server.api.protocol.generation_fields import GenerationBody, Sampling
from llmc.server.api.running_requests import Running
from llmc.server.api.sampling_fields import options_of
from llmc.server.app import create_app
from llmc.server.config import ServerConfig
from llmc.server.connection.api_keys import ApiKeys
from llmc.server.connection.error_objects import RequestError
from llmc.server.connection.server_sent_events import event
from llmc.server.routes import ROUTES, STREAMED, Route
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient


class PlainBody(GenerationBody):
    """What the toy endpoint is asked."""

    text: Annotated[str, Field(min_length=1)]
    length: int = 8


class OneText:
    """One prompt, spelled by the model's tokenizer."""

    def __init__(self, served: Any, text: str) -> None:
        self.served, self.text = served, text

    async def prepare(self, options: RequestOptions) -> list[list[int]]:
        return [self.served.model.tokenizer.encode(self.text, add_special_tokens=False)]


def read(body: PlainBody, served: Any, config: ServerConfig) -> Asked[OneText]:
    return Asked(OneText(served, body.text), body.length)


class PlainAnswer:
    """The text, with what it continues before it."""

    def __init__(self, body: PlainBody, running: Running, prompts: OneText) -> None:
        self.running, self.prompts = running, prompts

    async def whole(self) -> dict[str, Any]:
        return {"text": self.prompts.text + (await self.running.texts())[0]}

    async def events(self) -> AsyncIterator[bytes]:
        yield event(self.prompts.text)
        async for _, delta in self.running.deltas():
            yield event(delta.text)


async def plain(http: Request) -> Response:
    """Continues a text."""
    return await generate(http, PlainBody, read, PlainAnswer)


ROW = Route("POST", "/v1/plain", plain, "Continue a text", STREAMED, PlainBody)


def test_an_endpoint_is_a_file_and_a_row(toy_model: Any) -> None:
    model = toy_model()
    app = create_app({"toy": model}, ServerConfig(), ApiKeys(), (*ROUTES, ROW))
    body = {"text": "ab", "temperature": 0, "ignore_eos": True}
    expected = "ab" + "".join(
        chunk.text for chunk in model.generate("ab", raw=True, max_tokens=8, ignore_eos=True)
    )
    client = TestClient(app)
    assert client.post("/v1/plain", json=body).json() == {"text": expected}
    streamed = client.post("/v1/plain", json={**body, "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    pieces = [json.loads(line[6:]) for line in streamed.text.split("\n\n") if line]
    assert "".join(pieces) == expected
    assert len(pieces) > 2
    refused = client.post("/v1/plain", json={**body, "stop": ""}).json()["error"]
    assert (refused["code"], refused["param"]) == ("LLMC-E0205", "stop")
    document = client.get("/openapi.json").json()
    told = document["paths"]["/v1/plain"]["post"]
    assert (told["summary"], told["description"]) == ("Continue a text", "Continues a text.")
    assert sorted(told["responses"]["200"]["content"]) == sorted(STREAMED)
    assert document["components"]["schemas"]["PlainBody"]["required"] == ["text"]
    model.close()


@pytest.fixture
def served(toy_model: Any) -> Any:
    model = toy_model()
    yield SimpleNamespace(model=model)
    model.close()


SETTINGS = ServerConfig()


def asked(served: Any, config: ServerConfig = SETTINGS, **fields: Any) -> RequestOptions:
    return options_of(Sampling.model_validate(fields), served, config, "key")


def limits(name: str) -> list[float]:
    """The smallest and the largest value that a field may have."""
    found: list[Any] = []
    for part in Sampling.model_fields[name].annotation.__args__:  # type: ignore[union-attr]
        for field in getattr(part, "__metadata__", ()):
            for bound in field.metadata:
                match bound:
                    case Ge(ge=value) | Le(le=value):
                        found.append(value)
                    case Gt(gt=value):
                        found.append(float(str(value)) + 1e-6)
                    case Lt(lt=value):
                        found.append(int(str(value)) - 1)
    return found


NUMBERS = [name for name in Sampling.model_fields if limits(name) and name != "timeout"]


@pytest.mark.parametrize("name", NUMBERS)
def test_what_a_field_may_be_an_option_may_be(name: str, served: Any) -> None:
    """Bounds of the schema lie within those of the one place that checks options."""
    assert len(NUMBERS) >= 11
    for value in limits(name):
        said: dict[str, Any] = {name: value}
        assert isinstance(asked(served, **said).params, SamplingParams)


def test_fields_win_over_the_author_and_the_author_over_openai(served: Any) -> None:
    served.model.generation = SimpleNamespace(
        temperature=0.3, top_k=7, top_p=None, min_p=None, repetition_penalty=1.1
    )
    params = asked(served, top_k=-1).params
    assert (params.temperature, params.top_k, params.repetition_penalty) == (0.3, 0, 1.1)
    neutral = asked(served, ServerConfig(sampling_defaults="neutral"), top_p=0, seed=-1).params
    assert (neutral.temperature, neutral.top_k, neutral.top_p) == (1.0, 0, 1e-9)
    assert neutral.seed == 2**64 - 1


def test_what_is_wrong_with_an_option_names_the_field(served: Any) -> None:
    for field, value, identifier in (
        ("stop", ["a", ""], "LLMC-E0205"),
        ("logit_bias", {"x": 1}, "LLMC-E0205"),
        ("logit_bias", {"999999": 1}, "LLMC-E0208"),
    ):
        wrong: dict[str, Any] = {field: value}
        with pytest.raises(RequestError) as refused:
            asked(served, **wrong)
        assert (refused.value.id, refused.value.param) == (identifier, field)
