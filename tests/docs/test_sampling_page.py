"""docs/sampling.md: its tables against the code."""

import re

import pytest
from doc_pages import page
from llmc.runtime.engine.sampling.parameters import MAX_LOGPROBS, SamplingParams
from llmc.runtime.text import grammar_limits

pytestmark = pytest.mark.fast

TEXT = page("docs/sampling.md").text


def test_the_table_has_every_parameter_and_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", TEXT, re.MULTILINE)
    default = SamplingParams()
    assert {name for name, _ in rows} == set(default.__struct_fields__)
    for name, off in rows:
        value = getattr(default, name)
        assert str(int(value) if isinstance(value, float) else value) == off, name
    assert f"up to {MAX_LOGPROBS} |" in TEXT


def test_the_limits_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `(MAX_\w+)` \| ([\d,]+) \|", TEXT, re.MULTILINE)
    stated = {name: int(value.replace(",", "")) for name, value in rows}
    assert stated == {n: v for n, v in vars(grammar_limits).items() if n.startswith("MAX_")}
