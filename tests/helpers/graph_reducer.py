"""Shrinks a graph that shows a fault to a few nodes that still show it.

    python tests/helpers/graph_reducer.py graph.txt --check module:function [--path FOLDER …]

In: graph text, and a function of a `Graph` that is true if the fault is there (or raises
`AssertionError`). Out: the text of the smallest graph that was found. What is tried, over and over
until nothing helps: one node alone, an earlier value as the only output, a value as a new input of
the graph, an earlier value of the same type in place of another, smaller dimensions. Nodes and
inputs that nothing reads any more go by themselves. A candidate that isn't well formed is left out.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from llmc.base.errors import LlmcError
from llmc.ir.graph import Graph, Value
from llmc.ir.parser import parse
from llmc.ir.verifier import verify

Fails = Callable[[Graph], bool]
_MALFORMED = (LlmcError, ValueError, TypeError, IndexError, KeyError, AssertionError)
_NUMBER = re.compile(r"(?<![\w.%@-])\d+(?![\w.])")
"""A number that may be a dimension: in a type, or in an attribute that follows from one."""


def reduce_graph(graph: Graph, fails: Fails) -> Graph:
    """The smallest graph found for which `fails` holds, as it does for `graph`.

    Raises:
        ValueError: `graph` doesn't fail.
    """
    text = str(graph)
    if not _shows(text, fails):
        raise ValueError("the graph doesn't show the fault")
    while True:
        smaller = next((c for c in _candidates(text) if _shows(c, fails)), None)
        if smaller is None:
            return parse(text)
        text = smaller


def _shows(text: str, fails: Fails) -> bool:
    """Whether the text is a sound graph with the fault."""
    try:
        graph = parse(text)
        verify(graph)
    except _MALFORMED:
        return False
    try:
        return fails(graph)
    except AssertionError:
        return True


def _candidates(text: str) -> Iterator[str]:
    """Smaller texts, those that leave out most first."""
    seen = {text}
    for change in (_alone, _other_output, _cut, _bypassed):
        for candidate in _each(text, change):
            if candidate not in seen:
                seen.add(candidate)
                yield candidate
    yield from _smaller_dimensions(text)


def _each(text: str, change: Callable[[Graph, int], Iterable[None]]) -> Iterator[str]:
    """The texts that a change makes at each node. A change yields where a candidate stands."""
    for at in range(len(parse(text).nodes)):
        count = 0
        while True:
            graph = parse(text)
            try:
                done = any(number == count for number, _ in enumerate(change(graph, at)))
                if not done:
                    break
                yield _cleaned(graph)
            except _MALFORMED:
                pass
            count += 1


def _cleaned(graph: Graph) -> str:
    """The text without what nothing reads."""
    graph.erase_dead()
    graph.inputs = [v for v in graph.inputs if v.users or v in graph.outputs]
    return str(graph)


def _alone(graph: Graph, at: int) -> Iterator[None]:
    """A node with everything that it reads given from outside."""
    node = graph.nodes[at]
    if len(graph.nodes) > 1:
        for value in dict.fromkeys(v for v in node.inputs if v.producer is not None):
            graph.replace_uses(value, graph.add_input(f"cut{len(graph.inputs)}", value.type))
        graph.outputs = list(node.outputs)
        yield


def _other_output(graph: Graph, at: int) -> Iterator[None]:
    """A node's result is all that is asked for."""
    for value in graph.nodes[at].outputs:
        if graph.outputs != [value]:
            graph.outputs = [value]
            yield


def _cut(graph: Graph, at: int) -> Iterator[None]:
    """A node's result is given from outside, the last node's first."""
    node = graph.nodes[-1 - at]
    for value in node.outputs:
        if value.users:
            graph.replace_uses(value, graph.add_input(f"cut{len(graph.inputs)}", value.type))
            yield


def _bypassed(graph: Graph, at: int) -> Iterator[None]:
    """An earlier value of the same type does instead: one that the node reads, or an input."""
    node = graph.nodes[at]
    for value in node.outputs:
        for other in _same_type(value, [*node.inputs, *graph.inputs]):
            graph.replace_uses(value, other)
            yield


def _same_type(value: Value, others: Iterable[Value]) -> list[Value]:
    return [v for v in dict.fromkeys(others) if v.type == value.type and not v.is_constant]


def _smaller_dimensions(text: str) -> Iterator[str]:
    """A number replaced wherever it stands for itself: in types and in attributes."""
    numbers = sorted({int(n) for n in _NUMBER.findall(text)} - {0, 1}, reverse=True)
    for number in numbers:
        for less in dict.fromkeys((1, 2, number // 2, number - 1)):
            if less < number:
                yield re.sub(rf"(?<![\w.%@-]){number}(?![\w.])", str(less), text)


def main(arguments: list[str] | None = None) -> None:
    """Reduce the graph in a file and print it."""
    parser = argparse.ArgumentParser(description="Shrink a graph that shows a fault.")
    parser.add_argument("graph", type=Path, help="graph text, as LLMC_DUMP writes it")
    parser.add_argument("--check", required=True, help="module:function, true where the fault is")
    parser.add_argument("--path", nargs="*", default=[], help="folders to import the module from")
    asked = parser.parse_args(arguments)
    sys.path[:0] = asked.path
    module, _, function = asked.check.partition(":")
    check = getattr(importlib.import_module(module), function)
    print(reduce_graph(parse(asked.graph.read_text()), check), end="")


if __name__ == "__main__":
    main()
