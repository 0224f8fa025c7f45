"""Medians, fractions of limits, failures, and reports that are written, read and merged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from llmc.benchmarks.peer_bench.cases import Scheme
from llmc.benchmarks.peer_bench.results import (
    Report,
    Row,
    best_peer,
    decode_seconds,
    least_seconds,
    merge,
    peak,
    rows_of,
    step_bytes,
)
from peer_reports import LIMITS, answer, group_of, measured, report

pytestmark = pytest.mark.fast


def row_of(rows: list[Row], label: str) -> Row:
    return next(row for row in rows if row.label == label)


def test_medians_over_runs_then_rounds() -> None:
    """Runs of 1 and 1.1 times a second make 1.05; of three rounds the middle one counts."""
    rounds = [answer(prefill, prefill + 1) for prefill in (0.5, 4.0, 1.0)]
    row = row_of(rows_of(measured("prompt-512", llmc=rounds), {}), "llmc")
    assert row.rounds == 3
    assert row.prefill_tokens_per_s == pytest.approx(512 / 1.05)
    assert row.decode_tokens_per_s == pytest.approx(63 / 1.05)
    assert row.error is None


def test_decode_is_a_fraction_of_the_read_bandwidth() -> None:
    row = row_of(rows_of(measured("prompt-512", llmc=[answer()]), {}), "llmc")
    read = 63 * (90e6 + (512 + 32) * 20e3)
    assert row.read_fraction == pytest.approx(read / 1.05 / 40e9)


def test_prefill_is_a_fraction_of_the_peak() -> None:
    group = group_of("prompt-512")
    row = row_of(rows_of(measured("prompt-512", llmc=[answer()]), {}), "llmc")
    assert row.peak_fraction == pytest.approx(group.model.step_ops(512, 512) / 0.525 / 900e9)


def test_a_batch_reads_the_cache_of_every_sequence() -> None:
    assert step_bytes(group_of("batch-8"), answer()) == 90e6 + 8 * (128 + 32) * 20e3


def test_least_time_of_a_run_is_that_of_the_nearer_limit() -> None:
    """One sequence waits for memory, many for arithmetic."""
    one, many = group_of("batch-1"), group_of("batch-16")
    slow_memory, slow_products = LIMITS | {"read": 1.0}, LIMITS | {"int8": 1.0}
    reading = 63 * step_bytes(one, answer()) / 1e9
    assert least_seconds(one, answer(), slow_memory) == pytest.approx(reading, rel=0.1)
    ops = 16 * (many.model.step_ops(128, 128) + 63 * many.model.step_ops(1, 159))
    assert least_seconds(many, answer(), slow_products) == pytest.approx(ops / 1e9, rel=1e-3)


def test_the_peak_is_of_the_instruction_for_the_scheme() -> None:
    assert [peak(scheme, LIMITS) for scheme in Scheme] == [900.0, 900.0, 450.0]
    assert peak(Scheme.INT4, LIMITS | {"int8": 0.0}) == 225.0


def test_a_peer_that_does_not_tell_its_prefill_has_a_whole_run_only() -> None:
    assert decode_seconds(answer(None)) is None
    rows = rows_of(measured("batch-8", OpenVINO_batching=[answer(None, 2.0)]), {})
    row = row_of(rows, "OpenVINO batching")
    assert (row.prefill_tokens_per_s, row.decode_tokens_per_s, row.peak_fraction) == (None,) * 3
    assert row.output_tokens_per_s == pytest.approx(8 * 64 / 2.1)


def test_process_start_to_first_token() -> None:
    rows = rows_of(measured("start", llmc=[answer(first_token_at=100.25)]), {})
    assert row_of(rows, "llmc").first_token_s == pytest.approx(0.25)


def test_whoever_is_missing_or_fails_is_named() -> None:
    """Everybody of the group has a row, with figures or with a reason."""
    found = measured("prompt-512", llmc=[answer()], OpenVINO=[{"error": "it crashed"}])
    rows = rows_of(found, {"ONNX Runtime": "no wheel for this machine"})
    reasons = {row.label: row.error for row in rows}
    assert reasons == {
        "llmc": None,
        "llama.cpp Q4_0": "not measured",
        "llama.cpp Q4_K_M": "not measured",
        "OpenVINO": "it crashed",
        "ONNX Runtime": "no wheel for this machine",
    }


def test_a_failure_in_a_later_round_is_not_hidden() -> None:
    found = measured("prompt-512", llmc=[answer(), {"error": "killed"}])
    row = row_of(rows_of(found, {}), "llmc")
    assert (row.error, row.decode_tokens_per_s) == ("killed", None)


def test_the_best_peer_is_not_llmc() -> None:
    rows = [
        Row("m", "int4", "prompt-512", peer, peer, decode_tokens_per_s=speed)
        for peer, speed in (("llmc", 9.0), ("a", 3.0), ("b", 5.0), ("c", None))
    ]
    best = best_peer(rows, "decode_tokens_per_s")
    assert best is not None
    assert best.label == "b"
    assert best_peer(rows[:1], "decode_tokens_per_s") is None


def test_a_report_survives_being_written(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    report({"llamacpp": "no compiler"}).write(path)
    assert Report.read(path) == report({"llamacpp": "no compiler"})


def test_a_report_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text('{"format": 0, "rows": []}')
    with pytest.raises(ValueError, match="format"):
        Report.read(path)


def test_merging_takes_the_later_rows_and_keeps_the_others() -> None:
    first, second = report({"llamacpp": "no compiler"}), report()
    second.rows = [replace(second.rows[0], decode_tokens_per_s=1.0)]
    second.versions["llamacpp"] = {"llama_cpp_python": "0.3"}
    second.missing = {}
    both = merge([first, second])
    assert len(both.rows) == len(first.rows)
    assert both.rows[0].decode_tokens_per_s == 1.0
    assert both.rows[1:] == first.rows[1:]
    assert both.missing == {}
