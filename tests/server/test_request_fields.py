"""Every field that clients may send is done, can't matter, or is refused by name.

Which fields there are: OpenAI's own client says it, and lists of those of vLLM and llama.cpp.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import jsonschema_rs
import pytest
from llmc.server.api.other_fields import HARMLESS, REFUSED
from llmc.server.api.protocol.chat import ChatRequest
from llmc.server.api.protocol.completion import CompletionRequest
from llmc.server.api.protocol.response import ResponseRequest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

CHAT, TEXT, RESPONSE = "/v1/chat/completions", "/v1/completions", "/v1/responses"
SMALLEST: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8},
    TEXT: {"prompt": "hello", "max_tokens": 8},
    RESPONSE: {"input": "hello", "max_output_tokens": 8},
}
OPENAI: Any = {
    ChatRequest: chat_create_params.CompletionCreateParamsNonStreaming,
    CompletionRequest: completion_create_params.CompletionCreateParamsNonStreaming,
    ResponseRequest: response_create_params.ResponseCreateParamsNonStreaming,
}
_VLLM = """
use_beam_search top_k min_p repetition_penalty watermarking length_penalty stop_token_ids
include_stop_str_in_output ignore_eos min_tokens skip_special_tokens spaces_between_special_tokens
truncate_prompt_tokens truncation_side prompt_logprobs logprob_token_ids allowed_token_ids bad_words
echo add_generation_prompt continue_final_message add_special_tokens documents chat_template
chat_template_kwargs media_io_kwargs mm_processor_kwargs structured_outputs priority request_id
session_id return_tokens_as_token_ids return_token_ids return_token_offsets return_prompt_text
return_mm_kwargs cache_salt kv_transfer_params ec_transfer_params vllm_xargs repetition_detection
stream_interval include_reasoning thinking_token_budget guided_json guided_regex guided_choice
guided_grammar guided_decoding_backend guided_whitespace_pattern routed_experts_prompt_start
"""
_LLAMA_CPP = """
cache_prompt return_tokens return_progress n_predict n_indent n_keep n_discard n_cache_reuse
t_max_predict_ms response_fields top_n_sigma xtc_probability xtc_threshold typical_p dynatemp_range
dynatemp_exponent repeat_last_n repeat_penalty dry_multiplier dry_base dry_allowed_length
dry_penalty_last_n dry_sequence_breakers mirostat mirostat_tau mirostat_eta adaptive_target
adaptive_decay n_probs min_keep backend_sampling post_sampling_probs lora json_schema grammar
grammar_lazy grammar_triggers preserved_tokens chat_format reasoning_format thinking_forced_open
parse_tool_calls reasoning_budget_tokens id_slot samplers timings_per_token
"""


@pytest.mark.parametrize("schema", OPENAI, ids=lambda schema: schema.__name__)
def test_every_field_is_known(schema: Any) -> None:
    fields = {*get_type_hints(OPENAI[schema])} | {*_VLLM.split(), *_LLAMA_CPP.split()}
    if schema is ResponseRequest:
        fields.discard("image")  # of the client, and in no document
    everywhere = {name for own in OPENAI for name in own.model_fields}
    assert fields - everywhere - HARMLESS - REFUSED.keys() == set()
    assert not (HARMLESS | REFUSED.keys()) & {*schema.model_fields} - {"user", "metadata"} - {
        "max_tool_calls", "parallel_tool_calls",
    }  # fmt: skip
    assert not HARMLESS & REFUSED.keys()


def test_the_page_names_them_all() -> None:
    page = (Path(__file__).parents[2] / "docs" / "server.md").read_text("utf-8")
    named = set(re.findall(r"`(\w+)`", page))
    honoured = {*ChatRequest.model_fields, *CompletionRequest.model_fields}
    assert (HARMLESS | REFUSED.keys() | honoured) - named == set()


def refused(answer: Any, name: str) -> bool:
    told = answer.json().get("error", {})
    return answer.status_code == 400 and told["param"] == name and name in told["message"]


@pytest.mark.parametrize("path", SMALLEST)
def test_what_would_matter_is_refused_by_name(server: Any, path: str) -> None:
    declared = server.app.openapi()["components"]["schemas"]
    own = {CHAT: "ChatRequest", TEXT: "CompletionRequest", RESPONSE: "ResponseRequest"}[path]
    for name in sorted(REFUSED.keys() - declared[own]["properties"].keys()):
        answer = server.post(path, {**SMALLEST[path], name: {"odd": [7]}})
        assert refused(answer, name), name


@pytest.mark.parametrize("path", SMALLEST)
def test_what_asks_for_nothing_changes_nothing(server: Any, path: str) -> None:
    asked = {**SMALLEST[path], "temperature": 0}
    plain = server.post(path, asked).json()
    told = {name: refusal.neutral[0] for name, refusal in REFUSED.items()}
    told |= dict.fromkeys(REFUSED.keys() & {"suffix", "chat_template", "prompt_logprobs"}, None)
    told |= {name: {"any": "thing"} for name in HARMLESS - {"user", "metadata"}}
    told |= {"metadata": {"a": "b"}, "user": "me", "parallel_tool_calls": True, "store": False}
    told |= {"max_tool_calls": 3, "unheard_of": 1}
    answer = server.post(path, {**told, **asked})
    assert answer.status_code == 200, answer.text
    for key in ("choices", "output"):
        assert strip(answer.json().get(key)) == strip(plain.get(key))


def strip(value: Any) -> Any:
    return re.sub(r"msg_\w+", "", json.dumps(value))


ELSEWHERE = [
    (RESPONSE, "response_format", {"type": "json_object"}),
    (RESPONSE, "n", 2),
    (RESPONSE, "max_tokens", 5),
    (RESPONSE, "messages", [{}]),
    (RESPONSE, "reasoning_effort", "low"),
    (RESPONSE, "logprobs", True),
    (CHAT, "prompt", "x"),
    (CHAT, "max_output_tokens", 5),
    (CHAT, "text", {"format": {"type": "json_object"}}),
    (CHAT, "previous_response_id", "x"),
    (CHAT, "best_of", 2),
    (TEXT, "tools", [{"type": "function", "function": {"name": "f"}}]),
    (TEXT, "max_completion_tokens", 5),
    (TEXT, "chat_template_kwargs", {"a": 1}),
    (TEXT, "continue_final_message", True),
    (TEXT, "top_logprobs", 2),
    (CHAT, "store", True),
    (TEXT, "store", True),
    (RESPONSE, "store", True),
    (CHAT, "echo", True),
    (CHAT, "documents", [{"title": "a", "text": "b"}]),
    (CHAT, "reasoning_effort", "high"),
    (CHAT, "verbosity", "low"),
    ("/tokenize", "chat_template", "x"),
]


@pytest.mark.parametrize(("path", "name", "value"), ELSEWHERE, ids=str)
def test_fields_without_a_place(server: Any, path: str, name: str, value: Any) -> None:
    smallest = SMALLEST.get(path, {"messages": SMALLEST[CHAT]["messages"]})
    assert refused(server.post(path, {**smallest, name: value}), name)
    assert server.post(path, {**smallest, name: None}).status_code == 200


NESTED: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"stream": True, "stream_options": {"include_obfuscation": True}}, "include_obfusc"),
    (CHAT, {"stream": True, "stream_options": {"continuous_usage_stats": True}}, "continuous_us"),
    (CHAT, {"structured_outputs": {"structural_tag": "{}"}}, "structural_tag"),
    (CHAT, {"structured_outputs": {"regex": "a", "disable_any_whitespace": True}}, "disable_any"),
    (CHAT, {"response_format": {"type": "text", "schema": {}}}, "response_format"),
    (CHAT, {"messages": [{"role": "assistant", "content": "x", "prefix": True}]}, "prefix"),
    (CHAT, {"messages": [{"role": "user", "content": "x"}], "n_predict": 7}, "max_tokens and n_"),
    (TEXT, {"max_tokens": None, "n_predict": 0}, "n_predict cannot be 0"),
    (CHAT, {"max_completion_tokens": 7}, "max_completion_tokens and max_tokens"),
    (RESPONSE, {"reasoning": {"effort": "high"}}, "reasoning.effort"),
    (RESPONSE, {"reasoning": {"summary": "detailed"}}, "summary"),
    (RESPONSE, {"text": {"verbosity": "high"}}, "verbosity"),
    (RESPONSE, {"include": ["everything"]}, "include"),
    (RESPONSE, {"stream_options": {"include_obfuscation": True}}, "include_obfuscation"),
]


@pytest.mark.parametrize(("path", "fields", "told"), NESTED, ids=str)
def test_what_is_refused_within_a_field(
    server: Any, path: str, fields: Mapping[str, Any], told: str
) -> None:
    answer = server.post(path, {**SMALLEST[path], **fields})
    assert answer.status_code == 400
    assert told in answer.json()["error"]["message"]


# ---- what is done ------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"color": {"enum": ["red", "blue"]}},
    "required": ["color"],
    "additionalProperties": False,
}
GBNF = 'root ::= "yes" | "no"'
FORMS: list[Mapping[str, Any]] = [
    {"response_format": {"type": "json_object", "schema": SCHEMA}},
    {"response_format": {"type": "json_schema", "schema": SCHEMA}},
    {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
    {"json_schema": SCHEMA},
    {"structured_outputs": {"json": SCHEMA}},
]


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_schema_holds_wherever_it_stands(server: Any, path: str, form: Mapping[str, Any]) -> None:
    answer = server.post(path, {**SMALLEST[path], **form, "max_tokens": 200, "seed": 3}).json()
    (choice,) = answer["choices"]
    jsonschema_rs.validate(SCHEMA, json.loads(choice.get("text") or choice["message"]["content"]))


def test_a_schema_beside_the_type_of_a_response(server: Any) -> None:
    form = {"type": "json_object", "schema": SCHEMA}
    answer = server.post(RESPONSE, {"input": "hello", "text": {"format": form}}).json()
    jsonschema_rs.validate(SCHEMA, json.loads(answer["output"][0]["content"][0]["text"]))


def test_a_grammar_as_llama_cpp_writes_it(server: Any) -> None:
    answer = server.post(TEXT, {"prompt": "hello", "grammar": GBNF, "max_tokens": 9}).json()
    assert answer["choices"][0]["text"] in ("yes", "no")


def test_how_much_is_said_in_llama_cpps_words(server: Any) -> None:
    options = {"prompt": "hello", "temperature": 0, "ignore_eos": True}
    for number, count in ((3, 3), (-1, 100)):
        limits = {"n_predict": number, "stop_token_ids": [], "min_tokens": 0}
        answer = server.post(TEXT, {**options, **limits}).json()
        if number > 0:
            assert answer["usage"]["completion_tokens"] == count
        else:
            assert answer["usage"]["completion_tokens"] > count


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_what_ends_a_text_may_be_part_of_it(server: Any, path: str) -> None:
    options = {**SMALLEST[path], "temperature": 0, "max_tokens": 40}

    def text(**more: Any) -> str:
        (choice,) = server.post(path, {**options, **more}).json()["choices"]
        return choice.get("text") or choice["message"]["content"]

    whole = text()
    stop = whole[9:12]
    end = whole.index(stop)
    include = {"include_stop_str_in_output": True}
    assert text(stop=stop) == whole[:end]
    assert text(stop=stop, **include) == whole[: end + len(stop)]
    ids = server.models["toy"].tokenizer.encode(whole[6], add_special_tokens=False)
    at = whole.index(whole[6])
    assert text(stop_token_ids=ids) == whole[:at]
    assert text(stop_token_ids=ids, **include) == whole[: at + 1]


def test_special_tokens_in_the_text(server: Any) -> None:
    bias = {"0": 100}  # <s>
    for path in (CHAT, TEXT):
        asked = {**SMALLEST[path], "logit_bias": bias, "max_tokens": 2}
        for skip, expected in ((None, ""), (True, ""), (False, "<s><s>")):
            answer = server.post(path, {**asked, "skip_special_tokens": skip}).json()
            (choice,) = answer["choices"]
            assert (choice["text"] if path == TEXT else choice["message"]["content"]) == expected


def test_a_salt_keeps_cached_prompts_apart(server: Any) -> None:
    asked = {"prompt": "salt" * 40, "max_tokens": 1}

    def cached(**more: str) -> int:
        usage = server.post(TEXT, {**asked, **more}).json()["usage"]
        return usage["prompt_tokens_details"]["cached_tokens"]

    assert cached() == 0
    assert cached() > 0
    assert cached(cache_salt="a") == 0
    assert cached(cache_salt="b") == 0
    assert cached(cache_salt="a") > 0


def test_a_template_by_its_name(start: Any, toy_model: Any) -> None:
    """That of tools where there are tools, unless the request names one; never a source."""
    model = toy_model()
    model._chat_source = {
        "default": "{{ messages[-1].content }}",
        "tool_use": "tools {{ verbosity }}",
        "rag": "rag {{ documents[0].title }}",
    }
    running = start({"toy": model})
    tools = [{"type": "function", "function": {"name": "f"}}]

    def prompt(**fields: Any) -> int:
        asked = {**SMALLEST[CHAT], **fields}
        length = running.post(CHAT, asked).json()["usage"]["prompt_tokens"]
        assert running.post("/tokenize", asked).json()["count"] == length
        return length

    assert prompt() == prompt(chat_template="default") == len("hello")
    assert prompt(tools=tools, verbosity="low") == len("tools low")
    assert prompt(chat_template="rag", documents=[{"title": "abc"}]) == len("rag abc")
    for fields, name in (
        ({"chat_template": "{{ messages }}"}, "chat_template"),
        ({"verbosity": "low"}, "verbosity"),
        ({"documents": [{"title": "abc"}]}, "documents"),
    ):
        assert refused(running.post(CHAT, {**SMALLEST[CHAT], **fields}), name)


READS = (
    "{{ messages[-1].content }}{{ reasoning_effort }}{{ verbosity }}"
    "{% for d in documents or [] %}{{ d.title }}{% endfor %}{{ enable_thinking }}"
)


def test_what_a_template_reads(start: Any, toy_model: Any) -> None:
    model = toy_model()
    model._chat_source = READS
    running = start({"toy": model})
    fields: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({"reasoning_effort": "low"}, {"reasoning": {"effort": "low"}}, "hellolowTrue"),
        ({"reasoning_effort": "none"}, {"reasoning": {"effort": "none"}}, "hellononeFalse"),
        ({"verbosity": "high"}, {"text": {"verbosity": "high"}}, "hellohigh"),
        ({"documents": [{"title": "A"}]}, {"documents": [{"title": "A"}]}, "helloA"),
    ]
    for chat, response, prompt in fields:
        answer = running.post(CHAT, {**SMALLEST[CHAT], **chat}).json()
        assert answer["usage"]["prompt_tokens"] == len(prompt)
        answer = running.post(RESPONSE, {**SMALLEST[RESPONSE], **response}).json()
        assert answer["usage"]["input_tokens"] == len(prompt)
    kwargs = {"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "low"}
    answer = running.post(CHAT, {**SMALLEST[CHAT], **kwargs}).json()
    assert answer["usage"]["prompt_tokens"] == len("hellolowFalse")
