"""The program that computes nothing, under a real engine."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from llmc.artifact.manifest import CacheGroup, Limits
from llmc.benchmarks.serving_bench.null_program import Logits, NullProgram
from llmc.runtime.engine.engine import Engine
from llmc.runtime.engine.request import Request
from llmc.runtime.engine.sampling.parameters import SamplingParams

pytestmark = pytest.mark.fast

VOCAB, IDS = 300, [7, 8, 9, 10, 11]
GROUP = CacheGroup(
    name="all",
    kind="full",
    layers=1,
    kv_heads=1,
    key_dim=16,
    value_dim=16,
    dtype="f32",
    block_size=16,
    bytes_per_block=2048,
)
LIMITS = Limits(max_tokens=64, max_sequences=8, max_context=256, max_logits_rows=8, block_size=16)


def _program(logits: Logits | None = None) -> NullProgram:
    variant: Any = SimpleNamespace(limits=LIMITS, cache_groups=[GROUP], vocab_size=VOCAB)
    return NullProgram(variant, IDS, sequences=4, blocks=64, logits=logits)


def _outputs(program: NullProgram, params: SamplingParams) -> list[list[int]]:
    engine = Engine(program)
    requests = [Request((1, 2, 3 + i), 20, params) for i in range(4)]
    for request in requests:
        engine.add(request)
    while engine.has_work:
        engine.step()
    assert engine.gauges().cache_used == 0
    return [request.output for request in requests]


def test_it_answers_with_the_text_and_counts_its_own_time() -> None:
    program = _program()
    outputs = _outputs(program, SamplingParams())
    assert all(len(output) == 20 for output in outputs)
    assert {token for output in outputs for token in output} == set(IDS)
    assert 0 < program.seconds < 1


def test_its_logits_favour_the_text_and_are_new_in_every_step() -> None:
    logits = Logits.new(4, VOCAB)
    program = _program(logits)
    bias = {100: 2.0}  # would win in time if it were added to the same row again and again
    outputs = _outputs(program, SamplingParams(temperature=0.01, seed=1, logit_bias=bias))
    assert {token for output in outputs for token in output} <= set(IDS)
    assert logits.rows.shape == (4, VOCAB)
    assert np.isfinite(logits.rows).all()
    drawn = _outputs(_program(Logits.new(4, VOCAB)), SamplingParams(temperature=1.0, seed=1))
    assert len({token for output in drawn for token in output}) > 5
