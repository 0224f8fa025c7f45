"""From raw measurements to figures: medians, fractions of the machine's limits, JSON.

In: `rounds.Measured`. Out: a `Row` for each contender of each case, and a `Report` of all of them
that can be written, read and merged with another.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from .cases import OURS, Group, Scheme
from .rounds import Measured, Raw, Turn

FORMAT = 1


@dataclass(frozen=True)
class Row:
    """What one contender reached on one case; medians over rounds, None where nobody can say.

    `read_fraction`: bytes that decode reads (its own format's weights, and the cache half-way
    through the output) over what memory could have read in that time. `peak_fraction`: operations
    of prefill over the peak of the instruction for the scheme. `run_fraction`: the least time that
    both limits allow for the whole run, over the time it took. `anonymous_mb`: memory at the end
    without mapped files. `others`: share of the processors that others took. `turns`: the
    figures of each round. `error`: why there are none.
    """

    model: str
    scheme: str
    case: str
    peer: str
    label: str
    error: str | None = None
    rounds: int = 0
    prefill_tokens_per_s: float | None = None
    decode_tokens_per_s: float | None = None
    output_tokens_per_s: float | None = None
    read_fraction: float | None = None
    peak_fraction: float | None = None
    run_fraction: float | None = None
    first_token_s: float | None = None
    load_s: float | None = None
    peak_rss_mb: float | None = None
    anonymous_mb: float | None = None
    others: float | None = None
    decode_bytes: float | None = None
    read_gbs: float | None = None
    peak_gops: float | None = None
    turns: list[dict[str, float | None]] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, str, str, str]:
        return (self.model, self.scheme, self.case, self.label)


@dataclass
class Report:
    """A whole run: when and where, who took part in which version, who is missing and why.

    `compiles`: llmc's compiles, seconds and peak memory.
    """

    date: str
    machine: dict[str, Any]
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    compiles: list[dict[str, Any]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def write(self, path: Path) -> None:
        content = {"format": FORMAT, **asdict(self)}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Report:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format", None) != FORMAT:
            raise ValueError(f"{path} is not a report of format {FORMAT}")
        rows = [Row(**row) for row in content.pop("rows")]
        return cls(rows=rows, **content)


def merge(reports: Sequence[Report]) -> Report:
    """One report of several, later ones first in right: their rows replace equal ones."""
    last = reports[-1]
    rows = {row.key: row for report in reports for row in report.rows}
    compiles = {(c["model"], c["scheme"]): c for report in reports for c in report.compiles}
    versions = {name: v for report in reports for name, v in report.versions.items()}
    missing = {name: why for report in reports for name, why in report.missing.items()}
    for name in versions:
        missing.pop(name, None)
    return Report(
        last.date, last.machine, versions, missing, list(compiles.values()), list(rows.values())
    )


def rows_of(measured: Measured, absent: dict[str, str]) -> list[Row]:
    """A row for each contender of a group; `absent` says by label why one was not measured."""
    group, found = measured.group, []
    for contender in group.contenders:
        turns = measured.turns.get(contender.label, [])
        failed = absent.get(contender.label) or measured.error(contender.label)
        if not failed and not turns:
            failed = "not measured"
        figures = {} if failed else _figures(group, turns)
        place = (group.model.name, group.scheme.value, group.case.name)
        found.append(Row(*place, contender.peer, contender.label, error=failed, **figures))
    return found


def _figures(group: Group, turns: list[Turn]) -> dict[str, Any]:
    """The fields of a row: medians of what each turn reached, fractions within their own turn."""
    of_turns = [_of_turn(group, turn.answer, turn.limits) for turn in turns]
    medians = {name: _typical(one[name] for one in of_turns) for name in of_turns[0]}
    return {"rounds": len(turns), "turns": of_turns, **medians}


def _of_turn(group: Group, answer: Raw, limits: Raw) -> dict[str, float | None]:
    """The figures of one turn, named as the fields of a row."""
    figures: dict[str, float | None] = {
        "load_s": answer["load_s"],
        "peak_rss_mb": answer["peak_rss_mb"],
        "anonymous_mb": answer["anonymous_mb"],
        "others": answer["others"],
        "decode_bytes": step_bytes(group, answer),
        "read_gbs": limits["read"],
        "peak_gops": peak(group.scheme, limits),
    }
    case, output = group.case, group.case.output(group.model)
    if case.cold:
        return {**figures, "first_token_s": answer["first_token_at"] - answer["started_at"]}
    prefill, decode = _typical(answer["prefill_s"]), decode_seconds(answer)
    total = _typical(answer["total_s"])
    reading = step_bytes(group, answer) * (output - 1) / (limits["read"] * 1e9)
    computing = prefill_ops(group) / (peak(group.scheme, limits) * 1e9)
    return {
        **figures,
        "prefill_tokens_per_s": _over(case.sequences * case.prompt, prefill),
        "decode_tokens_per_s": _over(case.sequences * (output - 1), decode),
        "output_tokens_per_s": _over(case.sequences * output, total),
        "read_fraction": _over(reading, decode),
        "peak_fraction": _over(computing, prefill),
        "run_fraction": _over(least_seconds(group, answer, limits), total),
    }


def _typical(values: Iterable[float | None]) -> float | None:
    """Median of what is known; None if nothing is."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _over(amount: float, seconds: float | None) -> float | None:
    return None if seconds is None else amount / seconds


def decode_seconds(answer: Raw) -> float | None:
    """Seconds from the last sequence's first token to the end; None if prefill isn't told."""
    pairs = zip(answer["prefill_s"], answer["total_s"], strict=True)
    return _typical(None if prefill is None else total - prefill for prefill, total in pairs)


def peak(scheme: Scheme, limits: Raw) -> float:
    """Gop/s of the instruction that suits a scheme, or of f32 multiply-adds where it is lacking."""
    return limits["bf16" if scheme is Scheme.BF16 else "int8"] or limits["fma"]


def step_bytes(group: Group, answer: Raw) -> float:
    """Bytes of weights and cache that a decode step reads, half-way through the output."""
    context = group.case.prompt + group.case.output(group.model) / 2
    return answer["weight_bytes"] + group.case.sequences * context * answer["cache_bytes"]


def prefill_ops(group: Group) -> float:
    """Operations of all prompts, whatever their instructions; the head once a sequence."""
    prompt = group.case.prompt
    return group.case.sequences * group.model.step_ops(prompt, prompt)


def least_seconds(group: Group, answer: Raw, limits: Raw) -> float:
    """Time of the whole run if prefill ran at peak and each step at the nearer of both limits."""
    case, model = group.case, group.model
    steps = case.output(model) - 1
    ops_per_s = peak(group.scheme, limits) * 1e9
    middle = case.prompt + steps // 2
    reading = step_bytes(group, answer) / (limits["read"] * 1e9)
    computing = case.sequences * model.step_ops(1, middle) / ops_per_s
    return prefill_ops(group) / ops_per_s + steps * max(reading, computing)


def best_peer(rows: Sequence[Row], figure: str) -> Row | None:
    """The row of the fastest contender but llmc, by a figure where more is better."""
    peers = [row for row in rows if row.peer != OURS and getattr(row, figure) is not None]
    return max(peers, key=lambda row: getattr(row, figure), default=None)
