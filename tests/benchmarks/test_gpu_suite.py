"""The folder of programs, and what weights and steps are said to be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from gpu_suites import CASES, CONTEXT, LIMITS, SHAPE, by_references, lowered_shape
from linked_environment import ROOT, make_environment, run
from llmc.artifact.targets import TritonProgramOptions, options_of
from llmc.benchmarks.gpu_bench import suite
from llmc.benchmarks.gpu_bench.building import (
    Lowered,
    compile_kernels,
    located,
    lower_shapes,
    write_suite,
)
from llmc.benchmarks.gpu_bench.shapes import SHAPES
from llmc.benchmarks.gpu_bench.suite import Blobs, Suite, entry_of
from llmc.benchmarks.gpu_bench.torch_side import fill_tensor
from llmc.codegen.triton.layout import unpack
from llmc.weights.recipes import Pack

SCHEMES = ("bf16", "int8", "int4")


@pytest.fixture(scope="module")
def programs() -> Mapping[str, Lowered]:
    return {scheme: lowered_shape(scheme) for scheme in SCHEMES}


def test_a_folder_is_read_as_it_was_written(
    programs: Mapping[str, Lowered], tmp_path: Path
) -> None:
    """Equal programs give equal bytes; an entry is put together from its cubins."""
    for folder in ("one", "two"):
        blobs, built = Blobs(), []
        for program in programs.values():
            made, _ = by_references(program, blobs)
            built.append(program.timed(made, CASES))
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "old.json").write_text("{}")
        suite.write(tmp_path / folder, Suite(90, {}, "", [], []), built, blobs)
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}
        for folder in ("one", "two")
    )
    assert one == two
    assert set(one) == {"suite.json", "blobs.xz", *(f"1b-{scheme}.json" for scheme in SCHEMES)}
    _, again, pieces = suite.read(tmp_path / "one")
    assert again == built
    assert pieces.pieces == blobs.pieces
    entry = entry_of(again[0], pieces)
    for kernel in options_of(again[0].variant.options, TritonProgramOptions).plan.kernels:
        assert entry[kernel.offset :].startswith(kernel.name.encode())


def test_another_format_is_refused(tmp_path: Path) -> None:
    suite.write(tmp_path, Suite(90, {}, "", [], [], format=0), [], Blobs())
    with pytest.raises(ValueError, match="build it again"):
        suite.read(tmp_path)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_are_filled_with_sane_numbers(programs: Mapping[str, Lowered], scheme: str) -> None:
    """Matrices have about the spread that keeps values as they are; gaps are zero."""
    program = programs[scheme]
    recipes = program.timed(by_references(program, Blobs())[0], CASES).weights
    memory = torch.full((program.table.nbytes,), 0xA5, dtype=torch.uint8)
    fill_tensor(memory, recipes)
    again = torch.full_like(memory, 1)
    fill_tensor(again, recipes)
    assert torch.equal(memory, again)
    data, covered = memory.numpy(), np.zeros(len(memory), bool)
    for tensor, recipe in zip(program.table.tensors, recipes, strict=True):
        assert recipe.name == tensor.name
        for section in recipe.sections:
            covered[section.offset : section.offset + section.nbytes] = True
        if isinstance(tensor.recipe, Pack):
            part = data[tensor.offset : tensor.offset + tensor.nbytes]
            values = unpack(tensor.dtype, tensor.shape, part)
            spread = values.std() * tensor.shape[-1] ** 0.5
            assert 0.5 < spread < 2, tensor.name
            assert abs(values.mean()) * tensor.shape[-1] ** 0.5 < 0.5, tensor.name
    assert not data[~covered].any()


def test_costs_are_those_of_the_shape(programs: Mapping[str, Lowered]) -> None:
    """By hand: bf16 matrices, the head that is the table too, f32 norms, keys and values."""
    program = programs["bf16"]
    costs = program.timed(by_references(program, Blobs())[0], CASES).costs
    layer = 64 * (64 + 2 * 32) + 64 * 64 + 3 * 64 * 96
    matrices = 2 * layer + 160 * 64
    norms = 5 * 64 * 4 + 8 * 4  # and the frequencies of rotations
    per_token = 2 * 2 * 2 * 16 * 2 * 2  # layers, keys and values, heads, size, bytes; 2 of them
    for name, case in CASES.items():
        cost = costs[name]
        assert cost.weight_bytes == 2 * matrices + norms, name
        seen = case.sequences * case.context + case.tokens
        assert cost.cache_bytes == per_token // 2 * seen, name
        start = case.context - case.query
        pairs = case.sequences * sum(start + i + 1 for i in range(case.query))
        attention = 2 * 2 * pairs * 4 * 2 * 16
        assert cost.operations == 2 * (2 * layer * case.tokens + 160 * 64 * case.rows) + attention


def test_kernels_are_compiled_once_and_kept(
    programs: Mapping[str, Lowered], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program of which a kernel is refused is left out; the others are complete."""
    from llmc.base.errors import LlmcError
    from llmc.benchmarks.gpu_bench import building
    from llmc.codegen.triton.kernel_spec import Cubin

    asked: list[object] = []

    def compiled(specs: list[object], sm: int, *, ptxas: Path | None) -> list[Cubin]:
        if len(asked) > 60:
            raise LlmcError("LLMC-E0706", "the kernel x can't be compiled")
        asked.extend(specs)
        names = [f"k{len(asked)}{i}" for i, _ in enumerate(specs)]
        return [Cubin(90, n.encode() * 9, n, 128, 0, 0, 1, (), 0, 32, 0, 0) for n in names]

    monkeypatch.setattr(building, "compile_all", compiled)
    refused: dict[str, str] = {}
    made = list(programs.values())
    cubins = compile_kernels(made, 90, None, refused, lambda text: None)
    assert len(asked) == len(set(asked))
    assert list(refused) == ["1b-int4"]
    plan, entry = located(made[0], cubins)
    assert {k.name for k in plan.kernels} <= {cubin.name for cubin in cubins.values()}
    blobs = Blobs()
    write_suite(
        tmp_path, [(p, None) for p in made], cubins, blobs, Suite(90, {}, "", [], [], refused)
    )
    found, built, pieces = suite.read(tmp_path)
    assert [program.scheme for program in built] == ["bf16", "int8"]
    assert found.refused == refused
    assert entry_of(built[0], pieces) == entry


def test_schemes_that_the_target_lacks_are_named() -> None:
    refused: dict[str, str] = {}
    lower_shapes([SHAPE], ["no-such"], 90, refused, lambda text: None)
    assert "no-such" in refused["1b-no-such"]


def test_shapes_have_as_many_weights_as_their_names_say() -> None:
    for name, millions in (("135m", 134.5), ("1b", 1235.8), ("8b", 8030.2)):
        shape = SHAPES[name]
        head = shape.hidden * shape.head_size * (shape.heads + shape.kv_heads) * 2
        layer = head + 3 * shape.hidden * shape.intermediate + 2 * shape.hidden
        tables = shape.vocab * shape.hidden * (1 if shape.tied else 2)
        total = shape.layers * layer + tables + shape.hidden
        assert total / 1e6 == pytest.approx(millions, abs=0.1)


def test_the_run_needs_few_packages() -> None:
    """The machine with the GPU has torch, numpy and msgspec; nothing of a compile comes in."""
    heavy = {"transformers", "triton", "rich", "typer", "tokenizers", "jinja2", "safetensors"}
    code = (
        "import sys; import llmc.benchmarks.gpu_bench.session, llmc.benchmarks.gpu_bench.report\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "compiler = [n for n in sys.modules if n.startswith(('llmc.codegen', 'llmc.compiler'))]\n"
        f"print(sorted(loaded & {heavy | {'torch'}!r}), compiler)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"


def test_the_script_finds_its_checkout_and_says_what_is_missing(tmp_path: Path) -> None:
    make_environment(tmp_path)
    script = ROOT / "benchmarks" / "gpu.py"
    done = run(tmp_path / "bin" / "python", script, "run", tmp_path, cwd=tmp_path)
    assert done.returncode == 2
    assert "torch" in done.stderr
    done = run(tmp_path / "bin" / "python", script, "run", tmp_path, "--only", "x", cwd=tmp_path)
    assert "x is none of" in done.stderr


def test_limits_hold_what_is_tested() -> None:
    for case in CASES.values():
        assert case.context <= CONTEXT
        assert case.sequences <= LIMITS.max_sequences
