"""The first table of docs/compatibility.md: every model type, and why it is refused.

In: what sweep.json holds. Out: Markdown.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

EQUAL, DIFFERENT, REFUSED, FAILS, HANGS, OTHER, UNBUILT = (
    "equal", "different", "refused", "internal error", "hang", "no decoder", "not built",
)  # fmt: skip
"""What trying a model gives. `no decoder`: it doesn't take text and give text; `not built`:
transformers itself builds no small model of it."""
WORST_FIRST = (DIFFERENT, FAILS, HANGS, REFUSED, UNBUILT, OTHER, EQUAL)
COUNTED = (EQUAL, DIFFERENT, REFUSED, FAILS, HANGS)

_HEAD = """## Model types

Made by `python tests/conformance/sweep.py`: all types for which transformers has a causal language
model, as small models of the class's own config, and of a published one where there is one, with
random weights. Their graphs are interpreted over the same schedule (three sequences in a step,
chunks, decode, beyond windows) in f32; `*`: compiled for `cpu` and run, too. The reference is what
a user calls: transformers eager on token ids, without a cache and without positions. Where a model
has its positions begin behind a row for padding (RoBERTa and its kin), `forward(input_ids)` is
what it was trained with, and what llmc computes; `generate()` of transformers begins at 0 instead.
Encoders (BERT and its kin) are tried as decoders (`is_decoder`), and refused otherwise.
"""

Sweep = dict[str, Any]
"""`versions`, and `types`: `status` and `subjects` by type."""


def summary(sweep: Sweep) -> str:
    """How many of what the sweep counts match."""
    decoders = [r for r in sweep["types"].values() if r["status"] in COUNTED]
    matching = sum(r["status"] == EQUAL for r in decoders)
    return f"{matching} of {len(decoders)} decoders match"


def section(sweep: Sweep) -> list[str]:
    """Lines of the page's first section."""
    types = sweep["types"]
    versions = " and ".join(f"{name} {known}" for name, known in sweep["versions"].items())
    equal = [name for name, found in types.items() if found["status"] == EQUAL]
    compiled = [name for name in equal if _program(types[name]) == EQUAL]
    worst = max((f["worst"] for name in equal for f in _tried(types[name])), default=0.0)
    return [
        *_HEAD.splitlines(),
        "",
        f"With {versions}, **{summary(sweep)}**, to {worst:.1e} of the logits' range"
        f"{_untried(sweep)}:",
        "",
        ", ".join(f"{name} *" if name in compiled else name for name in equal) + ".",
        "",
        "| other types | what happens | why |",
        "|---|---|---|",
        *_others(types),
    ]


def _untried(sweep: Sweep) -> str:
    """How many types have no result yet, if any."""
    listed = sweep.get("listed", 0)
    tried = len(sweep["types"])
    return f" (of {listed} types {tried} have been tried)" if listed > tried else ""


def _others(types: dict[str, Any]) -> Iterator[str]:
    """Rows for types that don't match, the worst first."""
    for status in WORST_FIRST[:-1]:
        for name, found in types.items():
            if found["status"] == status:
                tried = next(f for f in _tried(found) if f["status"] == status)
                what = f"{status}, {tried['error']}" if "error" in tried else status
                yield f"| {name} | {what} | {_plain(tried['cause'])} |"


def _tried(found: dict[str, Any]) -> list[dict[str, Any]]:
    return list(found["subjects"].values())


def _program(found: dict[str, Any]) -> str | None:
    """The worst status among compiled subjects; None if one wasn't compiled."""
    programs = [f.get("cpu") for f in _tried(found) if f["status"] != UNBUILT]
    if not programs or None in programs:
        return None
    return min((p["status"] for p in programs if p), key=WORST_FIRST.index)


def _plain(cause: str) -> str:
    """A cause as a cell: no borders, no code marks that a border could stand in."""
    return cause.replace("|", "/").replace("`", "'").splitlines()[0][:200]
