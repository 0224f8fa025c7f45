"""Templates get what they expect, and refuse what they cannot say."""

import pytest
from llmc.runtime.errors import LlmcError
from llmc.runtime.text.chat import ChatTemplate

MESSAGES = [{"role": "user", "content": "<hi> 'you'"}]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% for m in messages %}\n[{{ m['role'] }}]{{ m.content }}\n{% endfor %}", "[user]"),
        ("{{ bos_token }}{{ messages[0]['content'] }}", "<s><hi> 'you'"),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "<hi> \'you\'"}'),
        ("{% generation %}x{{ messages|length }}{% endgeneration %}y", "x1y"),
        ("{% for i in range(9) %}{% if i > 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "012"),
        ("{{ strftime_now('%Y')[:2] }}", "20"),
        ("{{ 'go' if add_generation_prompt }}{{ tools is none }}", "goTrue"),
        ("{{ undefined_name }}", ""),
    ],
)
def test_templates_get_what_transformers_gives_them(source, text):
    template = ChatTemplate(source, {"bos_token": "<s>"})
    assert template.render(MESSAGES).startswith(text)


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('only users') }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ 1 / 0 }}",
    ],
)
def test_templates_that_refuse_or_try_too_much(source):
    with pytest.raises(LlmcError, match="E0209"):
        ChatTemplate(source, {}).render(MESSAGES)


def test_an_invalid_template_is_named():
    with pytest.raises(LlmcError, match="E0512"):
        ChatTemplate("{% for %}", {})
