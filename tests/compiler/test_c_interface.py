"""A compiled program through its C interface alone, as `examples/c/decode.c` uses it."""

import ctypes
import subprocess
import sys
from pathlib import Path

import llmc
import pytest
from llmc.runtime.loading import select_variant
from llmc.runtime.programs.cpu import load_library
from llmc.runtime.reader import ArtifactReader

ROOT = Path(__file__).parents[2]
BAD_STRUCT_SIZE = -1


class Group(ctypes.Structure):
    _fields_ = (("bytes_per_block", ctypes.c_uint64), ("window", ctypes.c_int32))


class Info(ctypes.Structure):
    """`llmc_info` of llmc.h."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("vocab", ctypes.c_int32),
        ("max_tokens", ctypes.c_int32),
        ("max_sequences", ctypes.c_int32),
        ("max_context", ctypes.c_int32),
        ("max_logits_rows", ctypes.c_int32),
        ("block_size", ctypes.c_int32),
        ("groups", ctypes.c_int32),
        ("weights_bytes", ctypes.c_uint64),
        ("arena_bytes", ctypes.c_uint64),
        ("group", Group * 16),
    )


def test_a_program_describes_itself_as_the_manifest_does(compiled: Path) -> None:
    reader = ArtifactReader(compiled)
    variant = select_variant(reader.manifest)
    library = load_library(reader.read(variant.program))
    info = Info(struct_size=ctypes.sizeof(Info) - 8)
    assert library.llmc_describe(ctypes.byref(info)) == BAD_STRUCT_SIZE
    info = Info(struct_size=ctypes.sizeof(Info))
    assert library.llmc_describe(ctypes.byref(info)) == 0
    for name in ("max_tokens", "max_sequences", "max_context", "max_logits_rows", "block_size"):
        assert getattr(info, name) == getattr(variant.limits, name), name
    assert (info.vocab, info.arena_bytes) == (variant.vocab_size, variant.memory_plan.arena_bytes)
    assert info.weights_bytes == reader.manifest.weights[variant.weights].nbytes
    groups = [(g.bytes_per_block, g.window) for g in info.group[: info.groups]]
    assert groups == [(g.bytes_per_block, g.window) for g in variant.cache_groups]


@pytest.mark.parametrize("length", [3, 600], ids=["short", "chunks"])
def test_the_c_example_decodes_as_python_does(compiled: Path, tmp_path: Path, length: int) -> None:
    compiler = [sys.executable, "-m", "ziglang", "cc", f"-I{ROOT / 'runtime'}"]
    source, program = ROOT / "examples" / "c" / "decode.c", tmp_path / "decode"
    subprocess.run([*compiler, str(source), "-o", str(program), "-ldl"], check=True)
    with llmc.load(compiled) as model:
        vocab, limits = model.program.vocab_size, model.program.limits
        prompt = [(7 * n + 3) % vocab for n in range(min(length, limits.max_context - 20))]
        stream = model.generate(prompt, max_tokens=16, ignore_eos=True)
        expected = [token for chunk in stream for token in chunk.token_ids]
        assert model.variant is not None
        level = model.variant.level
    command = [program, compiled, level, 16, *prompt]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    assert [int(word) for word in done.stdout.split()] == expected
