"""Templates get what they expect, in the form they want, and refuse what they cannot say."""

import json
from itertools import product
from threading import Thread
from time import perf_counter

import pytest
from llmc.base.errors import LlmcError
from llmc.runtime.text import template_sandbox
from llmc.runtime.text.chat import ChatTemplate

pytestmark = pytest.mark.fast

MESSAGES = [{"role": "user", "content": "<hi> 'you'"}]
PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% for m in messages %}\n[{{ m['role'] }}]{{ m.content }}\n{% endfor %}", "[user]"),
        ("{{ bos_token }}{{ messages[0]['content'] }}", "<s><hi> 'you'"),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "<hi> \'you\'"}'),
        ("{% generation %}x{{ messages|length }}{% endgeneration %}y", "x1y"),
        ("{% for i in range(9) %}{% if i > 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "012"),
        ("{% for i in range(9) if i > 6 %}{{ i }}{% endfor %}", "78"),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(1) }}{{ m(2) }}", "<1><2>"),
        ("{{ strftime_now('%Y')[:2] }}", "20"),
        ("{{ 'go' if add_generation_prompt }}{{ tools is none }}", "goTrue"),
        ("{{ undefined_name }}", ""),
    ],
)
def test_templates_get_what_transformers_gives_them(source, text):
    template = ChatTemplate(source, {"bos_token": "<s>"})
    assert template.render(MESSAGES).startswith(text)


def test_variables_reach_the_template_but_not_over_the_messages():
    template = ChatTemplate(
        "{{ thinking }}{{ eos_token }}{{ messages|length }}", {"eos_token": "E"}
    )
    assert template.render(MESSAGES, thinking=False) == "FalseE1"
    assert template.render(MESSAGES, eos_token="X", add_generation_prompt=False) == "X1"


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('only users') }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ 1 / 0 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ environment.turn.__globals__ }}{{ 1 / 0 }}",
    ],
)
def test_templates_that_refuse_or_try_too_much(source):
    with pytest.raises(LlmcError, match="E0209"):
        ChatTemplate(source, {}).render(MESSAGES)


LOOP = "{% for i in range(99999) %}"
END = "{% endfor %}"


@pytest.mark.parametrize(
    "source",
    [
        LOOP + LOOP + END + END,
        LOOP + "{% for j in range(99999) if false %}" + END + END,
        "{% macro m(n) %}{{ m(n - 1) + m(n - 1) if n }}{% endmacro %}{{ m(30) }}",
        "{% for i in [[0]] recursive %}{{ loop([[0], [0]]) }}{% endfor %}",
        LOOP + "{% set x = range(99999) | list %}" + END,
        LOOP + "{{ 'x' * 9999 }}" + END,
        "{% set x %}" + LOOP + LOOP + END + END + "{% endset %}",
    ],
)
def test_loops_end(source, monkeypatch):
    monkeypatch.setattr(template_sandbox, "MAX_SECONDS", 1.0)
    began = perf_counter()
    with pytest.raises(LlmcError, match="E0209"):
        ChatTemplate(source, {}).render(MESSAGES)
    assert perf_counter() - began < 10  # 1 s, on a machine that has other things to do


def test_every_rendering_has_its_own_bounds(monkeypatch):
    """Also several at a time, on threads of their own."""
    monkeypatch.setattr(template_sandbox, "MAX_TURNS", 150)
    template = ChatTemplate("{% for i in range(100) %}x{% endfor %}", {})
    results: list[str] = []
    threads = [Thread(target=lambda: results.append(template.render(MESSAGES))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["x" * 100] * 8
    assert template.render(MESSAGES) == "x" * 100


@pytest.mark.parametrize("source", ["{% for %}", "{{ (" * 3000, "{% if x %}" * 2000])
def test_an_invalid_template_is_named(source):
    with pytest.raises(LlmcError, match="E0512"):
        ChatTemplate(source, {})


# ---- content -------------------------------------------------------------------------------

PARTS = [{"type": "text", "text": "one"}, {"type": "input_text", "text": "two"}]


def test_parts_become_text_where_the_template_wants_text():
    assert ChatTemplate(PLAIN, {}).render([{"role": "user", "content": PARTS}]) == "[user]one\ntwo"


def test_text_becomes_parts_where_the_template_wants_parts():
    source = "{% for m in messages %}{% for p in m.content %}({{ p.text }}){% endfor %}{% endfor %}"
    template = ChatTemplate(source, {})
    assert template.render([{"role": "user", "content": "one"}]) == "(one)"
    assert template.render([{"role": "user", "content": PARTS}]) == "(one)(two)"


@pytest.mark.parametrize(
    "message",
    [
        "text",
        {},
        {"content": "x"},
        {"role": 1, "content": "x"},
        {"role": "user", "content": 7},
        {"role": "user", "content": ["x"]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
        {"role": "user", "content": [{"type": ["text"], "text": "x"}]},
        {"role": "user", "content": [{"type": "text", "text": None}]},
        {"role": "assistant", "tool_calls": {"f": 1}},
        {"role": "assistant", "tool_calls": "f"},
        {"role": "assistant", "tool_calls": ["f"]},
        {"role": "assistant", "tool_calls": [{"function": {"name": None}}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
        {
            "role": "assistant",
            "tool_calls": [{"function": {"name": "f", "arguments": "[" * 100_000}}],
        },
    ],
)
def test_malformed_messages_are_refused(message):
    with pytest.raises(LlmcError, match="E0209"):
        ChatTemplate(PLAIN, {}).render([message])


def test_developers_are_the_system_unless_the_template_knows_them():
    message = [{"role": "developer", "content": "x"}]
    assert ChatTemplate(PLAIN, {}).render(message) == "[system]x"
    assert ChatTemplate("{# developer #}" + PLAIN, {}).render(message) == "[developer]x"


def test_the_final_message_is_continued():
    source = PLAIN + "<end>{% if add_generation_prompt %}[assistant]{% endif %}"
    template = ChatTemplate(source, {})
    messages = [*MESSAGES, {"role": "assistant", "content": "So it "}]
    assert template.render(messages).endswith("So it <end>[assistant]")
    assert template.render(messages, continue_final_message=True).endswith("[assistant]So it ")
    parts = [*MESSAGES, {"role": "assistant", "content": PARTS}]
    assert template.render(parts, continue_final_message=True).endswith("one\ntwo")


@pytest.mark.parametrize("messages", [[], [{"role": "assistant", "content": "x"}]])
def test_what_cannot_be_continued(messages):
    with pytest.raises(LlmcError, match="E0209"):
        ChatTemplate("nothing", {}).render(messages, continue_final_message=True)


# ---- tools ---------------------------------------------------------------------------------

KNOWS = "{% if tools %}{{ tools | tojson }}{% endif %}"
TURN = """{% for m in messages %}[{{ m.role }}]{CONTENT}\
{% for c in m.tool_calls or [] %}<{{ c.function.name }}:{ARGUMENTS}>{% endfor %}{% endfor %}"""
CONTENTS = {
    "any": "{{ m.content or '' }}",
    "text": "{{ '' + m.content }}",
    "null": "{% if m.tool_calls and m.content is not none %}{{ 1 / 0 }}{% endif %}"
    "{{ m.content or '' }}",
}
WAYS = {
    "object": "{{ c.function.arguments | tojson }}",
    "text": "{{ '' + c.function.arguments }}",
    "items": "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }}{% endfor %}",
    "either": "{% if c.function.arguments is string %}{{ c.function.arguments }}"
    "{% else %}{{ c.function.arguments | tojson }}{% endif %}",
}
CONVERSATION = [
    {"role": "user", "content": "Hot?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "abc",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city": "Bern"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "abc", "content": "31"},
]


@pytest.mark.parametrize(("content", "way"), list(product(CONTENTS, WAYS)))
def test_calls_come_in_the_form_that_the_template_wants(content, way):
    turn = TURN.replace("{CONTENT}", CONTENTS[content]).replace("{ARGUMENTS}", WAYS[way])
    template = ChatTemplate(KNOWS + turn, {})
    assert template.knows_tools
    arguments = "city=Bern" if way == "items" else '{"city": "Bern"}'
    assert template.render(CONVERSATION).endswith(
        f"[user]Hot?[assistant]<weather:{arguments}>[tool]31"
    )


def test_tools_reach_a_template_that_knows_them():
    template = ChatTemplate(KNOWS + PLAIN, {})
    assert template.render(MESSAGES, tools=[TOOL]).startswith(json.dumps([TOOL]))


def test_a_template_without_tools_gets_them_as_text():
    template = ChatTemplate(PLAIN, {})
    assert not template.knows_tools
    text = template.render([{"role": "system", "content": "Be kind."}, *CONVERSATION], tools=[TOOL])
    system, rest = text.split("[user]", 1)
    assert system.startswith("[system]Be kind.\n\n")
    assert json.dumps(TOOL["function"]) in system
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'
    assert rest == (f"Hot?[assistant]{call}[user]<tool_response>\n31\n</tool_response>")
    assert template.render(CONVERSATION, tools=[TOOL]).startswith("[system]You can call")
    several = template.render([*CONVERSATION, {**CONVERSATION[2], "content": "32"}])
    assert several == f"[user]{rest}\n<tool_response>\n32\n</tool_response>"
    assert template.render(CONVERSATION) == f"[user]{rest}"


def test_without_a_system_role_the_user_tells_of_the_tools():
    source = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + PLAIN
    text = ChatTemplate(source, {}).render(CONVERSATION, tools=[TOOL])
    assert text.startswith("[user]You can call")
    assert "\n\nHot?[assistant]" in text


# ---- the final message continued -------------------------------------------------------------

TURNS = "{% for m in messages %}<{{ m.role }}>CONTENT</s>\n{% endfor %}"
CONTINUED = [
    TURNS.replace("CONTENT", "{{ m.content }}"),
    TURNS.replace("CONTENT", " {{ m.content | trim }} "),
    TURNS.replace("CONTENT", "{{ m['content'].strip() }}"),
    TURNS.replace("CONTENT", "{{ m.content.split('</think>')[-1] }}"),
    TURNS.replace("CONTENT", "{% for p in m.content %}({{ p.text }}){% endfor %}"),
    "{{ bos_token }}" + TURNS.replace("CONTENT", "{{ m.content }}{{ '</turn>' if loop.last }}"),
]


@pytest.mark.parametrize("source", CONTINUED)
@pytest.mark.parametrize(
    "said", ["Once", "Once upon \n", " a time", "", "<think>\nhm", "<think>a</think>\n\nSo "]
)
def test_a_continued_message_ends_where_transformers_ends_it(source, said):
    from transformers.utils.chat_template_utils import render_jinja_template

    parts = "p.text" in source
    asked = [{"role": "user", "content": "Once"}, {"role": "assistant", "content": said}]
    as_parts = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in asked]
    template = ChatTemplate(source, {"bos_token": "<s>"})
    try:
        (expected,), _ = render_jinja_template(
            [as_parts if parts else asked],
            chat_template=source,
            continue_final_message=True,
            bos_token="<s>",
        )
    except ValueError:  # the template doesn't show it
        with pytest.raises(LlmcError, match=r"E0209.*final message"):
            template.render(asked, continue_final_message=True)
        return
    assert template.render(asked, continue_final_message=True) == expected


@pytest.mark.parametrize("last", [[], [{"role": "assistant", "content": None}]])
def test_nothing_to_continue(last):
    with pytest.raises(LlmcError, match=r"E0209.*final message"):
        ChatTemplate(PLAIN, {}).render(last, continue_final_message=True)
