"""Results as tables for people and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .statistics import CaseResult, Figure


def as_json(results: Sequence[CaseResult], machine: dict[str, Any], date: str) -> dict[str, Any]:
    """Everything, with what each limit came to."""
    cases = [
        asdict(result)
        | {"passed": result.passed, "figures": [_figure(one) for one in result.figures]}
        for result in results
    ]
    return {"date": date, "machine": machine, "cases": cases}


def _figure(figure: Figure) -> dict[str, Any]:
    value = figure.value if math.isfinite(figure.value) else None
    return asdict(figure) | {"value": value, "met": figure.met}


def write(path: Path, report: dict[str, Any]) -> None:
    """Keep a report."""
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def tables(results: Sequence[CaseResult]) -> RenderableType:
    """A table a case, with its notes and failures below."""
    parts: list[RenderableType] = []
    for result in results:
        parts.append(_crossed(result) if _is_crossed(result) else _listed(result))
        parts += [Text(f"  {note}", style="dim") for note in result.notes]
        parts += [Text(f"  wrong: {failure}", style="red") for failure in result.failures]
    return Group(*parts)


def _listed(result: CaseResult) -> Table:
    table = Table(title=result.case, title_justify="left")
    for name in ("figure", "value", "must be", "met"):
        table.add_column(name, justify="left" if name == "figure" else "right")
    for figure in result.figures:
        limit = "" if figure.limit is None else f"{figure.limit_is} {figure.limit:g}"
        met = {None: "", True: "yes", False: "NO"}[figure.met]
        table.add_row(figure.name, f"{shown(figure.value)} {figure.unit}".strip(), limit, met)
    return table


def _is_crossed(result: CaseResult) -> bool:
    return bool(result.figures) and all(one.name.count("; ") == 2 for one in result.figures)


def _crossed(result: CaseResult) -> Table:
    """Figures named "load; who; what": a row for each load and who, a column for each what."""
    split = [(*figure.name.split("; "), figure) for figure in result.figures]
    whats = list(dict.fromkeys(what for _, _, what, _ in split))
    table = Table("load", "who", title=result.case, title_justify="left")
    for what in whats:
        table.add_column(what, justify="right")
    rows: dict[tuple[str, str], dict[str, Figure]] = {}
    for load, who, what, figure in split:
        rows.setdefault((load, who), {})[what] = figure
    for (load, who), cells in rows.items():
        table.add_row(load, who, *(_cell(cells.get(what)) for what in whats))
    return table


def _cell(figure: Figure | None) -> str:
    return "" if figure is None else f"{shown(figure.value)} {figure.unit}".strip()


def shown(value: float) -> str:
    """Three digits that say something; whole numbers as they are."""
    if not math.isfinite(value):
        return "none"
    if value == int(value) or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"
