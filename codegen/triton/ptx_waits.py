"""Proves that a kernel which may begin before the one in front of it has ended waits for that.

In: the PTX of a kernel. Out: what is wrong with it, or nothing.

A launch plan takes for granted that an overlapping kernel waits (`griddepcontrol.wait`) whichever
way its threads go: one that ended without would let the launch behind it run beside the launch in
front. And it must write nothing before. Both are read off the graph of the kernel's basic blocks:
the wait lies on every path to an exit, and to a block that writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import networkx as nx

_WAIT = "griddepcontrol.wait"
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_LABEL = re.compile(r"\s*([\w$]+):(?!:)")
_BRANCH = re.compile(r"(@!?%?\w+\s+)?bra(?:\.uni)?\s+([\w$]+)$")
_EXIT = re.compile(r"(@!?%?\w+\s+)?(?:ret|exit|trap)(?:\.uni)?$")
_WRITE = re.compile(
    r"(?:@!?%?\w+\s+)?(?:st\.(?!shared|local|param)|red\.|atom\.(?!shared)|multimem\.|"
    r"cp\.(?:async|reduce\.async)\.bulk\S*\.global\.shared)"
)

_Name = tuple[str, ...]
"""A label behind the scopes that it stands in: inline assembly has labels of its own."""


@dataclass(slots=True)
class _Block:
    """Instructions that run one after another, and where it goes on from there."""

    lines: list[str] = field(default_factory=list)
    label: _Name = ()
    targets: list[_Name] = field(default_factory=list)
    falls: bool = True
    ends: bool = False


def never_waits(ptx: str) -> str | None:
    """Why the kernel doesn't keep to the rule; None if it does."""
    body = _COMMENT.sub("", ptx)
    body = body[body.find("{", body.find(".entry")) + 1 : body.rfind("}")]
    if _WAIT not in body:
        return "it never waits for the kernel in front of it"
    if re.search(r"\b(brx\.idx|call)\b", body):
        return "it has jumps that can't be followed"
    blocks = _blocks(body)
    graph = _graph(blocks)
    for index, block in enumerate(blocks):
        if index not in graph:
            continue  # nothing leads there
        if block.ends:
            return "it may end without waiting for the kernel in front of it"
        write = next((line for line in block.lines if _WRITE.match(line)), None)
        if write is not None:
            return f"it writes before it waits for the kernel in front of it: {write}"
    return None


def _blocks(body: str) -> list[_Block]:
    """The basic blocks; a wait ends its block and leads nowhere, so what is reached from the
    start is what runs without waiting."""
    blocks = [_Block()]
    for scope, label, line in _statements(body):
        block = blocks[-1]
        if label:
            blocks.append(_Block(label=(*scope, label)))
            continue
        branch, leaves = _BRANCH.match(line), _EXIT.match(line)
        block.lines.append(line)
        if branch:
            block.targets.append((*scope, branch[2]))
            block.falls = branch[1] is not None
        elif leaves:
            block.ends, block.falls = True, leaves[1] is not None
        elif line == _WAIT:
            block.falls = False
        if branch or leaves or line == _WAIT:
            blocks.append(_Block())
    blocks[-1].ends = blocks[-1].ends or blocks[-1].falls
    return blocks


def _statements(body: str) -> Iterator[tuple[_Name, str, str]]:
    """Labels and instructions, in order, with the scopes that they stand in."""
    scopes: list[str] = []
    count, text = 0, ""
    for piece in re.split(r"([;{}])", body):
        text += piece
        while label := _LABEL.match(text):
            yield tuple(scopes), label[1], ""
            text = text[label.end() :]
        rest = text.rstrip(";{}").strip()
        if piece == "{" and text.strip() == "{":
            count += 1
            scopes.append(str(count))
            text = ""
        elif piece == "}" and text.strip() == "}":
            scopes.pop()
            text = ""
        elif piece == ";":
            if rest:
                yield tuple(scopes), "", " ".join(rest.split())
            text = ""


def _graph(blocks: list[_Block]) -> nx.DiGraph:
    """Blocks that are reached from the first without waiting."""
    graph = nx.DiGraph()
    graph.add_node(0)
    places = {block.label: index for index, block in enumerate(blocks) if block.label}
    for index, block in enumerate(blocks):
        for *scope, name in block.targets:
            # The innermost scope that has such a label.
            known = ((*scope[:depth], name) for depth in range(len(scope), -1, -1))
            graph.add_edge(index, next(places[label] for label in known if label in places))
        if block.falls and index + 1 < len(blocks):
            graph.add_edge(index, index + 1)
    return graph.subgraph({0} | nx.descendants(graph, 0))
