"""A run's results as text for people."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from .results import Figure, Profile, Results

_TOP = 10
"""Kernels of a profile that are shown."""
_NAMES = {"step": 11, "tokens/s": 11, "GB": 8, "of copy": 9, "of peak": 9, "launches": 10}
_COLUMNS = " " * 14 + "".join(f"{name:>{width}}" for name, width in _NAMES.items())


def text(results: Results) -> str:
    """All of it."""
    parts = (_heading, _checks, _tables, _profiles, _left_out)
    return "\n".join(line for part in parts for line in part(results))


def _heading(results: Results) -> Iterator[str]:
    device = results.device
    yield f"{device.get('name', 'GPU')}, driver {device.get('driver', '?')}, {results.date}"
    built = ", ".join(f"{name} {version}" for name, version in sorted(results.built_with.items()))
    yield f"built with {built}; {results.seconds:.0f} s"
    for state in results.clocks:
        yield "clocks: " + ", ".join(f"{name} {value}" for name, value in state.items())
    if results.limits.get("copy"):
        copies, products = (results.limits[name] for name in ("copy", "matmul"))
        yield (
            f"limits: copies {median(copies) / 1e9:.0f} GB/s (read and written; "
            f"{min(copies) / 1e9:.0f} to {max(copies) / 1e9:.0f}), bf16 products "
            f"{median(products) / 1e12:.0f} T/s ({min(products) / 1e12:.0f} to "
            f"{max(products) / 1e12:.0f})"
        )


def _checks(results: Results) -> Iterator[str]:
    passed = sum(check.passed for check in results.checks)
    yield ""
    yield f"checks: {passed} of {len(results.checks)} passed"
    for check in results.checks:
        if not check.passed:
            why = check.error or f"{check.value:.3g}, tolerance {check.tolerance:.3g}"
            yield f"  WRONG {check.program}: {check.claim}: {why}"


def _tables(results: Results) -> Iterator[str]:
    programs = dict.fromkeys((f.model, f.scheme) for f in results.figures)
    for model, scheme in programs:
        yield ""
        yield f"{model} {scheme}"
        yield _COLUMNS
        cases = dict.fromkeys(f.case for f in results.figures)
        for name in cases:
            seconds = results.value(model, scheme, name, "step")
            if seconds:
                yield _row(results, model, scheme, name, seconds)
        for figure in results.figures:
            if (figure.model, figure.scheme) == (model, scheme) and _is_extra(figure):
                yield f"  {_said(figure)}"
    if results.peers:
        yield ""
        yield from (f"peer of {model}: {what}" for model, what in results.peers.items())


def _row(results: Results, model: str, scheme: str, case: str, seconds: float) -> str:
    values = [
        results.value(model, scheme, case, quantity) or 0.0
        for quantity in (
            "tokens per second",
            "bytes",
            "of copy bandwidth",
            "of matrix peak",
            "launches",
        )
    ]
    return (
        f"  {case:12}{seconds * 1e6:8.0f} µs{values[0]:11.0f}{values[1] / 1e9:8.2f}"
        f"{values[2]:9.1%}{values[3]:9.1%}{values[4]:10.0f}"
    )


def _is_extra(figure: Figure) -> bool:
    """What has no column, or a goal."""
    columns = ("step", "tokens per second", "bytes", "operations", "launches")
    columns += ("of copy bandwidth", "of matrix peak")
    return figure.quantity not in columns or figure.met is not None


def _said(figure: Figure) -> str:
    value = f"{figure.value * 1e6:.0f} µs" if figure.unit == "s" else f"{figure.value:.3f}"
    line = f"{figure.case}, {figure.quantity}: {value}"
    if figure.met is None:
        return line
    bound = figure.at_least if figure.at_least is not None else figure.at_most
    assert bound is not None
    goal = f"{bound * 1e6:.0f} µs" if figure.unit == "s" else f"{bound:g}"
    words = "at least" if figure.at_least is not None else "at most"
    return f"{line} (goal: {words} {goal}, {'met' if figure.met else 'MISSED'})"


def _profiles(results: Results) -> Iterator[str]:
    for profile in results.profiles:
        yield ""
        yield from _profile(profile)


def _profile(profile: Profile) -> Iterator[str]:
    total = sum(kernel.seconds for kernel in profile.kernels)
    named = f"{profile.model} {profile.scheme}, {profile.case}"
    yield f"{named}: kernels one by one, {total * 1e6:.0f} µs"
    for kernel in profile.kernels[:_TOP]:
        share = kernel.seconds / total if total else 0.0
        yield (
            f"  {kernel.seconds * 1e6:9.1f} µs {share:6.1%} {kernel.count:4} × "
            f"{kernel.seconds / kernel.count * 1e6:8.2f} µs  {kernel.kernel}  ({kernel.label})"
        )


def _left_out(results: Results) -> Iterator[str]:
    if results.left_out:
        yield ""
        yield "left out:"
        yield from (f"  {name}: {why}" for name, why in results.left_out.items())
