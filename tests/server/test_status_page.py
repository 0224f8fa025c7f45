"""The status page in a browser, and the figures that it shows."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--virtual-time-budget=2500"),
)


def browse(folder: Path, url: str, *options: str) -> str:
    assert BROWSER is not None
    command = [BROWSER, *OPTIONS, f"--user-data-dir={folder / 'profile'}", *options, url]
    done = subprocess.run(command, capture_output=True, timeout=60)
    return done.stdout.decode()


def pixels(path: Path) -> tuple[int, int, set[bytes]]:
    """Width, height, and the colors of a PNG as browsers write them (8 bits, not interlaced)."""
    import zlib

    data, at, packed = path.read_bytes(), 8, b""
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    size = {2: 3, 6: 4}[data[25]]
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT":
            packed += data[at + 8 : at + 8 + length]
        at += 12 + length
    raw, stride = zlib.decompress(packed), width * size
    above, colors = bytes(stride), set()
    for row in range(height):
        begin = row * (stride + 1)
        line = bytearray(raw[begin + 1 : begin + 1 + stride])
        _unfilter(raw[begin], line, above, size)
        above = bytes(line)
        colors.update(above[i : i + 3] for i in range(0, stride, size))
    return width, height, colors


def _unfilter(kind: int, line: bytearray, above: bytes, size: int) -> None:
    for i in range(len(line)):
        left = line[i - size] if i >= size else 0
        corner = above[i - size] if i >= size else 0
        if kind == 1:
            guess = left
        elif kind == 2:
            guess = above[i]
        elif kind == 3:
            guess = (left + above[i]) // 2
        elif kind == 4:
            p = left + above[i] - corner
            near = (abs(p - left), abs(p - above[i]), abs(p - corner))
            guess = (left, above[i], corner)[near.index(min(near))]
        else:
            guess = 0
        line[i] = (line[i] + guess) & 255


def test_figures(server: Any) -> None:
    server.post("/v1/completions", {"prompt": "hello", "max_tokens": 5, "ignore_eos": True})
    status = server.http.get("/status.json").json()
    (model,) = status["models"]
    assert status["state"] == "ready"
    assert model["name"] == "toy"
    assert model["capacity"]["context"] == 2048
    assert model["generated_tokens"] >= 5
    assert model["latency"]["ttft"]["p50"] > 0
    assert (model["running"], model["waiting"], model["in_flight"]) == (0, 0, 0)


def test_the_page_needs_nothing_from_outside(server: Any) -> None:
    page = server.http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    for header in ("x-content-type-options", "x-frame-options", "referrer-policy"):
        assert header in page.headers
    assert re.findall(r"(?:src|href)=\"(?!/)", page.text) == []
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", page.text) == []
    assert "innerHTML" not in page.text  # names of models are text, whatever they hold


@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_the_page_in_a_browser(start: Any, toy_model: Any, tmp_path: Path) -> None:
    hostile = "<img src=x onerror=document.title='owned'>"
    running = start({"toy": toy_model(), hostile: toy_model()})
    for _ in range(3):
        running.post("/v1/completions", {"prompt": "hello", "max_tokens": 9, "ignore_eos": True})
    html = browse(tmp_path, running.url, "--dump-dom")
    shown = re.sub(r"<script.*?</script>|<style.*?</style>", "", html, flags=re.DOTALL)
    for text in (">ready<", ">toy<", "tokens/s generated", "room for", "to the first token", "%"):
        assert text in shown
    assert "<title>llmc</title>" in html
    assert "&lt;img src=x" in shown
    pictures = {}
    for name, dark in (("light", "0"), ("dark", "1")):
        path = tmp_path / f"{name}.png"
        browse(
            tmp_path,
            running.url,
            "--window-size=900,1000",
            f"--screenshot={path}",
            f"--blink-settings=preferredColorScheme={'0' if dark == '1' else '1'}",
        )
        width, height, colors = pixels(path)
        assert (width, height) == (900, 1000)
        assert len(colors) > 50  # text and curves, not an empty page
        pictures[name] = colors
    assert bytes.fromhex("ffffff") in pictures["light"]
    assert bytes.fromhex("1d2126") in pictures["dark"]


@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_a_page_that_needs_a_key_asks_for_it(start: Any, toy_model: Any, tmp_path: Path) -> None:
    running = start({"toy": toy_model()}, keys=("secret",))
    html = browse(tmp_path, running.url, "--dump-dom")
    assert '<section id="locked">' in html
    assert ">toy<" not in html
