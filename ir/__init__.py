"""The graph IR: types, graph, ops, printer, parser, verifier, interpreter, weight recipes."""
