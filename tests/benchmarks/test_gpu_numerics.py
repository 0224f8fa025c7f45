"""Each check of numerics passes a right program and sees the one fault that it is for."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from llmc.artifact.launch_plan import LaunchPlan
from llmc.artifact.manifest import Limits, MemoryPlan, Variant, make_cache_group
from llmc.artifact.program import StepInputs, StepOutputs
from llmc.artifact.targets import TritonProgramOptions
from llmc.base.errors import LlmcError
from llmc.benchmarks.gpu_bench.numerics import guarded
from llmc.benchmarks.gpu_bench.suite import Blobs, BuiltProgram, Expected, Text
from llmc.models.conformance import text_lengths

pytestmark = pytest.mark.fast

VOCAB, CONTEXT = 40, 96
LIMITS = Limits(
    max_tokens=128, max_sequences=8, max_context=CONTEXT, max_logits_rows=32, block_size=64
)
GROUP = make_cache_group(
    name="g",
    window=0,
    layers=1,
    kv_heads=1,
    key_dim=16,
    value_dim=16,
    dtype="f32",
    block_size=64,
)
TABLE = np.random.default_rng(1).standard_normal((VOCAB, CONTEXT, VOCAB)).astype(np.float32)


class Toy:
    """Logits follow from a token and its position alone; `fault` is what is wrong with it."""

    def __init__(self, fault: str = "") -> None:
        self.limits, self.cache_groups, self.cache_blocks = LIMITS, (GROUP,), (11,)
        self.vocab_size, self.fault = VOCAB, fault

    def step(self, inputs: StepInputs) -> StepOutputs:
        if self.fault == "failure":
            raise LlmcError("LLMC-E0722", "the GPU failed")
        rows = inputs.logits_rows
        logits = TABLE[
            [inputs.token_ids[r] for r in rows], [inputs.positions[r] for r in rows]
        ].copy()
        if self.fault == "company":
            logits[:, 0] += np.float32(1e-5) * len(inputs.context_len)
        if self.fault == "query":
            logits[:, 0] += np.float32(1e-5) * (inputs.query_start == [0, 4])
        if self.fault == "wrong":
            logits[:, 3] += 1
        if self.fault == "nan":
            logits[:, 3] = np.nan
        chosen = (logits.argmax(axis=1) + (self.fault == "choice")) % VOCAB
        if self.fault == "garbage":
            chosen[:] = 1 << 30
        return StepOutputs(lambda: logits, chosen.tolist())

    def copy_block(self, group: int, source: int, target: int) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing to free."""


def built(blobs: Blobs, invariant: bool = True) -> BuiltProgram:
    plan = LaunchPlan(
        sm=90,
        kernels=[],
        forms=[128],
        launches=[],
        step={},
        step_bytes=0,
        kept={},
        kept_bytes=0,
        columns=2,
        batch_invariant=invariant,
    )
    variant = Variant(
        target="triton",
        level="sm90",
        options=TritonProgramOptions(plan=plan),
        program="program",
        weights="weights",
        limits=LIMITS,
        cache_groups=[GROUP],
        memory_plan=MemoryPlan(arena_bytes=0),
        vocab_size=VOCAB,
    )
    random = np.random.default_rng(2)
    texts = []
    for length in text_lengths(CONTEXT):
        ids = random.integers(0, VOCAB, length)
        texts.append(Text(ids.tolist(), blobs.add(TABLE[ids, np.arange(length)].tobytes())))
    expected = Expected(0, texts, texts, 1e-4, 0.0)
    return BuiltProgram("toy", "f32", "", variant, [], 0, expected=expected)


def wrong(fault: str, **options: Any) -> set[str]:
    blobs = Blobs()
    return {c.claim for c in guarded(built(blobs, **options), blobs, Toy(fault)) if not c.passed}


@pytest.mark.parametrize(
    ("fault", "claims"),
    [
        ("", set()),
        ("wrong", {"the compiled graph in f32"}),
        ("company", {"rows alone and in company"}),
        ("query", {"4 query tokens and 4 steps"}),
        ("choice", {"the largest logit is chosen"}),
        ("failure", {"runs"}),
        ("garbage", {"runs"}),
    ],
)
def test_a_fault_is_seen_by_its_own_check(fault: str, claims: set[str]) -> None:
    assert wrong(fault) == claims


def test_nan_passes_no_check_of_values() -> None:
    found = wrong("nan")
    assert {"the compiled graph in f32", "the source model"} <= found
    assert {"rows alone and in company", "4 query tokens and 4 steps"} <= found


def test_programs_that_may_depend_on_the_batch_are_not_held_to_bits() -> None:
    assert wrong("company", invariant=False) == set()


def test_checks_are_data() -> None:
    blobs = Blobs()
    found = guarded(built(blobs), blobs, Toy())
    assert len(found) == 5
    assert msgspec.json.decode(msgspec.json.encode(found), type=list[type(found[0])]) == found
