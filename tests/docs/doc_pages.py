"""The repository's pages, taken apart: fenced blocks, inline code, links, tables."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
_BLOCK = re.compile(
    r"(?:^<!-- (?P<note>[a-z]+)(?:: (?P<about>\S+))? -->\n)?"
    r"^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_COMMENT = re.compile(r"\s+#\s.*$")


@dataclass(frozen=True)
class Block:
    """A fenced block; `note` and `about` are of the comment before it (`<!-- run -->`)."""

    page: str
    language: str
    text: str
    note: str
    about: str


@dataclass(frozen=True)
class Page:
    """A Markdown page; `name` is its path from the root."""

    name: str
    text: str

    @property
    def prose(self) -> str:
        """Everything but fenced blocks."""
        return _BLOCK.sub("", self.text)

    @property
    def blocks(self) -> list[Block]:
        return [
            Block(self.name, m["language"], m["text"], m["note"] or "", m["about"] or "")
            for m in _BLOCK.finditer(self.text)
        ]

    @property
    def inline(self) -> list[str]:
        """Inline code spans."""
        return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", self.prose)

    @property
    def links(self) -> list[str]:
        return re.findall(r"\]\(([^)\s]+)\)", self.prose)

    @property
    def anchors(self) -> set[str]:
        """Anchors of the headings, as they are made for links."""
        titles = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        kept = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
        return {title.replace(" ", "-") for title in kept}

    def rows(self, header: str) -> list[list[str]]:
        """Cells of the tables whose first line starts with `header`, without code marks."""
        found: list[list[str]] = []
        lines = iter(self.prose.splitlines())
        for line in lines:
            if line.startswith(header):
                next(lines)
                for row in lines:
                    if not row.startswith("|"):
                        break
                    found.append([cell.strip() for cell in row.strip("|").split("|")])
        return found

    def section(self, heading: str) -> Page:
        """The part below `heading` (with its marks), up to the next of any level."""
        start = self.text.index(f"\n{heading}\n") + len(heading) + 2
        end = re.search(r"^#+ ", self.text[start:], re.MULTILINE)
        return Page(self.name, self.text[start : start + end.start() if end else None])


def pages() -> list[Page]:
    """All pages that people read first, sorted."""
    paths = [*(ROOT / name for name in NAMES), *(ROOT / "docs").rglob("*.md")]
    return [Page(p.relative_to(ROOT).as_posix(), p.read_text("utf-8")) for p in sorted(paths)]


def page(name: str) -> Page:
    return Page(name, (ROOT / name).read_text("utf-8"))


def blocks(language: str, note: str | None = None) -> list[Block]:
    """Fenced blocks in `language`, only those with `note` if one is given."""
    return [
        block
        for one in pages()
        for block in one.blocks
        if block.language == language and note in (None, block.note)
    ]


def shell_lines() -> Iterator[tuple[str, str]]:
    """(page, command) of every command line in `sh` blocks, and after `$ ` in `console` blocks."""
    for block in blocks("sh") + blocks("console"):
        for line in block.text.splitlines():
            if block.language == "console":
                if not line.startswith("$ "):
                    continue
                line = line.removeprefix("$ ")
            if line.strip():
                yield block.page, _COMMENT.sub("", line)


def commands(program: str) -> list[tuple[str, list[str]]]:
    """(page, arguments) of every use of `program` in a command line, behind pipes included."""
    found = []
    for name, line in shell_lines():
        for part in re.split(r"\s(?:\||&&|;)\s", line):
            words = shlex.split(part)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words.pop(0)
            if words and words[0] == program:
                found.append((name, words[1:]))
    return found
