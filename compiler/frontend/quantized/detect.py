"""Whether a checkpoint is quantized, and with what: its config, or a file beside it.

In: a directory and the object in its config.json. Out: `Settings`, or None for a checkpoint that
isn't quantized; one whose settings are all off isn't.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ....base.errors import LlmcError
from ..json_file import json_object
from .settings import Settings

_IN_CONFIG = ("quantization_config", "compression_config")
_SEPARATE = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
"""Files of settings beside older checkpoints, and the method that they mean if they name none."""
_PARTS = (".qweight", ".weight_packed", ".weight_scale_inv", ".SCB", ".weight.absmax",
          "_proj_blocks")  # fmt: skip
_MODELOPT = "hf_quant_config.json"


def find_settings(path: Path, raw: Mapping[str, Any]) -> Settings | None:
    """What directory `path`, whose config.json holds `raw`, says of quantization.

    Raises:
        LlmcError: E0418 if it isn't an object.
    """
    for value in _from_config(raw):
        if not isinstance(value, dict):
            if value:
                raise LlmcError("LLMC-E0418", "config.json: its quantization_config is no object")
            continue
        if not _is_off(value):
            return Settings(_method(value), value)
    for name, method in _SEPARATE.items():
        value = _object(path / name)
        if value is not None and not _is_off(value):
            return Settings(_method(value, method), value, name)
    value = _object(path / _MODELOPT)
    inner = (value or {}).get("quantization")
    if isinstance(inner, dict) and not _is_off(inner):
        return Settings("modelopt", inner, _MODELOPT)
    return None


def require_said(tensors: Iterable[str]) -> None:
    """Refuse parts of quantized weights in a checkpoint that says nothing of quantization.

    Raises:
        LlmcError: E0419, naming one.
    """
    part = next((name for name in sorted(tensors) if name.endswith(_PARTS)), None)
    if part is not None:
        raise LlmcError(
            "LLMC-E0419",
            f"{part} is a part of a quantized weight, but no config says how it is quantized",
            f"download config.json again, and {', '.join(_SEPARATE)} or {_MODELOPT} with it",
        )


def _from_config(raw: Mapping[str, Any]) -> Iterator[Any]:
    """What the config, or the config of its text part, has for the known names."""
    parts = [raw, *(v for v in raw.values() if isinstance(v, Mapping))]
    for part in parts:
        yield from (part[key] for key in _IN_CONFIG if key in part)
    quantization = raw.get("quantization")
    if isinstance(quantization, dict) and "bits" in quantization:
        yield {"quant_method": "mlx", **quantization}


def _method(settings: Mapping[str, Any], default: str = "") -> str:
    """The method's name as the field has it, in one spelling."""
    name = settings.get("quant_method") or default
    if not name and {"load_in_4bit", "load_in_8bit"} & settings.keys():
        name = "bitsandbytes"
    if not name and {"bits", "group_size"} <= settings.keys():
        name = "mlx"
    return " ".join(str(name or "an unnamed method").lower().replace("_", "-").split())[:40]


def _is_off(settings: Mapping[str, Any]) -> bool:
    """Nothing in it is on: it is empty, or a bitsandbytes config that loads neither way."""
    if "load_in_4bit" in settings or "load_in_8bit" in settings:
        return not (settings.get("load_in_4bit") or settings.get("load_in_8bit"))
    return not any(value for value in settings.values() if not isinstance(value, str)) and not (
        settings.get("quant_method") or settings.get("quant_algo")
    )


def _object(path: Path) -> dict[str, Any] | None:
    return json_object(path, path.read_bytes()) if path.is_file() else None
