"""Tables stand in the order in which layers read them, and nothing else moves."""

import os
import subprocess
import sys

import pytest
from llmc.ir.parser import parse
from llmc.ir.verifier import verify
from llmc.passes.order_tables import order_tables

HEAD = """
graph main: TRACED
input x: f32[T, 4]
input positions: f32[T, 4] as positions
"""
SLOW, FAST = "mul(positions, 2.0)", "mul(positions, 3.0)"


def graph_of(first: str, second: str, uses: str):
    return parse(
        f"{HEAD}%0: f32[T, 4] = {first}\n%1: f32[T, 4] = cos(%0)\n"
        f"%2: f32[T, 4] = {second}\n%3: f32[T, 4] = cos(%2)\n{uses}"
    )


@pytest.mark.fast
def test_what_is_read_first_stands_first() -> None:
    in_order = (
        "%4: f32[T, 4] = add(x, %1)    # layers.0.attn\n"
        "%5: f32[T, 4] = add(%4, %3)    # layers.1.attn\noutput %5"
    )
    turned = in_order.replace("%1)", "%9)").replace("%3)", "%1)").replace("%9)", "%3)")
    a, b = graph_of(SLOW, FAST, in_order), graph_of(FAST, SLOW, turned)
    assert str(a) != str(b)
    assert not order_tables(a)
    assert order_tables(b)
    verify(b)
    assert str(a) == str(b)
    assert not order_tables(b)


@pytest.mark.fast
def test_tables_of_one_layer_stay_as_they_are() -> None:
    """Also where a later node of the layer reads the earlier table, and where nothing reads one."""
    uses = (
        "%4: f32[T, 4] = add(x, %3)    # layers.0.q\n"
        "%5: f32[T, 4] = add(%4, %1)    # layers.0.k\n"
        "%6: f32[T, 4] = exp(%1)\noutput %5"
    )
    graph = graph_of(SLOW, FAST, uses)
    before = str(graph)
    assert not order_tables(graph)
    assert str(graph) == before


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from llmc.compiler.frontend.lower import own_tensors, trace_model
from llmc.passes.features import OWN_KERNELS
from llmc.passes.quantize import SCHEMES
from zoo import find
model = find("gemma3")
traced = trace_model(model.configuration(), model.max_context, own_tensors)
print(traced.lower(SCHEMES["int4"], OWN_KERNELS).graph)
"""


def test_a_model_that_goes_through_a_set_gives_one_graph(pytestconfig) -> None:
    """Two kinds of layers, of which transformers' own code makes a set."""
    helpers = str(pytestconfig.rootpath / "tests" / "helpers")
    texts = set()
    for seed in ("0", "1", "2", "4"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, helpers],
            capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed},
        )  # fmt: skip
        texts.add(done.stdout)
    assert len(texts) == 1
