"""Text of generated kernels: the templates filled with what was decided before."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import jinja2

_FUNCTIONS = Path(__file__).parent / "kernels" / "elementwise.py"


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )


@cache
def _known() -> frozenset[str]:
    """Names of the functions in `kernels/elementwise.py`."""
    return frozenset(re.findall(r"^def (\w+)", _FUNCTIONS.read_text(), re.MULTILINE))


def render(template: str, name: str, parameters: Sequence[str], facts: Mapping[str, object]) -> str:
    """A module with the kernel `name`, which imports what its text calls from `kernels`."""
    page = _environment().get_template(f"{template}.py.j2")
    facts = {**facts, "name": name, "parameters": parameters}
    words = set(re.findall(r"(?<![.\w])[a-z]\w*", page.render(functions=[], **facts)))
    return page.render(functions=sorted(words & _known()), **facts)
