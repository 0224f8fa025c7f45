"""A small artifact that is valid in every respect but the native code, and how to build it."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from llmc.runtime.artifact import (
    CacheGroup,
    Limits,
    Manifest,
    MemoryPlan,
    Source,
    Tensor,
    Variant,
    Weights,
)
from llmc.runtime.container import ArtifactWriter

WEIGHTS = "weights/main.safetensors"


def safetensors(payload: bytes, align: int = 4096) -> tuple[bytes, int]:
    """A safetensors file with one U8 tensor `w000`, and where its data section starts."""
    header = {"w000": {"dtype": "U8", "shape": [len(payload)], "data_offsets": [0, len(payload)]}}
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % align)
    return len(text).to_bytes(8, "little") + text + payload, 8 + len(text)


def make_tiny_manifest(data_offset: int, nbytes: int, **changes) -> Manifest:
    group = CacheGroup(
        name="full",
        kind="full",
        layers=1,
        kv_heads=1,
        key_dim=1,
        value_dim=1,
        dtype="f32",
        block_size=32,
        bytes_per_block=256,
    )
    variant = Variant(
        target="cpu",
        level="portable",
        program="programs/cpu/portable.so",
        weights=WEIGHTS,
        limits=Limits(
            max_tokens=64, max_sequences=8, max_context=256, max_logits_rows=8, block_size=32
        ),
        cache_groups=[group],
        memory_plan=MemoryPlan(arena_bytes=4096),
        vocab_size=97,
    )
    tensors = {"w000": Tensor(offset=0, nbytes=nbytes, format="f32", shape=[nbytes // 4])}
    fields = {
        "source": Source(id="test/tiny"),
        "variants": [variant],
        "weights": {WEIGHTS: Weights(data_offset=data_offset, nbytes=nbytes, tensors=tensors)},
        "tool_versions": {"llmc": "0"},
    }
    return Manifest(**{**fields, **changes})


def write_tiny_artifact(
    path: Path, *, format="file", certificate: bytes = b"{}\n", **changes
) -> None:
    payload = random.Random(0).randbytes(5000)
    weights, data_offset = safetensors(payload)
    with ArtifactWriter(path, format=format) as writer:
        with writer.open_stream(WEIGHTS, len(weights)) as stream:
            stream.write(weights[:1000])
            stream.write(weights[1000:])
        writer.add("programs/cpu/portable.so", random.Random(1).randbytes(777))
        writer.add("LICENSE", b"Apache-2.0\n")
        writer.add("certificate.json", certificate)
        writer.write_manifest(make_tiny_manifest(data_offset, len(payload), **changes))


@pytest.fixture(scope="session")
def tiny_bytes(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("artifact") / "tiny.llmc"
    write_tiny_artifact(path)
    return path.read_bytes()


@pytest.fixture(scope="session")
def write_tiny():
    return write_tiny_artifact


@pytest.fixture(scope="session")
def tiny_manifest():
    return make_tiny_manifest
