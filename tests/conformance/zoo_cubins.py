"""What every kernel of every zoo family takes on each GPU: a record, and how it is made.

    python tests/conformance/zoo_cubins.py --record [--only FAMILY …] [--seconds N]

In: nothing but this repository; no GPU is needed. Out: `zoo_cubins.json` beside this file, with the
registers, spilled bytes, dynamic shared bytes and parameter bytes of each kernel for each compute
capability. Only kernels that the record lacks are compiled, each once for all families that have
it; those that no family has any more are dropped in the end. The file is written after every batch,
so a run that ends early is taken up by the next. All families have some 2,700 kernels:
half an hour on two cores.

A kernel's key is a digest of its spec, of the source of all functions that it calls (without
comments and docstrings), of Triton's version and of the compute capability.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.metadata
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec

HERE = Path(__file__).parent
RECORD = HERE / "zoo_cubins.json"
KERNELS = HERE.parents[1] / "codegen/triton/kernels"
SMS = (80, 90, 100, 120)
SCHEMES = (("bf16", None), ("int4", "int8"))
"""Every family in the first; those of `DISTINCT` in all."""
BATCH = 16

sys.path.insert(0, str(HERE.parent / "helpers"))

from llmc.codegen.triton.cubins import compile_all  # noqa: E402
from llmc.codegen.triton.kernel_spec import Cubin, KernelSpec  # noqa: E402
from planned_program import lowered  # noqa: E402
from tiny_model import ZooModel  # noqa: E402
from zoo import DISTINCT, EXTENDED, ZOO  # noqa: E402


class Facts(NamedTuple):
    """Of one kernel: registers of a thread, and bytes. `kernel`: its name, for people."""

    kernel: str
    sm: int
    registers: int
    spill_bytes: int
    shared: int
    parameter_bytes: int


def facts_of(spec: KernelSpec, cubin: Cubin) -> Facts:
    return Facts(
        spec.label,
        cubin.sm,
        cubin.registers,
        cubin.spill_bytes,
        cubin.shared,
        cubin.parameter_bytes,
    )


# ---- keys


def key_of(spec: KernelSpec, sm: int) -> str:
    """Under which the record has a kernel."""
    if spec.source:
        text = spec.source + "".join(_source_of("elementwise", n) for n in _names(spec.source))
    else:
        text = _source_of(*spec.function.rsplit(".", 1))
    parts = (repr(spec), text, importlib.metadata.version("triton"), str(sm))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


@cache
def _source_of(module: str, name: str) -> str:
    """The text of a function in `kernels` and of all that it uses there."""
    seen: dict[tuple[str, str], str] = {}
    wanted = [(module, name)]
    while wanted:
        place = wanted.pop()
        found = _definitions(place[0]).get(place[1])
        if place in seen or found is None:
            continue
        if isinstance(found, tuple):
            wanted.append(found)
            continue
        seen[place] = found
        wanted += [(place[0], used) for used in _names(found)]
    return "\n".join(text for _, text in sorted(seen.items()))


@cache
def _definitions(module: str) -> Mapping[str, str | tuple[str, str]]:
    """By name, what a module of `kernels` defines as text, or where it imports it from."""
    path = KERNELS / f"{module}.py"
    found: dict[str, str | tuple[str, str]] = {}
    if not path.exists():
        return found
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case ast.ImportFrom(level=1, module=str(source)):
                found |= {a.asname or a.name: (source, a.name) for a in node.names}
            case ast.FunctionDef():
                if ast.get_docstring(node) is not None:
                    node.body = node.body[1:] or [ast.Pass()]
                found[node.name] = ast.unparse(node)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                found[name] = ast.unparse(node)
    return found


@cache
def _names(text: str) -> tuple[str, ...]:
    """Names that a text mentions."""
    nodes = ast.walk(ast.parse(text))
    return tuple(sorted({node.id for node in nodes if isinstance(node, ast.Name)}))


# ---- kernels of families


def specs_of(
    model: ZooModel, scheme: str, cache_type: str | None, sms: Iterable[int] = SMS
) -> Iterator[tuple[KernelSpec, int]]:
    """Kernels of a family, each with its compute capability."""
    sms = tuple(sms)
    compiled = lowered(model, scheme, cache_type, levels=tuple(map(str, sms))).compiled
    for sm in sms:
        yield from ((spec, sm) for spec in compiled.plans[f"sm{sm}"].specs)


def cases(only: Iterable[str] = ()) -> list[tuple[ZooModel, str, str | None]]:
    """Families and schemes of the record."""
    wanted = set(only)
    models = [
        m for m in ZOO + EXTENDED if m.expected == "compiles" and m.name in (wanted or {m.name})
    ]
    return [
        (model, scheme, cache_type)
        for place, (scheme, cache_type) in enumerate(SCHEMES)
        for model in models
        if not place or model.name in DISTINCT
    ]


# ---- the record


def read_record() -> dict[str, Facts]:
    """What has been recorded, by key."""
    return msgspec.json.decode(RECORD.read_bytes(), type=dict[str, Facts])


def write_record(record: Mapping[str, Facts]) -> None:
    """One kernel a line, sorted by name, in one step."""
    lines = [
        f"{msgspec.json.encode(key).decode()}: {msgspec.json.encode(facts).decode()}"
        for key, facts in sorted(record.items(), key=lambda item: (item[1], item[0]))
    ]
    part = RECORD.with_suffix(".part")
    part.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    part.replace(RECORD)


def record_missing(only: Iterable[str], seconds: float) -> bool:
    """Compiles what the record lacks; False if time ran out first."""
    end = time.monotonic() + seconds
    record = read_record() if RECORD.exists() else {}
    needed: set[str] = set()
    for model, scheme, cache_type in cases(only):
        missing: dict[int, dict[str, KernelSpec]] = {}
        for spec, sm in specs_of(model, scheme, cache_type):
            key = key_of(spec, sm)
            needed.add(key)
            if key not in record:
                missing.setdefault(sm, {})[key] = spec
        count = sum(map(len, missing.values()))
        print(f"{model.name} {scheme}: {count} kernels to compile", flush=True)
        for sm, wanted in missing.items():
            keys = list(wanted)
            for first in range(0, len(keys), BATCH):
                if time.monotonic() > end:
                    return False
                batch = keys[first : first + BATCH]
                cubins = compile_all([wanted[key] for key in batch], sm)
                for key, cubin in zip(batch, cubins, strict=True):
                    record[key] = facts_of(wanted[key], cubin)
                write_record(record)
    if not only:
        write_record({key: facts for key, facts in record.items() if key in needed})
    return True


def main() -> int:
    """Exit code 1 if there is more to do."""
    parser = argparse.ArgumentParser(description="Record what kernels take on each GPU.")
    parser.add_argument("--record", action="store_true", required=True)
    parser.add_argument("--only", nargs="*", default=[], help="families")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="when to stop")
    arguments = parser.parse_args()
    return 0 if record_missing(arguments.only, arguments.seconds) else 1


if __name__ == "__main__":
    sys.exit(main())
