"""Each format reads what is written in it, however it comes, and survives what isn't."""

import json
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmc.runtime.text.tools.calls import CallDelta, ToolCall, ToolStream, parse
from llmc.runtime.text.tools.registry import FORMATS, TAGGED_JSON, format_named
from written_calls import TOOLS, WRITTEN, streamed

NAMES = sorted(WRITTEN)

TEXTS = st.text(alphabet="ab \"'\\{}[](),:\n日🙂</>|=", max_size=12).map(str.strip)
ARGUMENTS = st.one_of(
    st.fixed_dictionaries({"city": TEXTS}, optional={"days": st.integers(-5, 99)}).map(
        lambda a: ("get_weather", a)
    ),
    st.fixed_dictionaries(
        {"code": TEXTS},
        optional={"options": st.dictionaries(st.sampled_from("xyz"), st.lists(st.integers(0, 3)))},
    ).map(lambda a: ("run", a)),
    st.fixed_dictionaries(
        {}, optional={"on": st.booleans(), "to": st.sampled_from([0.5, -2, 1e30])}
    ).map(lambda a: ("set", a)),
    st.just(("now", {})),
)


def test_every_format_is_tested():
    assert sorted(format.name for format in FORMATS) == NAMES


def calls_of(calls: list[ToolCall]) -> list[tuple[str, object]]:
    return [(call.name, json.loads(call.arguments)) for call in calls]


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=60)
@given(calls=st.lists(ARGUMENTS, min_size=1, max_size=3), cut=st.integers(0, 300))
def test_calls_are_read_back(name, calls, cut):
    text = WRITTEN[name](calls)
    content, found = parse(format_named(name), text, TOOLS)
    assert (content, calls_of(found)) == ("", calls)
    assert streamed(format_named(name), text, [min(cut, len(text))]) == (content, found)


@pytest.mark.parametrize("name", NAMES)
def test_every_cut_gives_the_same(name):
    calls = [("get_weather", {"city": 'B"}\\n', "days": 2}), ("now", {}), ("run", {"code": "a[0]"})]
    text = WRITTEN[name](calls) + "\n"
    if not format_named(name).openings:
        text = "I look. \n" + text + "Done. "
    whole = parse(format_named(name), text, TOOLS)
    assert calls_of(whole[1]) == calls
    assert whole[0] == ("I look.\nDone. " if not format_named(name).openings else "")
    for cut in range(len(text) + 1):
        assert streamed(format_named(name), text, [cut]) == whole
    assert streamed(format_named(name), text, list(range(len(text)))) == whole


@pytest.mark.filterwarnings("ignore:invalid escape:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:invalid escape:SyntaxWarning")
@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_broken_text_gives_the_same_however_it_comes(name, data):
    """Calls with pieces cut out, doubled, or mixed with marks: no crash, no dependence on cuts."""
    format = format_named(name)
    text = WRITTEN[name](data.draw(st.lists(ARGUMENTS, min_size=1, max_size=2)))
    for _ in range(data.draw(st.integers(1, 3))):
        at, length = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 9))
        new = data.draw(st.sampled_from(["", "x", '"', "{", "]", "\\", *format.marks]))
        text = text[:at] + new + text[at + length :]
    whole = parse(format, text, TOOLS)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    assert streamed(format, text, cuts) == whole
    if not whole[1]:
        assert whole[0] == text


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=40)
@given(text=st.text(alphabet="ab <>|{}[]\"'\n日:", max_size=60))
def test_text_without_calls_is_content(name, text):
    assert parse(format_named(name), text, TOOLS) == (text, [])


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_off_answer_keeps_its_call(name):
    """As with max_tokens: no crash, no markup as content once a call has begun."""
    text = WRITTEN[name]([("get_weather", {"city": "Bern", "days": 2})])
    for end in range(len(text)):
        content, calls = parse(format_named(name), text[:end], TOOLS)
        assert content == ("" if calls else text[:end])
        assert len(calls) <= 1


def test_names_come_first_and_arguments_in_pieces():
    stream = ToolStream(TAGGED_JSON, TOOLS)
    assert stream.push('Hm. <tool_call>{"name": "run", "argum') == ["Hm."]
    assert stream.push('ents": {"code": "x') == [
        CallDelta(0, "run", ""),
        CallDelta(0, None, '{"code": "x'),
    ]
    assert stream.push(" = 1") == [CallDelta(0, None, " = 1")]
    assert stream.push('"}}</tool_') == [CallDelta(0, None, '"}')]
    assert stream.push("call>") == []
    assert stream.finish() == []
    assert stream.push("late") == []
    assert stream.call_count == 1


@pytest.mark.parametrize(
    ("name", "text", "calls"),
    [
        ("tagged_json", '<tool_call>{"arguments": {"a": 1}, "name": "f"}', [("f", '{"a": 1}')]),
        (
            "tagged_json",
            '<tool_call>{"type": "function", "function": {"name": "f", "parameters": {}}}',
            [("f", "{}")],
        ),
        (
            "tagged_json",
            '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>',
            [("f", '{"a": 1}')],
        ),
        ("tagged_json", '<tool_call>{"name": "f", "arguments": null}', [("f", "{}")]),
        ("tagged_json", '<tool_call>{"id": 7, "name": "f"}', [("f", "{}")]),
        (
            "bracketed_name",
            '[TOOL_CALLS]f[CALL_ID]a1b2[ARGS]{"a": 1}',
            [("f", '{"a": 1}')],
        ),
        ("bracketed_name", '[TOOL_CALLS] [{"name": "f", "arguments": {}}]', [("f", "{}")]),
        ("bare_json", '<|python_tag|>{"name": "now", "parameters": {}}', [("now", "{}")]),
        ("bare_json", '{"type": "function", "name": "now", "parameters": {}}', [("now", "{}")]),
        ("bar_list", '<tool_call>[{"name": "f", "arguments": {}}]', [("f", "{}")]),
        ("pythonic", "[now(), set(on=true, to=-1)]", [("now", "{}"), ("set", None)]),
        ("tagged_function", "<function=now>\n</function>", [("now", "{}")]),
        (
            "tagged_function",
            "<function=f><parameter=k>7</parameter></function>",
            [("f", '{"k": 7}')],
        ),
    ],
)
def test_variants_of_the_formats(name, text, calls):
    content, found = parse(format_named(name), text, TOOLS)
    assert content == ""
    assert [call.name for call in found] == [call[0] for call in calls]
    assert all(want in (got.arguments, None) for got, (_, want) in zip(found, calls, strict=True))


def test_a_closing_tag_within_json_ends_nothing():
    calls = [("run", {"code": "x", "options": {"a": "</parameter></function>"}})]
    text = WRITTEN["tagged_function"](calls)
    assert calls_of(parse(format_named("tagged_function"), text, TOOLS)[1]) == calls
    broken = text.replace('"}', "")  # not an object after all, and still a value
    (one,) = calls_of(parse(format_named("tagged_function"), broken, TOOLS)[1])
    assert one == ("run", {"code": "x", "options": '{"a": "</parameter></function>'})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tagged_json", "<tool_call>{}</tool_call>"),
        ("tagged_json", '<tool_call>{"name": 7, "arguments": {}}</tool_call>'),
        ("tagged_json", '<tool_call>{"name": "f" "arguments": {}}</tool_call>'),
        ("tagged_json", "<tool_call>[]</tool_call>"),
        ("bare_json", '{"name": "unknown", "parameters": {}}'),
        ("bare_json", '{"answer": {"name": "now"}}'),
        ("bare_json", 'Text {"name": "now", "parameters": {}}'),
        ("bare_json", "<|python_tag|>print(1)"),
        ("pythonic", "[1, 2, 3]"),
        ("pythonic", "[now(1)]"),
        ("pythonic", "[unknown()]"),
        ("pythonic", "[set(to=open('/etc/passwd'))]"),
        ("pythonic", "[set(to=1+1)]"),
        ("pythonic", "[set(**{})]"),
        ("pythonic", "[set(to={1: 2})]"),
        ("marked_pythonic", "<|tool_call_start|>[f(a=b'x')]<|tool_call_end|>"),
        ("fenced_json", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\nno code"),
    ],
)
def test_what_is_no_call_is_content(name, text):
    assert parse(format_named(name), text, TOOLS) == (text, [])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("inner", ["{", "[", "(", '{"a":', "((((((((", '"', "\\", "f(a=", "f("])
def test_deep_and_huge_nonsense_ends_soon(name, inner):
    marks = format_named(name).marks or format_named(name).openings
    began = perf_counter()
    for text in (marks[0] + inner * 20_000, (marks[0] + inner) * 2_000):
        content, calls = parse(format_named(name), text, TOOLS)
        assert calls or content == text
    assert perf_counter() - began < 10


@pytest.mark.parametrize("name", ["tagged_json", "bare_json", "tagged_function"])
def test_long_arguments_stream_in_time(name):
    """A token at a time; nothing is looked at twice."""
    text = WRITTEN[name]([("run", {"code": 'x = "y"\n' * 10_000})])
    pieces = [text[i : i + 4] for i in range(0, len(text), 4)]
    stream = ToolStream(format_named(name), TOOLS)
    began = perf_counter()
    for piece in pieces:
        stream.push(piece)
    stream.finish()
    assert stream.call_count == 1
    assert perf_counter() - began < 5
