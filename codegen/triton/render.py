"""Text of generated kernels: the templates filled with what was decided before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import jinja2

from .sources import functions_in


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


def render(template: str, name: str, parameters: Sequence[str], facts: Mapping[str, object]) -> str:
    """A module with the kernel `name`, and the scalar functions that its text calls."""
    page = _environment().get_template(f"{template}.py.j2")
    facts = {**facts, "name": name, "parameters": parameters}
    return page.render(functions=functions_in([page.render(functions=[], **facts)]), **facts)
