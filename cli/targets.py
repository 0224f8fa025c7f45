"""What `llmc compile` takes for single targets, and how it reaches the compiler.

Its own lists of names save it from importing the compiler to print its help.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base.errors import LlmcError

TARGETS = ("cpu", "onnx", "trt", "inductor")
CPU_LEVELS = ("native", "x86-64-v3", "x86-64-v4", "portable", "aarch64", "sapphire-rapids")
ONNX_DIALECTS = ("ort", "standard")
ONNX_PROVIDERS = ("cpu", "cuda")

Chosen = dict[str, Any]
"""The arguments `target`, `levels` and `target_options` of `llmc.compile`."""


def chosen_targets(
    target: str,
    *,
    cpu: str | None,
    onnx_dialect: str | None,
    onnx_provider: str | None,
    sm: str | None,
    timing_cache: Path | None,
    refit: bool,
) -> Chosen:
    """What the options mean together.

    Raises:
        LlmcError: E0203 an unknown target; E0202 an unknown level, E0200 another unknown word or an
            option of a target that isn't compiled for.
    """
    targets = _words("--target", "LLMC-E0203", target, TARGETS)
    given = {
        "--cpu": (("cpu", "inductor"), cpu), "--onnx-dialect": (("onnx",), onnx_dialect),
        "--onnx-provider": (("onnx",), onnx_provider), "--sm": (("trt",), sm),
        "--timing-cache": (("trt",), timing_cache), "--refit": (("trt",), refit or None),
    }  # fmt: skip
    for option, (owners, value) in given.items():
        if value is not None and not set(owners) & set(targets):
            raise LlmcError("LLMC-E0200", f"{option} is an option of {' and '.join(owners)}")
    instruction_sets = _words("--cpu", "LLMC-E0202", cpu, CPU_LEVELS)
    levels = {
        "cpu": instruction_sets,
        "inductor": instruction_sets,
        "onnx": _words("--onnx-provider", "LLMC-E0200", onnx_provider, ONNX_PROVIDERS),
        "trt": _split(sm),
    }
    options: dict[str, Mapping[str, Any]] = {
        "onnx": _present(dialect=_one("--onnx-dialect", onnx_dialect, ONNX_DIALECTS)),
        "trt": _present(timing_cache=timing_cache and str(timing_cache), refit=refit or None),
    }
    return {
        "target": targets,
        "levels": {name: levels[name] for name in targets if levels[name]},
        "target_options": {name: said for name, said in options.items() if said},
    }


def _words(
    option: str, identifier: str, text: str | None, allowed: tuple[str, ...]
) -> tuple[str, ...]:
    words = _split(text)
    for word in words if text is None else words or ("",):
        if word not in allowed:
            raise LlmcError(identifier, f"{option}: {word!r} is not one of {', '.join(allowed)}")
    return words


def _split(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def _one(option: str, word: str | None, allowed: tuple[str, ...]) -> str | None:
    if word is not None and word not in allowed:
        raise LlmcError("LLMC-E0200", f"{option}: {word!r} is not one of {', '.join(allowed)}")
    return word


def _present(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
