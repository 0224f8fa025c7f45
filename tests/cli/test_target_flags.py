"""What the options of single targets mean together."""

from pathlib import Path
from typing import Any

import pytest
from llmc.artifact.targets import TARGETS
from llmc.base.errors import LlmcError
from llmc.cli.app import verb
from llmc.cli.target_flags import chosen_targets

pytestmark = pytest.mark.fast

NOTHING: dict[str, Any] = {
    "cpu": None, "onnx_dialect": None, "onnx_provider": None, "sm": None, "timing_cache": None,
    "refit": False,
}  # fmt: skip


def test_nothing_said_is_nothing_passed_on() -> None:
    expected = {"target": ("cpu",), "levels": {}, "target_options": {}}
    assert chosen_targets("cpu", **NOTHING) == expected


def test_levels_and_options_reach_their_target() -> None:
    said = {
        **NOTHING, "cpu": "portable, x86-64-v3", "sm": "86,120", "refit": True,
        "onnx_dialect": "standard", "timing_cache": Path("cache.bin"),
    }  # fmt: skip
    assert chosen_targets("cpu,onnx,trt", **said) == {
        "target": ("cpu", "onnx", "trt"),
        "levels": {"cpu": ("portable", "x86-64-v3"), "trt": ("86", "120")},
        "target_options": {
            "onnx": {"dialect": "standard"},
            "trt": {"timing_cache": "cache.bin", "refit": True},
        },
    }


def test_instruction_sets_are_those_of_inductor_too() -> None:
    chosen = chosen_targets("inductor", **{**NOTHING, "cpu": "x86-64-v3"})
    assert chosen["levels"] == {"inductor": ("x86-64-v3",)}


@pytest.mark.parametrize(
    ("target", "said", "identifier"),
    [
        ("tpu", {}, "LLMC-E0203"), ("", {}, "LLMC-E0203"), ("cpu,tpu", {}, "LLMC-E0203"),
        ("cpu", {"cpu": "i386"}, "LLMC-E0202"), ("cpu", {"cpu": ""}, "LLMC-E0202"),
        ("cpu", {"sm": "86"}, "LLMC-E0200"), ("onnx", {"cpu": "portable"}, "LLMC-E0200"),
        ("cpu", {"refit": True}, "LLMC-E0200"), ("onnx", {"onnx_dialect": "own"}, "LLMC-E0200"),
        ("onnx", {"onnx_provider": "npu"}, "LLMC-E0200"),
    ],
)  # fmt: skip
def test_what_can_t_be_meant_is_refused(target: str, said: dict, identifier: str) -> None:
    with pytest.raises(LlmcError) as error:
        chosen_targets(target, **{**NOTHING, **said})
    assert error.value.id == identifier


def test_the_command_has_every_flag_of_the_table() -> None:
    options = {o for parameter in verb("compile").params for o in parameter.opts}
    assert {row.flag for row in TARGETS.values()} <= options
    assert {"--onnx-dialect", "--timing-cache", "--refit", "--autotune", "--tiles"} <= options
    (target,) = [p for p in verb("compile").params if "--target" in p.opts]
    assert all(name in target.help for name in TARGETS)
