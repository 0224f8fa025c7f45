"""Generated source text as Triton functions, and the scalar functions that it may hold.

In: the text of a module. Out: its kernel, made once per text. Triton asks `inspect` for the
source of a function, so the text is known to `linecache` under a name made from its digest.
"""

from __future__ import annotations

import ast
import hashlib
import linecache
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import triton

_FUNCTIONS = Path(__file__).parent / "kernels" / "elementwise.py"
_loaded: dict[tuple[str, bool], dict[str, Any]] = {}


def load_kernel(source: str, name: str) -> Any:
    """The function `name` of the module `source`: a JITFunction, or what interprets it.

    Under Triton's interpreter (its knob when this is called) the same text gives another function.
    """
    key = (hashlib.sha256(source.encode()).hexdigest(), triton.knobs.runtime.interpret)
    if key not in _loaded:
        file = f"<generated kernel {key[0][:16]}>"
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        namespace: dict[str, Any] = {"__name__": f"generated_{key[0][:16]}", "__file__": file}
        exec(compile(source, file, "exec"), namespace)
        _loaded[key] = namespace
    return _loaded[key][name]


@cache
def _functions() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Each scalar function's text, and the names that it uses; in the order of the file."""
    text = _FUNCTIONS.read_text()
    lines = text.splitlines()
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            first = min(decorator.lineno for decorator in node.decorator_list)
            used = tuple(n.id for n in ast.walk(node) if isinstance(n, ast.Name))
            found[node.name] = ("\n".join(lines[first - 1 : node.end_lineno]), used)
    return found


def functions_in(texts: Iterable[str]) -> list[str]:
    """Texts of the scalar functions that `texts` call by name, after those that they call."""
    known = _functions()
    words = {word for text in texts for word in re.findall(r"(?<![.\w])[a-z]\w*", text)}
    wanted = words & known.keys()
    while more := {u for name in wanted for u in known[name][1] if u in known} - wanted:
        wanted |= more
    return [text for name, (text, _) in known.items() if name in wanted]
