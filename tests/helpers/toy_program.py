"""A toy language model, in numpy and in C, and artifacts around it.

The toy's logits are a hash of the tokens that its two cache groups show (one sees everything, one
a window), read back through the block tables. So any mistake in blocks, tables, positions or
batching changes the text, and `Toy.logits` tells what must come out.
"""

import json
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llmc.artifact.manifest import (
    CacheGroup,
    Generation,
    Limits,
    Manifest,
    MemoryPlan,
    Source,
    Tensor,
    Variant,
    Weights,
    encode,
)
from llmc.artifact.program import StepInputs, StepOutputs, check_inputs
from llmc.artifact.writer import ArtifactWriter
from llmc.base import machine

WEIGHTS = "weights/cpu.safetensors"
PROGRAM = "programs/cpu/portable.so"
ROOT = Path(__file__).parents[2]
VOCAB, WINDOW, BLOCK, SEED = 97, 40, 32, 0x0123456789ABCDEF
MASK = (1 << 64) - 1


def group(name: str, window: int = 0) -> CacheGroup:
    return CacheGroup(
        name=name,
        kind="sliding" if window else "full",
        window=window,
        layers=1,
        kv_heads=1,
        key_dim=1,
        value_dim=1,
        dtype="f32",
        block_size=BLOCK,
        bytes_per_block=2 * 16 * 4 * BLOCK,
    )


GROUPS = (group("full"), group("sliding", WINDOW))


def toy_limits(**changes: Any) -> Limits:
    fields: dict[str, Any] = {
        "max_tokens": 48,
        "max_sequences": 6,
        "max_context": 320,
        "max_logits_rows": 6,
        "block_size": BLOCK,
    }
    return Limits(**{**fields, **changes})


class Toy:
    """The toy as a `Program`: numpy, and poison wherever nothing was written."""

    vocab_size = VOCAB
    cache_groups = GROUPS

    def __init__(self, cache_blocks: tuple[int, ...] = (40, 24), **limits: Any) -> None:
        self.limits = toy_limits(**limits)
        self.cache_blocks = cache_blocks
        self.cache = [np.full((n, BLOCK), -777, np.int64) for n in cache_blocks]
        self.steps: list[StepInputs] = []
        self.closed = False

    @staticmethod
    def logits(tokens: list[int], seed: int = SEED) -> np.ndarray:
        """Logits f32 [vocab] after these tokens."""
        h = seed
        for part in (tokens, tokens[-WINDOW:]):
            for token in part:
                h = ((h ^ (token + 1)) * 1099511628211) & MASK
        mixed = np.uint64(h) ^ np.arange(VOCAB, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed = mixed * np.uint64(0xBF58476D1CE4E5B9)
        return (mixed >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)

    @staticmethod
    def greedy(prompt: list[int], count: int, eos: tuple[int, ...] = ()) -> list[int]:
        tokens = list(prompt)
        while len(tokens) - len(prompt) < count and not (
            len(tokens) > len(prompt) and tokens[-1] in eos
        ):
            tokens.append(int(Toy.logits(tokens).argmax()))
        return tokens[len(prompt) :]

    def step(self, inputs: StepInputs) -> StepOutputs:
        check_inputs(inputs, self)
        self.steps.append(inputs)
        wanted = set(inputs.logits_rows)
        rows = []
        for s in range(len(inputs.context_len)):
            for t in range(inputs.query_start[s], inputs.query_start[s + 1]):
                position = inputs.positions[t]
                for cache, table in zip(self.cache, inputs.block_tables, strict=True):
                    block = table[s][position // BLOCK]
                    cache[block, position % BLOCK] = inputs.token_ids[t]
                if t in wanted:
                    rows.append(self._row(inputs, s, position))
        logits = np.stack(rows) if rows else np.empty((0, VOCAB), np.float32)
        return StepOutputs.of(logits)

    def _row(self, inputs: StepInputs, s: int, position: int) -> np.ndarray:
        h = SEED
        for g, (cache, table) in enumerate(zip(self.cache, inputs.block_tables, strict=True)):
            first = max(0, position - WINDOW + 1) if GROUPS[g].window else 0
            for p in range(first, position + 1):
                token = int(cache[table[s][p // BLOCK], p % BLOCK])
                assert token >= 0, "read a position that was never written"
                h = ((h ^ (token + 1)) * 1099511628211) & MASK
        return Toy.logits([], h)

    def copy_block(self, group: int, source: int, target: int) -> None:
        self.cache[group][target] = self.cache[group][source]

    def close(self) -> None:
        self.closed = True


def safetensors(payload: bytes, align: int = 4096) -> tuple[bytes, int]:
    """A safetensors file with one U8 tensor `w000`, and where its data section starts."""
    header = {"w000": {"dtype": "U8", "shape": [len(payload)], "data_offsets": [0, len(payload)]}}
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % align)
    return len(text).to_bytes(8, "little") + text + payload, 8 + len(text)


def toy_variant(**changes: Any) -> Variant:
    fields: dict[str, Any] = {
        "target": "cpu",
        "level": "portable",
        "system": machine.system(),
        "machine": machine.machine(),
        "program": PROGRAM,
        "weights": WEIGHTS,
        "limits": toy_limits(),
        "cache_groups": list(GROUPS),
        "memory_plan": MemoryPlan(arena_bytes=4096),
        "vocab_size": VOCAB,
    }
    return Variant(**{**fields, **changes})


def make_tiny_manifest(data_offset: int, nbytes: int, **changes: Any) -> Manifest:
    tensors = {"w000": Tensor(offset=0, nbytes=nbytes, format="f32", shape=[nbytes // 4])}
    fields: dict[str, Any] = {
        "source": Source(id="test/tiny"),
        "variants": [toy_variant()],
        "weights": {WEIGHTS: Weights(data_offset=data_offset, nbytes=nbytes, tensors=tensors)},
        "tool_versions": {"llmc": "0"},
    }
    return Manifest(**{**fields, **changes})


def write_tiny_artifact(
    path: Path,
    *,
    format: Any = "file",
    certificate: bytes = b"{}\n",
    library: bytes | None = None,
    more: dict[str, bytes] | None = None,
    **changes: Any,
) -> None:
    payload = SEED.to_bytes(8, "little") + random.Random(0).randbytes(4992)
    weights, data_offset = safetensors(payload)
    with ArtifactWriter(path, format=format) as writer:
        with writer.open_stream(WEIGHTS, len(weights)) as stream:
            stream.write(weights[:1000])
            stream.write(weights[1000:])
        writer.add(PROGRAM, library or random.Random(1).randbytes(777))
        writer.add("LICENSE", b"Apache-2.0\n")
        for name, data in (more or {}).items():
            writer.add(name, data)
        writer.add("certificate.json", certificate)
        writer.write_manifest(make_tiny_manifest(data_offset, len(payload), **changes))


@pytest.fixture(scope="session")
def write_tiny():
    return write_tiny_artifact


@pytest.fixture(scope="session")
def tiny_manifest():
    return make_tiny_manifest


@pytest.fixture(scope="session")
def make_variant():
    return toy_variant


@pytest.fixture(scope="session")
def tiny_bytes(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("artifact") / "tiny.llmc"
    write_tiny_artifact(path)
    return path.read_bytes()


@pytest.fixture(scope="session")
def toy() -> type[Toy]:
    return Toy


@pytest.fixture(scope="session")
def toy_library(tmp_path_factory) -> bytes:
    """The C toy, compiled."""
    return build_toy(tmp_path_factory.mktemp("toy"))


def build_toy(folder: Path, *more: str) -> bytes:
    """The C toy, compiled in `folder`; `more`: for the compiler."""
    pytest.importorskip("ziglang", reason="building the C toy needs ziglang")
    out = folder / "toy.so"
    source = Path(__file__).with_name("toy.c")
    defines = [f"-DVOCAB={VOCAB}", f"-DWINDOW={WINDOW}", f"-I{ROOT / 'artifact'}", *more]
    command = [sys.executable, "-m", "ziglang", "cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror"]
    subprocess.run([*command, *defines, str(source), "-o", str(out)], check=True)
    return out.read_bytes()


@dataclass(frozen=True)
class Words:
    """A byte-level BPE small enough to build in memory; ids below `VOCAB` are its whole."""

    json: bytes
    template: str
    generation: Generation


@pytest.fixture(scope="session")
def words() -> Words:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=["<s>", "</s>"], show_progress=False
    )
    tokenizer.train_from_iterator(["abc hello world, wörld 日本 🙂 " * 3, "hello there"], trainer)
    template = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    generation = Generation(eos_token_ids=[1], special_tokens={"eos_token": "</s>"})
    return Words(tokenizer.to_str().encode(), template, generation)


@pytest.fixture(scope="session")
def toy_artifact(tmp_path_factory, toy_library, words) -> Path:
    """A whole artifact with the C toy in it."""
    path = tmp_path_factory.mktemp("toy-artifact") / "toy.llmc"
    more = {
        "tokenizer.json": words.json,
        "chat_template.jinja": words.template.encode(),
        "generation.json": encode(words.generation),
    }
    names: dict[str, Any] = {name.split(".")[0]: name for name in more}
    write_tiny_artifact(path, library=toy_library, more=more, **names)
    return path
