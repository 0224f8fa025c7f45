"""Structured output: whatever a model wants to say, what comes out is what was asked for."""

import json
import re
import subprocess
import sys
import time
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmc.artifact.program import StepOutputs
from llmc.base.errors import LlmcError
from llmc.runtime.engine.request import Request
from llmc.runtime.engine.sampling.grammar import Grammar, GrammarCompiler
from llmc.runtime.engine.sampling.parameters import SamplingParams
from llmc.runtime.engine.sampling.sampler import Sampler, sampling_state
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

pytestmark = pytest.mark.fast

PADDING = 37
"""Logits that no token belongs to, as models have them whose vocabulary was rounded up."""


def make_tokenizer() -> Tokenizer:
    """Bytes, and some pieces that cross the borders of JSON's syntax."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("{", '"'), ('"', ":"), ("t", "r"), ("u", "e"), ("tr", "ue"), ('"', "}"), ("e", "s"),
              ("y", "es"), (",", '"'), ("1", "2"), ("]", "}"), ("a", "b"), ("c", "o")]  # fmt: skip
    pieces = [*alphabet, *(a + b for a, b in merges)]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    return tokenizer


TOKENIZER = make_tokenizer()
EOS: int = TOKENIZER.get_vocab()["<|end|>"]
VOCAB = TOKENIZER.get_vocab_size() + PADDING
COMPILER = GrammarCompiler(TOKENIZER.to_str().encode(), VOCAB, [EOS])


def generate(grammars: list[Grammar], seed: int, limit: int = 400, **params: Any) -> list[Request]:
    """What a model with random opinions says under these grammars, all in one batch."""
    requests = [
        Request((1,), limit, SamplingParams(**{"temperature": 1.0, "seed": seed + i} | params),
                frozenset([EOS]), grammar=COMPILER.compile(grammar))
        for i, grammar in enumerate(grammars)
    ]  # fmt: skip
    sampler, running = Sampler(), list(requests)
    states = [sampling_state(request) for request in requests]
    rng = np.random.default_rng(seed)
    while running:
        sampler.prepare(states)
        logits = rng.normal(0, 2, (len(states), VOCAB)).astype(np.float32)
        logits[:, [EOS, *(TOKENIZER.encode('"]}').ids)]] += 4  # it wants to come to an end
        outputs = StepOutputs.of(logits)
        for request, state, token in zip(
            running, states, sampler.sample(states, outputs), strict=True
        ):
            assert state is not None
            assert state.error is None
            request.output.append(token)
            if token == EOS or state.ended:
                request.finish_reason = "stop"
            elif len(request.output) == limit:
                request.finish_reason = "length"
        left = [(r, s) for r, s in zip(running, states, strict=True) if r.finish_reason is None]
        running, states = [r for r, _ in left], [s for _, s in left]
    sampler.close()
    return requests


def text_of(request: Request) -> str:
    return TOKENIZER.decode(request.output, skip_special_tokens=True)


def finished(grammar: Grammar, seeds: int = 12, **params: Any) -> list[str]:
    """The texts of those outputs that came to an end, of which there must be many."""
    requests = generate([grammar] * seeds, 100, **params)
    texts = [text_of(request) for request in requests if request.finish_reason == "stop"]
    assert len(texts) >= seeds / 2
    return texts


SCHEMAS: list[dict[str, Any] | bool] = [
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "yé", 3]}},
     "required": ["a", "b"], "additionalProperties": False},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 5},
    {"type": "string", "pattern": "^[a-f]{2,4}-[0-9]+$"},
    {"type": "string", "minLength": 3, "maxLength": 6},
    {"type": "string", "format": "date"},
    {"type": "integer", "minimum": -5, "maximum": 117, "multipleOf": 3},
    {"anyOf": [{"type": "null"}, {"const": {"deep": [1, "two"]}}, {"type": "number"}]},
    {"$ref": "#/$defs/tree", "$defs": {"tree": {
        "type": "object",
        "properties": {"v": {"type": "integer", "maximum": 9, "minimum": 0},
                       "kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}},
        "required": ["v"], "additionalProperties": False}}},
    {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 9}},
]  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:40])
def test_json_keeps_to_its_schema(schema: Any):
    for text in finished(Grammar.json_schema(schema)):
        assert jsonschema_rs.is_valid(schema, json.loads(text)), text
    assert Grammar.json_schema(json.dumps(schema)) == Grammar.json_schema(schema)


def test_a_json_object_is_one():
    assert all(isinstance(json.loads(text), dict) for text in finished(Grammar.json_object()))


@pytest.mark.parametrize(
    "pattern",
    [
        "[a-c]{3}",
        "(yes|no)!?",
        "[0-9]{3}-[0-9]{4}",
        "[^a]{2}x",
        "(ab|c)*d",
        r'"(\\.|[^"\\]){0,8}"',
        "é+ü",
    ],
)
def test_text_matches_its_expression(pattern: str):
    for text in finished(Grammar.regex(pattern)):
        assert re.fullmatch(pattern, text), text


@settings(deadline=None, max_examples=60)
@given(
    choices=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
        min_size=1,
        max_size=6,
    )
)
def test_a_choice_is_one_of_them(choices: list[str]):
    for request in generate([Grammar.choice(choices)] * 3, 5):
        assert request.finish_reason == "stop"
        assert text_of(request) in choices


def test_grammars():
    gbnf = 'root ::= "(" num ("," num)* ")"\nnum ::= [0-9] [0-9]?'
    lark = 'start: "(" num ("," num)* ")"\nnum: /[0-9]{1,2}/'
    for grammar in (Grammar.gbnf(gbnf), Grammar.lark(lark)):
        for text in finished(grammar):
            assert re.fullmatch(r"\(\d\d?(,\d\d?)*\)", text), text
    nested = Grammar.lark('start: "(" start? ")"')
    for text in finished(nested):
        assert re.fullmatch(r"\(+\)+", text)
        assert text.count("(") == text.count(")")


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.0},
        {"temperature": 3.0, "top_k": 3, "top_p": 0.9, "min_p": 0.1},
        {"repetition_penalty": 1.5, "frequency_penalty": 1.0, "presence_penalty": 1.0},
        {"min_tokens": 5, "logprobs": 3},
        {"bad_words": ((0,), (1, 2)), "logit_bias": {5: 10.0}, "typical_p": 0.5},
    ],
)
def test_a_grammar_goes_with_everything_else(params: dict[str, Any]):
    schema = SCHEMAS[0]
    requests = generate([Grammar.json_schema(schema)] * 6, 3, **params)
    for request in requests:
        if request.finish_reason == "stop":
            assert jsonschema_rs.is_valid(schema, json.loads(text_of(request)))
        assert EOS not in request.output[: params.get("min_tokens", 0)]
    assert any(request.finish_reason == "stop" for request in requests)


def test_min_tokens_and_an_optional_end():
    for request in generate([Grammar.regex("[ab]*")] * 5, 1, min_tokens=20):
        assert len(request.output) >= 20


def test_a_new_state_goes_on_where_the_old_one_stopped():
    request = Request((1,), 9, SamplingParams(), grammar=COMPILER.compile(Grammar.regex("abcd")))
    request.output = TOKENIZER.encode("abc").ids
    state = sampling_state(request)
    assert state is not None
    logits = np.zeros((1, VOCAB), np.float32)
    token = Sampler().sample([state], StepOutputs.of(logits))[0]
    assert TOKENIZER.decode([token]) == "d"
    assert state.ended


def test_a_grammar_that_forbidden_words_contradict_is_an_error():
    a = TOKENIZER.encode("a").ids[0]
    request = Request((1,), 9, SamplingParams(bad_words=((a,),)),
                      grammar=COMPILER.compile(Grammar.choice(["a"])))  # fmt: skip
    state = sampling_state(request)
    assert state is not None
    Sampler().sample([state], StepOutputs.of(np.zeros((1, VOCAB), np.float32)))
    assert state.error is not None
    assert state.error.id == "LLMC-E0211"


def test_the_compiler_remembers():
    grammar = Grammar.regex("[0-9]+")
    assert COMPILER.compile(grammar) is COMPILER.compile(Grammar.regex("[0-9]+"))


def test_a_vocabulary_smaller_than_the_tokenizers():
    """A model may have fewer logits than its tokenizer has tokens."""
    compiler = GrammarCompiler(TOKENIZER.to_str().encode(), EOS - 5, [EOS])
    request = Request((1,), 9, SamplingParams(), grammar=compiler.compile(Grammar.regex("a")))
    state = sampling_state(request)
    assert state is not None
    logits = np.zeros((1, EOS - 5), np.float32)
    token = Sampler().sample([state], StepOutputs.of(logits))[0]
    assert TOKENIZER.decode([token]) == "a"


def refused(make: Any) -> str:
    with pytest.raises(LlmcError) as caught:
        make()
    assert caught.value.id == "LLMC-E0211"
    return caught.value.message


def or_refused(make: Any) -> Any:
    """What `make` gives, or None if it is refused in the way that it should be."""
    try:
        return make()
    except LlmcError as error:
        if error.id != "LLMC-E0211":
            raise
        return None


def deep(levels: int) -> str:
    return '{"items":' * levels + "{}" + "}" * levels


INVALID = {
    "regex": lambda: Grammar.regex("(a"),
    "look-around": lambda: Grammar.regex("(?=a)b"),
    "back reference": lambda: Grammar.regex(r"(a)\1"),
    "schema type": lambda: Grammar.json_schema({"type": "thing"}),
    "schema keyword": lambda: Grammar.json_schema({"not": {}}),
    "schema text": lambda: Grammar.json_schema("{"),
    "schema number": lambda: Grammar.json_schema("3"),
    "schema reference": lambda: Grammar.json_schema({"$ref": "http://localhost/x.json"}),
    "schema file": lambda: Grammar.json_schema({"$ref": "file:///etc/passwd"}),
    "no JSON": lambda: Grammar.json_schema({"const": float("nan")}),
    "unsatisfiable": lambda: Grammar.json_schema(False),
    "lark": lambda: Grammar.lark("start: other"),
    "lark text": lambda: Grammar.lark("((("),
    "gbnf": lambda: Grammar.gbnf("root ::= ("),
    "no choice": lambda: Grammar.choice([]),
    "characters": lambda: Grammar.choice(["a"]) and Grammar.choice("ab"),
    "a null": lambda: Grammar.regex("a\0"),
    "half a character": lambda: Grammar.choice(["\ud800"]),
}


@pytest.mark.parametrize("make", INVALID.values(), ids=INVALID)
def test_what_is_invalid_is_refused(make: Any):
    assert refused(make)


HOSTILE = {
    "repeats": lambda: Grammar.regex("(a{1000}){1000}"),
    "many repeats": lambda: Grammar.regex("((((a{100}){100}){100}){100}){100}"),
    "a great repeat": lambda: Grammar.regex("a{4000000000}"),
    "a greater repeat": lambda: Grammar.regex("a{99999999999999999999}"),
    "verbose": lambda: Grammar.regex("(?x)(a # )\n{1000}){1000}"),
    "optional": lambda: Grammar.regex("(a?){5000}a{5000}"),
    "optional later": lambda: Grammar.regex("x(a?){5000}a{5000}"),
    "stars": lambda: Grammar.regex("(x+x+)+y(a*)*b"),
    "far back": lambda: Grammar.regex("(.*a.{15}b){15}"),
    "words": lambda: Grammar.regex(r"(\p{L}{1,90}[^\p{N}]{1,90}){1,2}"),
    "parentheses": lambda: Grammar.regex("(" * 5000 + "a" + ")" * 5000),
    "classes": lambda: Grammar.regex("[" * 5000),
    "long": lambda: Grammar.regex("a" * 300_000),
    "alternatives": lambda: Grammar.regex("|".join(f"w{i}" for i in range(30_000))),
    "choices": lambda: Grammar.choice([f"choice {i}" for i in range(10_000)]),
    "deep": lambda: Grammar.json_schema(deep(70)),
    "very deep": lambda: Grammar.json_schema(deep(20_000)),
    "deeper than text": lambda: Grammar.json_schema(json.dumps({"const": [[0] * 99_999]})),
    "values": lambda: Grammar.json_schema({"enum": [f"value {i}" for i in range(15_000)]}),
    "properties": lambda: Grammar.json_schema({"properties": {f"p{i}": {} for i in range(9_000)}}),
    "thousand": lambda: Grammar.json_schema({"properties": {f"p{i}": {} for i in range(1000)}}),
    "itself": lambda: Grammar.json_schema({"$ref": "#"}),
    "each other": lambda: Grammar.json_schema(
        {"$ref": "#/a", "a": {"$ref": "#/b"}, "b": {"$ref": "#/a"}}
    ),
    "doubling": lambda: Grammar.json_schema(
        {"$ref": "#/$defs/0", "$defs": {str(i): {"anyOf": [{"$ref": f"#/$defs/{i + 1}"}] * 2}
                                        for i in range(40)} | {"40": {"type": "null"}}}
    ),
    "pattern": lambda: Grammar.json_schema({"type": "string", "pattern": "^(a{1000}){1000}$"}),
    "divisor": lambda: Grammar.json_schema({"type": "integer", "multipleOf": 99_999_989}),
    "divisors": lambda: Grammar.json_schema({"allOf": [{"multipleOf": 997}, {"multipleOf": 991}]}),
    "fraction": lambda: Grammar.json_schema({"type": "number", "multipleOf": 0.0099991}),
    "items": lambda: Grammar.json_schema({"type": "array", "minItems": 10**9}),
    "length": lambda: Grammar.json_schema({"type": "string", "minLength": 10**9}),
    "options": lambda: Grammar.json_schema({"x-guidance": {"whitespace_pattern": "(a{999}){9}"}}),
    "terminals": lambda: Grammar.lark('start: A\nA: B{1000}\nB: C{1000}\nC: "x"'),
    "rules": lambda: Grammar.lark('start: a{1000000}\na: b{1000000}\nb: "x"'),
    "tilde": lambda: Grammar.lark('start: A\nA: B ~ 1000..2000\nB: "x" ~ 5000'),
    "expressions": lambda: Grammar.lark("start: /(a{1000}){1000}/"),
    "schemas": lambda: Grammar.lark('start: %json {"type": "integer", "multipleOf": 99999989}'),
    "ambiguous": lambda: Grammar.lark('start: a\na: a a a | a a | "x" | "xx" | '),
    "doubling terminals": lambda: Grammar.lark(
        "start: A0\n" + "".join(f"A{i}: A{i + 1} A{i + 1}\n" for i in range(55)) + 'A55: "x"'
    ),
    "doubling rules": lambda: Grammar.lark(
        "start: a0\n" + "".join(f"a{i}: a{i + 1} a{i + 1}\n" for i in range(60)) + 'a60: "x"'
    ),
    "deep lark": lambda: Grammar.lark("start: " + "(" * 20_000 + '"a"' + ")" * 20_000),
    "deep gbnf": lambda: Grammar.gbnf("root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000),
    "long gbnf": lambda: Grammar.gbnf('root ::= "a"\n' + "x ::= [a-z] root\n" * 9_000),
}  # fmt: skip


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_hostile_grammars_are_bounded(make: Any):
    """Refused, or followed in little time; an output under one is refused at most."""
    started = time.process_time()
    compiled = or_refused(lambda: COMPILER.compile(make()))
    assert time.process_time() - started < 3
    if compiled is None:
        return
    request = Request((1,), 99, SamplingParams(temperature=1.0, seed=1), grammar=compiled)
    state, sampler = sampling_state(request), Sampler()
    rng = np.random.default_rng(0)
    for _ in range(30):
        assert state is not None
        began = time.process_time()
        sampler.prepare([state])
        logits = rng.normal(0, 1, (1, VOCAB)).astype(np.float32)
        request.output += sampler.sample([state], StepOutputs.of(logits))
        assert time.process_time() - began < 1
        if state.error is not None or state.ended or request.output[-1] == EOS:
            break


@settings(deadline=None, max_examples=100)
@given(text=st.text(max_size=60), kind=st.sampled_from(["regex", "lark", "gbnf", "json_schema"]))
def test_any_text_is_a_grammar_or_refused(text: str, kind: str):
    or_refused(lambda: getattr(Grammar, kind)(text))


def test_what_is_long_is_not_always_refused():
    Grammar.regex(r"[\s\S]{0,15000}")
    Grammar.json_schema({"type": "string", "maxLength": 100_000})
    Grammar.json_schema({"properties": {"price": {"type": "number", "multipleOf": 0.01}}})


def test_without_the_package_the_extra_is_named():
    code = """
import sys
sys.modules["llguidance"] = None
from llmc.runtime.engine.sampling.grammar import Grammar
from llmc.base.errors import LlmcError
try:
    Grammar.regex("a")
except LlmcError as error:
    assert error.id == "LLMC-E0703", error
    assert "llmc-compiler[serve]" in error.hint
else:
    raise SystemExit("nothing was raised")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
