"""The folder that a build leaves for a machine with a GPU: programs, cubins, weights by recipe.

`suite.json` says what there is; every program is a file of its own, `NAME.json`, with the `Variant`
that a manifest would have; `blobs.xz` holds all that is bytes (cubins, weights and logits of tiny
models), each distinct piece once. Reading it needs `msgspec` and nothing of the compiler.
"""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
from llmc.artifact.manifest import Variant
from msgspec import Struct

FORMAT = 1
INDEX, BLOBS = "suite.json", "blobs.xz"
_ALIGNMENT = 16
"""Of cubins within a program entry."""
Kind = Literal["bytes", "bf16", "f16", "f32"]


class Filling(Struct, frozen=True, array_like=True):
    """Numbers for bytes [offset, offset + nbytes) of the weights: uniform in [low, high).

    `bytes` are whole numbers from `low` to `high` - 1.
    """

    offset: int
    nbytes: int
    kind: Kind
    low: float
    high: float


class WeightRecipe(Struct, frozen=True):
    """A tensor of the weights: its format, its shape, and what is put there. `recipe`:
    `random:SEED`, for `sections` in their order."""

    name: str
    format: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    recipe: str
    sections: list[Filling]

    @property
    def seed(self) -> int:
        return int(self.recipe.removeprefix("random:"))


class StepCost(Struct, frozen=True):
    """What a step must do at least: bytes of weights and of the cache, operations of products of
    matrices, and how many kernels it launches."""

    weight_bytes: int
    cache_bytes: int
    operations: int
    launches: int

    @property
    def nbytes(self) -> int:
        return self.weight_bytes + self.cache_bytes


class Text(Struct, frozen=True):
    """Token ids, and the blob with f32 [tokens, vocab] logits that are expected after each."""

    token_ids: list[int]
    logits: int


class Expected(Struct, frozen=True):
    """What a tiny model must say. `weights`: the blob with them; `texts`: with the source model's
    logits, by eager; `rounded`: the same texts with those of the compiled graph in f32 arithmetic,
    whose weights are rounded as the program's are. `tolerance`: of the range of a row of `rounded`;
    `source_tolerance`: of `texts`, 0 where the format itself costs more than one could check."""

    weights: int
    texts: list[Text]
    rounded: list[Text]
    tolerance: float
    source_tolerance: float


class BuiltProgram(Struct, frozen=True):
    """A program. `cubins`: the blob of each kernel of its plan. Either `weights` says what to fill
    the memory with, and `costs` what steps cost, by case; or `expected` has them."""

    model: str
    scheme: str
    kv_cache: str
    variant: Variant
    cubins: list[int]
    weight_bytes: int
    weights: list[WeightRecipe] = []
    costs: dict[str, StepCost] = {}
    expected: Expected | None = None

    @property
    def name(self) -> str:
        return "-".join(part for part in (self.model, self.scheme, self.kv_cache) if part)


class Suite(Struct, frozen=True):
    """What there is. `tools`: versions that it was built with; `ptxas`: which one, empty for
    Triton's own; `blobs`: bytes of each; `refused`: programs that could not be built, and why."""

    sm: int
    tools: dict[str, str]
    ptxas: str
    programs: list[str]
    blobs: list[int]
    refused: dict[str, str] = {}
    format: int = FORMAT


class Blobs:
    """Pieces of bytes by number, equal ones once."""

    def __init__(self, pieces: Sequence[bytes] = ()) -> None:
        self.pieces = list(pieces)
        self._known = {_digest(piece): i for i, piece in enumerate(pieces)}

    def add(self, piece: bytes | memoryview) -> int:
        """The number of a piece."""
        data = bytes(piece)
        number = self._known.setdefault(_digest(data), len(self.pieces))
        if number == len(self.pieces):
            self.pieces.append(data)
        return number

    def __getitem__(self, number: int) -> bytes:
        return self.pieces[number]


def _digest(piece: bytes) -> bytes:
    return hashlib.sha256(piece).digest()


def entry_of(program: BuiltProgram, blobs: Blobs) -> bytes:
    """The bytes of a program entry: each kernel's cubin where the plan says."""
    plan = program.variant.options.plan  # type: ignore[union-attr]
    end = max((k.offset + k.nbytes for k in plan.kernels), default=0)
    entry = bytearray(-(-end // _ALIGNMENT) * _ALIGNMENT)
    for kernel, number in zip(plan.kernels, program.cubins, strict=True):
        entry[kernel.offset : kernel.offset + kernel.nbytes] = blobs[number]
    return bytes(entry)


def write(folder: Path, suite: Suite, programs: Sequence[BuiltProgram], blobs: Blobs) -> None:
    """Write the folder; equal content gives equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.json"), *folder.glob(BLOBS)):
        old.unlink()
    for program in programs:
        _write_json(folder / f"{program.name}.json", program)
    (folder / BLOBS).write_bytes(lzma.compress(b"".join(blobs.pieces)))
    named = msgspec.structs.replace(
        suite, programs=[p.name for p in programs], blobs=[len(piece) for piece in blobs.pieces]
    )
    _write_json(folder / INDEX, named)


def _write_json(path: Path, value: Struct) -> None:
    path.write_bytes(msgspec.json.encode(value, order="deterministic"))


def read(folder: Path) -> tuple[Suite, list[BuiltProgram], Blobs]:
    """A folder that `write` made. Raises ValueError for one of another format."""
    suite = msgspec.json.decode((folder / INDEX).read_bytes(), type=Suite)
    if suite.format != FORMAT:
        raise ValueError(f"{folder} has format {suite.format}, this reads {FORMAT}: build it again")
    programs = [
        msgspec.json.decode((folder / f"{name}.json").read_bytes(), type=BuiltProgram)
        for name in suite.programs
    ]
    data, pieces, at = lzma.decompress((folder / BLOBS).read_bytes()), [], 0
    for nbytes in suite.blobs:
        pieces.append(data[at : at + nbytes])
        at += nbytes
    return suite, programs, Blobs(pieces)
