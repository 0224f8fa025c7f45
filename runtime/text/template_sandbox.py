"""Where chat templates run: Jinja's immutable sandbox with a bound on loops, time and output.

Templates expect what transformers gives them: `raise_exception`, `strftime_now`, a `tojson` that
doesn't escape for HTML, `break` and `continue`, blocks trimmed, and a `generation` tag (which marks
the assistant's part for training; here it is transparent, with a scope of its own as there). `dict`
is no class, and a namespace keeps no underscored names.

Every turn of a loop and every call of a macro counts, so a template ends within bounds whatever the
messages are. The memory of a single expression isn't bounded (`"a" * 10**9`): an artifact's
template is trusted as far as the program beside it, but not to be without mistakes.
"""

import json
from collections.abc import Callable
from datetime import datetime
from threading import local
from time import monotonic
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from ...base.errors import LlmcError

MAX_TURNS = 1_000_000
"""Turns of loops and calls of macros in one rendering."""
MAX_SECONDS = 10.0
MAX_CHARACTERS = 32 << 20


class BoundExceeded(Exception):
    """A template goes beyond one of the bounds."""


class _GenerationTag(Extension):
    """`{% generation %} … {% endgeneration %}` is what stands between."""

    tags = {"generation"}  # noqa: RUF012 (declared so by the base class)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_said", [], [])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _said(self, caller: Callable[[], str]) -> str:
        return caller()


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """An environment for one template."""

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
        )
        self.filters["tojson"] = _to_json
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now
        self.globals["dict"] = _Dict()
        self.globals["namespace"] = _Namespace
        self._rendering = local()

    def compiled(self, source: str) -> Any:
        """The template of a source; E0512 if it is invalid."""
        try:
            tree = self.parse(source)
            for node in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
                _count_turns(node)
            return self.from_string(tree)
        except Exception as error:  # besides TemplateError: too deeply nested for the parser
            raise LlmcError("LLMC-E0512", f"the chat template is invalid: {error}") from error

    def rendered(self, template: Any, variables: dict[str, Any]) -> str:
        """The text; whatever the template raises, BoundExceeded if it goes on for too long."""
        self._rendering.turns = 0
        self._rendering.deadline = monotonic() + MAX_SECONDS
        pieces: list[str] = []
        length = 0
        for piece in template.generate(variables):
            length += len(piece)
            if length > MAX_CHARACTERS:
                raise BoundExceeded(f"it writes more than {MAX_CHARACTERS} characters")
            pieces.append(piece)
        return "".join(pieces)

    def turn(self) -> bool:
        """Called by the template at each turn of a loop and each call of a macro."""
        now = self._rendering
        now.turns += 1
        if now.turns > MAX_TURNS:
            raise BoundExceeded(f"its loops turn more than {MAX_TURNS} times")
        if now.turns % 64 == 0 and monotonic() > now.deadline:
            raise BoundExceeded(f"it takes longer than {MAX_SECONDS:.0f} s")
        return True


def _count_turns(node: nodes.For | nodes.Macro | nodes.CallBlock) -> None:
    """Puts calls of `turn` into a loop's condition and body."""

    def call() -> nodes.Call:
        name = nodes.EnvironmentAttribute("turn", lineno=node.lineno)
        return nodes.Call(name, [], [], None, None, lineno=node.lineno)

    node.body.insert(0, nodes.ExprStmt(call(), lineno=node.lineno))
    if isinstance(node, nodes.For) and node.test is not None:
        node.test = nodes.And(call(), node.test, lineno=node.lineno)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


class _Dict:
    """`dict(…)` and `dict.fromkeys(…)`, and no way from there to Python's class."""

    def __call__(self, *pairs: Any, **named: Any) -> dict[Any, Any]:
        return dict(*pairs, **named)

    def fromkeys(self, keys: Any, value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(keys, value)


class _Namespace(Namespace):
    """Jinja's namespace without underscored names, which could reach the object's own."""

    def __init__(*args: Any, **named: Any) -> None:
        # The signature of Jinja's own, so that a name may be `self`.
        self, pairs = args[0], dict(*args[1:], **named)
        for name in pairs:
            _require_plain(name)
        Namespace.__init__(self, pairs)

    def __setitem__(self, name: str, value: Any) -> None:
        _require_plain(name)
        super().__setitem__(name, value)


def _require_plain(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace keeps no name like {name!r}")


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)
