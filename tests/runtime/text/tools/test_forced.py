"""What a forced grammar lets a model write is a call of an offered tool that fits its schema."""

import json
import random
from functools import cache
from typing import Any

import jsonschema_rs
import pytest
from llmc.base.errors import LlmcError
from llmc.runtime.engine.sampling.grammar import Grammar
from llmc.runtime.text.tokenizer import Tokenizer
from llmc.runtime.text.tools.calls import parse
from llmc.runtime.text.tools.forced import forced_grammar, keeps_special
from llmc.runtime.text.tools.registry import FORMATS, TAGGED_JSON, format_named
from tokenizers import Tokenizer as Native
from tokenizers import decoders, models, pre_tokenizers
from written_calls import TOOLS, tool

pytestmark = pytest.mark.fast

llguidance = pytest.importorskip("llguidance")

MARKS = ["<|tool_call|>", "[TOOL_CALLS]", "[ARGS]", "<｜tool▁call▁begin｜>", "<|tool_call_start|>"]
CLOSERS = ['"', '"}', "}", "\n</parameter>", "</parameter>", "</arg_value>", ")", "]", "."]
END = 256


@cache
def native(special: bool) -> Native:
    """A token for each byte; `special`: and some marks as special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Native(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["</s>", *(MARKS if special else [])])
    return made


@cache
def tokenizers(special: bool) -> tuple[Any, Tokenizer]:
    data = native(special).to_str()
    return llguidance.LLTokenizer(data, eos_token=END), Tokenizer(data.encode())


def written(grammar: str, special: bool, seed: int) -> str:
    """A text that the grammar allows: a random walk that likes to end what it has begun."""
    guide, tokenizer = tokenizers(special)
    compiled = llguidance.LLMatcher.grammar_from_lark(grammar)
    assert not llguidance.LLMatcher.validate_grammar(compiled, guide)
    matcher = llguidance.LLMatcher(guide, compiled)
    chance = random.Random(seed)
    ids: list[int] = []
    closers = [tokenizer.encode(c, add_special_tokens=False) for c in CLOSERS]
    while not matcher.is_stopped():
        allowed = [i for i, bias in enumerate(matcher.compute_logit_bias()) if bias]
        assert allowed, tokenizer.decode(ids, keep_special=True)
        if END in allowed and (len(allowed) == 1 or chance.random() < 0.7):
            break
        # Without exponents, whose numbers may be infinite once they are read.
        others = [i for i in allowed if i not in (END, ord("e") - 33, ord("E") - 33)]
        tokens = [chance.choice(others or allowed)]
        if chance.random() < 0.3:
            tokens = chance.choice(closers)
        ids += tokens[: matcher.try_consume_tokens(tokens)]
        assert len(ids) < 5000
    assert matcher.is_accepting()
    return tokenizer.decode(ids, keep_special=True)


def check(name: str, arguments: dict[str, Any]) -> None:
    """That the arguments fit the schema, as far as these tools use JSON schema."""
    (function,) = [tool["function"] for tool in TOOLS if tool["function"]["name"] == name]
    schema = function["parameters"]
    types = {"string": str, "integer": int, "object": dict, "boolean": bool, "number": (int, float)}
    assert set(schema["required"]) <= set(arguments) <= set(schema["properties"])
    for key, value in arguments.items():
        own = schema["properties"][key]
        assert isinstance(value, types[own["type"]])
        assert value in own.get("enum", [value])


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
def test_what_is_written_is_read_back(format, special):
    """One call of any tool, and several calls, with marks as text and as special tokens."""
    of = tokenizers(special)[1]
    for seed in range(12):
        many = seed % 2 == 1
        grammar = forced_grammar(format, TOOLS, special_id=of.special_id, many=many)
        text = written(grammar, special, seed)
        content, calls = parse(format, text, TOOLS)
        assert content == "", text
        assert calls, text
        assert many or len(calls) == 1
        for call in calls:
            check(call.name, json.loads(call.arguments))


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
def test_a_named_tool_is_the_only_one(format):
    for seed in range(4):
        text = written(forced_grammar(format, [TOOLS[1]]), False, seed)
        assert [call.name for call in parse(format, text, TOOLS)[1]] == ["run"]


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
def test_tools_without_a_schema_can_be_forced(format):
    bare = {"type": "function", "function": {"name": "bare"}}
    text = written(forced_grammar(format, [bare]), False, 1)
    assert parse(format, text, [bare]) == ("", [("bare", "{}")])


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
def test_names_and_keys_cannot_break_the_grammar(format):
    odd = tool("a-b.c", k_1={"type": "string", "enum": ['"}\n', "</x>"]})
    text = written(forced_grammar(format, [odd]), False, 0)
    ((name, arguments),) = parse(format, text, [odd])[1]
    assert name == "a-b.c"
    assert json.loads(arguments)["k_1"] in ('"}\n', "</x>", '"}')


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
@pytest.mark.parametrize("many", [False, True])
def test_the_engine_accepts_the_grammars(format, many):
    Grammar.lark(forced_grammar(format, TOOLS, many=many))


@pytest.mark.parametrize(
    "keys", [{"x-guidance": {"lenient": True}}, {"pattern": "((a{99}){99}){99}"}]
)
def test_hostile_schemas_are_refused(keys):
    with pytest.raises(LlmcError, match="E0211"):
        Grammar.lark(forced_grammar(TAGGED_JSON, [tool("f", x={"type": "string", **keys})]))


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
def test_parameters_may_refer_to_definitions_and_have_any_format(format):
    parameters = {
        "type": "object",
        "properties": {
            "color": {"$ref": "#/$defs/color"},
            "days": {"type": "array", "items": {"enum": ["mo", "tu"]}, "uniqueItems": True},
            "n": {"type": "integer", "format": "int32", "minimum": 0, "maximum": 9},
        },
        "required": ["color", "days", "n"],
        "additionalProperties": False,
        "$defs": {"color": {"enum": ["red", "blue"]}},
    }
    paint = {"type": "function", "function": {"name": "paint", "parameters": parameters}}
    for seed in range(6):
        text = written(forced_grammar(format, [paint]), False, seed)
        ((name, arguments),) = parse(format, text, [paint])[1]
        assert name == "paint"
        jsonschema_rs.validate(parameters, json.loads(arguments))


def test_marks_that_are_special_tokens_are_written_as_tokens():
    of = tokenizers(True)[1]
    special = of.special_id("[TOOL_CALLS]")
    format = format_named("bracketed_list")
    assert special is not None
    assert f"<[{special}]>" in forced_grammar(format, TOOLS, special_id=of.special_id)
    assert keeps_special(format, of.special_id)
    assert not keeps_special(format_named("tagged_json"), of.special_id)
