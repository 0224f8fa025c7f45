"""Measuring tiles, on a fake GPU whose kernels take as long as the test says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("triton")

from configured import configured
from fake_gpu import FakeGpu, FakeKernel, FakeLaunch
from llmc.base.errors import LlmcError
from llmc.codegen.triton import autotune, tile_options
from llmc.codegen.triton.autotune import Shape, Tuner, candidates, shapes_of
from llmc.codegen.triton.kernel_spec import Cubin, KernelSpec, Parameter
from llmc.codegen.triton.linear_tiles import linear_tile
from llmc.codegen.triton.machines import MACHINES
from llmc.codegen.triton.tile_table import TileRow, parse_tiles, tiles_text
from llmc.compiler.targets import Program, settled_options
from llmc.ir.types import DType
from llmc.runtime.executors.gpu_device import Event, GpuProperties
from planned_program import lowered
from zoo import find

SMALL = replace(MACHINES[90], l2_bytes=4096)
POINTERS = ("x_ptr", "w_ptr", "bias_ptr", "residual_ptr", "index_ptr", "out_ptr")
Cost = Callable[[KernelSpec], float]


def spec(n: int, k: int, dtype: DType = DType.BF16, height: int = 8) -> KernelSpec:
    """A layer's kernel at its default tile."""
    tile = linear_tile(MACHINES[90], dtype, n, k, height)
    types = dict.fromkeys(POINTERS, "*bf16") | {"rows": "i32"}
    plain = dtype is DType.BF16
    constants = {
        "N": n, "K": k, "X_STRIDE": k, "OUT_STRIDE": n, "RESIDUAL_STRIDE": 0,
        "FORMAT": "plain" if plain else str(dtype), **tile.constants,
    }  # fmt: skip
    if not plain:
        types["w_ptr"] = "*u8"
    return KernelSpec(
        autotune.FUNCTION, tuple(types.items()), tuple(constants.items()), tile.num_warps,
        tile.num_stages, pdl=True,
    )  # fmt: skip


def shape(n: int, k: int, dtype: DType = DType.BF16) -> Shape:
    (found,) = shapes_of([spec(n, k, dtype)], 90)
    return replace(found, machine=SMALL)


class Clocked(FakeGpu):
    """A fake GPU with a clock, which its kernels move on by what they cost.

    It has a compiler, too: `refused` kernels aren't compiled, `spilled` ones need memory.
    """

    def __init__(self, cost: Cost, **facts: Any) -> None:
        known = GpuProperties("fake H200", 90, 4, 13020, 227 << 10, 1 << 30, 1 << 30)
        super().__init__({}, facts=known._replace(**facts))
        self._bind = lambda cubin, name: self.named[name]
        self.named: dict[str, FakeKernel] = {}
        self.cost, self.clock = cost, 0.0
        self.times: dict[Event, float] = {}
        self.weights: Counter[int] = Counter()
        self.refused: set[KernelSpec] = set()
        self.spilled: set[KernelSpec] = set()

    def compile(self, specs: Sequence[KernelSpec], sm: int) -> list[Cubin]:
        assert sm == 90
        if self.refused & {*specs}:
            raise LlmcError("LLMC-E0706", "no")
        return [self._cubin(each) for each in specs]

    def _cubin(self, of: KernelSpec) -> Cubin:
        name = f"kernel{len(self.named)}"
        types = tuple("ptr" if kind.startswith("*") else "i32" for _, kind in of.types)
        self.named[name] = FakeKernel(types, lambda launch: self._compute(of, launch))
        sizes = [8] * 6 + [4] + [8, 8]
        places = [Parameter(at, size) for at, size in zip(range(0, 72, 8), sizes, strict=True)]
        return Cubin(
            90, b"elf", name, 32 * of.num_warps, 1024, 0, 1, tuple(places), 72, 32,
            8 if of in self.spilled else 0, 0,
        )  # fmt: skip

    def _compute(self, of: KernelSpec, launch: FakeLaunch) -> None:
        known: Any = dict(of.constants)
        rows = launch.args[6]
        assert launch.grid == (-(-known["N"] // known["BLOCK_N"]), -(-rows // known["BLOCK_T"]), 1)
        self.weights[launch.args[1]] += 1
        self.bytes_at(launch.args[1], 2 * known["N"] * known["K"])
        self.bytes_at(launch.args[0], 2 * rows * known["X_STRIDE"])
        self.bytes_at(launch.args[5], 2 * rows * known["OUT_STRIDE"])
        assert not launch.array(launch.args[4], "i4", 8).any()
        self.clock += self.cost(of)

    def record(self, event: Event) -> None:
        self._begin(lambda: self.times.__setitem__(event, self.clock))
        super().record(event)

    def elapsed(self, first: Event, second: Event) -> float:
        super().elapsed(first, second)
        return self.times[second] - self.times[first]

    def tuner(self, budget: float = 1e9) -> Tuner:
        return Tuner(self, 512, budget, self.compile, lambda: self.clock)


def tile_of(of: KernelSpec) -> tuple[Any, ...]:
    return dict(of.constants)["BLOCK_N"], of.num_warps, of.num_stages


@pytest.mark.parametrize("place", [0, 1, -1])
def test_the_fastest_tile_is_found(place: int) -> None:
    wanted = shape(200, 64)
    best = candidates(wanted)[place]
    gpu = Clocked(lambda of: 1.0 if of == best else 2.0)
    (row,) = gpu.tuner().tune([wanted])
    assert (row.block_n, row.num_warps, row.num_stages) == tile_of(best)
    assert row.key == (90, "bf16", 200, 64, 8)
    assert row.measured.startswith("fake H200, CUDA 13.2, Triton ")
    # One weight is larger than the cache, but three are needed for it to hold no part of the next.
    assert len(gpu.weights) == 1
    small = Clocked(lambda _: 1.0)
    small.tuner().tune([shape(16, 64)])
    assert len(small.weights) == 6
    assert len(set(small.weights.values())) == 1


def test_single_slow_runs_don_t_count() -> None:
    wanted = shape(200, 64)
    best, calls = candidates(wanted)[1], Counter[KernelSpec]()

    def cost(of: KernelSpec) -> float:
        calls[of] += 1
        return 1e6 if of == best and calls[of] % (3 * 16) == 0 else 1.0 if of == best else 2.0

    (row,) = Clocked(cost).tuner().tune([wanted])
    assert (row.block_n, row.num_warps, row.num_stages) == tile_of(best)


def test_kernels_that_can_t_be_compiled_or_spill_are_left_out() -> None:
    wanted = shape(200, 64)
    first, second, *_, last = candidates(wanted)
    gpu = Clocked(lambda of: {second: 1.0, last: 2.0, first: 3.0}.get(of, 4.0))
    gpu.refused, gpu.spilled = {second}, {last}
    (row,) = gpu.tuner().tune([wanted])
    assert (row.block_n, row.num_warps, row.num_stages) == tile_of(first)


def test_the_budget_is_kept() -> None:
    """Large weights come first; what isn't measured has no row."""
    small, large = spec(64, 64), spec(200, 64)
    shapes = [replace(s, machine=SMALL) for s in shapes_of([small, large, small], 90)]
    assert [s.n for s in shapes] == [200, 64]
    gpu = Clocked(lambda _: 1.0)
    rows = gpu.tuner(budget=1.0 + 16 * len(candidates(shapes[0]))).tune(shapes)
    assert [row.n for row in rows] == [200]
    assert gpu.clock < 3 * 16 * len(candidates(shapes[0]))
    assert Clocked(lambda _: 1.0).tuner(budget=0.0).tune(shapes) == []


@pytest.mark.parametrize("dtype", [DType.BF16, DType.I8C, DType.I4K, DType.I6K])
def test_candidates_are_a_handful_of_rows_that_a_table_may_have(dtype: DType) -> None:
    for height in (8, 64):
        (each,) = shapes_of([spec(4096, 4096, dtype, height)], 90)
        found = candidates(each)
        assert 3 <= len(found) <= 16
        constants = [{**dict(of.constants), "BLOCK_N": 0, "STAGES": 0} for of in found]
        assert all(known == constants[0] for known in constants)
        rows = [row_of(each, of) for of in found]
        assert parse_tiles(tiles_text(rows[:1]), "t") == (rows[0],)
        assert {*parse_tiles(tiles_text(rows), "t")} == {*rows}


def row_of(each: Shape, of: KernelSpec) -> TileRow:
    width, warps, stages = tile_of(of)
    sm, form, n, k, height = each.key
    return TileRow(
        sm=sm, format=form, n=n, k=k, block_t=height, block_n=width, num_warps=warps,
        num_stages=stages, measured='a "quoted" name',
    )  # fmt: skip


ROW = TileRow(
    sm=90, format="bf16", n=1000, k=2048, block_t=8, block_n=128, num_warps=8, num_stages=3,
    measured="H200",
)  # fmt: skip


def test_a_table_of_one_s_own_goes_first() -> None:
    given: dict[str, Any] = {"tiles": [ROW], "x_size": 2}
    tile = linear_tile(MACHINES[90], DType.BF16, 1100, 2048, 8, **given)
    assert (tile.block_n, tile.num_warps, tile.num_stages) == (128, 8, 3)
    others = [
        (100, DType.BF16, 1000, 8), (90, DType.F16, 1000, 8), (90, DType.BF16, 9000, 8),
        (90, DType.BF16, 1000, 16),
    ]  # fmt: skip
    for machine, dtype, n, rows in others:
        plain = linear_tile(MACHINES[machine], dtype, n, 2048, rows)
        assert linear_tile(MACHINES[machine], dtype, n, 2048, rows, **given) == plain
    # A wider x, as layers read that normalize it, leaves room for fewer stages.
    deep = replace_row(num_stages=8, block_n=256)
    assert (
        linear_tile(MACHINES[90], DType.BF16, 1000, 2048, 8, x_size=12, tiles=[deep]).num_stages < 8
    )


def replace_row(**changes: Any) -> TileRow:
    return msgspec.structs.replace(ROW, **changes)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"block_n": 32}, "block_n is one of 64, 128, 256 here, not 32"),
        ({"block_n": 64, "num_warps": 8}, "num_warps is one of 4"),
        ({"block_t": 7}, "block_t is one of"),
        ({"sm": 75}, "no kernels for SM 75"),
        ({"format": "i32"}, "weights in format 'i32'"),
        ({"format": "q9"}, "weights in format 'q9'"),
        ({"num_stages": 9}, "num_stages"),
        ({"n": 0}, "n"),
    ],
)
def test_rows_that_can_t_be_are_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(LlmcError, match="LLMC-E0205") as error:
        parse_tiles(tiles_text([ROW, replace_row(**changes)]), "mine.toml")
    assert why in error.value.message
    assert "mine.toml" in error.value.message
    assert "\n" not in error.value.message


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    for text in ("[[tile]", "[[tile]]\nsm = 90\n", "[[tiles]]\nsm = 90\n", "\xff"):
        bad.write_text(text, encoding="latin-1")
        with pytest.raises(LlmcError, match="LLMC-E0205"):
            configured("triton", levels=("90",), tiles=str(bad))
    nowhere = str(tmp_path / "no" / "folder.toml")
    refused: list[dict[str, Any]] = [
        {"tiles": str(tmp_path / "none.toml")},
        {"autotune": True},
        {"autotune": True, "tiles": "a\ntable"},
        {"autotune": True, "tiles": nowhere},
    ]
    for given in refused:
        with pytest.raises(LlmcError, match="LLMC-E0205"):
            configured("triton", levels=("90",), **given)


class Here:
    """The machine of a compile: a fake GPU, or none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gpus: list[Clocked] = []
        self.sm = 90
        module = tile_options.cuda_device
        monkeypatch.setattr(module, "cuda_driver", lambda: None)
        monkeypatch.setattr(module, "facts", lambda _: Clocked(cost, sm=self.sm).facts)
        monkeypatch.setattr(module, "CudaDevice", self.opened)
        monkeypatch.setattr(autotune, "MOST_COPIES", 1)
        monkeypatch.setattr(autotune, "ROUNDS", 1)
        monkeypatch.setattr(tile_options, "Tuner", self.tuner)

    def opened(self) -> Clocked:
        self.gpus.append(Clocked(cost))
        return self.gpus[-1]

    def tuner(self, device: Clocked, most_rows: int) -> Tuner:
        return Tuner(device, most_rows, compile=device.compile)


def cost(of: KernelSpec) -> float:
    """Wide tiles of few stages are best here."""
    width, _, stages = tile_of(of)
    return 1.0 / width + 0.001 * stages


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    return Here(monkeypatch)


def test_what_is_measured_is_used_kept_and_recorded(here: Here, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    few: dict[str, Any] = {"max_tokens": 8, "max_sequences": 2, "max_logits_rows": 2}
    given: dict[str, Any] = {"autotune": True, "tiles": str(file)}
    first = lowered(find("llama"), "bf16", **few, **given).compiled
    widths = {
        known["BLOCK_N"]
        for known in (dict(of.constants) for of in first.plans["sm90"].specs)
        if "STAGES" in known
    }
    assert widths == {256}
    assert here.gpus[0].closed
    text = file.read_text()
    assert len(parse_tiles(text, "t")) >= 3
    # Once more: the file has everything.
    again = lowered(find("llama"), "bf16", **few, **given).compiled
    assert not here.gpus[1].launches
    assert file.read_text() == text
    # The manifest has the rows: no file is read, no GPU is asked.
    program = Program(
        configured("triton", levels=("90",)), first.generated.program.graph, first, None
    )
    both = {"triton": {**given, "batch_variant": False}, "onnx": {"dialect": "ort"}}
    settled = settled_options(both, [program])
    assert settled == {**both, "triton": {"tiles": text, "batch_variant": False}}
    file.unlink()
    rebuilt = lowered(find("llama"), "bf16", **few, **settled["triton"]).compiled
    assert len(here.gpus) == 2
    for other in (again, rebuilt):
        assert other.plans["sm90"] == first.plans["sm90"]
    plain = lowered(find("llama"), "bf16", **few).compiled
    assert plain.plans["sm90"] != first.plans["sm90"]
    assert plain.settle({"batch_variant": True}) == {"batch_variant": True}


def test_another_gpu_is_refused_before_anything_else(here: Here, tmp_path: Path) -> None:
    given: dict[str, Any] = {"autotune": True, "tiles": str(tmp_path / "mine.toml")}
    configured("triton", levels=("80", "90"), **given).require_tools()
    here.sm = 120
    for levels in (("80", "90"), ("ptx",)):
        with pytest.raises(LlmcError, match="LLMC-E0514") as error:
            configured("triton", levels=levels, **given).require_tools()
        assert "SM120" in error.value.message
    assert not here.gpus
