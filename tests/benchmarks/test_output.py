"""The table and the picture: everybody is in them, with figures or with a reason."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from llmc.benchmarks.peer_bench import picture
from llmc.benchmarks.peer_bench.results import rows_of
from llmc.benchmarks.peer_bench.table import heading, ratios, tables
from peer_reports import answer, measured, report
from rich.console import Console

pytestmark = pytest.mark.fast

SVG = "{http://www.w3.org/2000/svg}"
REASON = "no compiler & no cmake"


def shown(missing: dict[str, str] | None = None) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(tables(report(missing)))
    return console.export_text()


def test_the_table_has_every_contender_and_the_ratio() -> None:
    text = shown()
    for name in ("llmc", "llama.cpp Q4_0", "OpenVINO batching", "ONNX Runtime", "A CPU & more"):
        assert name in text
    assert "2.50×" in text  # prefill of 0.2 s against 0.5 s
    assert "OpenVINO GenAI: openvino-genai 2026.4" in text


def test_the_table_names_a_missing_peer_and_why() -> None:
    text = shown({"llamacpp": REASON})
    assert f"llama.cpp: missing, {REASON}" in text
    assert text.count("missing: no compiler") == 4  # two formats, two cases


def test_starts_and_compiles_have_a_table() -> None:
    found = report()
    found.compiles = [{"model": "m", "scheme": "int4", "wall_s": 12.3, "peak_rss_mb": 456.0}]
    turns = measured("start", llmc=[answer(first_token_at=100.25)])
    found.rows += rows_of(turns, {"OpenVINO": "no wheel"})
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(tables(found))
    text = console.export_text()
    for figure in ("250 ms", "50 ms", "200 MB", "12.3 s", "456 MB", "missing: no wheel"):
        assert figure in text


def test_a_disturbed_figure_is_marked() -> None:
    found = report()
    assert "†" not in shown()
    found.rows[0] = replace(found.rows[0], others=0.3)
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(tables(found))
    text = console.export_text()
    assert "llmc †" in text
    assert "others took more than 5% of the processors" in text


def test_ratios_need_both_sides() -> None:
    rows = [row for row in report().rows if row.case == "prompt-512"]
    alone = [row for row in rows if row.peer == "llmc"]
    assert ratios(alone)[1:] == ["–", "", "–", "", "–", ""]
    peers = [row for row in rows if row.peer != "llmc"]
    assert ratios(peers)[1:] == ["–", "", "–", "", "–", ""]


def test_the_heading_says_when_and_on_what() -> None:
    first = heading(report())[0]
    assert "2026-01-02" in first
    assert "4 cores, 2 threads" in first


def test_the_picture_is_well_formed_and_inside_its_box() -> None:
    root = ElementTree.fromstring(picture.draw(report()))
    width, height = (float(root.attrib[name]) for name in ("width", "height"))
    rects = root.findall(f"{SVG}rect")
    assert len(rects) > 15
    for rect in rects:
        x, y = (float(rect.get(name, "0")) for name in ("x", "y"))
        assert x + float(rect.attrib["width"]) <= width
        assert y + float(rect.attrib["height"]) <= height
    for text in root.findall(f"{SVG}text"):
        assert 0 < float(text.attrib["y"]) < height


def test_bars_are_as_long_as_the_figures() -> None:
    """llmc's bar of prefill is 2.5 times that of the peers."""
    root = ElementTree.fromstring(picture.draw(report()))
    widths = {
        name: [float(r.attrib["width"]) for r in root.findall(f"{SVG}rect[@class='{name}']")]
        for name in ("ours", "peer")
    }
    assert abs(widths["ours"][0] / widths["peer"][0] - 2.5) < 0.05


def test_the_picture_follows_the_page_and_names_the_missing() -> None:
    drawn = picture.draw(report({"llamacpp": REASON}))
    assert "prefers-color-scheme: dark" in drawn
    labels = [text.text for text in ElementTree.fromstring(drawn).findall(f"{SVG}text")]
    assert "missing" in labels
    assert "llama.cpp: missing" in labels
    assert any("2026-01-02" in (label or "") for label in labels)


def test_a_peer_is_drawn_in_its_fastest_format() -> None:
    found = report()
    found.rows = [
        replace(row, prefill_tokens_per_s=99999.0) if row.label == "llama.cpp Q4_K_M" else row
        for row in found.rows
    ]
    drawn = picture.draw(found)
    first = drawn[drawn.index("prefill of 512") : drawn.index("decode after 512")]
    assert "llama.cpp Q4_K_M" in first
    assert "llama.cpp Q4_0" not in first


def test_an_empty_report_is_drawn() -> None:
    found = report()
    found.rows = []
    ElementTree.fromstring(picture.draw(found))
