"""Whole programs with mixers of fixed state, made here node by node, against their traced graphs.

Layers of all kinds stand beside attention, equal ones are rolled into bodies; the conformance
schedule hands slots from one sequence to the next and copies them elsewhere.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from llmc.artifact.program import Program, StepInputs, StepOutputs
from llmc.artifact.stateful_program import keeps_state
from llmc.base.errors import LlmcError
from llmc.ir.graph import Graph, Value
from llmc.ir.ops import (
    Attention,
    Binary,
    CausalConv,
    Embedding,
    LinearRecurrence,
    Reshape,
    SelectiveScan,
    Slice,
    Unary,
)
from llmc.ir.roles import StepArray
from llmc.ir.types import DType, T, TensorType
from llmc.runtime.engine.cache.snapshot_places import SnapshotPlaces
from llmc.runtime.engine.engine import Engine, EngineOptions, Request
from random_checks import check_program, on_cpu, texts_for
from random_models import CONTEXT, Builder

HIDDEN, VOCAB = 24, 19
GROUPS, HEADS, KEY, VALUE = 2, 4, 8, 20
CHANNELS, NUMBERS = 18, 5


def model(layers: str) -> Graph:
    """A layer for each letter: a(ttention), c(onvolution), d(elta rule), m(amba), s(tate space)."""
    make = Builder()
    ids = make.graph.add_input("token_ids", TensorType(DType.I32, (T,)), StepArray.TOKEN_IDS)
    make.graph.add_input("positions", TensorType(DType.I32, (T,)), StepArray.POSITIONS)
    x = make(Embedding(), make.weight("embed", VOCAB, HIDDEN), ids)
    for number, kind in enumerate(layers):
        make.scope = f"layers.{number}"
        y = make.linear("o", LAYERS[kind](make, x), HIDDEN)
        x = make(Binary("add"), x, make(Unary("tanh"), y))
    make.scope = ""
    make.graph.outputs = [make.linear("head", x, VOCAB)]
    return make.graph


def _rows(make: Builder, name: str, x: Value, *shape: int) -> Value:
    return make(Reshape((T, *shape)), make.linear(name, x, int(np.prod(shape))))


def _attention(make: Builder, x: Value) -> Value:
    q, k, v = (_rows(make, name, x, heads, 8) for name, heads in (("q", 2), ("k", 1), ("v", 1)))
    return make(Reshape((T, 16)), make(Attention(0.3), q, k, v))


def _convolution(make: Builder, x: Value) -> Value:
    """A slice of a wider projection, so that rows lie apart, with a bias and silu."""
    wide = make(Slice(-1, 5, 5 + CHANNELS), make.linear("in", x, CHANNELS + 9))
    return make(
        CausalConv(True, True), wide, make.weight("conv", CHANNELS, 4), make.weight("b", CHANNELS)
    )


def _recurrence(make: Builder, x: Value, delta: bool) -> Value:
    q, k = (_rows(make, name, x, GROUPS, KEY) for name in "qk")
    k = make(Binary("mul"), make(Unary("tanh"), k), KEY**-0.5)
    v = _rows(make, "v", x, HEADS, VALUE)
    decay, *beta = (
        make(Unary("sigmoid"), _rows(make, n, x, HEADS)) for n in ("g", "b")[: 1 + delta]
    )
    y = make(LinearRecurrence(delta), q, k, v, decay, *beta)
    return make(Reshape((T, HEADS * VALUE)), y)


def _scan(make: Builder, x: Value) -> Value:
    given = make.linear("x", x, CHANNELS)
    dt = make(Unary("softplus"), make.linear("dt", x, CHANNELS))
    b, c = (make.linear(name, x, NUMBERS) for name in "bc")
    rates = make(Unary("neg"), make(Unary("exp"), make.weight("a", CHANNELS, NUMBERS)))
    return make(SelectiveScan(), given, dt, b, c, rates)


LAYERS = {
    "a": _attention,
    "c": _convolution,
    "d": lambda make, x: _recurrence(make, x, delta=True),
    "m": _scan,
    "s": lambda make, x: _recurrence(make, x, delta=False),
}


@pytest.mark.parametrize("layers", ["cc", "dsm", "cacacmcm", "add"])
def test_conforms(layers: str, tmp_path: Path) -> None:
    graph = model(layers)
    program = on_cpu(graph, tmp_path)
    assert keeps_state(program)
    assert len(program.cache_groups) == ("a" in layers)
    check_program(program, texts_for(graph))


def step(slot: int, first: int, count: int) -> StepInputs:
    ids = [(first + i) % VOCAB for i in range(count)]
    positions = list(range(first, first + count))
    rows = list(range(count))
    return StepInputs(ids, positions, [0, count], [first + count], rows, (), [slot])


def test_slots_are_copied_with_their_position_and_refuse_others(tmp_path: Path) -> None:
    program = on_cpu(model("cd"), tmp_path)
    assert keeps_state(program)
    program.step(step(3, 0, 7))
    program.copy_slot(3, 5)
    expected = program.step(step(3, 7, 4)).logits.copy()
    with pytest.raises(LlmcError, match=r"E0100.*stands at 11, not at 7"):
        program.step(step(3, 7, 4))
    np.testing.assert_array_equal(program.step(step(5, 7, 4)).logits, expected)
    program.step(step(5, 0, 1))  # begins anew
    for slot in (-1, 8):
        with pytest.raises(LlmcError, match=r"E0100.*out of range"):
            program.step(step(slot, 0, 1))
    program.close()


def test_the_library_itself_checks_positions(tmp_path: Path) -> None:
    """As a C program would find out, which has nothing else that knows them."""
    program = on_cpu(model("c"), tmp_path)
    program.step(step(2, 0, 7))
    program._check.slots._positions[2] = 5  # type: ignore[attr-defined]
    with pytest.raises(LlmcError, match=r"E0100.*another position"):
        program.step(step(2, 5, 1))
    program._check.slots._positions[2] = 7  # type: ignore[attr-defined]
    program.step(step(2, 7, 1))
    program.close()


class Recorded:
    """A program whose rows of logits are kept, in the order of its steps."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self.rows: list[np.ndarray] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._program, name)

    def step(self, inputs: StepInputs) -> StepOutputs:
        outputs = self._program.step(inputs)
        self.rows += [row.copy() for row in outputs.logits]
        return outputs


def answer(engine: Engine, prompt: tuple[int, ...]) -> tuple[Request, list[np.ndarray]]:
    """A request, and the rows of logits that its tokens were chosen from."""
    request, rows = Request(prompt, 5), engine.program.rows  # type: ignore[attr-defined]
    rows.clear()
    engine.add(request)
    while engine.has_work:
        engine.step()
    return request, list(rows)


@pytest.mark.parametrize("layers", ["dsm", "cacacmcm"])
def test_what_is_gone_on_from_has_the_bits_of_what_is_computed_anew(
    layers: str, tmp_path: Path
) -> None:
    """Snapshots are copies, and where chunks of a prompt end changes nothing."""
    turn, graph = 7, model(layers)
    programs = [Recorded(on_cpu(graph, tmp_path)) for _ in range(2)]
    cold = Engine(programs[0], options=EngineOptions(prefix_cache=False))  # type: ignore[arg-type]
    warm = Engine(programs[1])  # type: ignore[arg-type]
    warm.cache.places = SnapshotPlaces(frozenset({turn}), least=4, near=0, lasting=8)
    others = [token for token in range(VOCAB) if token != turn]
    text = np.random.default_rng(5).choice(others, CONTEXT).tolist()
    system, question = (*text[:9], turn), (*text[9:14], turn, 3)
    first, _ = answer(warm, (*system, *question))
    again = (*first.prompt, *first.output, turn, 4, 5)
    edited = (*first.prompt, 18 - first.output[0], 1, 1)
    cases = {(*system, 2, 4, 8): 10, first.prompt: 16, again: 21, edited: 16}
    for prompt, reused in cases.items():
        request, rows = answer(warm, prompt)
        alone, expected = answer(cold, prompt)
        assert request.cached_tokens == reused
        assert request.output == alone.output
        np.testing.assert_array_equal(rows, expected)
