"""A fresh environment that holds what a requirement of ours declares, and nothing else.

Distributions are links to those that the tests run with, so that nothing is downloaded. What is
declared is read from `pyproject.toml`, not from what was once installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
OURS = "llmc-compiler"


def run(*command: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command without this Python's variables; what it prints is in the result."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    arguments = [str(argument) for argument in command]
    return subprocess.run(
        arguments, capture_output=True, text=True, env=environment, check=False, cwd=cwd
    )


def make_environment(folder: Path, *extras: str) -> Path:
    """Make one in `folder` with all that `llmc-compiler[extras]` needs, itself left out.

    Returns its `site-packages`; the Python is `folder/bin/python`.
    """
    made = run(sys.executable, "-m", "venv", "--without-pip", folder)
    assert made.returncode == 0, made.stderr
    (packages,) = folder.glob("lib/python*/site-packages")
    for name in sorted(needed_by(*extras)):
        for path in _top_level_paths(name):
            (packages / path.name).symlink_to(path)
    return packages


def needed_by(*extras: str) -> set[str]:
    """Names of all distributions that `pip install llmc-compiler[extras]` brings beside ours."""
    found: set[tuple[str, str]] = set()
    queue = [(OURS, extra) for extra in ("", *extras)]
    while queue:
        name, extra = queue.pop()
        for requirement in _requirements(name, extra):
            wanted = canonicalize_name(requirement.name)
            for one in {(wanted, other) for other in ("", *requirement.extras)} - found:
                found.add(one)
                queue.append(one)
    return {name for name, _ in found} - {OURS}


def _requirements(name: str, extra: str) -> Iterator[Requirement]:
    """What a distribution (extra "") or an extra of it asks for on this machine."""
    if name == OURS:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        texts = project["optional-dependencies"][extra] if extra else project["dependencies"]
    else:
        texts = distribution(name).requires or ()
    for requirement in map(Requirement, texts):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def _top_level_paths(name: str) -> Iterator[Path]:
    """What a distribution put into site-packages."""
    installed = distribution(name)
    tops = {file.parts[0] for file in installed.files or () if file.parts[0] != ".."}
    for top in sorted(tops - {"__pycache__"}):
        yield Path(str(installed.locate_file(top)))
