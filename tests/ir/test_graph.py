"""The graph keeps producers, uses and order consistent under any edit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llmc.ir.graph import Graph, Node, Value
from llmc.ir.ops import Binary, Call, Reshape, TopK, Unary
from llmc.ir.types import DType, T, TensorType
from llmc.ir.verifier import verify
from random_graphs import graphs

pytestmark = pytest.mark.fast

ROWS = TensorType(DType.F32, (T, 4))


def check_links(graph: Graph) -> None:
    """What values say about their readers is what nodes say about their operands."""
    readers: dict[Value, list[Node]] = {}
    for node in graph.nodes:
        for value in dict.fromkeys(node.inputs):
            readers.setdefault(value, []).append(node)
        for value in node.outputs:
            assert value.producer is node
    known = [*graph.inputs, *(v for n in graph.nodes for v in n.outputs), *graph.constants()]
    for value in known:
        assert set(value.users) == set(readers.get(value, []))
        assert len(value.users) == len(readers.get(value, []))


@given(graphs(), st.data())
def test_links_hold_under_random_edits(graph: Graph, data: st.DataObject) -> None:
    """Replacing uses, inserting and erasing never leaves a stale reader or a lost one."""
    for _ in range(data.draw(st.integers(1, 6))):
        node = data.draw(st.sampled_from(graph.nodes))
        edit = data.draw(st.sampled_from(["insert", "bypass", "after", "dead"]))
        x = node.inputs[0] if node.inputs else None
        if edit == "insert" and x is not None:
            new = graph.insert_before(node, Unary("neg"), [x]).output
            graph.set_inputs(node, [new if v is x else v for v in node.inputs])
        elif edit == "bypass" and x is not None and x.type == node.outputs[0].type:
            graph.replace_uses(node.outputs[0], x)
        elif edit == "after":
            made = graph.insert_after(node, Unary("neg"), [node.outputs[0]])
            graph.replace_uses(node.outputs[0], made.output, where=lambda n, m=made: n is not m)
        else:
            graph.erase_dead()
        if not graph.nodes:
            break
        check_links(graph)
    verify(graph)


def test_a_value_read_twice_by_one_node_has_one_reader() -> None:
    graph = Graph()
    x = graph.add_input("x", ROWS)
    node = graph.append(Binary("mul"), [x, x])
    assert x.users == (node,)
    graph.set_inputs(node, [x, graph.append(Unary("neg"), [x]).output])
    assert node in x.users


def test_inserted_nodes_take_the_origin_of_their_anchor() -> None:
    graph = Graph()
    x = graph.add_input("x", ROWS)
    anchor = graph.append(Unary("neg"), [x], "layers.0", "model.py:7 `-x`")
    other = graph.append(Unary("exp"), [x], "layers.1", "model.py:8 `exp`")
    before = graph.insert_before(anchor, Unary("abs"), [x])
    after = graph.insert_after(anchor, Unary("abs"), [x], like=other)
    assert (before.scope, before.source) == ("layers.0", "model.py:7 `-x`")
    assert (after.scope, after.source) == ("layers.1", "model.py:8 `exp`")
    assert graph.nodes == [before, anchor, after, other]


def test_erase_refuses_what_is_read() -> None:
    graph = Graph()
    node = graph.append(Unary("neg"), [graph.add_input("x", ROWS)])
    graph.outputs = [node.output]
    with pytest.raises(ValueError, match="still read"):
        graph.erase(node)
    graph.outputs = [graph.inputs[0]]
    graph.erase(node)
    assert graph.nodes == []
    assert graph.inputs[0].users == ()


def test_erase_dead_keeps_effects() -> None:
    """A call may write pools, so it stays though nobody reads it; a dead chain goes."""
    graph = Graph()
    x = graph.add_input("x", ROWS)
    dead = graph.append(Unary("neg"), [x])
    graph.append(Unary("exp"), [dead.output])
    call = graph.append(Call("body", (ROWS,)), [x])
    graph.outputs = [x]
    assert graph.erase_dead()
    assert graph.nodes == [call]
    assert not graph.erase_dead()


def test_a_refused_node_leaves_no_trace() -> None:
    """An op that refuses its operands changes nothing."""
    graph = Graph()
    x = graph.add_input("x", ROWS)
    with pytest.raises(TypeError):
        graph.append(Reshape((T, 5)), [x])
    assert graph.nodes == []
    assert x.users == ()


def test_replace_op_infers_types_again() -> None:
    graph = Graph()
    node = graph.append(TopK(2), [graph.add_input("x", ROWS)])
    graph.replace_op(node, TopK(3))
    assert [str(v.type) for v in node.outputs] == ["f32[T, 3]", "i64[T, 3]"]
    assert [v.index for v in node.outputs] == [0, 1]


def test_outputs_are_readers_like_others() -> None:
    """`where` chooses among readers, of which None is the graph's outputs."""
    graph = Graph()
    x = graph.add_input("x", ROWS)
    first, second = graph.append(Unary("neg"), [x]), graph.append(Unary("exp"), [x])
    reader = graph.append(Unary("abs"), [first.output])
    graph.outputs = [first.output, reader.output]
    graph.replace_uses(first.output, second.output, where=lambda _: False)
    assert graph.outputs == [first.output, reader.output]
    graph.replace_uses(first.output, second.output, where=lambda user: user is None)
    assert graph.outputs == [second.output, reader.output]
    assert reader.inputs == (first.output,)


def test_what_only_an_unread_node_read_goes_with_it() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.F32, (4,)))
    kept = graph.append(Unary("relu"), [x])
    inner = graph.append(Unary("exp"), [kept.output])
    outer = graph.append(Binary("add"), [inner.output, inner.output])
    graph.outputs = [kept.output]
    graph.erase_unread(inner)
    assert graph.nodes == [kept, inner, outer]
    graph.erase_unread(outer)
    assert graph.nodes == [kept]
    graph.erase_unread(kept)
    assert graph.nodes == [kept]
    assert kept.output.users == ()


def test_nodes_are_inserted_where_they_should_be_wherever_the_last_one_was() -> None:
    """The graph looks near the last place first: backwards, after a new list, after removals."""
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.F32, (4,)))
    nodes = [graph.append(Unary("relu"), [x]) for _ in range(300)]
    graph.outputs = [n.output for n in nodes]
    for anchor in (nodes[290], nodes[3], nodes[299], nodes[0], nodes[150]):
        made = graph.insert_before(anchor, Unary("exp"), [x])
        assert graph.nodes.index(made) == graph.nodes.index(anchor) - 1
        graph.erase(made)
        assert graph.nodes == nodes
    graph.nodes = graph.nodes[:2]
    made = graph.insert_after(nodes[1], Unary("exp"), [x])
    assert graph.nodes == [*nodes[:2], made]
