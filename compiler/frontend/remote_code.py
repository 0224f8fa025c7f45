"""Running a checkpoint's own model code, where the user trusts it.

In: a config whose `auto_map` names classes in the checkpoint's Python files, read with leave to run
them. Out: the same config, from which `AutoModelForCausalLM.from_config` builds the checkpoint's
own model. The leave is a property of the config's class: a subclass of its own, for which
transformers is told the model. So it travels with every copy and every changed config made of it,
and no other model in this process is affected, not even another of the same type.
"""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.errors import LlmcError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_MODEL = "AutoModelForCausalLM"
_DIGEST = "_llmc_code_digest"
LOADED = "transformers_modules."
"""How transformers calls the modules of code that came with a checkpoint."""


def has_own_code(raw: dict[str, Any]) -> bool:
    """Whether a `config.json` names classes in files of its checkpoint."""
    return bool(raw.get("auto_map"))


def code_files(folder: Path) -> dict[str, Path]:
    """The Python files of a checkpoint, sorted, by their path in it."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*.py"))
        if path.is_file()
    }


def trusted(config: PreTrainedConfig, folder: Path) -> PreTrainedConfig:
    """`config`, of the checkpoint in `folder`, with its own model code loaded.

    Unchanged if it names none. What `auto_map` names in another repository must have been
    downloaded before. Loading the code runs it.

    Raises:
        LlmcError: E0402, the code can't be loaded.
    """
    named = getattr(config, "auto_map", None)
    if not named:
        return config
    model = None
    if _MODEL in named:
        try:
            from transformers.dynamic_module_utils import get_class_from_dynamic_module

            model = get_class_from_dynamic_module(named[_MODEL], str(folder), local_files_only=True)
        except Exception as error:  # whatever the code does when it is imported
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise LlmcError(
                "LLMC-E0402",
                f"the code of {named[_MODEL]} in {folder} can't be loaded: {reason}",
                "install what it imports, or correct it",
            ) from error
    _give_leave(config, folder, model)
    return config


def code_digest(config: Any) -> str:
    """sha256 of the code that building `config` may run; empty for transformers' own models."""
    return getattr(type(config), _DIGEST, "")


def _give_leave(config: Any, folder: Path, model: Any) -> None:
    from transformers import AutoModelForCausalLM

    original = type(config)
    # transformers compares the names of a model's and a registered config class
    wanted = getattr(model, "config_class", None) or original
    body = {
        "__init__": original.__init__,  # else it would be given one that takes no own fields
        "__module__": original.__module__,
        _DIGEST: _digest_of(folder, original, model),
    }
    config.__class__ = type(wanted.__name__, (original,), body)
    if model is not None:
        if getattr(model, "config_class", None) is None:
            model.config_class = original
        AutoModelForCausalLM.register(type(config), model, exist_ok=True)


def _digest_of(folder: Path, config: type, model: type | None) -> str:
    """Of all code in the checkpoint, and of what lies beside config and model where they were
    loaded from, which for classes of another repository is another folder."""
    files = list(code_files(folder).values())
    for loaded in filter(None, (config, model)):
        if loaded.__module__.startswith(LOADED):
            files += code_files(Path(inspect.getfile(loaded)).parent).values()
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
