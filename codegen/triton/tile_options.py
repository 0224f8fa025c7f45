"""`--tiles` and `--autotune`: whose table of tiles a compile reads, and how it gets its rows.

A table is a file, or the text of one: that is what a manifest records, so a rebuild needs neither
the file nor the GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...artifact.targets import TritonCompileOptions
from ...base.errors import LlmcError
from ...ir.plan import MemoryPlan
from ...runtime.executors import cuda_device
from ...runtime.executors.gpu_device import GpuDevice
from .autotune import Tuner, shapes_of
from .machines import MACHINES
from .plan import plan_for
from .program import Program
from .tile_table import TileRow, parse_tiles, read_tiles, tiles_text


@dataclass(frozen=True)
class TileOptions:
    """`given`: whether there is a table; `rows`: what it has; `file`: where measured ones go."""

    given: bool = False
    rows: tuple[TileRow, ...] = ()
    file: Path | None = None


NO_TILES = TileOptions()


def tile_options(options: TritonCompileOptions) -> TileOptions:
    """What the options say.

    Raises:
        LlmcError: LLMC-E0205, a table that can't be, or none that measured rows could go to.
    """
    text = options.tiles
    if not options.autotune:
        if "\n" in text:
            return TileOptions(True, parse_tiles(text, "the table"))
        return TileOptions(True, read_tiles(Path(text))) if text else NO_TILES
    if not text or "\n" in text:
        hint = "name one that there is, or a new one: --autotune --tiles FILE"
        raise LlmcError("LLMC-E0205", "autotune keeps what it measured in a file of tiles", hint)
    file = Path(text)
    if not file.parent.is_dir():
        raise LlmcError("LLMC-E0205", f"tiles of {file}: there is no such folder", "make it")
    return TileOptions(True, read_tiles(file) if file.exists() else (), file)


def require_gpu(sms: Iterable[int]) -> int:
    """The SM of the GPU that is here, which is one of `sms`.

    Raises:
        LlmcError: LLMC-E0514, there is no GPU, or another one; E0703, no cuda-bindings.
    """
    facts, wanted = cuda_device.facts(cuda_device.cuda_driver()), tuple(sms)
    if facts.sm not in wanted:
        names = ", ".join(f"SM{sm}" for sm in wanted) or "PTX alone"
        raise LlmcError(
            "LLMC-E0514",
            f"tiles can't be measured here: the GPU is {facts.name} (SM{facts.sm}), "
            f"and the compile is for {names}",
            hint=f"compile without --autotune, or with --sm {facts.sm}",
        )
    return facts.sm


def measure_tiles(
    program: Program,
    memory: MemoryPlan,
    sm: int,
    options: TileOptions,
    open_device: Callable[[], GpuDevice] | None = None,
) -> None:
    """Adds rows to the program's tiles, and writes all of them to the file.

    Shapes that the table has are not measured again.
    """
    assert options.file is not None
    known = {row.key for row in options.rows}
    specs = plan_for(program, memory, MACHINES[sm]).specs
    shapes = [shape for shape in shapes_of(specs, sm) if shape.key not in known]
    device = (open_device or cuda_device.CudaDevice)()
    try:
        program.tiles += Tuner(device, program.limits.max_tokens).tune(shapes)
    finally:
        device.close()
    try:
        options.file.write_text(tiles_text(program.tiles), encoding="utf-8")
    except OSError as error:
        raise LlmcError("LLMC-E0205", f"tiles of {options.file}: {error.strerror}") from error


def settled_options(given: Mapping[str, Any], rows: Iterable[TileRow]) -> Mapping[str, Any]:
    """Options with which a compile makes the same again: with the table, not with its name."""
    others = {name: value for name, value in given.items() if name != "autotune"}
    return {**others, "tiles": tiles_text(rows)}
