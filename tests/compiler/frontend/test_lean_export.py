"""The lean export gives what the plain one gives, and leaves torch as it was."""

import contextlib

import pytest
import torch
import torch.fx.proxy
from llmc.compiler.frontend import trace as tracing
from llmc.compiler.frontend.importer import import_graph
from llmc.compiler.frontend.lean_export import LinearCalls, lean_export
from llmc.compiler.frontend.lower import own_tensors
from llmc.ir.graph import Graph
from zoo import find


def imported(name: str) -> Graph:
    model = find(name)
    traced = tracing.trace(model.configuration(), model.max_context)
    return import_graph(traced, own_tensors(traced.model))


@pytest.mark.parametrize("name", ["gemma2", "qwen3-moe"])
def test_graph_scopes_and_lines_are_those_of_a_plain_export(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lean = imported(name)
    monkeypatch.setattr(tracing, "lean_export", contextlib.nullcontext)
    monkeypatch.setattr(tracing, "LinearCalls", contextlib.nullcontext)
    plain = imported(name)
    assert str(lean) == str(plain)
    assert [n.source for n in lean.nodes] == [n.source for n in plain.nodes]


def test_torch_is_left_as_it_was() -> None:
    names = [(torch.fx.proxy, "CapturedTraceback"), (torch.no_grad, "__enter__"),
             (torch.no_grad, "__exit__")]  # fmt: skip
    before = [getattr(owner, name) for owner, name in names]
    with contextlib.suppress(ZeroDivisionError), lean_export():
        assert all(getattr(o, n) is not b for (o, n), b in zip(names, before, strict=True))
        raise ZeroDivisionError
    assert [getattr(owner, name) for owner, name in names] == before


def test_gradients_are_still_switched_off_where_they_are_on() -> None:
    states = []
    with lean_export(), torch.enable_grad():
        with torch.no_grad():
            states.append(torch.is_grad_enabled())
            with torch.no_grad():
                states.append(torch.is_grad_enabled())
            states.append(torch.is_grad_enabled())
        states.append(torch.is_grad_enabled())
    assert states == [False, False, False, True]


@pytest.mark.parametrize(("x", "bias"), [((2, 5), None), ((2, 4), (2,))], ids=["width", "bias"])
def test_a_product_that_torch_refuses_is_refused(x, bias) -> None:
    weight = torch.zeros(3, 4, device="meta")
    vector = None if bias is None else torch.zeros(bias, device="meta")
    with LinearCalls(), pytest.raises(RuntimeError):
        torch.nn.functional.linear(torch.zeros(x, device="meta"), weight, vector)
