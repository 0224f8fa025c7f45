"""The same calls as every format writes them, and tools to go with them."""

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from llmc.runtime.text.tools.calls import ToolCall, ToolFormat, ToolStream, gathered


def tool(name: str, **properties: Any) -> dict[str, Any]:
    """A tool; parameters whose schema says `optional` are not required."""
    required = [key for key, schema in properties.items() if not schema.get("optional")]
    clean = {k: {a: b for a, b in v.items() if a != "optional"} for k, v in properties.items()}
    schema = {
        "type": "object",
        "properties": clean,
        "required": required,
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "parameters": schema}}


TOOLS = [
    tool(
        "get_weather",
        city={"type": "string"},
        days={"type": "integer", "optional": True},
        unit={"type": "string", "enum": ["C", "F"], "optional": True},
    ),
    tool("run", code={"type": "string"}, options={"type": "object", "optional": True}),
    tool("now"),
    tool("set", on={"type": "boolean", "optional": True}, to={"type": "number", "optional": True}),
]

Calls = Sequence[tuple[str, dict[str, Any]]]


def _json(name: str, arguments: dict[str, Any], key: str = "arguments") -> str:
    return json.dumps({"name": name, key: arguments}, ensure_ascii=False)


def _list(calls: Calls) -> str:
    return json.dumps([{"name": n, "arguments": a} for n, a in calls], ensure_ascii=False)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _tagged_function(name: str, arguments: dict[str, Any]) -> str:
    inner = "".join(
        f"<parameter={key}>\n{_text(value)}\n</parameter>\n" for key, value in arguments.items()
    )
    return f"<tool_call>\n<function={name}>\n{inner}</function>\n</tool_call>"


def _tagged_invoke(name: str, arguments: dict[str, Any]) -> str:
    inner = "".join(
        f'<parameter name="{key}">{_text(value)}</parameter>\n' for key, value in arguments.items()
    )
    return f'<invoke name="{name}">\n{inner}</invoke>\n'


def _tagged_pairs(name: str, arguments: dict[str, Any]) -> str:
    inner = "".join(
        f"<arg_key>{key}</arg_key>\n<arg_value>{_text(value)}</arg_value>\n"
        for key, value in arguments.items()
    )
    return f"<tool_call>{name}\n{inner}</tool_call>"


def _pythonic(calls: Calls) -> str:
    written = (
        f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
        for name, arguments in calls
    )
    return f"[{', '.join(written)}]"


def _each(write: Callable[[str, dict[str, Any]], str], between: str = "\n") -> Callable:
    return lambda calls: between.join(write(name, arguments) for name, arguments in calls)


def _object(arguments: dict[str, Any]) -> str:
    return json.dumps(arguments, ensure_ascii=False)


BEGIN, SEP, END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
ALL, ALL_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
PART, PART_END = "<|tool_call_begin|>", "<|tool_call_end|>"

WRITTEN: dict[str, Callable[[Calls], str]] = {
    "tagged_json": _each(lambda n, a: f"<tool_call>\n{_json(n, a)}\n</tool_call>"),
    "tagged_function": _each(_tagged_function),
    "tagged_invoke": lambda calls: (
        f"<minimax:tool_call>\n{_each(_tagged_invoke, '')(calls)}</minimax:tool_call>"
    ),
    "tagged_pairs": _each(_tagged_pairs),
    "fenced_json": lambda calls: (
        ALL
        + _each(lambda n, a: f"{BEGIN}function{SEP}{n}\n```json\n{_object(a)}\n```{END}")(calls)
        + ALL_END
    ),
    "separated_json": lambda calls: (
        ALL + _each(lambda n, a: f"{BEGIN}{n}{SEP}{_object(a)}{END}", "")(calls) + ALL_END
    ),
    "sectioned_json": lambda calls: (
        "<|tool_calls_section_begin|>"
        + "".join(
            f"{PART}functions.{name}:{i}<|tool_call_argument_begin|>{_object(a)}{PART_END}"
            for i, (name, a) in enumerate(calls)
        )
        + "<|tool_calls_section_end|>"
    ),
    "bracketed_name": _each(lambda n, a: f"[TOOL_CALLS]{n}[ARGS]{_object(a)}", ""),
    "bracketed_list": lambda calls: f"[TOOL_CALLS]{_list(calls)}",
    "marked_pythonic": lambda calls: f"<|tool_call_start|>{_pythonic(calls)}<|tool_call_end|>",
    "upper_list": lambda calls: f"<TOOLCALL>{_list(calls)}</TOOLCALL>",
    "bar_list_closed": lambda calls: f"<|tool_call|>{_list(calls)}<|/tool_call|>",
    "bar_list": lambda calls: f"<|tool_call|>{_list(calls)}",
    "pythonic": _pythonic,
    "bare_json": _each(lambda n, a: _json(n, a, "parameters"), "; "),
}


def streamed(format: ToolFormat, text: str, cuts: Sequence[int]) -> tuple[str, list[ToolCall]]:
    """Content and calls when the text comes in pieces that end at `cuts`."""
    stream = ToolStream(format, TOOLS)
    news = []
    for begin, end in pairwise([0, *cuts, len(text)]):
        news += stream.push(text[begin:end])
    return gathered([*news, *stream.finish()])
