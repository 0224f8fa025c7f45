"""Made-up measurements for the tests of `benchmarks/peer_bench`: no process, no network."""

from __future__ import annotations

from typing import Any

from llmc.benchmarks.peer_bench.cases import Group, Scheme, groups
from llmc.benchmarks.peer_bench.results import Report, rows_of
from llmc.benchmarks.peer_bench.rounds import Measured, Turn

LIMITS = {"read": 40.0, "int8": 900.0, "bf16": 450.0, "fma": 225.0}


def group_of(case: str, scheme: Scheme = Scheme.INT4, model: str = "smollm2-135m") -> Group:
    return groups([model], [scheme], [case], ["llamacpp", "openvino", "onnxruntime"])[0]


def answer(prefill: float | None = 0.5, total: float = 1.5, **changed: Any) -> dict[str, Any]:
    """What a driver prints after two runs, the second a tenth slower."""
    fields = {
        "load_s": 0.05,
        "prefill_s": [prefill, None if prefill is None else prefill * 1.1],
        "total_s": [total, total * 1.1],
        "first_token_at": None,
        "weight_bytes": 90_000_000,
        "cache_bytes": 20_000,
        "peak_rss_mb": 300.0,
        "anonymous_mb": 200.0,
        "others": 0.01,
        "started_at": 100.0,
    }
    return fields | changed


def measured(case: str, **by_label: list[dict[str, Any]]) -> Measured:
    """Rounds of a group: `by_label` has each contender's answers, labels with `_` for spaces."""
    answers = {label.replace("_", " "): found for label, found in by_label.items()}
    turns = {label: [Turn(one, LIMITS) for one in found] for label, found in answers.items()}
    return Measured(group_of(case), turns)


def report(missing: dict[str, str] | None = None) -> Report:
    """A short report in which everybody but the missing took part."""
    missing = missing or {}
    rows = []
    for case in ("prompt-512", "batch-8"):
        group = group_of(case)
        turns = {
            one.label: [Turn(answer(0.2 if one.peer == "llmc" else 0.5), LIMITS)]
            for one in group.contenders
            if one.peer not in missing
        }
        absent = {c.label: missing[c.peer] for c in group.contenders if c.peer in missing}
        rows += rows_of(Measured(group, turns), absent)
    machine = {"cpu": "A CPU & more", "cores": 4, "threads": 2, "features": ["avx2"]}
    versions = {"llmc": {"llmc": "0.1"}, "openvino": {"openvino-genai": "2026.4"}}
    return Report("2026-01-02", machine, versions, missing, [], rows)
