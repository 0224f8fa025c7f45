"""Tools and choices of requests: good ones pass, anything else is E0212."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llmc.base.errors import LlmcError
from llmc.runtime.text.tools.definitions import MOST_TOOLS, checked_choice, checked_tools
from written_calls import TOOLS

pytestmark = pytest.mark.fast


def function(**fields: object) -> dict[str, object]:
    return {"type": "function", "function": {"name": "f", **fields}}


def nested(depth: int) -> dict[str, object]:
    schema: dict[str, object] = {"type": "object"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"x": schema}}
    return schema


def test_good_tools_pass():
    assert checked_tools(TOOLS) == tuple(TOOLS)
    assert checked_tools(None) == checked_tools([]) == ()
    assert checked_tools([function(description=None, parameters={}, strict=True)])
    assert checked_tools([function(parameters=nested(20))])


@pytest.mark.parametrize(
    "tools",
    [
        "tools",
        7,
        {"type": "function"},
        ["f"],
        [{"type": "function"}],
        [{"type": "retrieval"}],
        [{"type": "function", "function": []}],
        [function(name="")],
        [function(name="a b")],
        [function(name="x" * 65)],
        [function(name='f"}')],
        [function(name=7)],
        [function(description=7)],
        [function(parameters=[])],
        [function(parameters={"type": "string"})],
        [function(parameters={"properties": []})],
        [function(parameters={"required": "x"})],
        [function(parameters={"required": [7]})],
        [function(parameters=nested(5000))],
        [function(), function()],
        [function(name=f"f{i}") for i in range(MOST_TOOLS + 1)],
    ],
)
def test_malformed_tools_are_refused(tools):
    with pytest.raises(LlmcError, match="E0212") as caught:
        checked_tools(tools)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 200


def test_choices():
    assert checked_choice(None, TOOLS) == checked_choice("auto", TOOLS) == (tuple(TOOLS), False)
    assert checked_choice("none", TOOLS) == ((), False)
    assert checked_choice("required", TOOLS) == (tuple(TOOLS), True)
    named = {"type": "function", "function": {"name": "run"}}
    assert checked_choice(named, TOOLS) == ((TOOLS[1],), True)
    assert checked_choice({"type": "function", "name": "run"}, TOOLS) == ((TOOLS[1],), True)
    for mode, forced in (("auto", False), ("required", True)):
        some = {"mode": mode, "tools": [named, named]}
        nested = {"type": "allowed_tools", "allowed_tools": some}
        assert checked_choice(nested, TOOLS) == ((TOOLS[1],), forced)
        assert checked_choice({"type": "allowed_tools", **some}, TOOLS) == ((TOOLS[1],), forced)


@pytest.mark.parametrize(
    "choice",
    [
        "any",
        7,
        [],
        {},
        {"type": "function"},
        {"type": "function", "function": {"name": "x"}},
        {"type": "allowed_tools"},
        {"type": "allowed_tools", "tools": []},
        {"type": "allowed_tools", "tools": [7]},
        {"type": "allowed_tools", "allowed_tools": 7},
        {"type": "allowed_tools", "tools": [{"type": "function", "name": "x"}]},
    ],
)
def test_malformed_choices_are_refused(choice):
    with pytest.raises(LlmcError, match="E0212"):
        checked_choice(choice, TOOLS)


def test_nothing_can_be_required_of_no_tools():
    with pytest.raises(LlmcError, match="E0212"):
        checked_choice("required", [])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "function", "name", "parameters", "properties", "required"]),
            inner | st.sampled_from(["function", "object"]),
        )
    ),
)


@given(JSON)
def test_any_json_passes_or_is_refused(value):
    with suppress(LlmcError):  # any other error fails the test
        for tool in checked_tools(value):
            assert tool["function"]["name"]
