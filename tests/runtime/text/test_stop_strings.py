"""A text ends at the same place however it comes, and nothing of a stop string is given out."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmc.base.errors import LlmcError
from llmc.runtime.text.stop_strings import StopStrings

pytestmark = pytest.mark.fast


@settings(deadline=None, max_examples=400)
@given(
    text=st.text(alphabet="abc", max_size=30),
    stops=st.lists(st.text(alphabet="abc", min_size=1, max_size=5), max_size=18),
    cuts=st.lists(st.integers(0, 30), max_size=8),
    include=st.booleans(),
)
def test_stop_strings_cut_the_same_place_however_the_text_comes(text, stops, cuts, include):
    bounds = sorted({0, len(text), *(c for c in cuts if c <= len(text))})
    matcher = StopStrings(stops, include=include)
    got = "".join(matcher.push(text[a:b]) for a, b in pairwise(bounds))
    got += matcher.flush()
    # The stop that is complete first counts; of those that end together, the longest.
    ends = [(text.find(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
    if not ends:
        assert (matcher.found, got) == (None, text)
    else:
        end, _, stop = min(ends)
        assert matcher.found == stop
        assert got == text[: end if include else end - len(stop)]


def test_nothing_that_may_begin_a_stop_string_is_given_out():
    matcher = StopStrings(["STOP", "END"])
    pieces = ["one ST", "O", "RM S", "TOP two"]
    assert [matcher.push(p) for p in pieces] == ["one ", "", "STORM ", ""]
    assert matcher.found == "STOP"
    assert matcher.push("more") == ""
    assert matcher.flush() == ""


def test_characters_that_mean_something_in_a_pattern():
    matcher = StopStrings(["]x", "^y", "-z", "\\w"])
    assert matcher.push("a]b^c-d\\v") == "a]b^c-d\\v"
    assert matcher.push("a^y") == "a"
    assert matcher.found == "^y"


def test_an_empty_stop_string_is_refused():
    with pytest.raises(LlmcError, match="E0205"):
        StopStrings(["x", ""])
