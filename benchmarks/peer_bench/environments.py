"""A virtual environment for each peer, made when it is first needed and kept in the user's cache.

In: the name of a peer. Out: the Python that has it, or `PeerMissing` with the reason.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from llmc.compiler.frontend.downloads import cache_dir

TORCH = "torch==2.13.0"
"""Pinned: an unpinned torch may bring gigabytes of GPU libraries."""
OUR_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
_READY = "ready.json"


class PeerMissing(Exception):
    """A peer can't be measured on this machine; the text says why."""


@dataclass(frozen=True)
class Environment:
    """How to install a peer. `steps` are arguments of pip, one call after the other.

    `shown`: distributions whose versions are reported. `variables`: what builds see beside.
    `included`: a header that is put before each C++ file of a build.
    """

    label: str
    steps: tuple[tuple[str, ...], ...]
    shown: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    included: Path | None = None

    @property
    def recipe(self) -> list[list[str]]:
        """What an environment is made from; one of another recipe is made anew."""
        header = [] if self.included is None else [["include", self.included.read_text()]]
        return [*map(list, self.steps), *header]

    @property
    def build_variables(self) -> dict[str, str]:
        flags = {} if self.included is None else {"CXXFLAGS": f'-include "{self.included}"'}
        return {**self.variables, **flags}


_BUILT_HERE = ("--no-cache-dir",)
"""pip would give a wheel that was built before, be it with other flags or for another CPU."""
_JOBS = str(os.cpu_count() or 1)
ENVIRONMENTS = {
    "llamacpp": Environment(
        "llama.cpp",
        (
            ("install", "cmake", "ninja", "numpy"),
            (
                "install",
                *_BUILT_HERE,
                "--no-binary",
                "llama-cpp-python",
                "llama-cpp-python==0.3.36",
            ),
        ),
        ("llama_cpp_python",),
        variables={
            "CMAKE_ARGS": "-DGGML_NATIVE=ON",
            "CMAKE_BUILD_PARALLEL_LEVEL": _JOBS,
        },
        included=Path(__file__).parent / "drivers" / "tile_config.h",
    ),
    "openvino": Environment(
        "OpenVINO GenAI",
        (
            ("install", TORCH),
            ("install", "openvino-genai==2026.4.1.0", "optimum-intel==2.2.0", "nncf==3.4.0"),
            ("uninstall", "--yes", "torchvision"),  # not for this torch, and not needed for text
        ),
        ("openvino-genai", "openvino", "nncf"),
    ),
    "onnxruntime": Environment(
        "ONNX Runtime GenAI",
        (
            ("install", TORCH, "transformers==5.23.0"),
            ("install", "onnxruntime-genai==0.18.0", "onnxruntime==1.32.0"),
            ("install", "onnx", "onnx-ir", "onnxscript", "sentencepiece"),
        ),
        ("onnxruntime-genai", "onnxruntime"),
    ),
    "torch": Environment(
        "torch.compile",
        (("install", TORCH, "transformers==5.23.0", "numpy", "accelerate"),),
        ("torch", "transformers"),
    ),
}


def cache_folder() -> Path:
    """Where environments and converted models are kept: `peers` in llmc's cache."""
    return cache_dir() / "peers"


def ensure(name: str, say: Callable[[str], None]) -> Path:
    """Return the Python of a peer's environment, making it if it isn't there."""
    environment = ENVIRONMENTS[name]
    folder = cache_folder() / name
    if _made_from(folder) == environment.recipe:
        return folder / "bin" / "python"
    say(f"installing {environment.label} in {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = cache_folder() / f"{name}.log"
    try:
        logged([sys.executable, "-m", "venv", str(folder)], log)
        for step in environment.steps:
            pip = [str(folder / "bin" / "python"), "-m", "pip", "-q"]
            logged([*pip, *step], log, environment.build_variables)
    except PeerMissing:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    (folder / _READY).write_text(json.dumps(environment.recipe))
    return folder / "bin" / "python"


def unresolved(names: Sequence[str]) -> dict[str, str]:
    """Which peers pip could not install here, and why; nothing is installed, little downloaded."""
    with ThreadPoolExecutor() as pool:
        reasons = dict(zip(names, pool.map(_why_unresolved, names), strict=True))
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _why_unresolved(name: str) -> str | None:
    wanted = [
        word for step in ENVIRONMENTS[name].steps if step[0] == "install" for word in step[1:]
    ]
    log = cache_folder() / f"{name}.resolve.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    try:
        logged([*pip, *wanted], log, ENVIRONMENTS[name].build_variables)
    except PeerMissing as error:
        return str(error)
    return None


def _made_from(folder: Path) -> object:
    """The recipe that an environment was made with; None if it isn't complete."""
    try:
        return json.loads((folder / _READY).read_text())
    except (OSError, ValueError):
        return None


def logged(command: list[str], log: Path, variables: Mapping[str, str] | None = None) -> None:
    """Run a command with its output in `log`; if it fails, PeerMissing with the last of it."""
    with log.open("wb") as out:
        done = subprocess.run(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**peer_variables(), **(variables or {})},
        )
    if done.returncode:
        raise PeerMissing(f"{last_line(log.read_text(errors='replace'))} (all of it in {log})")


def peer_variables() -> dict[str, str]:
    """The environment variables of this process, less those that lead into its own packages."""
    return {name: value for name, value in os.environ.items() if name not in OUR_VARIABLES}


def last_line(text: str) -> str:
    """The last line that says something, shortened: usually the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["no output"])[-1][:300]


def versions(python: Path, name: str) -> dict[str, str]:
    """Versions of the distributions that make up a peer."""
    code = (
        "import json, sys, importlib.metadata as m; "
        "print(json.dumps({name: m.version(name) for name in sys.argv[1:]}))"
    )
    done = subprocess.run(
        [str(python), "-c", code, *ENVIRONMENTS[name].shown],
        capture_output=True,
        text=True,
        env=peer_variables(),
    )
    if done.returncode:
        raise PeerMissing(f"{python}: {last_line(done.stderr)}")
    return json.loads(done.stdout)
