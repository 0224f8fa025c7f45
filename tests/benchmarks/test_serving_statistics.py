"""Percentiles, limits, and the tables that show them."""

import json
import math

import pytest
from llmc.benchmarks.serving_bench import report
from llmc.benchmarks.serving_bench.comparison import figures_of
from llmc.benchmarks.serving_bench.soak import growth
from llmc.benchmarks.serving_bench.stall import summary
from llmc.benchmarks.serving_bench.statistics import CaseResult, Figure, gaps, median, percentile
from rich.console import Console

pytestmark = pytest.mark.fast


def test_percentiles_are_interpolated_and_need_no_order() -> None:
    values = [30.0, 10.0, 20.0, 40.0]
    assert percentile(values, 0) == 10
    assert percentile(values, 1) == 40
    assert median(values) == 25
    assert percentile(values, 0.99) == pytest.approx(39.7)
    assert math.isnan(median([]))


def test_gaps_lie_between_neighbours() -> None:
    assert gaps([1.0, 1.5, 3.0]) == [0.5, 1.5]
    assert gaps([1.0]) == []


def test_a_limit_is_met_missed_or_not_there() -> None:
    assert Figure("a", 3, "", 3).met
    assert Figure("a", 3.1, "", 3).met is False
    assert Figure("a", 0.9, "", 0.9, "at least").met
    assert Figure("a", 0.8, "", 0.9, "at least").met is False
    assert Figure("a", 1e9).met is None
    assert Figure("a", math.nan, "", 3).met is False
    assert Figure("a", math.nan, "", 3, "at least").met is False


def test_a_case_fails_by_a_figure_or_by_a_failure() -> None:
    good = Figure("good", 1, "", 2)
    assert CaseResult("c", (good, Figure("free", 7))).passed
    assert not CaseResult("c", (good, Figure("bad", 3, "", 2))).passed
    assert not CaseResult("c", (good,), (), ("something broke",)).passed


def test_reports_show_every_figure_and_stay_json_without_a_value() -> None:
    listed = CaseResult("http", (Figure("ratio", 0.95, "", 0.9, "at least"), Figure("x", math.nan)))
    crossed = CaseResult("peers", (Figure("8 streams; llmc; TTFT p50", 12.5, "ms"),), ("a note",))
    as_json = json.loads(json.dumps(report.as_json([listed, crossed], {}, "2026-11-23")))
    assert as_json["cases"][0]["figures"][0]["met"] is True
    assert as_json["cases"][0]["figures"][1]["value"] is None
    console = Console(width=120)
    with console.capture() as captured:
        console.print(report.tables([listed, crossed]))
    shown = captured.get()
    assert "0.95" in shown
    assert "at least 0.9" in shown
    assert "none" in shown
    assert "TTFT p50" in shown
    assert "12.5 ms" in shown
    assert "a note" in shown


def test_stalls_are_told_from_calm_decoding() -> None:
    calm = [i * 0.01 for i in range(101)]  # until 1.0
    busy = [1.0 + i * 0.05 for i in range(1, 21)]
    found = summary([calm + busy], 0.0, 1.0, 2.0, [0.7])
    assert found["calm median"] == pytest.approx(10)
    assert found["arrivals p99"] == pytest.approx(50)
    assert found["ratio"] == pytest.approx(5)
    assert found["arriving prompt's first token"] == pytest.approx(700)


def test_latencies_of_a_comparison_are_of_requests_and_throughput_of_the_run() -> None:
    records = [
        {"arrived": 0.0, "tokens": [0.1, 0.2, 0.3]},
        {"arrived": 1.0, "tokens": [1.3, 1.5, 2.0], "made": 5},
    ]
    found = figures_of(records)
    assert found["tokens/s"] == pytest.approx(4.0)  # 3 and 5 tokens in 2 seconds
    assert found["TTFT p50"] == pytest.approx(200)
    assert found["inter-token p50"] == pytest.approx(150)


def test_memory_is_flat_if_it_grew_only_at_the_start() -> None:
    assert growth([10, 60, *[100.0] * 98]) == 1
    assert growth([100.0 + i for i in range(100)]) > 1.4
    assert growth([5.0]) == 1
