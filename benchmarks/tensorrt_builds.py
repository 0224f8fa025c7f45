"""Builds an engine of every zoo family in every scheme for every GPU, and writes a table.

    python benchmarks/tensorrt_builds.py [--families llama,…] [--schemes fp16] [--each-sm] [--json]

Needs no GPU. By default one engine a family and scheme for all the SMs that the scheme has, with
`--each-sm` one for each SM alone. Every engine's header is compared with what was asked for. What
TensorRT refuses is a row with its reason.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from llmc.artifact.manifest import Limits
from llmc.artifact.targets import TrtCompileOptions
from llmc.base.errors import LlmcError
from llmc.codegen.contract import Build, Request
from llmc.codegen.tensorrt.backend import BACKEND
from llmc.codegen.tensorrt.precision import PRECISIONS
from llmc.compiler.frontend.lower import lower_model, own_tensors
from llmc.compiler.frontend.probe import StateReader
from llmc.passes.features import FOREIGN_RUNTIME
from llmc.runtime.executors.tensorrt_engine import read_header
from llmc.weights.values import RecipeValues
from tiny_model import ZooModel
from zoo import ZOO

SAMPLE = tuple(range(64))


@dataclass(frozen=True)
class Row:
    """One engine, or why there is none."""

    family: str
    scheme: str
    sms: tuple[int, ...]
    seconds: float
    mbytes: float
    refused: str = ""


Case = tuple[ZooModel, str, tuple[int, ...]]


def build(model: ZooModel, scheme: str, sms: tuple[int, ...], folder: Path) -> Row:
    """Lower and build; the time is that of the build alone, weights included."""
    asked = Request(scheme, None, TrtCompileOptions(), tuple(map(str, sms)))
    target = BACKEND.configure(asked)
    (level,) = target.levels
    context = model.max_context
    limits = Limits(
        max_tokens=64, max_sequences=8, max_context=context, max_logits_rows=8,
        block_size=context + 63, uniform_query=True,
    )  # fmt: skip
    values = RecipeValues(StateReader(model.build().state_dict()))
    graph = lower_model(
        model.configuration(), context, own_tensors, target.scheme, FOREIGN_RUNTIME
    ).graph
    out = folder / "x.engine"
    began = time.perf_counter()
    try:
        target.lower(graph, limits, None).build(level, out, Build(values, lambda: SAMPLE))
    except LlmcError as error:
        took = time.perf_counter() - began
        return Row(model.name, scheme, sms, round(took, 2), 0.0, f"{error.id} {error.message}")
    took = time.perf_counter() - began
    assert read_header(out.read_bytes()).sms == sms
    return Row(model.name, scheme, sms, round(took, 2), round(out.stat().st_size / 1e6, 2))


def cases(families: list[str], schemes: list[str], each: bool) -> Iterator[Case]:
    """What is to be built: by default for all SMs together that don't have to be asked for."""
    for model in ZOO:
        for scheme in schemes:
            able = PRECISIONS[scheme].sms
            chosen = [(sm,) for sm in able] if each else [tuple(sm for sm in able if sm != 75)]
            if model.name in families or not families:
                yield from ((model, scheme, sms) for sms in chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--families", default="")
    parser.add_argument("--schemes", default="f32,fp16,bf16,int8,int4,fp8")
    parser.add_argument("--each-sm", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    families = [name for name in given.families.split(",") if name]
    with TemporaryDirectory(prefix="llmc-") as folder:
        for case in cases(families, given.schemes.split(","), given.each_sm):
            model, scheme, sms = case
            row = build(model, scheme, sms, Path(folder))
            cells = (
                row.family,
                row.scheme,
                " ".join(map(str, sms)),
                row.seconds,
                row.mbytes,
                row.refused,
            )
            text = "| " + " | ".join(map(str, cells)) + " |"
            print(json.dumps(asdict(row)) if given.json else text, flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"peak memory {peak:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
