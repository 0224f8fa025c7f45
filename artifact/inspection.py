"""What is inside an artifact, for people and for scripts. Nothing of the artifact is run."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from ..base.errors import LlmcError
from .launch_counts import launch_counts
from .launch_plan import LaunchPlan
from .manifest import CERTIFICATE, Manifest, Variant, weight_bytes
from .reader import ArtifactReader
from .targets import TritonProgramOptions
from .variants import variant_problem

GRAPH = "graph.txt"


class Inspection:
    """An artifact, opened to be looked at. Errors: those of opening it (E0501 to E0505, E0508)."""

    def __init__(self, path: str | Path) -> None:
        self._reader = ArtifactReader(path)
        self.manifest: Manifest = self._reader.manifest

    @property
    def graph(self) -> str:
        """The text of the compiled graph; E0503 if the artifact was written without."""
        return str(self._reader.read(GRAPH), "utf-8")

    @property
    def certificate(self) -> dict[str, Any]:
        """What was measured when it was compiled; empty if nothing was."""
        if CERTIFICATE not in self._reader.names:
            return {}
        return json.loads(bytes(self._reader.read(CERTIFICATE)))

    def problems(self) -> list[tuple[Variant, LlmcError | None]]:
        """Each variant, and why this machine can't run it: its system, features and packages.

        What only an executor finds out, such as the GPU it wants, isn't looked at.
        """
        return [(variant, variant_problem(variant)) for variant in self.manifest.variants]

    def as_json(self, *, graph: bool, memory: bool) -> dict[str, Any]:
        """The manifest, the certificate, and whether each variant runs on this machine; on request
        the graph's text and the memory plans."""
        content = msgspec.to_builtins(self.manifest)
        content["certificate"] = self.certificate
        content["runs_here"] = {
            _label(variant): problem is None for variant, problem in self.problems()
        }
        if graph:
            content["graph"] = self.graph
        if memory:
            content["memory"] = {
                _label(variant): msgspec.to_builtins(variant.memory_plan) | _costs(variant)
                for variant in self.manifest.variants
            }
        return content

    def summary(self) -> str:
        """A page of text: source, options, variants with the bytes that each adds, entries."""
        manifest = self.manifest
        lines = [
            f"{self._reader.path}  {_size(self._reader.nbytes)}",
            f"source: {_source(manifest)}",
        ]
        lines += [f"{name}: {_short(value)}" for name, value in sorted(manifest.options.items())]
        lines += ["", "variants (bytes each adds)", *self._variant_lines()]
        limits = manifest.variants[0].limits
        lines += ["", f"context {limits.max_context}, {limits.max_tokens} tokens and "]
        lines[-1] += f"{limits.max_sequences} sequences a step, blocks of {limits.block_size}"
        lines += ["", "entries"]
        lines += [
            f"  {_size(entry.size):>10}  {name}  sha256 {entry.sha256[:16]}"
            for name, entry in sorted(manifest.entries.items())
        ]
        return "\n".join(lines)

    def _variant_lines(self) -> Iterator[str]:
        seen: set[str] = set()
        for variant, problem in self.problems():
            own = {name for name in (variant.program, variant.weights) if name} - seen
            added = sum(self.manifest.entries[name].size for name in own)
            seen |= own
            yield f"  {_variant(variant)}  +{_size(added)}"
            if isinstance(variant.options, TritonProgramOptions):
                yield f"    {_launches(variant.options.plan)}"
                yield from (f"    {line}" for line in launch_counts(variant.options.plan))
            if problem is not None:
                yield f"    not on this machine: {problem.message}"

    def memory(self) -> str:
        """The memory plan of each variant: arena, buffers, what a token and a sequence cost."""
        return "\n\n".join(_memory(variant, self.manifest) for variant in self.manifest.variants)


def _source(manifest: Manifest) -> str:
    parts = [manifest.source, *manifest.source.adapters]
    named = [f"{part.id} at {part.revision}" if part.revision else part.id for part in parts]
    return ", with adapter ".join(named)


def _label(variant: Variant) -> str:
    return f"{variant.target}/{variant.level}"


def _variant(variant: Variant) -> str:
    packages = [name.split("|")[0] + wanted for name, wanted in variant.packages.items()]
    needs = ", ".join([*variant.required_features, *packages]) or "nothing special"
    where = f"{variant.target} {variant.level} ({variant.system}/{variant.machine})"
    return f"{where}, needs {needs}"


def _launches(plan: LaunchPlan) -> str:
    """What a GPU is given to do, and what the largest of it needs."""
    shared = max((kernel.shared for kernel in plan.kernels), default=0)
    spills = sum(kernel.spill_bytes > 0 for kernel in plan.kernels)
    return (
        f"{len(plan.kernels)} kernels for SM{plan.sm}, {len(plan.launches)} launches a step"
        f" and {len(plan.sampling)} to draw; up to {_size(shared)} of shared memory"
        + (f"; {spills} spill registers" if spills else "")
    )


def _memory(variant: Variant, manifest: Manifest) -> str:
    plan, weights = variant.memory_plan, weight_bytes(manifest, variant)
    lines = [
        f"{variant.target} {variant.level}: weights {_size(weights)}, "
        f"arena {_size(plan.arena_bytes)}"
    ]
    for group in variant.cache_groups:
        per_token = group.bytes_per_block // group.block_size
        kept = f"the last {group.window}" if group.window else "all"
        lines.append(
            f"  cache {group.name}: {group.layers} layers, {group.dtype}, {_size(per_token)} a "
            f"token, keeps {kept} tokens"
        )
    if variant.state is not None:
        state = variant.state
        sites = len({part.site for part in state.parts})
        lines.append(
            f"  state: {sites} layers, f32, {_size(state.bytes_per_slot)} a sequence, "
            "whatever its length"
        )
    lines += [
        f"  {one.offset:>12} +{one.nbytes:<12} {one.first:>5}-{one.last:<5} {one.name}"
        for one in plan.buffers
    ]
    return "\n".join(lines)


def _costs(variant: Variant) -> dict[str, int]:
    """Bytes that a token takes, where all layers keep it, and a sequence, whatever its length."""
    return {
        "bytes_per_token": sum(g.bytes_per_block // g.block_size for g in variant.cache_groups),
        "bytes_per_sequence": 0 if variant.state is None else variant.state.bytes_per_slot,
    }


def _short(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"
