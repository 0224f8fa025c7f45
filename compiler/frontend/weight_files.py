"""The files that hold a checkpoint's tensors.

In: a directory. Out: for every tensor the safetensors file that holds it, the one file or the
shards that an index lists. Nothing is unpickled: files that can run code are named and refused.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from ...base.errors import LlmcError
from .safetensors_file import SafetensorsFile

ADAPTER = "adapter_model"
"""What the weights of an adapter are called, beside `adapter_config.json`."""
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def tensor_files(path: Path, stem: str = "model") -> dict[str, SafetensorsFile]:
    """The file that holds each tensor of the model in `path`, whose files are called `stem`.

    Raises:
        LlmcError: E0404 there are no safetensors, E0405 a shard or the index is missing, E0406,
            E0407, E0410 or E0417 a file isn't what it should be.
    """
    index = path / f"{stem}.safetensors.index.json"
    if index.is_file():
        return _sharded(path, index)
    single = path / f"{stem}.safetensors"
    if not single.is_file():
        single = _only_other(path, index.name) if stem == "model" else _missing(path, single.name)
    file = SafetensorsFile(single)
    return dict.fromkeys(file.tensors, file)


def model_files(path: Path) -> list[Path]:
    """The safetensors in `path` that are no adapter's, sorted."""
    files = sorted(path.glob("*.safetensors"))
    return [file for file in files if not file.name.startswith(ADAPTER)]


def _only_other(path: Path, index: str) -> Path:
    others = model_files(path)
    if len(others) > 1:
        raise LlmcError("LLMC-E0405", f"{path} has shards but no {index}")
    if others:
        return others[0]
    return _missing(path, "safetensors")


def _missing(path: Path, wanted: str) -> NoReturn:
    pickled = any(next(path.glob(p), None) for p in _PICKLED)
    raise LlmcError(
        "LLMC-E0404",
        f"{path} has a config but no {wanted}",
        "save the model as safetensors: pickled weights can run code and are never read"
        if pickled
        else "",
    )


def _sharded(path: Path, index: Path) -> dict[str, SafetensorsFile]:
    weight_map = json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise LlmcError("LLMC-E0417", f"{index.name} has no weight_map")
    files: dict[str, SafetensorsFile] = {}
    for shard in sorted(set(map(str, weight_map.values()))):
        if PurePosixPath(shard).name != shard or shard in ("", ".", ".."):
            raise LlmcError(
                "LLMC-E0417", f"{index.name} names a file outside the directory: {shard}"
            )
        if not (path / shard).is_file():
            raise LlmcError("LLMC-E0405", f"shard {shard} is missing in {path}")
        files[shard] = SafetensorsFile(path / shard)
    found: dict[str, SafetensorsFile] = {}
    for name, shard in weight_map.items():
        if name not in files[shard].tensors:
            raise LlmcError("LLMC-E0406", f"shard {shard} lacks tensor {name}")
        found[name] = files[shard]
    for shard, file in files.items():
        unlisted = next((n for n in file.tensors if n not in found), None)
        if unlisted is not None:
            raise LlmcError("LLMC-E0410", f"{index.name} does not list {unlisted} of shard {shard}")
    return found


def json_object(path: Path, data: bytes | None = None) -> dict[str, Any]:
    """The JSON object in the file `path`, whose content `data` is if it was read before.

    Raises:
        LlmcError: E0418 for a config file, E0417 for any other.
    """
    try:
        text = (path.read_bytes() if data is None else data).decode("utf-8")
        value = json.loads(text)  # bytes would be guessed to be UTF-16, too
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        id = "LLMC-E0418" if path.name.endswith("config.json") else "LLMC-E0417"
        raise LlmcError(id, f"{path} is not a JSON object")
    return value
