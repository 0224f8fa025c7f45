"""The graph IR: types, graph, ops, printer, parser, verifier, interpreter, weight recipes."""

from .graph import Graph
from .printer import print_graph

Graph.__str__ = lambda self: print_graph(self)
