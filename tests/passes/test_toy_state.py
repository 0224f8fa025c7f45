"""A state kind that isn't keys and values, made here alone: a decayed sum for each sequence.

Nothing of the product knows it. It goes through `lower_state`, the interpreter's memory and the
conformance schedule: several sequences in a step, chunks, a slot that another sequence had before
(reset), a sequence that loses its slot and is computed again (preemption), and a slot that is
copied and goes on in two ways (snapshot).
"""

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from llmc.artifact.manifest import CacheGroup, Limits, make_cache_group
from llmc.artifact.program import StepInputs
from llmc.ir import states
from llmc.ir.graph import Graph, Node, StateGroup, Value
from llmc.ir.interpreted_program import InterpretedProgram
from llmc.ir.ops import OPS, Embedding, Linear, Op
from llmc.ir.ops.attention import query_spans
from llmc.ir.parser import parse
from llmc.ir.phase import Phase
from llmc.ir.recipe import CheckpointTensor
from llmc.ir.roles import StepArray
from llmc.ir.state import Site
from llmc.ir.types import DType, Env, S, Sym, T, TensorType
from llmc.ir.verifier import verify
from llmc.models.conformance import Text, blocks_needed, run_schedule, text_lengths
from llmc.passes.lower_state import lower_state
from llmc.passes.select_logits import select_logits

WIDTH, VOCAB, CONTEXT, DECAY = 6, 11, 72, 0.75


@dataclass(frozen=True)
class DecayedSum(Op):
    """y[t] = x[t] + decay * y[t - 1], from the sequence's first token on: [T, N] → [T, N]."""

    mixes_tokens = True
    last_phase = Phase.QUANTIZED

    decay: float

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        return (inputs[0],)


@dataclass(frozen=True)
class DecayWrite(Op):
    """x [T, N] into `total` [P, N]; `before` [P, N] keeps what was there before this step."""

    in_place = (1, 2)

    decay: float

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        return inputs[1:3]

    def reference(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x, total, before, query_start, context_len, table = inputs
        total, before = total.clone(), before.clone()
        for s, (a, b, end) in enumerate(query_spans(query_start, context_len)):
            slot, first = int(table[s, 0]), end - (b - a)
            before[slot] = total[slot] if first else 0.0  # a first position of 0 resets it
            total[slot] = before[slot]
            for row in range(a, b):
                total[slot] = x[row] + self.decay * total[slot]
        return total, before


@dataclass(frozen=True)
class DecayRead(Op):
    """y [T, N] from x [T, N] and what was there before this step."""

    mixes_tokens = True

    decay: float

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        return (inputs[0],)

    def reference(self, *inputs: torch.Tensor) -> torch.Tensor:
        x, _, before, query_start, context_len, table = inputs
        y = torch.full_like(x, float("nan"))
        for s, (a, b, _) in enumerate(query_spans(query_start, context_len)):
            running = before[int(table[s, 0])]
            for row in range(a, b):
                running = y[row] = x[row] + self.decay * running
        return y


@dataclass(frozen=True)
class Width:
    """What a site keeps."""

    width: int


class Decayed:
    """One slot a sequence, whatever its length."""

    name = "decayed"
    mixer = DecayedSum
    geometry = Width
    arrays = (
        (StepArray.QUERY_START, TensorType(DType.I32, (Sym("S1"),))),
        (StepArray.CONTEXT_LEN, TensorType(DType.I32, (S,))),
    )
    table = TensorType(DType.I32, (S, Sym("B")))

    def geometry_of(self, mixer: Node, cache: DType) -> Width:
        width = mixer.output.type.shape[-1]
        assert isinstance(width, int)
        return Width(width)

    def parts(self, group: StateGroup) -> dict[str, TensorType]:
        kept = TensorType(DType.F32, (Sym(f"P{group.name}"), group.geometry.width))
        return {"total": kept, "before": kept}

    def content(self, mixer: Node) -> Hashable:
        return id(mixer)

    def write(self, graph: Graph, mixer: Node, site: Site) -> tuple[Value, ...]:
        return self._add(graph, DecayWrite(mixer.op.decay), mixer, site, site.parts).outputs  # type: ignore[attr-defined]

    def read(self, graph: Graph, mixer: Node, site: Site, parts: tuple[Value, ...]) -> Value:
        return self._add(graph, DecayRead(mixer.op.decay), mixer, site, parts).output  # type: ignore[attr-defined]

    def _add(self, graph: Graph, op: Op, mixer: Node, site: Site, parts: tuple[Value, ...]) -> Node:
        assert site.table is not None
        return graph.insert_before(mixer, op, [*mixer.inputs, *parts, *site.arrays, site.table])

    def sizes(self, group: StateGroup, count: int, block_size: int) -> Env:
        return {f"P{group.name}": count}

    def cache_group(self, group: StateGroup, block_size: int) -> CacheGroup:
        return make_cache_group(
            name=group.name, window=0, layers=len(group.sites), kv_heads=1, key_dim=WIDTH,
            value_dim=WIDTH, dtype="f32", block_size=block_size,
        )  # fmt: skip


TOY_OPS = {name: OPS.pop(name) for name in ("decayed_sum", "decay_write", "decay_read")}
"""Taken out of the table at once: other tests go through all ops."""


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind and its ops are in the tables while a test of this file runs."""
    monkeypatch.setitem(states.KINDS, "decayed", Decayed())
    for name, op in TOY_OPS.items():
        monkeypatch.setitem(OPS, name, op)


def random(name: str, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(map(ord, name))))


WEIGHTS = {"table": random("table", VOCAB, WIDTH), "head": random("head", VOCAB, WIDTH)}


def constant(name: str) -> Value:
    recipe = CheckpointTensor(name, "f32", (VOCAB, WIDTH))
    return Graph.constant(name, recipe, recipe.type)


def program(slots: int) -> InterpretedProgram:
    """Two layers of sums, lowered; a slot is one block, as long as any sequence."""
    graph = Graph("main", Phase.FUSED)
    ids = graph.add_input("token_ids", TensorType(DType.I32, (T,)), StepArray.TOKEN_IDS)
    x = graph.append(Embedding(), [constant("table"), ids]).output
    for layer in range(2):
        x = graph.append(DecayedSum(DECAY), [x], f"layers.{layer}").output
    graph.outputs = [graph.append(Linear(), [x, constant("head")]).output]
    assert select_logits(graph)
    graph.phase = Phase.QUANTIZED
    assert lower_state(graph, [states.KINDS["decayed"]], DType.F32)
    assert not lower_state(graph, [states.KINDS["decayed"]], DType.F32)
    graph.phase = Phase.SERVING
    verify(graph)
    assert str(parse(str(graph))) == str(graph)
    limits = Limits(
        max_tokens=48, max_sequences=8, max_context=CONTEXT, max_logits_rows=48, block_size=CONTEXT
    )
    return InterpretedProgram(graph, limits, slots, lambda value: WEIGHTS[value.name])


def reference(ids: np.ndarray) -> np.ndarray:
    """Logits after each token, computed without any state that is kept."""
    x = WEIGHTS["table"].numpy()[ids].astype(np.float64)
    for _ in range(2):
        powers = np.array([[DECAY ** (i - j) if j <= i else 0 for j in range(len(ids))]
                           for i in range(len(ids))])  # fmt: skip
        x = powers @ x
    return (x @ WEIGHTS["head"].numpy().T).astype(np.float32)


def tokens(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, count).astype(np.int32)


def step(run: InterpretedProgram, ids: list[int], past: int, slot: int) -> np.ndarray:
    """Logits of one sequence's next tokens."""
    n = len(ids)
    inputs = StepInputs(
        ids, list(range(past, past + n)), [0, n], [past + n], list(range(n)), [[[slot]]]
    )
    return run.step(inputs).logits


def test_the_conformance_schedule() -> None:
    """Several sequences, chunks, slots that change hands and that are copied elsewhere."""
    run = program(7)
    assert blocks_needed(run, CONTEXT) == 7
    texts = [tokens(n, seed) for seed, n in enumerate(text_lengths(CONTEXT))]
    report = run_schedule(run, [Text(t, reference(t)) for t in texts], max_context=CONTEXT)
    report.check(1e-5)


def test_preempted_and_computed_again() -> None:
    run, ids, other = program(2), tokens(20, 1).tolist(), tokens(9, 2).tolist()
    step(run, ids[:12], 0, slot=0)
    np.testing.assert_allclose(step(run, other, 0, slot=0), reference(np.array(other)), atol=1e-5)
    again = np.concatenate([step(run, ids[:7], 0, slot=1), step(run, ids[7:], 7, slot=1)])
    np.testing.assert_allclose(again, reference(np.array(ids)), atol=1e-5)


def test_a_snapshot_goes_on_in_two_ways() -> None:
    run, begin = program(3), tokens(10, 3).tolist()
    step(run, begin, 0, slot=0)
    run.copy_block(0, 0, 2)
    for slot, seed in ((2, 4), (0, 5)):
        end = tokens(5, seed).tolist()
        expected = reference(np.array(begin + end))[10:]
        np.testing.assert_allclose(step(run, end, 10, slot=slot), expected, atol=1e-5)
