"""Reasoning is split from the answer at the same place however the text comes."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmc.runtime.text.reasoning import KNOWN, ReasoningStream, keeps_special, marks_of, opened_by

pytestmark = pytest.mark.fast

THINK = KNOWN[0]


def split(text: str, cuts: list[int], *, opened: bool = False) -> tuple[str, str]:
    stream = ReasoningStream(THINK, opened=opened)
    bounds = [0, *sorted(cuts), len(text)]
    news = [stream.push(text[a:b]) for a, b in pairwise(bounds)]
    news.append(stream.finish())
    return "".join(one[0] for one in news), "".join(one[1] for one in news)


@pytest.mark.parametrize(
    ("text", "opened", "reasoning", "content"),
    [
        ("<think>\nHm. \n</think>\n\nYes. ", False, "Hm.", "Yes. "),
        ("Hm, <thin\n</think> Yes", True, "Hm, <thin", "Yes"),
        ("<think>Hm</think>Yes", True, "Hm", "Yes"),
        (" \n<think></think>", False, "", ""),
        ("<think>cut o", False, "cut o", ""),
        ("<think>cut </thi", False, "cut </thi", ""),
        (" Yes <think>no</think>", False, "", " Yes <think>no</think>"),
        ("<thin", False, "", "<thin"),
        ("", False, "", ""),
        ("  ", False, "", "  "),
        ("<think>a</think>b</think>c", False, "a", "b</think>c"),
    ],
)
def test_sections(text, opened, reasoning, content):
    for cut in range(len(text) + 1):
        assert split(text, [cut], opened=opened) == (reasoning, content)
    assert split(text, list(range(len(text))), opened=opened) == (reasoning, content)


PIECES = st.sampled_from(["<think>", "</think>", "<", "th", " ", "\n", "a", "日"])


@settings(deadline=None)
@given(
    text=st.lists(PIECES, max_size=12).map("".join),
    cuts=st.lists(st.integers(0, 60), max_size=5),
    opened=st.booleans(),
)
def test_any_text_splits_the_same_however_it_comes(text, cuts, opened):
    whole = split(text, [], opened=opened)
    assert split(text, [min(cut, len(text)) for cut in cuts], opened=opened) == whole
    assert len(whole[0]) + len(whole[1]) <= len(text)


def test_reasoning_comes_as_it_is_written():
    stream = ReasoningStream(THINK)
    pieces = [stream.push(text) for text in ("<think>", "I ", "see.</", "think>", "So", "!")]
    assert pieces == [("", ""), ("I", ""), (" see.", ""), ("", ""), ("", "So"), ("", "!")]


def test_marks_come_from_the_template_and_the_prompt():
    assert marks_of("{{ m.content.split('</think>')[-1] }}") == THINK
    assert marks_of("{{ m.content }}") is None
    assert opened_by("<|assistant|><think>\n", THINK)
    assert not opened_by("<|assistant|><think></think>", THINK)
    assert keeps_special(THINK, {"<think>": 7}.get)
    assert not keeps_special(THINK, {"[THINK]": 7}.get)
