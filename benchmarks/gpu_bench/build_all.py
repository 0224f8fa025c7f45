"""`gpu.py build`: every program of the suite, written to a folder."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from llmc.base.errors import LlmcError

from .building import Lowered, Say, compile_kernels, lower_shapes, tools, write_suite
from .shapes import SHAPES
from .suite import Blobs, Expected, Suite
from .tiny import TINY, Tiny, known, lower_tiny


def build_all(
    out: Path,
    models: Sequence[str],
    schemes: Sequence[str],
    sm: int,
    ptxas: Path | None = None,
    *,
    tiny: bool = True,
    say: Say = print,
) -> int:
    """Build models and tiny models; the bytes of the folder. What can't be built is said, and noted
    in the folder. Errors: LLMC-E0202, E0703, E0706."""
    begin, refused, blobs = time.monotonic(), {}, Blobs()
    programs: list[tuple[Lowered, Expected | None]] = []
    for one in TINY if tiny else ():
        _add_tiny(one, sm, blobs, programs, refused, say)
    shapes = [SHAPES[name] for name in models]
    programs += [(made, None) for made in lower_shapes(shapes, schemes, sm, refused, say)]
    say(f"compiling kernels after {time.monotonic() - begin:.0f} s")
    cubins = compile_kernels([made for made, _ in programs], sm, ptxas, refused, say)
    say(f"{len(cubins)} kernels after {time.monotonic() - begin:.0f} s")
    for name, why in refused.items():
        say(f"left out: {name}: {why}")
    versions = tools() | {"ptxas": _ptxas_version(ptxas)}
    suite = Suite(sm, versions, ptxas.name if ptxas else "", [], [], refused)
    write_suite(out, programs, cubins, blobs, suite)
    return sum(path.stat().st_size for path in out.iterdir())


def _add_tiny(
    tiny: Tiny,
    sm: int,
    blobs: Blobs,
    programs: list[tuple[Lowered, Expected | None]],
    refused: dict[str, str],
    say: Say,
) -> None:
    name = "-".join(part for part in (tiny.model, tiny.scheme, tiny.kv_cache) if part)
    if not known(tiny):
        refused[name] = f"the triton target has no scheme {tiny.scheme}"
        return
    say(f"lowering {name}")
    try:
        programs.append(lower_tiny(tiny, sm, blobs))
    except LlmcError as error:
        refused[name] = str(error)


def _ptxas_version(ptxas: Path | None) -> str:
    """Of that ptxas, or of Triton's."""
    import triton

    own = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    command = [str(ptxas or own), "--version"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return said.strip().splitlines()[-1]
