"""The report as a picture: bars of tokens per second, each against the machine's limit.

One SVG without scripts or fonts of its own, readable on light and dark pages. A panel's right edge
is the limit for what llmc reads and computes there; a peer is drawn with the format in which it
was fastest.
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.sax.saxutils import escape

from .cases import CASES, MODELS, OURS
from .environments import ENVIRONMENTS
from .results import Report, Row, best_peer

SCHEME = "int4"
PANEL_WIDTH, GAP, MARGIN = 430, 28, 20
LABEL_WIDTH, BAR, STEP = 132, 15, 22
HEADER, FOOTER_LINE = 84, 16

_STYLE = """
  .surface { fill: #fcfcfb } .text { fill: #1d1c1a } .quiet { fill: #62605b }
  .ours { fill: #2a78d6 } .peer { fill: #a9a7a0 } .room { fill: #eeede9 } .limit { stroke: #62605b }
  .on-ours { fill: #ffffff } .on-peer { fill: #1d1c1a }
  text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif } .title { font-size: 15px;
  font-weight: 600 } .strong { font-weight: 600 } .small { font-size: 11px }
  @media (prefers-color-scheme: dark) {
    .surface { fill: #1a1a19 } .text { fill: #f4f3ef } .quiet { fill: #a9a7a0 }
    .ours { fill: #4a92ec } .peer { fill: #77756f } .room { fill: #2b2a28 }
    .limit { stroke: #a9a7a0 } .on-ours { fill: #0d1b2c } .on-peer { fill: #ffffff }
  }
"""


@dataclass(frozen=True)
class Panel:
    """One figure of one case of one model: who reached what, and the limit."""

    model: str
    title: str
    figure: str
    fraction: str
    rows: tuple[Row, ...]

    @property
    def limit(self) -> float | None:
        """Tokens per second that the machine allows, as llmc's format counts."""
        ours = next((row for row in self.rows if row.peer == OURS and not row.error), None)
        if ours is None or not getattr(ours, self.fraction):
            return None
        return getattr(ours, self.figure) / getattr(ours, self.fraction)

    @property
    def scale(self) -> float:
        """Tokens per second at the right edge."""
        values = [getattr(row, self.figure) or 0.0 for row in self.rows]
        return max([self.limit or 0.0, *values]) or 1.0

    @property
    def height(self) -> float:
        return 30 + STEP * len(self.rows)


_FIGURES = (
    ("prompt-512", "prefill of 512 tokens", "prefill_tokens_per_s", "peak_fraction"),
    ("prompt-512", "decode after 512 tokens", "decode_tokens_per_s", "read_fraction"),
    ("prompt-4096", "decode after 4096 tokens", "decode_tokens_per_s", "read_fraction"),
    ("batch-8", "8 sequences, 128 + 64 tokens, output", "output_tokens_per_s", "run_fraction"),
    ("batch-16", "16 sequences, 128 + 64 tokens, output", "output_tokens_per_s", "run_fraction"),
)


def panels(report: Report) -> list[list[Panel]]:
    """A column for each model, a panel for each figure that was measured."""
    columns = []
    for model in MODELS:
        column = []
        for case, title, figure, fraction in _FIGURES:
            rows = [r for r in report.rows if (r.model, r.scheme, r.case) == (model, SCHEME, case)]
            if rows:
                drawn = tuple(_best_of_each(rows, figure))
                column.append(Panel(model, title, figure, fraction, drawn))
        if column:
            columns.append(column)
    return columns


def _best_of_each(rows: list[Row], figure: str) -> list[Row]:
    """llmc, then each peer in the format in which it was fastest, or as missing."""
    found = [row for row in rows if row.peer == OURS]
    for peer in dict.fromkeys(row.peer for row in rows if row.peer != OURS):
        of_peer = [row for row in rows if row.peer == peer]
        found.append(best_peer(of_peer, figure) or of_peer[0])
    return found


def draw(report: Report) -> str:
    """The picture as SVG text."""
    columns = panels(report)
    width = 2 * MARGIN + max(1, len(columns)) * (PANEL_WIDTH + GAP) - GAP
    footer = _footer(report)
    tallest = max((sum(panel.height for panel in column) for column in columns), default=0)
    height = HEADER + tallest + FOOTER_LINE * (len(footer) + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" '
        f'width="{width}" height="{height:.0f}" role="img" aria-label="{_summary(columns)}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="surface" width="{width}" height="{height:.0f}" rx="6"/>',
    ]
    parts.append(_text(MARGIN, 26, f"Tokens per second, {SCHEME} weights", "text title"))
    parts.append(_text(MARGIN, 43, "full width: what this machine's limits allow", "quiet"))
    for index, column in enumerate(columns):
        left, top = MARGIN + index * (PANEL_WIDTH + GAP), HEADER
        parts.append(_text(left, 70, column[0].model, "text strong"))
        for panel in column:
            parts += _panel(panel, left, top)
            top += panel.height
    for index, line in enumerate(footer):
        at = HEADER + tallest + FOOTER_LINE * (index + 0.6)
        parts.append(_text(MARGIN, at, line, "quiet small"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, left: float, top: float) -> list[str]:
    limit = "" if panel.limit is None else f", limit {panel.limit:,.0f}"
    parts = [_text(left, top + 12, panel.title + limit, "quiet")]
    full = PANEL_WIDTH - LABEL_WIDTH
    for index, row in enumerate(panel.rows):
        y = top + 19 + index * STEP
        ours = row.peer == OURS
        parts.append(_text(left, y + 12, row.label, "text strong" if ours else "text"))
        value = getattr(row, panel.figure)
        if value is None:
            why = "missing" if row.error else "not told"
            parts.append(_text(left + LABEL_WIDTH, y + 12, why, "quiet"))
            continue
        parts.append(_bar(left + LABEL_WIDTH, y, full, "room"))
        parts.append(_bar(left + LABEL_WIDTH, y, full * value / panel.scale, _colour(ours)))
        share = getattr(row, panel.fraction)
        note = f"{value:,.0f}" + (f"  ({share:.0%} of its limit)" if ours and share else "")
        parts.append(_value(left + LABEL_WIDTH, y, full, value / panel.scale, note, _colour(ours)))
    if panel.limit is not None:
        x = left + LABEL_WIDTH + full * panel.limit / panel.scale
        bottom = top + 19 + STEP * len(panel.rows) - 5
        parts.append(
            f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{top + 17}" y2="{bottom:.1f}"/>'
        )
    return parts


def _colour(ours: bool) -> str:
    return "ours" if ours else "peer"


def _bar(x: float, y: float, width: float, name: str) -> str:
    return f'<rect class="{name}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{BAR}"/>'


def _value(x: float, y: float, full: float, share: float, note: str, bar: str) -> str:
    """Behind the bar's end where there is room, otherwise inside it."""
    if share < 0.55:
        return _text(x + full * share + 6, y + 12, note, "text")
    at = x + full * share - 6
    return (
        f'<text class="on-{bar}" x="{at:.1f}" y="{y + 12:.1f}" text-anchor="end">'
        f"{escape(note)}</text>"
    )


def _text(x: float, y: float, text: str, name: str) -> str:
    return f'<text class="{name}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _summary(columns: list[list[Panel]]) -> str:
    names = ", ".join(column[0].model for column in columns) or "nothing"
    return escape(f"Speed of llmc and its peers on {names}", {'"': "&quot;"})


def _footer(report: Report) -> list[str]:
    machine = report.machine
    features = ", ".join(machine.get("features", []))
    where = f"{machine['cpu']}, {machine['cores']} cores ({features}), {machine['threads']} threads"
    lines = [f"{report.date}, {where}; medians of interleaved rounds."]
    found = {name: versions for name, versions in report.versions.items() if name != OURS}
    named = [f"{ENVIRONMENTS[name].label} {next(iter(v.values()))}" for name, v in found.items()]
    if named:
        lines.append("; ".join(named))
    lines += [f"{ENVIRONMENTS[name].label}: missing" for name in report.missing]
    cases = {panel[0] for panel in _FIGURES if any(r.case == panel[0] for r in report.rows)}
    assert cases <= set(CASES)
    return lines
