"""Which measurements are made, and what each of them amounts to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from llmc.benchmarks.peer_bench.cases import (
    CASES,
    CONTENDERS,
    MODELS,
    OURS,
    Model,
    Scheme,
    groups,
)
from llmc.benchmarks.peer_bench.environments import ENVIRONMENTS
from llmc.benchmarks.peer_bench.models import CONFIGS, DRIVERS, compile_command
from transformers import AutoConfig, AutoModelForCausalLM

pytestmark = pytest.mark.fast

ALL = ["llamacpp", "openvino", "onnxruntime", "torch"]


def test_every_contender_has_a_driver_and_an_environment() -> None:
    for contender in CONTENDERS:
        assert (DRIVERS / f"drive_{contender.peer}.py").is_file()
        assert contender.peer == OURS or contender.peer in ENVIRONMENTS
    assert {contender.peer for contender in CONTENDERS} == {OURS, *ENVIRONMENTS}


def test_groups_are_models_by_schemes_by_cases() -> None:
    found = groups(list(MODELS), list(Scheme), list(CASES), ALL)
    assert len(found) == len(MODELS) * len(Scheme) * len(CASES)
    assert len({group.title for group in found}) == len(found)


@pytest.mark.parametrize("scheme", Scheme)
@pytest.mark.parametrize("case", CASES)
def test_llmc_takes_part_in_everything(scheme: Scheme, case: str) -> None:
    (group,) = groups(["smollm2-135m"], [scheme], [case], [])
    assert [contender.peer for contender in group.contenders] == [OURS]


def test_continuous_batching_takes_part_in_batches_only() -> None:
    named = "OpenVINO batching"
    for name in CASES:
        (group,) = groups(["llama-1b"], [Scheme.INT4], [name], ALL)
        assert (named in [c.label for c in group.contenders]) == name.startswith("batch-")


def test_labels_are_distinct_within_a_group() -> None:
    for group in groups(["llama-1b"], list(Scheme), list(CASES), ALL):
        labels = [contender.label for contender in group.contenders]
        assert len(set(labels)) == len(labels)


def test_output_lengths() -> None:
    small, large = MODELS["smollm2-135m"], MODELS["llama-1b"]
    assert [CASES["prompt-512"].output(model) for model in (small, large)] == [64, 32]
    assert CASES["batch-16"].output(large) == 64
    assert CASES["start"].output(small) == 1


def test_weights_of_the_models() -> None:
    """Norms aside, as many as `transformers` counts: 134.5 M and 1.07 B."""
    llamas = [model for model in MODELS.values() if model.config is None]
    sizes = [model.layer_weights + model.head_weights for model in llamas]
    assert sizes == [134_479_872, 1_073_741_824]


@pytest.mark.parametrize("model", [m for m in MODELS.values() if m.config], ids=lambda m: m.name)
def test_weights_of_configs_are_those_of_the_model(model: Model) -> None:
    fields = json.loads((CONFIGS / (model.config or "")).read_text())
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields))
    linear = {m for m in made.modules() if isinstance(m, torch.nn.Linear)}
    head = made.get_output_embeddings()
    assert sum(m.weight.numel() for m in linear - {head}) == model.layer_weights
    assert made.get_input_embeddings().weight.numel() == model.head_weights


def test_operations_of_a_step() -> None:
    """Counted one by one: token t of a prompt of 3 sees t keys, each 2 products a query value."""
    model = MODELS["smollm2-135m"]
    attention = sum(2 * 2 * 30 * 9 * 64 * seen for seen in (1, 2, 3))
    linear = 2 * 3 * model.layer_weights + 2 * model.head_weights
    assert model.step_ops(3, 3) == linear + attention
    decode = 2 * (model.layer_weights + model.head_weights) + 2 * 2 * 30 * 9 * 64 * 100
    assert model.step_ops(1, 100) == decode


def test_targets_of_llmc_take_part_when_they_are_asked_for() -> None:
    def labels(*targets: list[str]) -> list[str]:
        (group,) = groups(["smollm2-135m"], [Scheme.INT4], ["prompt-512"], [], *targets)
        return [one.label for one in group.contenders]

    assert labels() == ["llmc"]
    assert labels(["onnx"]) == ["llmc onnx"]
    assert labels(["cpu", "onnx"]) == ["llmc", "llmc onnx"]


def test_the_compile_command_names_the_target() -> None:
    (contender,) = (one for one in CONTENDERS if one.target == "onnx")
    command = compile_command(MODELS["llama-1b"], Path("source"), contender, Path("out.llmc"))
    words = command[command.index("--target") :]
    assert words == ["--target", "onnx", "--quant", "int4", "-o", "out.llmc", "--json"]
