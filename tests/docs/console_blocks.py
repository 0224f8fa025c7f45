"""Runs the commands of README.md's console blocks and writes what they print into the blocks.

    python tests/docs/console_blocks.py            # rewrite README.md
    python tests/docs/console_blocks.py --check    # only say which blocks have another shape now

The commands run one after another in an empty folder that holds the catalog model's GGUF file under
its own name. Numbers are those of the machine that ran them. `shape` is what is left of an output
without them, and what the tests compare.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
BLOCK = re.compile(r"^```console\n\$ (llmc [^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MACHINE = (
    (re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{16}\b"), "DIGEST"),
    (re.compile(r"x86-64\S*|aarch64\S*"), "LEVEL"),
    (re.compile(r", needs .*?(?=  )"), ", needs FEATURES"),
    (re.compile(r"\d+(\.\d+)?(e[-+]?\d+)?"), "N"),
    (re.compile(r"\b[kMG]?B\b"), "BYTES"),
    (re.compile(r" +"), " "),
)
"""What differs from machine to machine and from model to model."""


def shape(output: str) -> list[str]:
    """Its lines without numbers, digests, levels and widths; a repeated one once."""
    lines = []
    for line in output.splitlines():
        for pattern, word in _MACHINE:
            line = pattern.sub(word, line)
        lines.append(line.strip())
    return list(dict.fromkeys(lines))


def blocks() -> dict[str, str]:
    """Command → output, as README.md has them."""
    return dict(BLOCK.findall(README.read_text()))


def run(command: str, folder: Path) -> str:
    """What a command prints in `folder`, stdout and stderr as a terminal shows them."""
    words = [sys.executable, "-m", "llmc.cli", *shlex.split(command)[1:]]
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, "COLUMNS": "400", "TERM": "dumb"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True,
    )  # fmt: skip
    return "\n".join(line.rstrip() for line in done.stdout.splitlines()) + "\n"


def main() -> int:
    """Rewrite or check; 1 if a checked block has another shape."""
    from llmc.compiler.frontend.sources import open_source

    parser = argparse.ArgumentParser(description="Make the console blocks of README.md.")
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    text, differ = README.read_text(), 0
    source = open_source("smollm2-135m", prefer="wheel")
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / GGUF).symlink_to(source.reader.file.path)  # type: ignore[attr-defined]
        for command, known in blocks().items():
            output = run(command, Path(name))
            old, new = shape(known), shape(output)
            differ += old != new
            print("\n".join([f"$ {command}", *difflib.unified_diff(old, new, lineterm="", n=0)]))
            text = text.replace(f"$ {command}\n{known}```", f"$ {command}\n{output}```")
    if not check:
        README.write_text(text)
    return int(check and differ > 0)


if __name__ == "__main__":
    sys.exit(main())
