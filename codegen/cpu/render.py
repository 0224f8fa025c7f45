"""Generated C++ text: the templates filled with what was decided before.

In: planned functions and constants. Out: one translation unit. Nothing is decided here.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import jinja2

from .bodies import Body, Planned, argument_fields, call_fields
from .function import C_TYPE
from .traffic import kernel_table

HEADERS = (
    "program.h", "attention.h", "cache.h", "convolution.h", "elementwise.h", "embedding.h",
    "linear.h", "moe.h", "norm.h", "quantize.h", "recurrence.h", "rotary.h", "selective_scan.h",
    "token_recurrence.h",
)  # fmt: skip


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


def render(
    main: Planned,
    bodies: Sequence[Body],
    sites: Sequence[str],
    groups: Sequence[str],
    constants: Sequence[str],
) -> str:
    """The translation unit: bodies, the step function `main`, and the program's constants."""
    functions = [*(body.planned.function for body in bodies), main.function]
    kernels = [kernel for fn in functions for kernel in fn.kernels if kernel is not None]
    numbers = itertools.count()
    return (
        _environment()
        .get_template("program.cpp.j2")
        .render(
            headers=HEADERS,
            bodies=[_body(body, numbers) for body in bodies],
            main=_function(main, "s.arena", numbers),
            kernels=kernel_table(kernels),
            groups=groups,
            sites=sites,
            constants=constants,
        )
    )


def _body(body: Body, numbers: Iterator[int]) -> dict[str, object]:
    return _function(body.planned, "a.frame", numbers) | {
        "name": body.name,
        "call_fields": call_fields(body),
        "arg_fields": argument_fields(body),
        "calls": body.calls,
    }


def _function(planned: Planned, memory: str, numbers: Iterator[int]) -> dict[str, object]:
    """`numbers`: of the kernels, as they follow one another in the table."""
    fn = planned.function
    steps = zip(fn.schedule.steps, fn.code, fn.kernels, strict=True)
    return {
        "declarations": [*declarations(planned, memory)],
        "steps": [
            {
                "name": step.name,
                "lines": lines,
                "barrier": index in planned.barriers,
                "kernel": None if kernel is None else next(numbers),
            }
            for index, (step, lines, kernel) in enumerate(steps)
        ],
    }


def declarations(planned: Planned, memory: str) -> list[str]:
    """The pointers of a function whose buffers lie in `memory` (C++), as far as it uses them."""
    fn = planned.function
    used = {word for lines in fn.code for line in lines for word in re.findall(r"\w+", line)}
    lines = [
        f"const Range range_{symbol} = team_range(team, s.{symbol});"
        for symbol in ("T", "S", "R")
        if f"range_{symbol}" in used
    ]
    lines += [line for name, line in fn.declarations.items() if name in used]
    for name, dtype in fn.stored.items():
        place = planned.plan.placements.get(name)
        if place is not None:
            lines.append(
                f"{C_TYPE[dtype]}* const {name} = ({C_TYPE[dtype]}*)({memory} + {place.offset});"
            )
    return lines
