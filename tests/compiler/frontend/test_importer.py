"""The imported graph: origins, weights by name, refusals."""

import pytest
import torch
from llmc.base.errors import LlmcError
from llmc.compiler.frontend import interfaces
from llmc.compiler.frontend.importer import import_graph
from llmc.compiler.frontend.lower import own_tensors
from llmc.compiler.frontend.trace import Traced, trace
from llmc.ir.graph import Graph
from llmc.ir.ops import Attention
from llmc.ir.phase import Phase
from llmc.ir.verifier import verify
from zoo import find


@pytest.fixture(scope="module")
def graph() -> Graph:
    model = find("gemma2")
    traced = trace(model.configuration(), model.max_context)
    return import_graph(traced, own_tensors(traced.model))


def test_a_model_becomes_a_traced_graph(graph: Graph) -> None:
    verify(graph)
    assert graph.phase == Phase.TRACED
    assert [str(v.type) for v in graph.inputs] == ["i64[1, T]", "i64[1, T]"]
    assert [str(v.type.shape[1]) for v in graph.outputs] == ["T"]


def test_one_attention_per_layer_with_its_own_arguments(graph: Graph) -> None:
    """Window from the mask, scale and cap from the call: 40 ** -0.5, not the head's."""
    sites = [n for n in graph.nodes if isinstance(n.op, Attention)]
    ops = [n.op for n in sites]
    assert [getattr(o, "window", None) for o in ops] == [8, 0, 8, 0]
    assert {(o.scale, o.softcap) for o in ops if isinstance(o, Attention)} == {(40**-0.5, 2.0)}
    assert [n.scope for n in sites] == [f"model.layers.{i}.self_attn" for i in range(4)]


def test_nodes_know_the_line_they_are_from(graph: Graph) -> None:
    known = [n for n in graph.nodes if n.source]
    assert len(known) > len(graph.nodes) * 0.9
    assert any("modeling_gemma2.py:" in n.source and "`" in n.source for n in known)


class Probe(torch.nn.Module):
    """One layer, so that the refused op has a module path."""

    def __init__(self, body) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([Inner(body)])

    def forward(self, token_ids: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.layers[0](positions.float()),)


class Inner(torch.nn.Module):
    def __init__(self, body) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def mask(refused: str = "") -> torch.Tensor:
    return interfaces.mask_op(torch.empty(0, device="meta"), 8, refused)


def attend(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    x = x[..., None, None].expand(1, -1, 2, 4)
    return interfaces.attention_op(x, x, x, mask, None, None, 1.0, 0.0)


def exported(module: torch.nn.Module) -> torch.export.ExportedProgram:
    example = (torch.zeros(1, 19, dtype=torch.long, device="meta"),) * 2
    dynamic = {1: torch.export.Dim.DYNAMIC}
    return torch.export.export(module, example, dynamic_shapes=(dynamic, dynamic), strict=False)


@pytest.mark.parametrize(
    ("body", "id", "why"),
    [
        (lambda x: torch.erfinv(x), "LLMC-E0401", "aten.erfinv.default in layers.0.*has no equi"),
        (lambda x: x.cumsum(-1), "LLMC-E0401", "aten.cumsum.default in layers.0.*sums over"),
        (lambda x: x * x.shape[1], "LLMC-E0401", "number of tokens in the step"),
        (lambda x: x + mask().float()[0, 0], "LLMC-E0414", "reads an attention mask"),
        (lambda x: attend(x, mask("is of glass\nshatter it")), "LLMC-E0414", "is of glass$"),
    ],
    ids=["unknown op", "scan over tokens", "token count", "mask", "mask of another kind"],
)
def test_refusals_name_op_scope_and_line(body, id: str, why: str) -> None:
    module = Probe(body).to("meta")
    program = exported(module)
    with pytest.raises(LlmcError, match=why) as caught:
        import_graph(Traced(program, module, {}), {})
    assert caught.value.id == id
    assert "test_importer.py:" in caught.value.message


def test_a_mask_of_another_kind_that_nothing_reads_refuses_nothing() -> None:
    """Decoders of encoder-decoder models make one for states that aren't there."""

    def body(x: torch.Tensor) -> torch.Tensor:
        mask("is of glass")
        return attend(x, mask())

    graph = import_graph(Traced(exported(Probe(body).to("meta")), None, {}), {})
    assert [node.op.window for node in graph.nodes if isinstance(node.op, Attention)] == [8]


def test_a_buffer_that_nothing_sets_refuses_where_it_is_read() -> None:
    """One that is only there, as in a part of a model that text never runs, refuses nothing."""

    class WithBuffers(torch.nn.Module):
        def __init__(self, reads: bool) -> None:
            super().__init__()
            self.reads = reads
            self.register_buffer("mystery", torch.empty(19), persistent=False)

        def forward(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            x = positions.float()
            return x * self.get_buffer("mystery")[0] if self.reads else x * 2.0

    for reads in (False, True):
        module = WithBuffers(reads).to("meta")
        example = (torch.zeros(1, 19, dtype=torch.long, device="meta"),) * 2
        dynamic = {1: torch.export.Dim.DYNAMIC}
        program = torch.export.export(module, example, dynamic_shapes=(dynamic, dynamic))
        if not reads:
            assert import_graph(Traced(program, module, {}), {}).outputs
            continue
        with pytest.raises(LlmcError, match="mystery") as caught:
            import_graph(Traced(program, module, {}), {})
        assert caught.value.id == "LLMC-E0431"
