"""In-place operators: what is read after a write is what eager torch reads, or it is refused."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from llmc.base.errors import LlmcError
from llmc.compiler.frontend import inplace
from llmc.compiler.frontend.importer import import_graph
from llmc.compiler.frontend.lower import own_tensors
from llmc.compiler.frontend.trace import Traced
from llmc.ir.graph import Value
from llmc.ir.interpreter import interpret
from llmc.ir.recipe import Computed
from llmc.ir.verifier import verify

Function = Callable[[torch.Tensor], torch.Tensor]
TOKENS, WIDTH = 7, 6


class Module(torch.nn.Module):
    """Rows of a table by token id, x [1, T, 6], and what the function makes of a copy of them."""

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        table = torch.randn(11, WIDTH, generator=torch.Generator().manual_seed(5))
        self.table = torch.nn.Parameter(table, requires_grad=False)
        self.register_buffer("counts", torch.ones(WIDTH))
        self.function = function

    def forward(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return self.function(F.embedding(token_ids, self.table) * 1.0)


def export(module: torch.nn.Module) -> torch.export.ExportedProgram:
    example = (torch.zeros(1, 19, dtype=torch.long), torch.arange(19).unsqueeze(0))
    dynamic = {1: torch.export.Dim.DYNAMIC}
    return torch.export.export(module, example, dynamic_shapes=(dynamic, dynamic), strict=False)


def computed(module: torch.nn.Module, program: torch.export.ExportedProgram) -> torch.Tensor:
    """What the imported graph gives for other tokens than the traced ones."""
    graph = import_graph(Traced(program, module, {}), own_tensors(module))
    verify(graph)
    state = module.state_dict()
    given = {"token_ids": ids(), "positions": torch.arange(TOKENS).unsqueeze(0)}

    def constant(value: Value) -> torch.Tensor:
        if isinstance(value.recipe, Computed):
            return torch.from_numpy(value.recipe.value.copy())
        return state[value.name]

    (result,) = interpret(graph, given, constant)
    return result


def ids() -> torch.Tensor:
    return torch.randint(0, 11, (1, TOKENS), generator=torch.Generator().manual_seed(1))


def chained(x: torch.Tensor) -> torch.Tensor:
    return x.mul_(2.0).add_(1.0).mul_(x)


def earlier_name(x: torch.Tensor) -> torch.Tensor:
    y = x.add_(1.0)
    x.mul_(3.0)
    return y - 2.0


def router(x: torch.Tensor) -> torch.Tensor:
    top, index = torch.topk(x.softmax(-1), 2, dim=-1)
    top /= top.sum(-1, keepdim=True)
    return torch.zeros_like(x).scatter_(-1, index, top)


def group_mask(x: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros_like(x)
    mask.scatter_(-1, x.topk(3, dim=-1)[1], 1)
    return x.masked_fill(~mask.bool(), 0.0)


def filled(x: torch.Tensor) -> torch.Tensor:
    keys = x.new_empty(1, x.shape[1], 9)
    keys[..., :6].copy_(x)
    keys[..., 6:].copy_(x[..., :3] * 2.0)
    return keys * 1.5


def slice_then_base(x: torch.Tensor) -> torch.Tensor:
    x[..., :2].mul_(5.0)
    return x + 0.0


def slice_of_slice(x: torch.Tensor) -> torch.Tensor:
    x[..., 1:5][..., 1:3].mul_(5.0)
    return x + 0.0


def one_column(x: torch.Tensor) -> torch.Tensor:
    x[..., 2].add_(4.0)
    return x + 0.0


def assigned(x: torch.Tensor) -> torch.Tensor:
    x[..., 1:3] = x[..., 4:6] * 3.0
    return x + 0.0


def view_after(x: torch.Tensor) -> torch.Tensor:
    x.mul_(2.0)
    return x.view(1, -1, 2, 3).sum(-1)


def dead_view_before(x: torch.Tensor) -> torch.Tensor:
    y = x.view(1, -1, 2, 3).sum(-1, keepdim=True).sum(-2)
    return x.mul_(2.0) + y


def no_op_cast(x: torch.Tensor) -> torch.Tensor:
    y = x.to(torch.float32)
    x.mul_(2.0)
    return y + 0.0


def rounded(x: torch.Tensor) -> torch.Tensor:
    """The result is rounded to the type of what is written: without that, 1/3 of f32 is left."""
    return x.to(torch.bfloat16).div_(torch.full((1,), 3.0)).float()


def argument_read_before(x: torch.Tensor) -> torch.Tensor:
    y = x + 1.0
    return x.sub_(y) + y


def literal(x: torch.Tensor) -> torch.Tensor:
    """The importer knows its values, until something is written that it doesn't know."""
    y = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    y.add_(2.0)
    z = y * 3.0
    y[1:3].mul_(x.new_full((2,), 5.0))
    return x + z + y * y.abs()


def read_changed_assigned(x: torch.Tensor) -> torch.Tensor:
    """Python reads a view, writes it, and assigns it to a new view of the same memory."""
    x[..., 2] *= 2.0
    return x + 0.0


PROVEN = [chained, earlier_name, router, group_mask, filled, slice_then_base, slice_of_slice,
          literal, one_column, assigned, view_after, dead_view_before, no_op_cast,
          read_changed_assigned, rounded, argument_read_before]  # fmt: skip


def view_then_base_written(x: torch.Tensor) -> torch.Tensor:
    y = x.view(1, -1, 2, 3)
    x.mul_(2.0)
    return y.sum(-1)


def view_written_then_base(x: torch.Tensor) -> torch.Tensor:
    x.view(1, -1, 2, 3).mul_(2.0)
    return x + 0.0


def transposed_written(x: torch.Tensor) -> torch.Tensor:
    x.transpose(1, 2).mul_(2.0)
    return x + 0.0


def other_slice_read(x: torch.Tensor) -> torch.Tensor:
    left, right = x[..., :4], x[..., 2:]
    left.mul_(2.0)
    return right + 0.0


def part_of_a_split(x: torch.Tensor) -> torch.Tensor:
    left, right = x.split(3, dim=-1)
    left.mul_(2.0)
    return x[..., 1:5] + right.sum(-1, keepdim=True)


def written_from_itself(x: torch.Tensor) -> torch.Tensor:
    x[..., :3].mul_(x[..., 3:])
    return x + 0.0


UNPROVEN = [view_then_base_written, view_written_then_base, transposed_written, other_slice_read,
            part_of_a_split, written_from_itself]  # fmt: skip


@pytest.mark.parametrize("function", [*PROVEN, *UNPROVEN])
def test_what_is_accepted_equals_eager(function: Function) -> None:
    """As it is where that is proven, decomposed otherwise. The same torch functions: 1e-6."""
    module = Module(function)
    program = export(module)
    assert any(map(inplace.is_write, program.graph.nodes))
    if not inplace.is_proven(program):
        program = inplace.decomposed(program)
    expected = module(ids(), torch.arange(TOKENS).unsqueeze(0))
    torch.testing.assert_close(computed(module, program), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("function", PROVEN)
def test_common_writes_need_no_second_trace(function: Function) -> None:
    assert inplace.is_proven(export(Module(function)))


@pytest.mark.parametrize("function", UNPROVEN)
def test_a_write_that_is_seen_elsewhere_is_not_accepted(function: Function) -> None:
    module = Module(function)
    program = export(module)
    assert not inplace.is_proven(program)
    with pytest.raises(LlmcError, match=r"writes|is read through") as caught:
        import_graph(Traced(program, module, {}), own_tensors(module))
    assert caught.value.id == "LLMC-E0401"


def test_views_that_no_schema_tells_of_are_thought_of() -> None:
    """`einsum` returns a view here, but neither its schema nor (always) the trace says so."""

    def function(x: torch.Tensor) -> torch.Tensor:
        y = torch.einsum("btc->bct", x)
        x.mul_(2.0)
        return y.transpose(1, 2) + 0.0

    program = export(Module(function))
    for node in program.graph.nodes:
        if "einsum" in str(node.target):
            node.meta["val"] = node.meta["val"].clone()
    with pytest.raises(inplace.Unproven, match="read through einsum later"):
        inplace.find_writes(program.graph)


def test_what_torch_itself_takes_for_a_copy_is_refused() -> None:
    """Dropout returns its input when it isn't training; decomposed, `y` would not be doubled."""

    def function(x: torch.Tensor) -> torch.Tensor:
        y = F.dropout(x, 0.5, training=False)
        x.mul_(2.0)
        return y + 0.0

    with pytest.raises(LlmcError, match=r"mul_\.Tensor writes what an operator may") as caught:
        inplace.is_proven(export(Module(function)))
    assert caught.value.id == "LLMC-E0430"


class Counting(Module):
    """A model that changes what it keeps."""

    def __init__(self, change: Callable[[torch.nn.Module], object]) -> None:
        super().__init__(lambda x: x)
        self.change = change

    def forward(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        self.change(self)
        return F.embedding(token_ids, self.table) * self.get_buffer("counts")


@pytest.mark.parametrize(
    "change",
    [lambda m: m.counts.add_(1.0), lambda m: m.counts[1:3].mul_(2.0), lambda m: m.table[0].zero_()],
    ids=["buffer", "part of a buffer", "parameter"],
)
def test_a_change_of_what_the_model_keeps_is_refused(change) -> None:
    with torch.no_grad():
        program = export(Counting(change))
        assert not inplace.is_proven(program)
        with pytest.raises(LlmcError, match=r"forward pass changes .*(counts|table)") as caught:
            inplace.decomposed(program)
    assert caught.value.id == "LLMC-E0430"


def test_a_write_to_an_input_is_refused() -> None:
    class Shifting(Module):
        def forward(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            positions.add_(1)
            return F.embedding(token_ids, self.table)

    program = export(Shifting(lambda x: x))
    assert not inplace.is_proven(program)
    with pytest.raises(LlmcError, match="forward pass changes positions"):
        inplace.decomposed(program)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (torch.ops.aten.div_.Tensor, "div"),
        (torch.ops.aten.scatter_.value, "scatter"),
        (torch.ops.aten.copy_.default, "copy"),
        (torch.ops.aten.add.Tensor, None),
        (torch.ops.aten.add.out, None),
        (torch.ops.aten.transpose_.default, None),
        (torch.ops.aten.normal_.default, None),
    ],
    ids=str,
)
def test_the_functional_form_has_the_same_arguments(target, name: str | None) -> None:
    assert inplace.functional_name(target) == name
