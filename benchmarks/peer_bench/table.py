"""The report as tables for people: one for each model and scheme, figures beside fractions."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from .cases import CASES, OURS
from .disturbance import ALLOWED
from .environments import ENVIRONMENTS
from .results import Report, Row, best_peer

_NOTHING, _MARK = "–", "†"


def tables(report: Report) -> Lines:
    """Everything in the report, in the order in which it was measured."""
    places = dict.fromkeys((row.model, row.scheme) for row in report.rows if row.case != "start")
    parts: list[Table | Text] = [Text(line) for line in heading(report)]
    parts += [_table(report, model, scheme) for model, scheme in places]
    if any(row.case == "start" for row in report.rows) or report.compiles:
        parts.append(_starts(report))
    if any(_disturbed(row) for row in report.rows):
        parts.append(Text(f"{_MARK} others took more than {ALLOWED:.0%} of the processors"))
    return Lines(*parts)


def _disturbed(row: Row) -> bool:
    return (row.others or 0.0) > ALLOWED


def _label(row: Row) -> str:
    return row.label + (f" {_MARK}" if _disturbed(row) else "")


def heading(report: Report) -> list[str]:
    """Date, machine, versions, and who is missing and why."""
    machine = report.machine
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads"
    lines = [f"{report.date}  {where}"]
    for name, distributions in report.versions.items():
        label = ENVIRONMENTS[name].label if name in ENVIRONMENTS else name
        found = ", ".join(f"{one} {version}" for one, version in distributions.items())
        lines.append(f"{label}: {found}")
    for name, why in report.missing.items():
        lines.append(f"{ENVIRONMENTS[name].label}: missing, {why}")
    return lines


def _table(report: Report, model: str, scheme: str) -> Table:
    table = Table(title=f"{model}, {scheme}", title_justify="left")
    for name in ("case", "", "prefill/s", "of peak", "decode/s", "of read", "run/s", "of limit"):
        table.add_column(name, justify="right" if name not in ("case", "") else "left")
    rows = [r for r in report.rows if (r.model, r.scheme) == (model, scheme) and r.case != "start"]
    for case in dict.fromkeys(row.case for row in rows):
        of_case = [row for row in rows if row.case == case]
        for row in of_case:
            shown = case if row is of_case[0] else ""
            table.add_row(shown, _label(row), *cells(row), style="bold" if row.peer == OURS else "")
        table.add_row("", *ratios(of_case), style="cyan", end_section=True)
    return table


def cells(row: Row) -> list[str]:
    """A row's figures as text; a reason instead where there are none."""
    if row.error:
        return [f"missing: {row.error}", *[""] * 5]
    batch = CASES[row.case].batch
    return [
        _number(row.prefill_tokens_per_s),
        _percent(row.peak_fraction),
        _number(row.decode_tokens_per_s),
        _percent(row.read_fraction),
        _number(row.output_tokens_per_s if batch else None),
        _percent(row.run_fraction if batch else None),
    ]


def ratios(rows: Iterable[Row]) -> list[str]:
    """llmc over the best peer in each figure: the label's cell and those of the figures."""
    rows = list(rows)
    ours = next((row for row in rows if row.peer == OURS), None)
    found = ["llmc / best peer"]
    for figure in ("prefill_tokens_per_s", "decode_tokens_per_s", "output_tokens_per_s"):
        peer = best_peer(rows, figure)
        value = getattr(ours, figure) if ours else None
        if figure == "output_tokens_per_s" and not CASES[rows[0].case].batch:
            value = None
        ratio = f"{value / getattr(peer, figure):.2f}×" if peer and value else _NOTHING
        found += [ratio, ""]
    return found


def _starts(report: Report) -> Table:
    table = Table(title="start and compile", title_justify="left")
    columns = ("", "load", "start to first token", "compile", "peak memory", "not mapped")
    for name in columns:
        table.add_column(name, justify="right" if name else "left")
    for row in (row for row in report.rows if row.case == "start"):
        name = f"{row.model} {row.scheme} {_label(row)}"
        if row.error:
            table.add_row(name, f"missing: {row.error}")
        else:
            times = (_ms(row.load_s), _ms(row.first_token_s), "")
            table.add_row(name, *times, _megabytes(row.peak_rss_mb), _megabytes(row.anonymous_mb))
    for one in report.compiles:
        name = f"{one['model']} {one['scheme']} llmc compile"
        seconds = f"{one['wall_s']:.1f} s"
        table.add_row(name, "", "", seconds, _megabytes(one["peak_rss_mb"]))
    return table


def _shown(format: Callable[[float], str]) -> Callable[[float | None], str]:
    return lambda value: _NOTHING if value is None else format(value)


_number = _shown(lambda value: f"{value:.0f}" if value >= 100 else f"{value:.1f}")
_percent = _shown(lambda value: f"{value:.0%}")
_ms = _shown(lambda value: f"{value * 1e3:.0f} ms")
_megabytes = _shown(lambda value: f"{value:.0f} MB")
