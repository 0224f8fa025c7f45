"""The files that hold a checkpoint's tensors.

In: a directory. Out: for every tensor the safetensors file that holds it: the one file, or the
shards that an index lists, as transformers chooses between them. Nothing is unpickled: files that
can run code are named and refused.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from ...base.errors import LlmcError
from .folder_kinds import is_broken_link, without_weights
from .json_file import json_object
from .safetensors_file import SafetensorsFile

ADAPTER = "adapter_model"
"""What the weights of an adapter are called, beside `adapter_config.json`."""
_OTHERS = re.compile(r"(adapter_model|consolidated|optimizer)\b.*")
"""Safetensors that aren't the model's, or are the same under its maker's own names."""
_COMPARED = 1 << 22


def tensor_files(path: Path, stem: str = "model") -> dict[str, SafetensorsFile]:
    """The file that holds each tensor of the model in `path`, whose files are called `stem`.

    Raises:
        LlmcError: E0404 there are no safetensors, E0405 a shard or the index is missing, E0406,
            E0407, E0410 or E0417 a file isn't what it should be.
    """
    single, index = path / f"{stem}.safetensors", _index(path, stem)
    if not single.is_file() and index is not None:
        return _sharded(path, index)
    if not single.is_file():
        single = _only_other(path, stem)
    file = SafetensorsFile(single)
    return dict.fromkeys(file.tensors, file)


def model_files(path: Path) -> list[Path]:
    """The safetensors in `path` that may be the model's, sorted."""
    files = sorted(path.glob("*.safetensors"))
    return [f for f in files if not is_broken_link(f) and not _OTHERS.fullmatch(f.name)]


def unread_note(path: Path) -> tuple[str, ...]:
    """A line about shards that lie unread beside a whole file."""
    index = _index(path, "model")
    if index is None or not (path / "model.safetensors").is_file():
        return ()
    shards = set(_weight_map(index).values()) - {"model.safetensors"}
    if not shards:
        return ()
    return (f"model.safetensors is read, as transformers does, and not the shards of {index.name}",)


def _index(path: Path, stem: str) -> Path | None:
    """The index of `stem`'s shards, of a variant (`fp16`) if there is no other."""
    plain = path / f"{stem}.safetensors.index.json"
    variants = sorted(path.glob(f"{stem}.safetensors.index.*.json"))
    return plain if plain.is_file() else variants[0] if len(variants) == 1 else None


def _only_other(path: Path, stem: str) -> Path:
    others = model_files(path) if stem == "model" else []
    if len(others) == 1:
        return others[0]
    if not others:
        raise without_weights(path, f"{stem}.safetensors")
    names = ", ".join(file.name for file in others[:3])
    raise LlmcError(
        "LLMC-E0405",
        f"{path} has shards but no {stem}.safetensors.index.json: {len(others)} safetensors "
        f"({names}, …)",
        "download the index as well, or leave one file",
    )


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise LlmcError("LLMC-E0417", f"{index.name} has no weight_map")
    return {name: str(shard) for name, shard in weight_map.items()}


def _sharded(path: Path, index: Path) -> dict[str, SafetensorsFile]:
    weight_map = _weight_map(index)
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if PurePosixPath(shard).name != shard or shard in ("", ".", ".."):
            raise LlmcError(
                "LLMC-E0417", f"{index.name} names a file outside the directory: {shard}"
            )
    missing = [shard for shard in shards if not (path / shard).is_file()]
    if missing:
        what = "is a broken link" if is_broken_link(path / missing[0]) else "is missing"
        more = f", with {len(missing) - 1} others" if len(missing) > 1 else ""
        raise LlmcError("LLMC-E0405", f"shard {missing[0]} {what} in {path}{more}")
    files = {shard: SafetensorsFile(path / shard) for shard in shards}
    for name, shard in weight_map.items():
        if name not in files[shard].tensors:
            raise LlmcError("LLMC-E0406", f"shard {shard} lacks tensor {name}")
    found = {name: files[shard] for name, shard in weight_map.items()}
    for shard, file in files.items():
        _check_listed(index, shard, file, found)
    return found


def _check_listed(
    index: Path, shard: str, file: SafetensorsFile, found: dict[str, SafetensorsFile]
) -> None:
    """Every tensor of a shard is listed, and has the same bytes wherever else it stands."""
    for name in file.tensors:
        if name not in found:
            raise LlmcError("LLMC-E0410", f"{index.name} does not list {name} of shard {shard}")
        other = found[name]
        if other is not file and not _equal(name, file, other):
            raise LlmcError(
                "LLMC-E0410",
                f"{shard} and {other.file.path.name} hold different tensors {name}",
                "download the checkpoint again: two uploads are mixed",
            )


def _equal(name: str, one: SafetensorsFile, other: SafetensorsFile) -> bool:
    if one.tensors[name] != other.tensors[name]:
        return False
    starts = one.extents[name].offset, other.extents[name].offset
    count = one.extents[name].stop - starts[0]
    return all(
        one.file.read(starts[0] + at, size) == other.file.read(starts[1] + at, size)
        for at in range(0, count, _COMPARED)
        for size in (min(_COMPARED, count - at),)
    )
