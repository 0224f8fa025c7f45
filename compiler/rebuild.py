"""Proof that an artifact is what its source compiles to: compile it again and compare.

In: an artifact and where its source is now. Out: one `Check` per entry. Two compiles of the same
model have every entry in common but the certificate, which holds measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ..artifact.manifest import Manifest
from ..artifact.reader import ArtifactReader
from ..base.errors import LlmcError
from ..base.progress import Progress, silent
from ..models.catalog import catalog
from ..runtime.api.conformance import Check
from .driver import compile
from .targets import ExactLevels


def rebuild(
    path: str | Path,
    source: str | None = None,
    progress: Progress = silent,
    *,
    lora: Sequence[str] | None = None,
    trust_remote_code: bool = False,
) -> list[Check]:
    """Compile the source of the artifact at `path` again, with its options, and compare.

    `source` says where the model is; without it, the catalog or Hub name in the manifest. `lora`
    says where its adapters are, those that `source` doesn't hold or name by itself.
    `trust_remote_code`: as for the compile, which ran the model's own code.

    Raises:
        LlmcError: E0205, the manifest names no place and `source` is None; whatever opening the
            artifact and compiling raise.
    """
    manifest = ArtifactReader(path).manifest
    options = manifest.options
    with TemporaryDirectory(prefix="llmc-") as folder:
        again = Path(folder) / "again.llmc"
        compile(
            source or _source_of(manifest),
            lora=_adapters_of(manifest) if source is None and lora is None else lora or (),
            target=options["target"],
            scheme=options["scheme"],
            kv_cache=options["kv_cache"],
            levels={name: ExactLevels(levels) for name, levels in options["levels"].items()},
            target_options=options.get("target_options"),
            max_context=options["context"],
            allow_fields=options["allow_fields"],
            trust_remote_code=trust_remote_code,
            output=again,
            progress=progress,
        )
        return compare(manifest, ArtifactReader(again).manifest)


def compare(first: Manifest, second: Manifest) -> list[Check]:
    """One check per source file and per entry that either has."""
    checks = []
    for kind, one, other in (
        ("source", _digests(first), _digests(second)),
        (
            "rebuilt",
            {name: entry.sha256 for name, entry in first.entries.items()},
            {name: entry.sha256 for name, entry in second.entries.items()},
        ),
    ):
        for name in sorted(one.keys() | other.keys()):
            same = one.get(name) == other.get(name)
            detail = "identical" if same else "missing" if name not in other else "differs"
            checks.append(Check(f"{kind} {name}", same, detail))
    return checks


def _digests(manifest: Manifest) -> dict[str, str]:
    """Digests of the source's files and of its adapters', which are numbered from 1."""
    found = dict(manifest.source.digests)
    for i, adapter in enumerate(manifest.source.adapters, 1):
        found |= {f"adapter {i} {name}": digest for name, digest in adapter.digests.items()}
    return found


def _adapters_of(manifest: Manifest) -> tuple[str, ...]:
    """The Hub names of the adapters, but for one that lies in the folder of its base."""
    source = manifest.source
    names = [a.id for a in source.adapters if (a.id, a.revision) != (source.id, source.revision)]
    local = next((name for name in names if "/" not in name), None)
    if local is not None:
        raise LlmcError(
            "LLMC-E0205",
            f"the artifact was made with adapter {local}, which is no Hub name",
            hint="say where both are now: --rebuild --source PATH --lora PATH",
        )
    return tuple(names)


def _source_of(manifest: Manifest) -> str:
    """The catalog or Hub name that the manifest's source id stands for."""
    found = manifest.source.id
    for name, entry in catalog().items():
        wheel = entry.wheel
        if found == entry.hub or (wheel and found == f"{wheel.requirement}:{wheel.member}"):
            return name
    if "/" in found:
        return found
    raise LlmcError(
        "LLMC-E0205",
        f"the artifact was made from {found}, which is no catalog or Hub name",
        hint="say where that model is now: --rebuild --source PATH"
        + " --lora PATH" * len(manifest.source.adapters),
    )
