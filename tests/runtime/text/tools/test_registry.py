"""A chat template shows the format in which its model writes calls."""

import pytest
from llmc.runtime.text.chat import ChatTemplate
from llmc.runtime.text.tools.registry import FORMATS, TAGGED_JSON, format_named, format_of
from written_calls import WRITTEN

pytestmark = pytest.mark.fast

SHOWN = {
    "bare_json": 'Respond in the format {"name": function name, "parameters": dictionary}',
    "pythonic": "put it in the format of [func_name1(params_name1=params_value1), func_name2()]",
    "fenced_json": "<｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\n{}\n```",
    "tagged_invoke": '<minimax:tool_call><invoke name="f"><parameter name="x">1</parameter>',
}


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_a_template_that_writes_a_format_is_found(name):
    shown = SHOWN.get(name) or WRITTEN[name]([("f", {"x": 1})])
    source = "{% if tools %}{{ tools | tojson }}{% raw %}" + shown + "{% endraw %}{% endif %}"
    template = ChatTemplate(source, {})
    assert template.knows_tools
    assert format_of(source, knows_tools=True).name == name
    assert format_of(source, knows_tools=False) is TAGGED_JSON


def test_a_template_that_shows_no_format_gets_the_common_one():
    assert format_of("{{ tools }}", knows_tools=True) is TAGGED_JSON


def test_names_are_unique_and_found():
    assert len({format.name for format in FORMATS}) == len(FORMATS)
    assert format_named("tagged_json") is TAGGED_JSON
    with pytest.raises(KeyError):
        format_named("none")
