"""`--emit onnx`: a plain folder that any program can run, instead of an artifact.

    model.onnx          the program; its weights are in the file beside it
    model.safetensors   the weights, external data of the model
    tokenizer.json, chat_template.jinja, generation.json, LICENSE    where the model has them

In: a finished artifact in its folder form. Its weights file is moved, not copied; the model's
offsets, which count from the beginning of the data, become the file's.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..artifact.manifest import CHAT_TEMPLATE, GENERATION, TOKENIZER
from ..artifact.reader import ArtifactReader
from ..artifact.writer import os_error
from ..base.errors import LlmcError
from .destination import check_output, output_path

if TYPE_CHECKING:
    from .driver import CompileReport

MODEL, DATA = "model.onnx", "model.safetensors"
_TEXTS = (TOKENIZER, CHAT_TEMPLATE, GENERATION, "LICENSE")


def folder_path(output: str | Path | None, model: str) -> Path:
    """What was asked for, else the model's name and `-onnx` in the current folder."""
    if output is not None:
        return Path(output)
    artifact = output_path(None, model)
    return artifact.with_name(f"{artifact.stem}-onnx")


def check_folder(path: Path, model: str) -> None:
    """Refuse to replace anything but an empty folder or one that was written here.

    Raises:
        LlmcError: E0701, E0702, E0707.
    """
    if path.is_dir() and {file.name for file in path.iterdir()} <= {MODEL, DATA, *_TEXTS}:
        path = path.with_name(f"{path.name}.new")  # as good a name as any to try
    elif path.exists():
        raise LlmcError("LLMC-E0702", f"cannot write {path}: it holds more than a model in ONNX")
    check_output(path, "dir", model)


def emit_folder(
    compile: Callable[..., CompileReport], model: str, output: Path, options: dict[str, Any]
) -> CompileReport:
    """Compile `model` for the onnx target and write the folder `output`, all of it or nothing.

    `options` are `compile`'s own but for where and how it writes; the report is of the folder.

    Raises:
        LlmcError: as `compile`; E0200, another target than onnx; E0701 and E0702, where `output`
            can't be written.
    """
    if list(options["target"]) != ["onnx"]:
        raise LlmcError("LLMC-E0200", "--emit onnx goes with --target onnx and no other target")
    check_folder(output, model)
    try:
        with TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as beside:
            artifact, staged = Path(beside, "artifact"), Path(beside, "folder")
            report = compile(model, **{**options, "output": artifact, "format": "dir"})
            make_folder(artifact, staged)
            if output.exists():
                shutil.rmtree(output)
            staged.rename(output)
    except OSError as error:
        raise os_error(error, output) from error
    report.artifact = str(output)
    report.bytes = sum(file.stat().st_size for file in output.iterdir())
    return report


def make_folder(artifact: Path, folder: Path) -> None:
    """Make `folder` of an artifact in folder form, whose weights are taken out of it."""
    reader = ArtifactReader(artifact)
    variant = next(v for v in reader.manifest.variants if v.target == "onnx")
    assert variant.weights is not None
    offset = reader.manifest.weights[variant.weights].data_offset
    folder.mkdir()
    (folder / MODEL).write_bytes(relocated(bytes(reader.read(variant.program)), DATA, offset))
    for name in _TEXTS:
        if name in reader.names:
            (folder / name).write_bytes(reader.read(name))
    reader.close()
    (artifact / variant.weights).rename(folder / DATA)


def relocated(model: bytes, location: str, offset: int) -> bytes:
    """The model with its weights `offset` bytes further on in the file `location`."""
    import onnx

    proto = onnx.ModelProto.FromString(model)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
            elif entry.key == "offset":
                entry.value = str(int(entry.value) + offset)
    return proto.SerializeToString(deterministic=True)
