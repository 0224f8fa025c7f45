"""Bytes and operations of a step, counted by hand for a small model's graph."""

from __future__ import annotations

from configured import configured
from llmc.artifact.launch_plan import Pointer
from llmc.artifact.manifest import Limits
from llmc.artifact.program import StepInputs
from llmc.codegen.triton.layout import TRITON_LAYOUT
from llmc.codegen.triton.operands import Choice, Operand
from llmc.codegen.triton.program import Program
from llmc.codegen.triton.traffic import LaunchTraffic, StepSize, table, terms_of, total, traffic_of
from llmc.compiler.frontend.lower import lower_model, own_tensors
from llmc.ir.graph import Graph, Node, Value
from llmc.ir.ops import CacheWrite, Embedding, GroupedLinear, Linear, Norm, PagedAttention
from llmc.ir.types import Dim, DType, R, T, TensorType
from llmc.runtime.api.profile import moved_bytes
from llmc.runtime.executors.cpu_profile import Traffic
from llmc.weights.table import WeightTable
from msgspec.structs import astuple
from zoo import find

SIZE = StepSize(tokens=6, sequences=2, rows=3, context=40)


def program_of(graph: Graph) -> Program:
    limits = Limits(
        max_tokens=64, max_sequences=4, max_context=128, max_logits_rows=8, block_size=64
    )
    return Program(graph, limits, WeightTable(TRITON_LAYOUT), DType.F32)


def launch(program: Program, nodes: tuple[Node, ...], weights: int = 0) -> None:
    """A launch that reads so many bytes of weights."""
    pointer = Operand("*fp32", Pointer("weights", 0, weights, early=True))
    program.nodes = nodes
    program.launch(
        "none.at_all", {"weight_ptr": pointer} if weights else {}, lambda *_: Choice((), {})
    )


def one(node: Node, weights: int = 0) -> LaunchTraffic:
    program = program_of(Graph())
    launch(program, (node,), weights)
    (found,) = traffic_of(program, SIZE)
    return found


def test_values_weights_and_operations_of_single_ops() -> None:
    graph = Graph()
    x, weight = (given(shape) for shape in ((T, 10), (7, 10)))
    linear = graph.append(Linear(), [x, weight])
    found = one(linear, weights=7 * 10 * 2)
    assert found.weights == 140
    assert found.values == 4 * (6 * 10 + 7 * 10 + 6 * 7)  # here the weight is a value, too
    assert found.operations == 2 * 6 * 7 * 10
    table_value, ids = given((50, 8)), given((R,), DType.I32)
    rows = graph.append(Embedding(), [table_value, ids])
    assert one(rows, weights=50 * 8 * 2).weights == 3 * 8 * 2


def given(shape: tuple[Dim, ...], dtype: DType = DType.F32) -> Value:
    """A value that no node of the graph makes."""
    return Value(TensorType(dtype, shape))


def test_experts_that_nobody_chose_are_not_read() -> None:
    graph = Graph()
    x, weight = given((T, 10)), given((16, 8, 10))
    offsets = given((17,), DType.I32)
    node = graph.append(GroupedLinear(), [x, weight, offsets])
    found = one(node, weights=16 * 8 * 10)
    assert found.weights == 6 * 8 * 10  # six rows: six of sixteen experts at most
    assert found.operations == 2 * 6 * 8 * 10


def test_what_stays_inside_a_launch_moves_nothing() -> None:
    graph = Graph()
    x = given((T, 10))
    first = graph.append(Norm("rms_norm", weight=False), [x])
    second = graph.append(Norm("rms_norm", weight=False), [first.output])
    program = program_of(Graph())
    launch(program, (first, second))
    launch(program, (first,))
    launch(program, (second,), weights=8)
    launch(program, (second,), weights=8)
    values = [(found.values, found.weights) for found in traffic_of(program, SIZE)]
    assert values == [(480, 0), (480, 0), (0, 8), (480, 8)]


def step_of(size: StepSize) -> StepInputs:
    """Inputs that have no more than the sizes."""
    return StepInputs(
        token_ids=[0] * size.tokens,
        positions=[],
        query_start=[],
        context_len=[size.context] * size.sequences,
        logits_rows=[0] * size.rows,
        block_tables=(),
    )


def test_rows_and_experts_end_with_all_of_them() -> None:
    program, graph = program_of(Graph()), Graph()
    table_value, ids = given((50, 8)), given((T,), DType.I32)
    launch(program, (graph.append(Embedding(), [table_value, ids]),), 50 * 8 * 2)
    experts = [given((T, 10)), given((4, 8, 10)), given((5,), DType.I32)]
    launch(program, (graph.append(GroupedLinear(), experts),), 4 * 8 * 10)
    for tokens in (1, 3, 4, 5, 49, 50, 60):
        size = StepSize(tokens, 1, 1, 64)
        for launched, parts in zip(traffic_of(program, size), terms_of(program), strict=True):
            assert (
                moved_bytes([Traffic(*astuple(p)) for p in parts], step_of(size)) == launched.nbytes
            )


def test_the_cache_of_a_model() -> None:
    model = find("smollm3")
    config = model.configuration()
    target = configured("triton", "f32", None, levels=("90",))
    graph = lower_model(
        config, model.max_context, own_tensors, target.scheme, target.features
    ).graph
    program = program_of(graph)
    for node in graph.nodes:
        launch(program, (node,))
    found = dict(zip(graph.nodes, traffic_of(program, SIZE), strict=True))
    (group,) = program.groups
    per_token = 4 * group.kv_heads * (group.key_dim + group.value_dim)
    for node, launched in found.items():
        if isinstance(node.op, CacheWrite):
            assert launched.cache == 6 * per_token
        elif isinstance(node.op, PagedAttention):
            heads, head = node.output.type.shape[1:]
            assert isinstance(heads, int)
            assert isinstance(head, int)
            assert launched.cache == 2 * 40 * per_token
            # two sequences, whose three queries see 38, 39 and 40 positions: scores and sums
            assert launched.operations == 2 * 2 * (38 + 39 + 40) * 2 * heads * head
        else:
            assert launched.cache == 0
    assert total(found.values()).cache > 0
    terms = terms_of(program)
    for size in (SIZE, StepSize(1, 1, 1, 64), StepSize(60, 4, 8, 100)):
        inputs = step_of(size)
        for launched, parts in zip(traffic_of(program, size), terms, strict=True):
            moved = moved_bytes([Traffic(*astuple(part)) for part in parts], inputs)
            # Tables have whole entries for parts of blocks: a few bytes don't grow evenly.
            assert abs(moved - launched.nbytes) <= launched.nbytes / 500, launched.label
    text = table(list(found.values()), bandwidth=1e12)
    assert text.splitlines()[-1].endswith("a step")
    assert f"{total(found.values()).values:,}" in text.splitlines()[-1]
