"""Prompts equal those of transformers, for the constructs that published templates use.

What is right is rendered by transformers' own renderer, as `apply_chat_template` calls it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from llmc.base.errors import LlmcError
from llmc.runtime.text.chat import ChatTemplate
from llmc.runtime.text.templates import ChatTemplates

pytestmark = pytest.mark.fast

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "eot_token": "<|eot|>"}
Messages = Sequence[Mapping[str, Any]]


def by_transformers(source: str, messages: Messages, **options: Any) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    given: Any = [{k: v for k, v in message.items() if v is not None} for message in messages]
    rendered: Any = render_jinja_template([given], chat_template=source, **{**SPECIAL, **options})
    return rendered[0][0]


def part(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, **more}


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "of a <city> & more",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "abc123def",
            "type": "function",
            "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 2}},
        }
    ],
}
RESULT = {"role": "tool", "tool_call_id": "abc123def", "name": "weather", "content": "31 °C"}
SYSTEM = {"role": "system", "content": "Be <brief>. "}
USER = {"role": "user", "content": " Hot? 'quoted' é🙂 "}
ANSWER = {"role": "assistant", "content": "Yes."}
THOUGHT = {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm,\nit is."}

CONVERSATIONS: Mapping[str, Messages] = {
    "one": [USER],
    "system": [SYSTEM, USER],
    "turns": [SYSTEM, USER, ANSWER, USER],
    "thought": [USER, THOUGHT, USER],
    "thought by its other name": [USER, {**ANSWER, "reasoning": "Hm"}, USER],
    "thought as gpt-oss has it": [USER, {**ANSWER, "thinking": "Hm"}, USER],
    "of several names": [USER, {**THOUGHT, "reasoning": "no", "thinking": "T"}, USER],
    "null fields": [{**USER, "name": None, "tool_calls": None}, {**ANSWER, "refusal": None}, USER],
    "own fields": [{**USER, "name": "Ann", "mood": "good"}],
    "tools": [SYSTEM, USER, CALL, RESULT],
    "tools, and on": [USER, CALL, RESULT, ANSWER, USER],
}
CHATML = (
    "{%- for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{%- if m.name is defined %}{{ m.name }}:{% endif %}"
    "{%- if m.reasoning_content is defined and m.reasoning_content %}"
    "{{ '<think>' + m.reasoning_content.strip('\n') + '</think>' }}{% endif %}"
    "{{- m.content or '' }}{% for c in m.tool_calls or [] %}"
    '<tool_call>{"name": "{{ c.function.name }}", "arguments": '
    "{{ c.function.arguments | tojson }}}</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n"
    "{%- if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
    "{% endif %}"
)
TEMPLATES: Mapping[str, str] = {
    "chatml": "{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}" + CHATML,
    "with a date": "{{ strftime_now('%d %b %Y') }}{{ tools | tojson }}" + CHATML,
    "of macros": (
        "{% macro turn(m) %}[{{ m.role }}]{{ m.content | default('', true) | trim }}{% endmacro %}"
        "{{ bos_token }}{% for m in messages %}{{ turn(m) }}{{ eos_token }}{% endfor %}"
        "{% for t in tools or [] %}{{ t.function.name }}{{ t.function.parameters.properties.keys()"
        " | list | join(',') }}{% endfor %}"
    ),
    "of namespaces": (
        "{% set ns = namespace(last=-1, system='') %}{% for m in messages %}"
        "{% if m.role == 'system' %}{% set ns.system = m.content | trim %}{% endif %}"
        "{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
        "{{ ns.system }}{{ tools | tojson }}{% for m in messages[::-1] %}{{ ns.last }}"
        "{{ loop.revindex0 }}{{ m.role | upper }}{{ m.content or '' }}"
        "{% if m.thinking is defined %}T{{ m.thinking }}{% endif %}{% endfor %}"
    ),
    "of generation blocks": (
        "{{ tools | tojson }}{% set x = 1 %}{% for m in messages %}{% if m.role == 'assistant' %}"
        "{% generation %}{% set x = 2 %}{{ m.content or x }}{{ eot_token }}{% endgeneration %}"
        "{% else %}{{ m.content }}{{ x }}{% endif %}{% endfor %}"
    ),
    "that loops and breaks": (
        "{{ tools | tojson }}{% for m in messages if m.role != 'system' %}"
        "{% if loop.index > 3 %}{% break %}{% endif %}{% if m.role == 'tool' %}{% continue %}"
        "{% endif %}{{ loop.cycle('a', 'b') }}{{ m.content }}{{ m.items() | list | length }}"
        "{% endfor %}{{ dict(a=1) | tojson }}{{ dict.fromkeys(['k'], 2) | tojson }}"
    ),
    "of strings": (
        "{{ tools | tojson(separators=(',', ':')) }}{% for m in messages %}"
        "{{ (m.content or '').split('o')[-1].lstrip().replace('?', '!').title() }}"
        "{{ '%s-%d' % (m.role, loop.index) }}{{ m.get('nope', 'none') }}"
        "{{ (m.content or '')[::-1] }}{% if 'name' in m %}N{% endif %}{% endfor %}"
    ),
    "of both kinds of content": (
        "{{ tools | tojson }}{% for m in messages %}[{{ m.role }}]{% if m.content is string %}"
        "{{ m.content }}{% else %}{% for p in m.content %}{% if p.type == 'text' %}"
        "({{ p.text | trim }}{{ p.cache or '' }}){% endif %}{% endfor %}{% endif %}"
        "{% for c in m.tool_calls or [] %}{{ c.id }}{{ c.function.arguments.city }}{% endfor %}"
        "{% endfor %}"
    ),
}


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("variables", [{}, {"enable_thinking": False, "bos_token": "B"}], ids=str)
def test_prompts_are_those_of_transformers(
    name: str, conversation: str, variables: Mapping[str, Any]
) -> None:
    source, messages = TEMPLATES[name], CONVERSATIONS[conversation]
    template = ChatTemplate(source, SPECIAL)
    for tools in (None, [TOOL]) if "tools" not in conversation else ([TOOL],):
        for begin in (False, True):
            options: dict[str, Any] = {"add_generation_prompt": begin, "tools": tools, **variables}
            expected = by_transformers(source, messages, **options)
            assert template.render(messages, **options) == expected


LISTS: Mapping[str, Messages] = {
    "user": [{"role": "user", "content": [part(" a "), part(" b ", cache="C")]}],
    "mixed": [SYSTEM, USER, ANSWER, {"role": "user", "content": [part("one"), part("two")]}],
    "system": [{"role": "system", "content": [part("s"), part("t")]}, USER],
    "assistant": [USER, {"role": "assistant", "content": [part("x "), part("y")]}, USER],
    "tool": [USER, CALL, {**RESULT, "content": [part("31"), part("32")]}],
}


@pytest.mark.parametrize("role", LISTS)
def test_parts_reach_a_template_that_goes_through_them(role: str) -> None:
    source = TEMPLATES["of both kinds of content"]
    tools: Any = [TOOL] if role == "tool" else None
    expected = by_transformers(source, LISTS[role], tools=tools)
    assert "'type'" not in expected
    found = ChatTemplate(source, SPECIAL).render(
        LISTS[role], tools=tools, add_generation_prompt=False
    )
    assert found == expected


def test_parts_of_roles_whose_content_is_text_are_lines_of_it() -> None:
    """Only the user's are gone through here; a list elsewhere would be written as Python's."""
    source = (
        "{% for m in messages %}{% if m.role == 'user' and m.content is not string %}"
        "{% for p in m.content %}<{{ p.text }}>{% endfor %}{% else %}{{ m.content }}{% endif %}"
        "{% endfor %}"
    )
    template = ChatTemplate(source, {})
    assert template.render(LISTS["system"]) == f"s\nt{USER['content']}"
    assert template.render(LISTS["mixed"]).endswith("Yes.<one><two>")


def test_the_namespace_and_dict_keep_to_themselves() -> None:
    for source in (
        "{% set n = namespace(_x=1) %}",
        "{% set n = namespace() %}{% set n.__class__ = 1 %}",
        "{{ dict.__class__ }}{{ dict.mro() }}",
    ):
        with pytest.raises(LlmcError, match="E0209"):
            ChatTemplate(source, {}).render([USER])


# ---- several templates ---------------------------------------------------------------------


SEVERAL = {"default": "D{{ messages[0].content }}", "tool_use": "T{{ tools | tojson }}", "rag": "R"}


def test_the_choice_among_templates() -> None:
    templates = ChatTemplates(SEVERAL, {})
    assert templates.render([USER]) == f"D{USER['content']}"
    assert templates.render([USER], tools=[TOOL]) == by_transformers(
        SEVERAL["tool_use"], [USER], tools=[TOOL]
    )
    assert templates.render([USER], tools=[]) == "T[]"
    assert templates.render([USER], tools=[TOOL], chat_template="rag") == "R"
    assert templates.knows_tools
    assert templates.source == SEVERAL["tool_use"]
    assert templates.names == ("default", "rag", "tool_use")


def test_without_a_default_one_must_be_named() -> None:
    templates = ChatTemplates({"rag": "R{{ messages | length }}"}, {})
    assert templates.render([USER], chat_template="rag") == "R1"
    choices: list[dict[str, Any]] = [{}, {"tools": [TOOL]}, {"chat_template": "other"}]
    for given in choices:
        with pytest.raises(LlmcError, match=r"E0209.*rag"):
            templates.render([USER], **given)
