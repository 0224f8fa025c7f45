"""How many launches a step takes, as a launch plan has them: in all and for each layer.

In: a `LaunchPlan`. Out: counts, and lines of text for people.
"""

from __future__ import annotations

from collections.abc import Iterator

from .launch_plan import NO_KERNEL, LaunchPlan


def launches_per_layer(plan: LaunchPlan, form: int) -> dict[str, int]:
    """Launches of a form for each layer: those whose scope names the same `layers.N`. Those that
    are of no layer are under ''."""
    counts: dict[str, int] = {}
    for launch in plan.launches:
        if launch.forms[form].kernel != NO_KERNEL:
            layer = _layer(launch.label)
            counts[layer] = counts.get(layer, 0) + 1
    return counts


def launch_counts(plan: LaunchPlan) -> Iterator[str]:
    """A line for each form: "up to 8 rows: 262 launches a step, 8 a layer"."""
    for form, rows in enumerate(plan.forms):
        counts = launches_per_layer(plan, form)
        layers = sorted({count for layer, count in counts.items() if layer})
        each = f", {' or '.join(map(str, layers))} a layer" if layers else ""
        yield f"up to {rows} rows: {sum(counts.values())} launches a step{each}"


def _layer(label: str) -> str:
    """The shortest part of a module path that ends with a number, or ''."""
    parts = label.partition(" ")[2].split(".")
    numbered = next((i for i, part in enumerate(parts) if part.isdecimal()), None)
    return "" if numbered is None else ".".join(parts[: numbered + 1])
