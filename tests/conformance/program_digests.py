"""Digests of everything that ten models compile to, on every target: what a rebuild must not move.

    python tests/conformance/program_digests.py            # compare with program_digests.json
    python tests/conformance/program_digests.py --record   # write it anew, after a wanted change

In: models of the zoo with their own random weights. Out: per model, target and scheme one sha256
of the program (C++ source, ONNX protobuf, Inductor's job, TensorRT's network layer by layer) and
one of the weights as they are packed. They say only that nothing moved: whether it is right is for
the other tests. They depend on the versions of torch, transformers and onnx, which the file names.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from llmc.base.errors import LlmcError
from llmc.compiler.frontend.lower import own_tensors, trace_model
from llmc.compiler.frontend.probe import StateReader
from llmc.compiler.targets import limits_of, resolve_targets
from llmc.weights.stream import WeightStream
from llmc.weights.table import WeightTable
from llmc.weights.values import RecipeValues
from zoo import find

FILE = Path(__file__).with_suffix(".json")
MODELS = (
    *("llama", "llama-longrope", "qwen3", "gemma2", "gemma3", "mixtral", "gpt-oss"),
    *("phi3", "gpt-neox", "deepseek-v3"),
)
CASES = (
    ("cpu", ("x86-64-v3",), ("f32", "bf16", "int8", "int4")),
    ("onnx", ("cpu",), ("f32", "int4-sym")),
    ("trt", ("89",), ("f32", "int4")),
    ("inductor", ("x86-64-v3",), ("f32", "int4")),
)
TOOLS = ("torch", "transformers", "onnx", "onnx-ir")


def sha(data: bytes | str) -> str:
    """The first 16 digits are enough to see a change."""
    return hashlib.sha256(data if isinstance(data, bytes) else data.encode()).hexdigest()[:16]


def model_digests(name: str) -> dict[str, str]:
    """`target scheme` → digests of the model's program and weights."""
    model = find(name)
    state = StateReader(model.build().state_dict())
    traced = trace_model(model.configuration(), model.max_context, own_tensors)
    found = {}
    for target, levels, schemes in CASES:
        for scheme in schemes:
            (chosen,) = resolve_targets([target], scheme, None, {target: levels}, {})
            layout = chosen.layout
            table = None if layout is None else WeightTable(layout)
            graph = traced.lower(chosen.scheme, chosen.features).graph
            try:
                lowered = chosen.lower(graph, limits_of(chosen.features, model.max_context), table)
            except LlmcError as error:
                found[f"{target} {scheme}"] = str(error)
                continue
            program = PROGRAMS[target](lowered, RecipeValues(state))
            weights = "-" if table is None else weights_digest(table, state)
            found[f"{target} {scheme}"] = f"{program} {weights}"
    return found


def weights_digest(table: WeightTable, state: StateReader) -> str:
    """The digest of the weights file."""
    out = io.BytesIO()
    WeightStream(table.tensors, table.nbytes).write(out, state, table.layout)  # type: ignore[arg-type]
    return sha(out.getvalue())


def onnx_program(lowered: Any, _: RecipeValues) -> str:
    from llmc.codegen.contract import Build

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        lowered.build("cpu", file, Build(_))
        return sha(file.read_bytes())


def inductor_program(lowered: Any, _: RecipeValues) -> str:
    """The weights' places and the graph, less the names of its inputs' roles."""
    job = lowered.job("x86-64-v3")
    graph = re.sub(
        r"^(input .*?) as .*$|^(?:group|cache) .*$", r"\1", job.graph, flags=re.MULTILINE
    )
    return sha(repr((graph, job.constants, str(job.limits))))


def trt_program(lowered: Any, values: RecipeValues) -> str:
    """Every layer with what it reads and makes, and the bytes of every constant."""
    from llmc.codegen.tensorrt.constants import Constants
    from llmc.codegen.tensorrt.engine import make_builder
    from llmc.codegen.tensorrt.network import make_network
    from llmc.runtime.executors.tensorrt_library import library

    trt: Any = library()
    builder = make_builder(trt)
    network = make_network(
        trt, builder, lowered.graph, lowered.limits, lowered.precision, Constants(values), {}
    )
    definition, lines = network.definition, []
    for i in range(definition.num_layers):
        layer = definition.get_layer(i)
        read = [layer.get_input(k) for k in range(layer.num_inputs)]
        made = [layer.get_output(k) for k in range(layer.num_outputs)]
        tensors = [t and (t.name, tuple(t.shape), str(t.dtype)) for t in (*read, *made)]
        lines.append(f"{layer.type.name} {tensors}")
    lines += [f"{h.type} {h.shape} {sha(h.array.tobytes())}" for h in network.net.held]
    return sha("\n".join(lines))


PROGRAMS = {
    "cpu": lambda lowered, _: sha(lowered.source),
    "onnx": onnx_program,
    "inductor": inductor_program,
    "trt": trt_program,
}


def main() -> int:
    """Compare or record; 1 if something moved."""
    parser = argparse.ArgumentParser(description="Digests of programs.")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("models", nargs="*", default=MODELS)
    options = parser.parse_args()
    found = {}
    for name in options.models:
        found[name] = model_digests(name)
        print(f"{name}: {len(found[name])} programs", file=sys.stderr)
    if options.record:
        told = {"tools": {name: version(name) for name in TOOLS}, "models": found}
        FILE.write_text(json.dumps(told, indent=1) + "\n")
        return 0
    known = json.loads(FILE.read_text())["models"]
    moved = [
        f"{name} {case}: {known[name].get(case)} is now {digest}"
        for name, cases in found.items()
        for case, digest in cases.items()
        if known[name].get(case) != digest
    ]
    print("\n".join(moved) or f"{sum(map(len, found.values()))} programs are what they were")
    return bool(moved)


if __name__ == "__main__":
    sys.exit(main())
