"""OpenAI's own client against the server: chats, completions, responses, streams, tools, forms."""

import json
from typing import Any

import openai
import pytest
from openai import OpenAI

HELLO: Any = [{"role": "user", "content": "hello"}]
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Does something.",
            "parameters": {
                "type": "object",
                "properties": {"unit": {"enum": ["c", "f"]}},
                "required": ["unit"],
                "additionalProperties": False,
            },
        },
    }
    for name in ("weather", "clock")
]
SCHEMA = {
    "type": "object",
    "properties": {"color": {"enum": ["red", "blue"]}, "big": {"type": "boolean"}},
    "required": ["color", "big"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client(server: Any) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def ids_of(server: Any, text: str) -> list[int]:
    return server.models["toy"].tokenizer.encode(text, add_special_tokens=False)


def greedy_text(server: Any, toy: Any, prompt: str, count: int) -> str:
    """What the toy must say, computed without any of the server."""
    ids = toy.greedy(ids_of(server, prompt), count, eos=(1,))
    return server.models["toy"].tokenizer.decode(ids)


def test_models(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "toy"
    assert client.models.retrieve("toy").owned_by == "llmc"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_a_name_with_slashes(start: Any, toy_model: Any) -> None:
    running = start({"org/name": toy_model()})
    client = OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["org/name"]
    assert client.models.retrieve("org/name").id == "org/name"
    for path in ("/v1/models/org/name", "/v1/models/org%2Fname"):
        assert running.http.get(path).json()["id"] == "org/name"
    for path in ("/v1/models/org", "/v1/models/org/name/x", "/v1/models/name", "/v1/models/"):
        assert running.http.get(path).status_code in (307, 404)
    answer = client.chat.completions.create(model="org/name", messages=HELLO, max_tokens=2)
    assert answer.model == "org/name"
    assert "org/name" in running.http.get("/metrics").text


def test_chat(client: OpenAI, server: Any, toy: Any) -> None:
    answer = client.chat.completions.create(
        model="toy", messages=HELLO, temperature=0, max_tokens=12
    )
    (choice,) = answer.choices
    prompt = "user: hello\nassistant: "
    assert choice.message.content == greedy_text(server, toy, prompt, 12)
    assert choice.finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(ids_of(server, prompt))
    assert answer.usage.completion_tokens == 12
    again = client.chat.completions.create(
        model="toy", messages=HELLO, temperature=0, max_completion_tokens=12
    )
    assert again.choices[0].message == choice.message


def test_a_stream_says_what_the_whole_says(client: OpenAI) -> None:
    options: Any = {
        "model": "toy",
        "messages": HELLO,
        "temperature": 1,
        "seed": 5,
        "max_tokens": 20,
    }
    whole = client.chat.completions.create(**options)
    chunks = list(
        client.chat.completions.create(
            **options, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 20
    assert len({c.id for c in chunks}) == 1


def test_several_answers(client: OpenAI) -> None:
    options: Any = {"model": "toy", "messages": HELLO, "seed": 3, "max_tokens": 10, "n": 3}
    texts = [c.message.content for c in client.chat.completions.create(**options).choices]
    assert len(set(texts)) == 3
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**options, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts


def test_a_repeated_prompt_is_found_in_the_cache(client: OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "x" * 100}]
    options: Any = {"model": "toy", "messages": messages, "max_tokens": 1}
    client.chat.completions.create(**options)
    answer = client.chat.completions.create(**options)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert (answer.usage.prompt_tokens_details.cached_tokens or 0) >= 64


def test_logprobs_of_a_chat(client: OpenAI, toy: Any, server: Any) -> None:
    options: Any = {"model": "toy", "messages": HELLO, "temperature": 0, "max_tokens": 6}
    options |= {"logprobs": True, "top_logprobs": 3}
    choice = client.chat.completions.create(**options).choices[0]
    assert choice.logprobs is not None
    entries = choice.logprobs.content or []
    assert "".join(e.token for e in entries) == choice.message.content
    prompt = ids_of(server, "user: hello\nassistant: ")
    logits = toy.logits(prompt).astype("f8")
    import numpy as np

    expected = logits.max() - np.log(np.exp(logits).sum())
    assert entries[0].logprob == pytest.approx(expected, abs=1e-5)
    assert entries[0].top_logprobs[0].token == entries[0].token
    assert len(entries[0].top_logprobs) == 3
    assert bytes(entries[0].bytes or []).decode() == entries[0].token
    streamed = [
        entry
        for chunk in client.chat.completions.create(**options, stream=True)
        for entry in (chunk.choices[0].logprobs.content or [] if chunk.choices[0].logprobs else [])
    ]
    assert [e.token for e in streamed] == [e.token for e in entries]


def test_stop_strings(client: OpenAI) -> None:
    options: Any = {"model": "toy", "prompt": "hello", "temperature": 0, "max_tokens": 40}
    whole = client.completions.create(**options).choices[0].text
    stop = whole[9:12]
    found = client.completions.create(**options, stop=stop).choices[0]
    assert found.text == whole[: whole.index(stop)]
    assert found.finish_reason == "stop"
    stream = client.completions.create(**options, stop=["nowhere in it", stop], stream=True)
    assert "".join(c.choices[0].text for c in stream) == found.text


def test_completions(client: OpenAI, server: Any, toy: Any) -> None:
    answer = client.completions.create(
        model="toy", prompt=["one", "two"], temperature=0, max_tokens=5
    )
    expected = [greedy_text(server, toy, prompt, 5) for prompt in ("one", "two")]
    assert [c.text for c in answer.choices] == expected
    ids = ids_of(server, "one")
    for prompt in (ids, [ids]):
        answer = client.completions.create(model="toy", prompt=prompt, temperature=0, max_tokens=5)
        assert answer.choices[0].text == expected[0]
    answer = client.completions.create(model="toy", prompt="one", temperature=0)
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 16  # OpenAI's default


def test_echo_with_logprobs(client: OpenAI) -> None:
    options: Any = {"model": "toy", "prompt": "hello", "temperature": 0, "echo": True}
    choice = client.completions.create(**options, max_tokens=3, logprobs=2).choices[0]
    assert choice.text.startswith("hello")
    found = choice.logprobs
    assert found is not None
    assert found.token_logprobs is not None
    assert found.tokens is not None
    assert found.top_logprobs is not None
    assert found.token_logprobs[0] is None
    assert len(found.tokens) == len(found.token_logprobs) == 8
    assert all(p < 0 for p in found.token_logprobs[1:] if p is not None)
    assert found.text_offset == list(range(8))
    assert len(found.top_logprobs[-1]) >= 2
    scored = client.completions.create(**options, max_tokens=0, logprobs=1).choices[0]
    assert scored.text == "hello"
    assert scored.logprobs is not None
    assert scored.logprobs.token_logprobs == found.token_logprobs[:5]
    stream = list(client.completions.create(**options, max_tokens=3, stream=True))
    assert "".join(c.choices[0].text for c in stream) == choice.text


def test_best_of(client: OpenAI) -> None:
    options: Any = {"model": "toy", "prompt": "hello", "seed": 1, "max_tokens": 4, "logprobs": 0}
    every = client.completions.create(**options, n=6).choices
    best = client.completions.create(**options, n=1, best_of=6).choices

    def mean(choice: Any) -> float:
        return sum(choice.logprobs.token_logprobs) / 4

    assert mean(best[0]) == max(mean(choice) for choice in every)


def test_sampling_options_reach_the_engine(client: OpenAI, server: Any) -> None:
    def text(**options: Any) -> str:
        extra = options.pop("extra", {})
        return (
            client.completions.create(
                model="toy", prompt="hello", max_tokens=12, **options, extra_body=extra
            )
            .choices[0]
            .text
        )

    greedy = text(temperature=0)
    assert text(temperature=1, seed=1) == text(temperature=1, seed=1)
    assert text(temperature=1, seed=1) != text(temperature=1, seed=2)
    assert text(temperature=1, extra={"top_k": 1}) == greedy
    assert text(temperature=1, extra={"min_p": 1}) == greedy
    assert text(temperature=1, top_p=0) == greedy
    a = str(ids_of(server, "a")[0])
    assert text(temperature=0, logit_bias={a: 100}) == "a" * 12
    banned = greedy[0]
    assert not text(temperature=0, extra={"bad_words": [banned]}).startswith(banned)
    assert text(temperature=0, extra={"stop_token_ids": ids_of(server, greedy[4])}) in greedy
    assert text(temperature=0, extra={"unknown_field": 1}) == greedy


def test_forms(client: OpenAI) -> None:
    options: Any = {"model": "toy", "messages": HELLO, "max_tokens": 200, "seed": 1}
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    answer = client.chat.completions.create(**options, response_format=form).choices[0]
    content = json.loads(answer.message.content or "")
    assert content["color"] in ("red", "blue")
    assert isinstance(content["big"], bool)
    assert answer.finish_reason == "stop"

    def guided(**extra: Any) -> str:
        made = client.chat.completions.create(**options, extra_body=extra)
        return made.choices[0].message.content or ""

    assert guided(guided_choice=["yes", "no"]) in ("yes", "no")
    assert guided(structured_outputs={"choice": ["yes", "no"]}) in ("yes", "no")
    assert guided(guided_regex="[ab]{7}c").rstrip("c").strip("ab") == ""
    assert guided(guided_grammar='start: "x" | "yy"') in ("x", "yy")
    assert json.loads(guided(guided_json=SCHEMA))["color"] in ("red", "blue")
    with pytest.raises(openai.BadRequestError, match="exclude one another"):
        guided(guided_regex="a", guided_choice=["a"])
    with pytest.raises(openai.BadRequestError) as refused:
        guided(guided_regex="(")
    assert refused.value.code == "LLMC-E0211"


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"weather", "clock"}),
        ({"type": "function", "function": {"name": "clock"}}, {"clock"}),
    ],
    ids=["required", "named"],
)
def test_forced_calls(client: OpenAI, choice: Any, names: set[str]) -> None:
    options: Any = {"model": "toy", "messages": HELLO, "tools": TOOLS, "tool_choice": choice}
    options |= {"parallel_tool_calls": False, "max_tokens": 200, "seed": 4}
    answer = client.chat.completions.create(**options).choices[0]
    assert answer.finish_reason == "tool_calls"
    (call,) = answer.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name in names
    assert json.loads(call.function.arguments)["unit"] in ("c", "f")
    streamed: dict[str, str] = {"name": "", "arguments": ""}
    chunks = list(client.chat.completions.create(**options, stream=True))
    for chunk in chunks:
        for delta in chunk.choices[0].delta.tool_calls or []:
            if delta.function is not None:
                streamed["name"] += delta.function.name or ""
                streamed["arguments"] += delta.function.arguments or ""
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert streamed["name"] == call.function.name
    assert json.loads(streamed["arguments"]) == json.loads(call.function.arguments)


def test_a_choice_among_some_tools(client: OpenAI) -> None:
    clock: Any = {"type": "function", "function": {"name": "clock"}}
    some: Any = {"mode": "required", "tools": [clock]}
    options: Any = {"model": "toy", "messages": HELLO, "tools": TOOLS, "max_tokens": 200}
    options["tool_choice"] = {"type": "allowed_tools", "allowed_tools": some}
    calls = client.chat.completions.create(**options).choices[0].message.tool_calls or []
    assert {call.function.name for call in calls if call.type == "function"} == {"clock"}
    tools: Any = [{"type": "function", **tool["function"]} for tool in TOOLS]
    choice: Any = {"type": "allowed_tools", "mode": "required", "tools": [
        {"type": "function", "name": "clock"}]}  # fmt: skip
    items = client.responses.create(
        model="toy", input="hello", tools=tools, tool_choice=choice, max_output_tokens=200
    ).output
    assert {item.name for item in items if item.type == "function_call"} == {"clock"}
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{**options, "tool_choice": {"type": "custom"}})
    assert refused.value.param == "tool_choice"


def test_tools_that_are_not_called_and_what_calls_gave(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="toy", messages=HELLO, tools=TOOLS, tool_choice="none", max_tokens=5
    )
    assert answer.choices[0].message.tool_calls is None
    call = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    messages: Any = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "noon"},
    ]
    answer = client.chat.completions.create(
        model="toy", messages=messages, tools=TOOLS[1:], max_tokens=5
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens in range(1, 6)
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="toy", messages=HELLO, tools=TOOLS + TOOLS)
    assert refused.value.code == "LLMC-E0212"


def test_what_is_refused(client: OpenAI) -> None:
    create: Any = client.chat.completions.create
    for code, options in {
        "LLMC-E0214": {"model": "other"},
        "LLMC-E0213": {"messages": []},
        "LLMC-E0215": {"modalities": ["audio"]},
        "LLMC-E0204": {"messages": [{"role": "user", "content": "x" * 3000}]},
        "LLMC-E0205": {"stop": ""},
        "LLMC-E0208": {"logit_bias": {"97": 1}},
    }.items():
        with pytest.raises(openai.APIStatusError) as refused:
            create(**{"model": "toy", "messages": HELLO, **options})
        assert refused.value.code == code
        assert refused.value.status_code == (404 if code == "LLMC-E0214" else 400)
        assert "Traceback" not in str(refused.value)
    image: Any = [{"type": "image_url", "image_url": {"url": "data:x"}}]
    with pytest.raises(openai.BadRequestError, match="only text can") as refused:
        create(model="toy", messages=[{"role": "user", "content": image}])
    assert refused.value.param == "messages.0.content"
    with pytest.raises(openai.BadRequestError, match="stores nothing"):
        client.responses.create(model="toy", input="x", previous_response_id="resp_1")


def test_tokenize(server: Any) -> None:
    whole = server.post("/tokenize", {"prompt": "hello"}).json()
    assert whole["tokens"] == ids_of(server, "hello")
    assert whole["count"] == 5
    text = server.post("/detokenize", {"tokens": whole["tokens"]}).json()
    assert text == {"prompt": "hello"}
    chat = server.post("/tokenize", {"messages": HELLO, "add_generation_prompt": False}).json()
    assert chat["tokens"] == ids_of(server, "user: hello\n")
    assert server.post("/tokenize", {}).status_code == 400
