"""Text → graph: the inverse of `ir/printer.py`.

    parse(str(graph))   prints as `graph` does

Node types are inferred again and compared with the text. Recipes of constants are kept as
their text (`Opaque`), but for plain checkpoint tensors (`@name:f32`), which become what they
were. Empty lines and lines that begin with `#` (the heads of dumps) are skipped.
"""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any, get_type_hints

from .bodies import body_of
from .graph import Graph, StateGroup, Value
from .ops import OPS, Call, Op, OpBody
from .ops.base import snake_case
from .phase import Phase
from .recipe import STORED_DTYPES, CheckpointTensor, Recipe
from .roles import parse_role
from .scalar import scalar
from .states import KINDS
from .types import Dim, DType, Sym, TensorType


@dataclass(frozen=True)
class Opaque(Recipe):
    """A recipe that is known by its text and type only; it can't be evaluated."""

    text: str
    of: TensorType

    @property
    def type(self) -> TensorType:
        return self.of

    def __str__(self) -> str:
        return self.text


def parse(text: str) -> Graph:
    """The graph of `text`: its last one; those before it are the bodies it calls.

    Raises:
        ValueError: a line isn't what the printer writes or breaks a rule of its op; the message
            begins with the line's number.
    """
    graphs: list[Graph] = []
    lines = _Lines(graphs)
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            lines.read(_Scanner(line.strip()))
        except (TypeError, ValueError, KeyError, IndexError) as error:
            reason = f"{error.args[0]} is unknown" if isinstance(error, KeyError) else error
            raise ValueError(f"line {number}: {reason}") from error
    if not graphs:
        raise ValueError("line 1: no graph")
    *bodies, main = graphs
    main.bodies = {body.name: body for body in bodies if body.name not in lines.inner}
    return main


_TOKEN = re.compile(
    r"""\s*(?:
    (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<number>-?(?:\d+\.?\d*(?:e[+-]?\d+)?|inf\b|nan\b)(?![\w.*]))
    | (?P<result>%\d+)
    | (?P<symbol>\d+\*[A-Za-z_]\w*)
    | (?P<word>[A-Za-z_][\w.]*)
    | (?P<mark>[@()\[\]{},:=])
    )""",
    re.VERBOSE | re.ASCII,
)
_CONSTANT = re.compile(r'[\w.|/-]+|"(?:[^"\\]|\\.)*"', re.ASCII)
_LEAF = re.compile(r"@(.+):(\w+)")


class _Scanner:
    """The tokens of one line, from left to right."""

    def __init__(self, line: str) -> None:
        self.line = line
        self.at = 0

    def peek(self) -> tuple[str, str]:
        """(kind, text) of the next token; kind "end" at the end of the line or its comment."""
        if self.rest == "" or self.rest.startswith("#"):
            return "end", ""
        found = _TOKEN.match(self.line, self.at)
        if found is None or found.lastgroup is None:
            raise ValueError(f"can't read {self.rest!r}")
        return found.lastgroup, found.group(found.lastgroup)

    def take(self, *wanted: str) -> str:
        """The next token, which must be of one of the kinds, or one of the marks, `wanted`."""
        kind, text = self.peek()
        if kind not in wanted and text not in wanted:
            raise ValueError(f"expected {' or '.join(wanted)}, not {text or 'the end'!r}")
        self.at = self.line.index(text, self.at) + len(text)
        return text

    def accept(self, mark: str) -> bool:
        if self.peek()[1] != mark:
            return False
        self.take(mark)
        return True

    def name(self) -> str:
        text = self.take("word", "string")
        return json.loads(text) if text.startswith('"') else text

    def constant(self) -> str:
        """The name behind an `@`, which may hold more characters than a word."""
        found = _CONSTANT.match(self.line, self.at)
        if found is None:
            raise ValueError(f"expected a constant's name, not {self.rest!r}")
        self.at = found.end()
        text = found.group()
        return json.loads(text) if text.startswith('"') else text

    def number(self) -> int | float:
        text = self.take("number")
        return int(text) if re.fullmatch(r"-?\d+", text) else float(text)

    def dim(self) -> Dim:
        """A size or a symbol."""
        if self.peek()[0] == "number":
            return int(self.take("number"))
        scale, _, name = self.take("symbol", "word").rpartition("*")
        return Sym(name, int(scale or 1))

    def type(self) -> TensorType:
        dtype = DType(self.take("word"))
        self.take("[")
        shape: list[Dim] = []
        while not self.accept("]"):
            shape.append(self.dim())
            if self.peek()[1] != "]":
                self.take(",")
        return TensorType(dtype, tuple(shape))

    def end(self) -> None:
        self.take("end")

    @property
    def rest(self) -> str:
        return self.line[self.at :].strip()

    def rest_after(self, word: str) -> str:
        """All that follows `word`, taken."""
        self.take(word)
        text = self.rest.partition("#")[0].strip()
        self.at = len(self.line)
        return text


class _Lines:
    """Builds graphs line by line; `names` are the values that the current graph knows."""

    def __init__(self, graphs: list[Graph]) -> None:
        self.graphs = graphs
        self.names: dict[str, Value] = {}
        self.inner: set[str] = set()
        """Names of graphs that are bodies of ops."""

    def read(self, line: _Scanner) -> None:
        kind, text = line.peek()
        reader = getattr(self, f"_{text}", None) if text in _KEYWORDS else None
        if reader is not None:
            line.take("word")
            reader(line)
        elif kind == "result":
            self._node(line)
        else:
            raise ValueError(f"expected {', '.join(_KEYWORDS)} or a result, not {text!r}")

    @property
    def current(self) -> Graph:
        if not self.graphs:
            raise ValueError("expected graph first")
        return self.graphs[-1]

    def _graph(self, line: _Scanner) -> None:
        name = line.name()
        line.take(":")
        self.graphs.append(Graph(name, Phase[line.take("word")]))
        self.names = {}
        line.end()

    def _input(self, line: _Scanner) -> None:
        name = line.name()
        line.take(":")
        type = line.type()
        role = parse_role(line.rest_after("as")) if line.peek()[1] == "as" else None
        self._define(name, self.current.add_input(name, type, role))
        line.end()

    def _group(self, line: _Scanner) -> None:
        name = line.take("number") if line.peek()[0] == "number" else line.name()
        line.take(":")
        kind = line.take("word")
        geometry = _made(kind, KINDS[kind].geometry, _attributes(line))
        if line.take("word") != "sites":
            raise ValueError("expected sites=")
        line.take("=")
        sites = _attribute(line)
        if not isinstance(sites, tuple) or not all(type(site) is int for site in sites):
            raise ValueError("sites are numbers in parentheses")
        self.current.groups.append(StateGroup(name, kind, geometry, list(sites)))
        line.end()

    def _const(self, line: _Scanner) -> None:
        line.take("@")
        name = line.constant()
        line.take(":")
        type = line.type()
        line.take("=")
        if not line.rest:
            raise ValueError("expected a recipe")
        self._define(f"@{name}", self.current.constant(name, _recipe(line.rest, type), type))

    def _output(self, line: _Scanner) -> None:
        self.current.outputs.append(self._operand(line))
        line.end()

    def _node(self, line: _Scanner) -> None:
        names, types = [], []
        while True:
            names.append(line.take("result"))
            line.take(":")
            types.append(line.type())
            if not line.accept(","):
                break
        line.take("=")
        mnemonic = line.take("word")
        line.take("(")
        operands: list[Value] = []
        while not line.accept(")"):
            operands.append(self._operand(line))
            if line.peek()[1] != ")":
                line.take(",")
        op = self._op(mnemonic, _attributes(line))
        line.end()
        node = self.current.append(op, operands, line.rest.removeprefix("#").strip())
        actual = [v.type for v in node.outputs]
        if actual != types:
            shown = ", ".join(map(str, actual))
            raise ValueError(f"{mnemonic} gives {shown}, not {', '.join(map(str, types))}")
        for name, value in zip(names, node.outputs, strict=True):
            self._define(name, value)

    def _op(self, mnemonic: str, attributes: dict[str, Any]) -> Op:
        for name, hint in _hints(OPS[mnemonic]).items():
            if hint is OpBody and isinstance(attributes.get(name), str):
                self.inner.add(attributes[name])
                attributes[name] = body_of(self._body(attributes[name]))
        op = make_op(mnemonic, attributes)
        if not isinstance(op, Call):
            return op
        return Call(op.body, tuple(v.type for v in self._body(op.body).outputs))

    def _body(self, name: str) -> Graph:
        body = next((g for g in self.graphs[:-1] if g.name == name), None)
        if body is None:
            raise ValueError(f"no body {name!r} stands before the call")
        return body

    def _operand(self, line: _Scanner) -> Value:
        kind, text = line.peek()
        if kind == "number" or text in ("true", "false"):
            return _scalar(line)
        if line.accept("@"):
            return self.names[f"@{line.constant()}"]
        return self.names[line.take("result") if kind == "result" else line.name()]

    def _define(self, name: str, value: Value) -> None:
        if name in self.names:
            raise ValueError(f"{name} is defined twice")
        self.names[name] = value


_KEYWORDS = ("graph", "input", "group", "const", "output")


def _recipe(text: str, type: TensorType) -> Recipe:
    found = _LEAF.fullmatch(text)
    if found and found.group(2) in STORED_DTYPES:
        shape = tuple(d for d in type.shape if isinstance(d, int))
        leaf = CheckpointTensor(found.group(1), found.group(2), shape)
        if leaf.type == type:
            return leaf
    return Opaque(text, type)


def _scalar(line: _Scanner) -> Value:
    if line.peek()[0] == "word":
        return scalar(line.take("word") == "true")
    value = line.number()
    return scalar(value, DType(line.take("word")) if line.accept(":") else None)


def _attributes(line: _Scanner) -> dict[str, Any]:
    if not line.accept("{"):
        return {}
    result = {}
    while not line.accept("}"):
        name = line.take("word")
        line.take("=")
        result[name] = _attribute(line)
        if line.peek()[1] != "}":
            line.take(",")
    return result


def _attribute(line: _Scanner) -> Any:
    kind, text = line.peek()
    if kind == "number":
        return line.number()
    if kind == "string":
        return json.loads(line.take("string"))
    if line.accept("("):
        items = []
        while not line.accept(")"):
            items.append(_attribute(line))
            if line.peek()[1] != ")":
                line.take(",")
        return tuple(items)
    if kind == "word" and text in _WORDS:
        return _WORDS[line.take("word")]
    return line.dim()


_WORDS: dict[str, Any] = {"True": True, "False": False} | {d.value: d for d in DType}


def make_op(mnemonic: str, attributes: dict[str, Any]) -> Op:
    """The op of that mnemonic.

    Raises:
        KeyError: there is none.
        ValueError: an attribute is unknown, missing or of another type than the op's field.
    """
    cls = OPS[mnemonic]
    if mnemonic != snake_case(cls.__name__):
        attributes = {"fn": mnemonic} | attributes
    return _made(mnemonic, cls, attributes)


def _made(what: str, cls: type[Any], attributes: dict[str, Any]) -> Any:
    """The dataclass `cls` of attributes that the text has for `what`."""
    hints = _hints(cls)
    for name, value in attributes.items():
        if name not in hints:
            raise ValueError(f"{what} has no attribute {name}")
        if not _fits(value, hints[name]):
            raise ValueError(f"{what}: {name}={value!r} is not of type {hints[name]}")
    required = {f.name for f in fields(cls) if f.default is MISSING}
    missing = sorted(required - set(attributes))
    if missing:
        raise ValueError(f"{what} needs {', '.join(missing)}")
    return cls(**{k: float(v) if hints[k] is float else v for k, v in attributes.items()})


@cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    names = {f.name for f in fields(cls)}
    return {k: v for k, v in get_type_hints(cls).items() if k in names}


def _fits(value: Any, hint: Any) -> bool:
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint in (int, bool, str):
        return type(value) is hint
    if hint in (DType, OpBody):
        return isinstance(value, hint)
    dims = (int, Sym) if hint == tuple[Dim, ...] else int
    return isinstance(value, tuple) and all(
        isinstance(v, dims) and not isinstance(v, bool) for v in value
    )
