"""What a call of `generate` says, and the requests that it becomes."""

import re
import time
from typing import Any, cast

import pytest
from llmc.runtime.api.generation_options import GenerateOptions
from llmc.runtime.api.model import Model
from llmc.runtime.engine.sampling.grammar import Grammar
from llmc.runtime.engine.sampling.parameters import SamplingParams

pytestmark = pytest.mark.fast


@pytest.fixture
def toy_model(toy, words) -> Model:
    return Model(
        toy(), tokenizer=words.json, chat_template=words.template, generation=words.generation
    )


def test_every_option_reaches_the_request(toy_model, words):
    assert set(GenerateOptions.__annotations__) >= set(SamplingParams.__struct_fields__)
    sampling = {
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.8,
        "min_p": 0.1,
        "typical_p": 0.7,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.4,
        "logit_bias": {3: 1.5},
        "min_tokens": 2,
        "seed": 9,
        "logprobs": 1,
        "prompt_logprobs": 2,
    }
    rest: dict[str, Any] = {
        "max_tokens": 7,
        "stop": "zz",
        "stop_token_ids": [4, 5],
        "priority": -1,
        "client": "me",
        "namespace": "tenant",
    }
    before = time.monotonic()
    options = {**sampling, **rest, "bad_words": ["hello", [7, 8]], "timeout": 100.0}
    (request,) = toy_model.make_requests([8, 9], **cast(Any, options))
    for name, value in sampling.items():
        assert getattr(request.params, name) == value
    hello = [toy_model.tokenizer.encode(t, add_special_tokens=False) for t in ("hello", " hello")]
    assert request.params.bad_words == (*map(tuple, hello), (7, 8))
    assert request.eos_ids == {1, 4, 5}
    assert (request.prompt, request.max_tokens) == ((8, 9), 7)
    assert (request.priority, request.client, request.namespace) == (-1, "me", "tenant")
    assert request.deadline is not None
    assert before + 100 <= request.deadline <= time.monotonic() + 100
    schema = {"type": "array"}
    (request,) = toy_model.make_requests([8], json_schema=schema)
    assert request.grammar is not None
    assert request.grammar.grammar == Grammar.json_schema(schema)
    ignoring: GenerateOptions = {"ignore_eos": True, "stop_token_ids": [4]}
    assert toy_model.make_request([8], **ignoring).eos_ids == {4}
    with pytest.raises(TypeError, match="temprature"):
        toy_model.generate([1], temprature=1.0)


@pytest.mark.parametrize(
    ("options", "matches"),
    [
        ({"choice": ["hello", "abc"]}, "hello|abc"),
        ({"regex": "[ab]{3}"}, "[ab]{3}"),
        ({"grammar": 'start: "l"+ "o"'}, "l+o"),
        ({"grammar": 'root ::= "l" | "o"'}, "[lo]"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_only_text_of_a_grammar(toy_model, options, matches):
    pytest.importorskip("llguidance")
    for _ in range(2):
        stream = toy_model.generate([5, 9], max_tokens=40, temperature=1.5, **options)
        list(stream)
        if stream.finish_reason == "stop":
            assert re.fullmatch(matches, stream.text)
        else:
            assert stream.finish_reason == "length"
