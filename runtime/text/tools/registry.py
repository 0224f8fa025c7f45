"""The formats in which models write tool calls, and which of them a chat template teaches.

They are named by how they look, since many models share one.
"""

from .calls import ToolFormat
from .json_calls import MarkedJson
from .named_json import NamedJson
from .pythonic import Pythonic
from .tagged_parameters import TaggedParameters

TAGGED_JSON = MarkedJson("tagged_json", "<tool_call>", "</tool_call>", gap="\n")
"""Also what models are told whose template knows no tools, or shows no format that is known."""

FORMATS: tuple[ToolFormat, ...] = (
    TaggedParameters(
        "tagged_function",
        *("<function=", ">", "<parameter=", ">", "", "</parameter>", "</function>"),
        *("<tool_call>", "</tool_call>", "\n"),
    ),
    TaggedParameters(
        "tagged_invoke",
        *('<invoke name="', '">', '<parameter name="', '">', "", "</parameter>", "</invoke>"),
        *("<minimax:tool_call>", "</minimax:tool_call>"),
    ),
    TaggedParameters(
        "tagged_pairs",
        *("<tool_call>", "", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
        "</tool_call>",
        line="\n",
    ),
    NamedJson(
        "fenced_json",
        *("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
        *("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
        kind="function",
        sign="```json",
    ),
    NamedJson(
        "separated_json",
        *("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
        *("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    ),
    NamedJson(
        "sectioned_json",
        *("<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"),
        *("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
    ),
    NamedJson("bracketed_name", "[TOOL_CALLS]", "[ARGS]", id_mark="[CALL_ID]", sign="[ARGS]"),
    MarkedJson("bracketed_list", "[TOOL_CALLS]", listed=True),
    Pythonic(
        "marked_pythonic",
        *("<|tool_call_start|>", "<|tool_call_end|>"),
        signs=("<|tool_call_start|>", "<|tool_list_start|>"),
    ),
    MarkedJson("upper_list", "<TOOLCALL>", "</TOOLCALL>", listed=True),
    MarkedJson(
        "bar_list_closed",
        *("<|tool_call|>", "<|/tool_call|>"),
        listed=True,
        signs=("<|/tool_call|>",),
    ),
    MarkedJson("bar_list", "<|tool_call|>", listed=True, also=("<tool_call>",)),
    TAGGED_JSON,
    Pythonic("pythonic", signs=("[func_name1(", "[func1(", "[function_name(")),
    MarkedJson(
        "bare_json",
        "",
        also=("<|python_tag|>",),
        opening=True,
        arguments="parameters",
        signs=("<|python_tag|>", '{"name": function name, "parameters"'),
    ),
)
"""All of them; the first that a template shows is its format."""


def format_named(name: str) -> ToolFormat:
    """A format by its name; KeyError if there is none."""
    return {format.name: format for format in FORMATS}[name]


def format_of(template: str, *, knows_tools: bool) -> ToolFormat:
    """The format in which a model with this chat template writes calls.

    `knows_tools`: whether the template shows tools at all; if not, or if it shows no format that is
    known, it is the one of `fallback`.
    """
    if not knows_tools:
        return TAGGED_JSON
    return next((format for format in FORMATS if format.detect(template)), TAGGED_JSON)
