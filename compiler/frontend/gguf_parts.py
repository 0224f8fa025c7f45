"""GGUF files as people keep them: what kind a file is, models in several files, folders of files.

In: a path. Out: one `GgufFile` with the metadata and all tensors of a model, or a refusal that says
what the file is instead. Keys of split files are those of llama.cpp's `gguf-split`: the first part
has the metadata, and each says how many there are and which one it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...base.errors import LlmcError
from ...weights.formats.number_format import Quantized
from ...weights.recipes import CheckpointTensor
from .gguf_file import GgufFile
from .row_file import RowFile

_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_NO_MODELS = {
    "adapter": "an adapter (LoRA) for a model",
    "imatrix": "an importance matrix for quantizing a model",
    "mmproj": "the part of a multimodal model that reads images or sound",
}
_HINT = "give the .gguf file of the model itself"


class SplitGguf(GgufFile):
    """A model in several files: the metadata of the first, the tensors of all."""

    def __init__(self, parts: Sequence[GgufFile]) -> None:
        """Raises:
        LlmcError: E0417 if two parts hold one tensor, or less than the first one says.
        """
        first = parts[0]
        self.parts = tuple(parts)
        self.file, self.entries = first.file, first.entries
        self._owner = {name: part for part in parts for name in part.tensors}
        self.tensors = {name: t for part in parts for name, t in part.tensors.items()}
        held = sum(len(part.tensors) for part in parts)
        stated = first.get("split.tensors.count", held)
        if held != len(self.tensors) or stated != held:
            raise LlmcError(
                "LLMC-E0417",
                f"the parts of {first.file.path.name} hold {len(self.tensors)} tensors, not the "
                f"{stated} of the whole model",
            )

    def rows(self, tensor: CheckpointTensor, rows: np.ndarray) -> np.ndarray:
        return self._owner[tensor.name].rows(tensor, rows)

    def blocks(self, tensor: CheckpointTensor, rows: np.ndarray) -> Quantized:
        return self._owner[tensor.name].blocks(tensor, rows)


def open_model_file(path: Path) -> GgufFile:
    """The model in `path`, with the other parts of it that lie beside it.

    Raises:
        LlmcError: E0409 if it is no model, or not the first part of one; E0405 if a part is
            missing; what `GgufFile` and `SplitGguf` raise.
    """
    file = GgufFile(path)
    kind = no_model(file)
    if kind is not None:
        raise LlmcError("LLMC-E0409", f"{path.name} is {kind}, not a model", _HINT)
    number, count = _place(file)
    if count < 2:
        return file
    names = _part_names(path, count)
    if number > 0:
        raise LlmcError(
            "LLMC-E0409",
            f"{path.name} is part {number + 1} of {count} of a model",
            f"give the first one: {names[0]}",
        )
    return SplitGguf([file, *(_part(path, name, i, count) for i, name in enumerate(names) if i)])


def open_model_folder(folder: Path) -> tuple[GgufFile, tuple[str, ...]] | None:
    """The one model among the `.gguf` files of `folder`, and notes on those that it isn't made of.

    None if there is no such file.

    Raises:
        LlmcError: E0409 if there are several models, or none; what `open_model_file` raises.
    """
    paths = sorted(folder.glob("*.gguf"))
    if not paths:
        return None
    kinds = {path: _kind(path) for path in paths}
    models = [path for path, kind in kinds.items() if kind is None]
    others = [f"{path.name} is {kind}" for path, kind in kinds.items() if kind]
    if len(models) != 1:
        names = ", ".join(path.name for path in models) or "; ".join(others)
        what = f"{len(models)} GGUF models" if models else "no GGUF model"
        raise LlmcError("LLMC-E0409", f"{folder} holds {what}: {names}", _HINT)
    file = open_model_file(models[0])
    return file, tuple(f"not used: {other}" for other in others)


def files_of(file: GgufFile) -> dict[str, RowFile]:
    """All files that a model lies in, by name."""
    parts = file.parts if isinstance(file, SplitGguf) else (file,)
    return {part.file.path.name: part.file for part in parts}


def no_model(file: GgufFile) -> str | None:
    """What a file is that isn't a model; None for a model or a part of one."""
    kind = "mmproj" if file.architecture == "clip" else file.get("general.type", "model")
    if kind in _NO_MODELS:
        return _NO_MODELS[kind]
    if "adapter.type" in file.entries:
        return _NO_MODELS["adapter"]
    number, count = _place(file)
    if not file.tensors and count < 2 and number == 0:
        return "a vocabulary without weights" if "tokenizer.ggml.model" in file.entries else None
    return None


def _kind(path: Path) -> str | None:
    """As `no_model`; later parts belong to their first ("")."""
    file = GgufFile(path)
    try:
        return no_model(file) or ("" if _place(file)[0] > 0 else None)
    finally:
        file.file.close()


def _place(file: GgufFile) -> tuple[int, int]:
    """Which part of how many a file is, from 0."""
    number, count = file.get("split.no", 0), file.get("split.count", 1)
    if type(number) is not int or type(count) is not int or not 0 <= number < max(count, 1):
        raise LlmcError(
            "LLMC-E0417", f"{file.file.path.name} is part {number!r:.20} of {count!r:.20}"
        )
    return number, count


def _part_names(path: Path, count: int) -> list[str]:
    match = _PART.fullmatch(path.name)
    if match is None or int(match["count"]) != count:
        raise LlmcError(
            "LLMC-E0409",
            f"{path.name} is one of {count} parts, but isn't named as one",
            f"name them NAME-00001-of-{count:05}.gguf and so on",
        )
    return [f"{match['stem']}-{i + 1:05}-of-{count:05}.gguf" for i in range(count)]


def _part(first: Path, name: str, number: int, count: int) -> GgufFile:
    path = first.with_name(name)
    if not path.is_file():
        raise LlmcError("LLMC-E0405", f"{name}, part {number + 1} of {count}, is not beside it")
    part = GgufFile(path)
    if _place(part) != (number, count):
        raise LlmcError("LLMC-E0417", f"{name} is not part {number + 1} of {count} of {first.name}")
    return part
