"""What a folder is that isn't a checkpoint that can be compiled.

In: a directory without config.json, or without safetensors. Out: the error that says what lies in
it instead, since "no config.json" is rarely the reason that helps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...base.errors import LlmcError

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_NO_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state", "adapter_model", "scaler")
_FOREIGN = {".h5": "TensorFlow", ".msgpack": "Flax", ".onnx": "ONNX", ".tflite": "TensorFlow Lite"}
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


def is_broken_link(path: Path) -> bool:
    """Whether `path` is a link that leads nowhere, or round in circles."""
    return path.is_symlink() and not path.exists()


def without_config(path: Path) -> LlmcError:
    """The error for a directory, or a path to none, that holds no config.json."""
    what, hint = _instead(path)
    return LlmcError("LLMC-E0409", f"{path} {what}", hint)


def _instead(path: Path) -> tuple[str, str]:
    if not path.is_dir():
        return ("is a broken link" if is_broken_link(path) else "does not exist"), ""
    names = sorted(entry.name for entry in path.iterdir())
    if not names:
        return "is empty: it has no config.json", ""
    if is_broken_link(path / "config.json"):
        return "has a config.json that is a broken link", "download the model again"
    if "model_index.json" in names:
        return "is a pipeline of diffusers, which makes no text", _LANGUAGE
    if "modules.json" in names:
        return "is an embedding model (sentence-transformers)", _LANGUAGE
    if "params.json" in names:
        return "holds a model in its maker's own format (params.json)", _TRANSFORMERS
    inner = next(_checkpoints(path), None)
    if inner is not None:
        return f"has no config.json, {inner.name} has one", f"llmc compile {inner}"
    return _by_suffix(path, names)


_LANGUAGE = "llmc compiles language models"
_TRANSFORMERS = "download the same model as transformers saves it, with config.json"


def _by_suffix(path: Path, names: list[str]) -> tuple[str, str]:
    for name in names:
        if name.endswith(".safetensors"):
            return f"has weights ({name}) but no config.json", "put the model's beside them"
    foreign = _foreign(path)
    if foreign is not None:
        return f"holds {foreign} and no config.json", _TRANSFORMERS
    if any(name in _TOKENIZER for name in names):
        return "holds a tokenizer and no model", "name the folder of the model"
    return "has no config.json", ""


def _checkpoints(path: Path) -> Iterator[Path]:
    """Folders in `path` that hold a config.json; the newest snapshot of a Hub cache first."""
    snapshots = path / "snapshots"
    folders = [*(snapshots.iterdir() if snapshots.is_dir() else ()), *path.iterdir()]
    yield from (folder for folder in sorted(folders) if (folder / "config.json").is_file())


def without_weights(path: Path, wanted: str) -> LlmcError:
    """The error for a directory with a config, but without the safetensors file `wanted`."""
    if is_broken_link(path / wanted):
        return LlmcError("LLMC-E0404", f"{path / wanted} is a broken link")
    foreign = _foreign(path)
    own = next(path.glob("consolidated*.safetensors"), None)
    if own is not None:
        what, hint = f"its weights have names of their maker's own ({own.name})", _TRANSFORMERS
    elif foreign is not None:
        what, hint = (
            f"it holds {foreign} instead",
            _PICKLE if "pickled" in foreign else _TRANSFORMERS,
        )
    else:
        what, hint = "", ""
    whole = f"{path} has a config but no {wanted}" + (f": {what}" if what else "")
    return LlmcError("LLMC-E0404", whole, hint)


_PICKLE = "save the model as safetensors: pickled weights can run code and are never read"


def _foreign(path: Path) -> str | None:
    """Weights of another kind in the folder or its `onnx/`, in words."""
    files = [file for folder in (path, path / "onnx") for file in sorted(folder.glob("*"))]
    for file in files:
        if file.suffix in _PICKLED and not file.name.startswith(_NO_WEIGHTS):
            return f"pickled weights ({file.name})"
        if file.name == "adapter_model.bin":
            return f"pickled weights ({file.name})"
        if file.suffix in _FOREIGN:
            return f"{_FOREIGN[file.suffix]} weights ({file.name})"
    return None


def refuse_embedding_model(path: Path) -> None:
    """Refuse a checkpoint whose last step pools hidden states: its logits mean nothing.

    Raises:
        LlmcError: E0402.
    """
    try:
        modules: Any = json.loads((path / "modules.json").read_text("utf-8"))
        kinds = [str(module["type"]) for module in modules]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return
    if any(kind.endswith(".Pooling") for kind in kinds):
        raise LlmcError(
            "LLMC-E0402",
            f"{path} is an embedding model (sentence-transformers), no causal language model",
            _LANGUAGE,
        )
