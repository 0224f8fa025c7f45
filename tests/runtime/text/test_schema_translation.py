"""Keywords that are said in other words: the same values are valid, by another's judgement.

What is right comes from `jsonschema_rs`; every schema is compiled for a tokenizer and asked.
"""

import json
from itertools import product
from typing import Any

import jsonschema_rs
import pytest
from llmc.base.errors import LlmcError
from llmc.runtime.engine.sampling.grammar import CompiledGrammar, Grammar, GrammarCompiler
from llmc.runtime.text.schema_translation import translated
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

pytestmark = pytest.mark.fast


def make_tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    return tokenizer


TOKENIZER = make_tokenizer()
COMPILER = GrammarCompiler(TOKENIZER.to_str().encode(), 257, [256])


def accepts(grammar: CompiledGrammar, value: Any) -> bool:
    """Whether a model could write this value to its end."""
    matcher = grammar._start.deep_copy()
    ids = TOKENIZER.encode(json.dumps(value, ensure_ascii=False)).ids
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def check(schema: Any, values: list[Any], *, formats: bool = False) -> None:
    judge = jsonschema_rs.Draft202012Validator(schema, validate_formats=formats)
    verdicts = [judge.is_valid(value) for value in values]
    grammar = COMPILER.compile(Grammar.json_schema(schema))
    assert [accepts(grammar, value) for value in values] == verdicts
    assert len(set(verdicts)) == 2, "the values tell nothing"


# ---- names -------------------------------------------------------------------------------------

OBJECTS = [
    dict.fromkeys(names, value)
    for names in ((), ("a",), ("b",), ("ab",), ("abc",), ("a", "b"), ("a", "x"), ("A", "1"), ("",))
    for value in (1, "t")
]
NAMES: list[Any] = [
    False,
    {"enum": ["a", "b"]},
    {"type": "string", "enum": ["a", "b", 3], "title": "Letter"},
    {"const": "a"},
    {"pattern": "^[a-z]+$"},
    {"pattern": "b"},
    {"maxLength": 1},
    {"minLength": 2, "type": "string"},
    {"minLength": 1, "maxLength": 2},
    {"$ref": "#/$defs/letter"},
    {"type": "integer"},
]
BESIDE: list[dict[str, Any]] = [
    {},
    {"properties": {"a": {"type": "integer"}}},
    {"properties": {"a": {}, "x": {"type": "string"}}},
    {"properties": {"a": {}}, "additionalProperties": False},
    {"maxProperties": 1},
    {"type": "object", "additionalProperties": {"type": "integer"}},
]
ROOT = {"$defs": {"letter": {"enum": ["a", "b"], "description": "A letter."}}}


@pytest.mark.parametrize(("names", "beside"), [*product(NAMES, BESIDE)], ids=json.dumps)
def test_names_of_properties(names: Any, beside: dict[str, Any]) -> None:
    check({**ROOT, "type": "object", **beside, "propertyNames": names}, [*OBJECTS, 7])


@pytest.mark.parametrize("names", [True, {}, {"type": "string"}, {"format": "nobodys"}], ids=str)
def test_names_that_may_be_anything(names: Any) -> None:
    schema = {"type": "object", "propertyNames": names, "maxProperties": 1}
    check(schema, OBJECTS)


def test_names_beside_patterns() -> None:
    schema = {"type": "object", "patternProperties": {"^b": {"type": "integer"}}}
    check({**schema, "propertyNames": {"enum": ["a", "b"]}}, OBJECTS)
    with pytest.raises(LlmcError, match=r"E0211.*pattern"):
        Grammar.json_schema({**schema, "propertyNames": {"maxLength": 1}})


def test_names_of_a_format() -> None:
    schema = {"type": "object", "propertyNames": {"format": "date"}}
    days = ["2024-02-29", "2023-02-29", "1999-12-31", "1999-1-1"]
    check(schema, [{day: 1} for day in days], formats=True)


def test_a_required_name_that_is_not_allowed() -> None:
    with pytest.raises(LlmcError, match=r"E0211.*required"):
        Grammar.json_schema({"type": "object", "required": ["x"], "propertyNames": {"enum": ["a"]}})


# ---- items -------------------------------------------------------------------------------------

ARRAYS = [list(chosen) for count in range(4) for chosen in product("abc", repeat=count)]
ITEMS: list[tuple[dict[str, Any], list[Any]]] = [
    ({"items": {"enum": ["a", "b", "c"]}}, ARRAYS),
    ({"items": {"enum": ["a", "b", "c"]}, "minItems": 2}, ARRAYS),
    ({"items": {"enum": ["a", "b", "c"]}, "maxItems": 2, "minItems": 1}, ARRAYS),
    ({"items": {"$ref": "#/$defs/letter", "description": "x"}}, ARRAYS),
    ({"items": {"const": "a"}}, ARRAYS),
    ({"items": {"type": "boolean"}}, [[], [True], [True, False], [True, True], [1]]),
    ({"items": {"type": "null"}}, [[], [None], [None, None]]),
    ({"items": {"type": "integer", "enum": [1, 1.0, 2, "a"]}}, [[1, 2], [1, 1], ["a"], [2]]),
    ({"maxItems": 1}, [[], ["x"], ["x", "y"], 5]),
    ({"prefixItems": [{"type": "string"}], "items": False}, [[], ["x"], ["x", "y"]]),
    ({"items": {"enum": list("abcdefghij")}, "maxItems": 2}, [["a", "j"], ["a", "a"], ["x"], []]),
]


@pytest.mark.parametrize(("keywords", "arrays"), ITEMS, ids=str)
@pytest.mark.parametrize("kind", [None, "array", ["array", "string"]], ids=str)
def test_items_that_are_unique(keywords: dict[str, Any], arrays: list[Any], kind: Any) -> None:
    schema = {**ROOT, **keywords, "uniqueItems": True}
    if kind is not None:
        schema["type"] = kind
    check(schema, [*arrays, "aa", 1.5])


def test_unique_items_beside_another_choice() -> None:
    schema = {
        "type": "array",
        "items": {"enum": ["a", "b"]},
        "uniqueItems": True,
        "anyOf": [{"minItems": 2}, {"maxItems": 0}],
    }
    check(schema, ARRAYS)


@pytest.mark.parametrize(
    "keywords",
    [
        {"items": {"type": "string"}},
        {},
        {"items": {"enum": list(range(20))}},
        {"prefixItems": [{"const": 1}, {"const": 2}], "items": {"enum": [1, 2]}},
        {"items": {"enum": ["a"]}, "minItems": 2},
    ],
    ids=str,
)
def test_unique_items_that_are_refused_by_name(keywords: dict[str, Any]) -> None:
    with pytest.raises(LlmcError, match=r"E0211.*uniqueItems"):
        Grammar.json_schema({"type": "array", **keywords, "uniqueItems": True})


def test_what_is_written_out_has_a_limit() -> None:
    """Of a schema as a whole, and soon."""
    letters = {"type": "array", "items": {"enum": list("abcde")}, "uniqueItems": True}
    Grammar.json_schema(letters)
    many = {"type": "object", "properties": {str(i): letters for i in range(900)}}
    with pytest.raises(LlmcError, match=r"E0211.*uniqueItems"):
        Grammar.json_schema(many)


# ---- formats -----------------------------------------------------------------------------------

FORMATS: dict[str, list[str]] = {
    "date": ["2024-02-29", "2023-02-29", "1900-02-29", "2000-02-29", "2024-04-31", "2024-4-1"],
    "time": ["12:00:00Z", "12:00:60Z", "24:00:00Z", "12:00:00.5+01:00", "12:00:00"],
    "date-time": ["2024-02-29T12:00:00Z", "2023-02-29T12:00:00Z", "2024-02-29 12:00:00Z"],
    "uuid": ["2eb8aa08-aa98-11ea-b4aa-73b441d16380", "2eb8aa08aa9811eab4aa73b441d16380"],
    "json-pointer": ["", "/a~1b", "/a~", "a"],
    "relative-json-pointer": ["0", "1/a", "0#", "01", "/a"],
    "uri-reference": ["/a?b#c", "//h:8/x", "a b", "http://h/x", "\\x", "a%zz"],
    "iri": ["http://ä.de/ß", "//ä", "http://a b"],
    "iri-reference": ["ä/ß", "#ƒ", "\\ä"],
    "uri-template": ["http://h/{a,b*}", "{a", "x{+y:3}", "{}"],
    "hostname": ["a.b-c", "-a", "a" * 64, "a_b", ".".join(["a" * 60] * 5)],
    "ipv4": ["127.0.0.1", "127.0.0.256"],
    "email": ["a@b.c", "a"],
    "duration": ["P1D", "P"],
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_that_are_kept_to(name: str) -> None:
    check({"type": "string", "format": name}, [*FORMATS[name], 5], formats=True)
    both = {"type": "string", "format": name, "pattern": "^[^z]*$", "maxLength": 40}
    check(both, [*FORMATS[name], "z"], formats=True)


@pytest.mark.parametrize("name", ["int32", "password", "binary", "nobodys", "color", ""])
def test_a_format_that_nobody_defines_is_an_annotation(name: str) -> None:
    check({"type": "string", "format": name, "maxLength": 2}, ["x", "xyz", 5])
    check({"properties": {"format": {"format": name, "type": "integer"}}, "type": "object"},
          [{"format": 5}, {"format": "x"}])  # fmt: skip


@pytest.mark.parametrize("name", ["regex", "idn-email", "idn-hostname"])
def test_a_format_that_no_grammar_is(name: str) -> None:
    with pytest.raises(LlmcError, match=rf"E0211.*{name}"):
        Grammar.json_schema({"type": "string", "format": name})


# ---- what is no schema -------------------------------------------------------------------------

MALFORMED: list[Any] = [
    {"allOf": 5, "propertyNames": {"pattern": "a"}},
    {"propertyNames": []},
    {"propertyNames": {"pattern": 5}},
    {"propertyNames": {"minLength": "a"}},
    {"propertyNames": {"minLength": 1.5}},
    {"propertyNames": {"minLength": 10**9}},
    {"propertyNames": {"$ref": "#/nowhere"}},
    {"propertyNames": {"$ref": "#/propertyNames"}},
    {"propertyNames": {"type": ["string", {}]}},
    {"uniqueItems": "yes"},
    {"uniqueItems": True, "items": {"enum": 5}},
    {"uniqueItems": True, "items": {"enum": ["a"]}, "maxItems": "x"},
    {"uniqueItems": True, "items": {"enum": ["a"]}, "minItems": -5},
    {"uniqueItems": True, "items": {"enum": ["a"], "type": [{}]}},
    {"uniqueItems": True, "items": False, "prefixItems": 5},
    {"uniqueItems": True, "items": {"enum": ["a"]}, "type": 5},
    {"uniqueItems": True, "items": {"enum": list(range(3000))}, "minItems": 3000},
    {"format": []},
    {"maxLength": "x", "format": "hostname"},
    {"minLength": 1e300},
    {"multipleOf": True},
]


@pytest.mark.parametrize("schema", MALFORMED, ids=lambda schema: json.dumps(schema)[:60])
def test_what_is_no_schema_is_refused(schema: Any) -> None:
    for whole in (schema, {"type": "object", "properties": {"a": schema}}):
        with pytest.raises(LlmcError, match="E0211"):
            Grammar.json_schema(whole)


# ---- the rest ----------------------------------------------------------------------------------


def test_values_are_left_alone() -> None:
    """What looks like a schema, and is a value."""
    value = {"format": "nobodys", "uniqueItems": True, "maxItems": 2.0, "then": 1}
    schema = {"enum": [value, 7], "default": value, "examples": [value]}
    assert translated(schema) == schema
    assert translated({"const": value}) == {"const": value}


def test_what_has_no_effect_alone() -> None:
    idle = {"if": {"const": "a"}, "minContains": 3}
    check({"type": "string", **idle, "maxLength": 2.0}, ["abc", "a"])
    check({"type": "string", "then": False, "else": False, "minLength": 1.0}, ["a", ""])


def test_true_and_false() -> None:
    assert accepts(COMPILER.compile(Grammar.json_schema(True)), [1, "x"])
    with pytest.raises(LlmcError, match="E0211"):
        Grammar.json_schema(False)


STEPS = [(1e-9, True), (0.25, True), (300, True), (12345, False), (10**30, False), (1e300, False)]


@pytest.mark.parametrize(("step", "fits"), STEPS)
def test_steps_of_numbers_are_judged_by_their_digits(step: float, fits: bool) -> None:
    schema = {"type": "number", "multipleOf": step}
    if fits:
        Grammar.json_schema(schema)
        return
    with pytest.raises(LlmcError, match=r"E0211.*multipleOf"):
        Grammar.json_schema(schema)
