"""Tools for models whose chat template knows none: described in a system message.

The form is the most common one: JSON between `<tool_call>` tags, results between `<tool_response>`
tags. Calls and results of the conversation so far are written the same way.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

_PROMPT = """\
You can call functions to help with the request. These are their signatures:
<tools>
{tools}
</tools>

To call a function, write its name and arguments as a JSON object between tags:
<tool_call>
{{"name": "function name", "arguments": {{"argument name": "value"}}}}
</tool_call>
The result comes back to you between <tool_response> tags. If no function is needed, answer \
directly."""


def told_in_text(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    knows_system: bool,
) -> list[dict[str, Any]]:
    """The messages with tools, calls and results as plain text.

    `knows_system`: whether the template takes a system message; if not, the first user message
    begins with the description.
    """
    plain: list[dict[str, Any]] = []
    for before, message in zip([None, *messages], messages, strict=False):
        one = _plain(message)
        if before and before["role"] == message["role"] == "tool":  # results are one turn
            plain[-1]["content"] += "\n" + one["content"]
        else:
            plain.append(one)
    if not tools:
        return plain
    signatures = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    prompt = _PROMPT.format(tools=signatures)
    role = "system" if knows_system else "user"
    for place, message in enumerate(plain):
        if message["role"] == role:
            content = message["content"]
            text = f"{content}\n\n{prompt}" if role == "system" else f"{prompt}\n\n{content}"
            plain[place] = {**message, "content": text}
            return plain
    return [{"role": role, "content": prompt}, *plain]


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message without tool calls, and without the role of a tool."""
    plain: dict[str, Any] = dict(message)
    if plain["role"] == "tool":
        content = plain.get("content") or ""
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    calls = plain.pop("tool_calls", None)
    if calls:
        texts = [plain["content"]] if plain.get("content") else []
        for call in calls:
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
            texts.append(f"<tool_call>\n{body}\n</tool_call>")
        plain["content"] = "\n".join(texts)
    return plain
