"""A compiled program through its C interface alone, as `examples/c/decode.c` uses it."""

import ctypes
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llmc
import pytest
from llmc.artifact.manifest import weight_bytes
from llmc.artifact.reader import ArtifactReader
from llmc.runtime.engine.engine import Engine
from llmc.runtime.engine.request import Request
from llmc.runtime.engine.sampling.parameters import SamplingParams
from llmc.runtime.executors.cpu import load_library
from llmc.runtime.executors.registry import runnable_variant

ROOT = Path(__file__).parents[2]
BAD_STRUCT_SIZE = -1
ASKED = (
    SamplingParams(temperature=1.0, seed=1, logprobs=3),
    SamplingParams(temperature=0.8, top_p=0.9, seed=2, repetition_penalty=1.3),
    SamplingParams(temperature=1.5, top_k=20, seed=3, frequency_penalty=0.5, min_tokens=4),
    SamplingParams(presence_penalty=1.0, logit_bias={5: 2.0}, bad_words=((7,), (3, 4))),
    SamplingParams(temperature=0.9, typical_p=0.8, min_p=0.01, seed=4),
)


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
        ("state_bytes_per_slot", ctypes.c_uint64),
    )


def test_a_program_describes_itself_as_the_manifest_does(compiled: Path) -> None:
    reader = ArtifactReader(compiled)
    variant = runnable_variant(reader.manifest)
    library = load_library(reader.read(variant.program))
    info = Info(struct_size=ctypes.sizeof(Info) - 8)
    assert library.llmc_describe(ctypes.byref(info)) == BAD_STRUCT_SIZE
    info = Info(struct_size=ctypes.sizeof(Info))
    assert library.llmc_describe(ctypes.byref(info)) == 0
    for name in ("max_tokens", "max_sequences", "max_context", "max_logits_rows", "block_size"):
        assert getattr(info, name) == getattr(variant.limits, name), name
    assert (info.vocab, info.arena_bytes) == (variant.vocab_size, variant.memory_plan.arena_bytes)
    assert info.weights_bytes == weight_bytes(reader.manifest, variant)
    groups = [(g.bytes_per_block, g.window) for g in info.group[: info.groups]]
    assert groups == [(g.bytes_per_block, g.window) for g in variant.cache_groups]


@pytest.mark.parametrize("length", [3, 600], ids=["short", "chunks"])
def test_the_c_example_decodes_as_python_does(compiled: Path, tmp_path: Path, length: int) -> None:
    compiler = [sys.executable, "-m", "ziglang", "cc", f"-I{ROOT / 'artifact'}"]
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


def test_a_program_draws_tokens_as_the_reference_does(compiled: Path) -> None:
    """The same requests with the library's code and with numpy, and each on its own."""

    def outputs(program: Any, groups: Sequence[Sequence[SamplingParams]]) -> list[Request]:
        requests = []
        for group in groups:
            engine = Engine(program)
            some = [Request((3, 1, 4, 1, 5), 12, params) for params in group]
            for request in some:
                engine.add(request)
            while engine.has_work:
                engine.step()
            requests += some
        return requests

    with llmc.load(compiled) as model:
        program: Any = model.program
        assert program._draw is not None
        together = outputs(program, [ASKED])
        alone = outputs(program, [[params] for params in ASKED])
        program._draw = None
        reference = outputs(program, [ASKED])
    assert all(request.finish_reason == "length" for request in together)
    assert (
        [r.output for r in together] == [r.output for r in alone] == [r.output for r in reference]
    )
    for got, want in zip(together[0].logprobs, reference[0].logprobs, strict=True):
        assert got.logprob == pytest.approx(want.logprob, abs=1e-4)
        assert [i for i, _ in got.top] == [i for i, _ in want.top]


class HalfRight:
    """Knows what comes, and proposes a few tokens of it and a wrong one behind."""

    def __init__(self, texts: Sequence[list[int]]) -> None:
        self.texts = texts

    def propose(self, sequences: Sequence[Any], most: Sequence[int]) -> list[list[int]]:
        drafts = []
        for sequence in sequences:
            made = sequence.request.output
            right = next((t[len(made) :][:3] for t in self.texts if t[: len(made)] == made), [])
            drafts.append([*right, 0])
        return drafts

    def finished(self, sequence: Any) -> None:
        """It keeps nothing."""


def test_drafts_change_nothing_that_a_compiled_program_says(compiled: Path) -> None:
    """Rows of a sequence don't depend on how many of it are in the step, so neither does a bit of
    its log-probabilities."""

    def outputs(proposer: HalfRight | None) -> tuple[list[Request], int]:
        engine, steps = Engine(program, proposer=proposer), 0
        made = [Request((3, 1, 4, 1, 5), 24, params) for params in (*ASKED, SamplingParams())]
        for request in made:
            engine.add(request)
        while engine.has_work:
            engine.step()
            steps += 1
        return made, steps

    with llmc.load(compiled) as model:
        program: Any = model.program
        plain, steps = outputs(None)
        drafted, fewer = outputs(HalfRight([request.output for request in plain]))
    assert [r.output for r in drafted] == [r.output for r in plain]
    assert [r.logprobs for r in drafted] == [r.logprobs for r in plain]
    assert fewer <= 1 + -(-23 // 4) + 2 < steps
