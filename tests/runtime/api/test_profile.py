"""What a profile says of recorded steps, and which programs have none."""

import json
from pathlib import Path

import pytest
from llmc.artifact.program import StepInputs
from llmc.base.errors import LlmcError
from llmc.runtime.api.benchmark import Load
from llmc.runtime.api.profile import (
    RecordedStep,
    describe_profile,
    moved_bytes,
    profile,
    summarize,
    write_trace,
)
from llmc.runtime.executors.cpu_profile import ARGMAX, END, Kernel, Traffic

KERNELS = (
    Kernel("linear_f32", "model.layers.0.mlp", (Traffic(4000, "", 0), Traffic(16, "T", 0))),
    Kernel("linear_f32", "model.layers.1.mlp", (Traffic(4000, "", 0), Traffic(16, "T", 0))),
    Kernel("paged_attention", "self_attn", (Traffic(10, "C", 6), Traffic(2, "C", 0))),
    Kernel("grouped_linear_f32", "experts", (Traffic(300, "T", 500), Traffic(7, "S1", 0))),
)


def inputs(tokens: int, context: list[int], rows: int = 1) -> StepInputs:
    return StepInputs([0] * tokens, [0] * tokens, [0], context, [0] * rows, ())


STEPS = [
    RecordedStep(inputs(5, [5]), [(0, 1000), (2, 2000), (END, 6000)]),
    RecordedStep(
        inputs(2, [4, 9]), [(0, 10_000), (1, 13_000), (2, 14_000), (ARGMAX, 15_000), (END, 15_500)]
    ),
    RecordedStep(inputs(2, [5, 10]), [(0, 20_000), (1, 21_000), (2, 23_000), (END, 24_000)]),
]


@pytest.mark.parametrize(
    ("kernel", "step", "expected"),
    [
        (0, inputs(3, [3]), 4000 + 48),
        (2, inputs(2, [4, 9]), 10 * (4 + 6) + 2 * 13),
        (3, inputs(1, [1]), 300 + 14),
        (3, inputs(2, [1, 1]), 500 + 21),
    ],
)
def test_bytes_follow_the_sizes_of_the_step(kernel: int, step: StepInputs, expected: int) -> None:
    assert moved_bytes(KERNELS[kernel].traffic, step) == expected


def test_rows_are_means_of_the_steps_of_a_kind() -> None:
    """Layers count as one module; two linear layers of 3 + 1 and 1 + 2 µs are 3.5 µs a step."""
    found = summarize(STEPS, KERNELS, memory_gbs=10.0)
    assert found.steps == {"prefill": 1, "decode": 2}
    rows = {(row.step, row.kernel): row for row in found.rows}
    assert set(rows) == {
        ("prefill", "linear_f32"), ("prefill", "paged_attention"), ("decode", "linear_f32"),
        ("decode", "paged_attention"), ("decode", "argmax_rows"),
    }  # fmt: skip
    linear = rows["decode", "linear_f32"]
    assert (linear.module, linear.calls, linear.us, linear.bytes) == ("mlp", 2, 3.5, 8064)
    assert linear.gb_per_s == pytest.approx(8064 / 3500)
    assert linear.bandwidth_fraction == pytest.approx(8064 / 3500 / 10)
    assert rows["decode", "argmax_rows"].us == 0.25
    assert rows["prefill", "paged_attention"].us == 4
    assert [row.kernel for row in found.rows][:1] == ["linear_f32"]
    text = describe_profile(found)
    assert "decode: mean of 2 steps, 5 µs each; memory reads at 10.0 GB/s" in text
    assert "linear_f32              mlp                                   2      3.5" in text


def test_the_trace_is_made_of_complete_events(tmp_path: Path) -> None:
    """Chrome's format, as Perfetto reads it: kernels lie within their steps, none overlap."""
    write_trace(tmp_path / "trace.json", STEPS, KERNELS)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {event["ph"] for event in events} == {"X"}
    steps = [e for e in events if e["tid"] == 0]
    kernels = [e for e in events if e["tid"] == 1]
    assert [(e["name"], e["ts"], e["dur"]) for e in steps] == [
        ("prefill step", 0, 5), ("decode step", 9, 5.5), ("decode step", 19, 4),
    ]  # fmt: skip
    assert sum(e["dur"] for e in kernels) == sum(e["dur"] for e in steps)
    assert kernels[0]["args"] == {"module": "model.layers.0.mlp", "bytes": 4080}
    ends = [e["ts"] + e["dur"] for e in kernels]
    assert all(end <= e["ts"] for end, e in zip(ends, kernels[1:], strict=False))


def test_a_trace_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(LlmcError, match="E0701"):
        write_trace(tmp_path / "no folder" / "trace.json", STEPS, KERNELS)


def test_a_program_without_marks_is_refused(toy_artifact: Path, tmp_path: Path) -> None:
    """A library of an older llmc has no such function, programs of other targets neither."""
    with pytest.raises(LlmcError, match="E0241"):
        profile(toy_artifact, Load(prompt_tokens=8, output_tokens=2), tmp_path / "trace.json")
