"""Values that hold the marks of the format itself: they are values, and end nothing."""

import json
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmc.runtime.text.tools.calls import ToolStream, parse
from llmc.runtime.text.tools.registry import FORMATS, format_named
from llmc.runtime.text.tools.tagged_parameters import TaggedParameters
from written_calls import TOOLS, WRITTEN, streamed

pytestmark = pytest.mark.fast

NAMES = sorted(WRITTEN)
TAGGED = sorted(f.name for f in FORMATS if isinstance(f, TaggedParameters))
QUOTED = sorted({*NAMES} - {*TAGGED})
MARKS = sorted({mark for format in FORMATS for mark in (*format.marks, *format.fixed) if mark})
PIECES = st.sampled_from([*MARKS, "x", " ", "\n", '"', "\\", "}", "]", "{}", "<parameter=code>"])
NASTY = st.lists(PIECES, max_size=6).map(lambda pieces: "x" + "".join(pieces) + "x")


def read(name: str, text: str) -> tuple[str, list[tuple[str, object]]]:
    content, calls = parse(format_named(name), text, TOOLS)
    return content, [(call.name, json.loads(call.arguments)) for call in calls]


@pytest.mark.parametrize("name", QUOTED)
@settings(deadline=None, max_examples=80)
@given(values=st.lists(NASTY, min_size=1, max_size=2))
def test_quotes_tell_a_value_from_markup(name: str, values: list[str]) -> None:
    """Whatever the value is: the quotes around it say where it ends."""
    calls = [("run", {"code": value, "options": {"k": [value]}}) for value in values]
    assert read(name, WRITTEN[name](calls)) == ("", calls)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=80)
@given(value=NASTY, tail=NASTY, data=st.data())
def test_nasty_values_are_the_same_however_they_come(
    name: str, value: str, tail: str, data: st.DataObject
) -> None:
    text = WRITTEN[name]([("run", {"code": value}), ("get_weather", {"city": value})]) + tail
    whole = parse(format_named(name), text, TOOLS)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    assert streamed(format_named(name), text, cuts) == whole
    assert streamed(format_named(name), text, list(range(len(text)))) == whole


def examples(name: str) -> list[str]:
    """Values with the format's own tags in them, as a model writes that explains the format."""
    format = format_named(name)
    assert isinstance(format, TaggedParameters)
    close, end = format.value_end, format.end
    call = WRITTEN[name]([("run", {"code": "inner"})])
    several = WRITTEN[name]([("get_weather", {"city": "a", "days": 1}), ("now", {})])
    return [
        f"a{close}b",
        f"{close} is the closing tag",
        f"{close}{close} twice",
        f"a {close} {end} b",
        f"a\n{close}\n{end}\n{format.section_end}\nis how a call ends",
        f"{end} alone",
        f"{format.section_end or end} alone",
        f"{format.start} alone",
        f"{format.key_start}code{format.key_end} opens one",
        f"as in:\n{call}\nThat is all.",
        f"as in:\n{several}\nThat is all.",
        f"{call}",
    ]


@pytest.mark.parametrize("name", TAGGED)
@pytest.mark.parametrize("number", range(12))
@pytest.mark.parametrize(
    "behind", [[], [("now", {})], [("get_weather", {"city": "b", "days": 2})]], ids=len
)
def test_tags_within_plain_text_end_nothing(name: str, number: int, behind: list) -> None:
    value = examples(name)[number]
    for arguments in ({"code": value}, {"code": value, "options": {"a": value}}):
        calls = [("get_weather", {"city": "x"}), ("run", arguments), *behind]
        text = WRITTEN[name](calls)
        assert read(name, text) == ("", calls)
        whole = parse(format_named(name), text, TOOLS)
        for cut in range(0, len(text), 3):
            assert streamed(format_named(name), text, [cut]) == whole


@pytest.mark.parametrize("name", TAGGED)
def test_text_behind_such_a_call_is_content(name: str) -> None:
    value = examples(name)[0]
    text = WRITTEN[name]([("run", {"code": value})]) + " Done."
    assert read(name, text) == ("Done.", [("run", {"code": value})])
    second = WRITTEN[name]([("now", {})])
    assert read(name, text + second) == ("Done.", [("run", {"code": value}), ("now", {})])


@pytest.mark.parametrize("name", TAGGED)
def test_many_calls_with_odd_tags_are_read_soon(name: str) -> None:
    """In time that grows with the text, and each by itself."""
    format = format_named(name)
    assert isinstance(format, TaggedParameters)
    value = f"{format.value_start or format.key_start}z"
    text = WRITTEN[name]([("run", {"code": value})] * 1000)
    began = perf_counter()
    _, calls = parse(format, text, TOOLS)
    assert perf_counter() - began < 10
    assert len(calls) > 900


@pytest.mark.parametrize("name", TAGGED)
def test_a_value_comes_when_its_end_is_sure(name: str) -> None:
    """Not only when the text ends."""
    stream = ToolStream(format_named(name), TOOLS)
    written = WRITTEN[name]([("get_weather", {"city": "Bern", "days": 2})])
    key = written.rindex(format_named(name).fixed[-3])  # the next parameter begins
    news = stream.push(written[: key + 16])
    assert '"Bern"' in "".join(one.arguments for one in news if not isinstance(one, str))
