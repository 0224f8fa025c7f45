"""Whether programs compute what they should on this GPU: tiny models against what is expected.

In: an executor of a tiny model and its expected logits. Out: a `Check` for each claim: logits
within the stated tolerance of both references along the conformance schedule (chunks, companies,
blocks that move), tokens chosen by the GPU, rows alone and in company equal in every bit, four
query tokens at once equal in every bit to four steps of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from llmc.artifact.program import Program
from llmc.models import conformance
from msgspec import Struct

from .steps import Part, step_inputs
from .suite import Blobs, BuiltProgram, Expected, Text

PROMPTS = (5, 77, 33, 1)
"""Tokens of the sequences that are compared bit by bit."""
QUERY = 4

Rows = np.ndarray[Any, Any]
"""f32 [..., vocab]."""


class Check(Struct, frozen=True):
    """A claim about a program. `value` and `tolerance`: the largest difference, of the range of a
    row of logits; for bits, how many rows differ. `error`: what went wrong instead."""

    program: str
    claim: str
    passed: bool
    value: float = 0.0
    tolerance: float = 0.0
    error: str = ""


def checks(built: BuiltProgram, blobs: Blobs, program: Program) -> Iterator[Check]:
    """All checks of one tiny model. `program` has blocks for the conformance schedule."""
    expected = built.expected
    assert expected is not None
    yield from _against(built, expected, blobs, program)
    invariant = built.variant.options.plan.batch_invariant  # type: ignore[union-attr]
    prompts = _prompts(program)
    yield _chosen(built.name, program, prompts)
    if invariant:
        alone = [_two_steps(program, [(i, ids)])[0] for i, ids in enumerate(prompts)]
        company = _two_steps(program, list(enumerate(prompts)))
        yield _same(built.name, "rows alone and in company", alone, company)
        yield _same(built.name, "4 query tokens and 4 steps", *_verified(program, prompts[1]))


def guarded(built: BuiltProgram, blobs: Blobs, program: Program) -> list[Check]:
    """The same; a failure, whatever it is, ends this program's checks and is one of them."""
    found = []
    try:
        for check in checks(built, blobs, program):
            found.append(check)
    except Exception as error:  # a chosen token may be any number, and the host stumbles over it
        said = f"{type(error).__name__}: {error}"
        found.append(Check(built.name, "runs", False, error=said))
    return found


def _against(
    built: BuiltProgram, expected: Expected, blobs: Blobs, program: Program
) -> Iterator[Check]:
    context = built.variant.limits.max_context
    for claim, texts, tolerance in (
        ("the compiled graph in f32", expected.rounded, expected.tolerance),
        ("the source model", expected.texts, expected.source_tolerance),
    ):
        given = [_text(text, blobs, built.variant.vocab_size) for text in texts]
        report = conformance.run_schedule(program, given, max_context=context)
        # Without a tolerance, what the format costs is shown but not judged.
        passed = report.rows > 0 and np.isfinite(report.worst)
        passed = bool(passed and (not tolerance or report.worst <= tolerance))
        yield Check(built.name, claim, passed, report.worst, tolerance)


def _text(text: Text, blobs: Blobs, vocab: int) -> conformance.Text:
    logits = np.frombuffer(blobs[text.logits], np.float32).reshape(-1, vocab)
    return conformance.Text(np.array(text.token_ids), logits)


def _prompts(program: Program) -> list[list[int]]:
    """All of them fit into one step."""
    random = np.random.default_rng(7)
    most = min(program.limits.max_context - QUERY, program.limits.max_tokens // len(PROMPTS))
    return [random.integers(0, program.vocab_size, min(n, most)).tolist() for n in PROMPTS]


def _chosen(name: str, program: Program, prompts: Sequence[Sequence[int]]) -> Check:
    """The tokens that the GPU chooses are those with the largest of its own logits."""
    room, wrong = program.limits.max_context, 0
    for ids in prompts:
        outputs = program.step(step_inputs(program, [Part(0, ids, 0)], room))
        wrong += int((np.array(outputs.argmax) != outputs.logits.argmax(axis=1)).sum())
    return Check(name, "the largest logit is chosen", wrong == 0, float(wrong))


def _two_steps(program: Program, prompts: Sequence[tuple[int, Sequence[int]]]) -> list[Rows]:
    """Logits of each sequence: after its prompt, and after one more token."""
    room = program.limits.max_context
    first = program.step(step_inputs(program, [Part(i, ids, 0) for i, ids in prompts], room))
    before = np.array(first.logits)
    parts = [Part(i, [3 + i], len(ids)) for i, ids in prompts]
    after = np.array(program.step(step_inputs(program, parts, room)).logits)
    return list(np.stack((before, after), axis=1))


def _verified(program: Program, prompt: Sequence[int]) -> tuple[list[Rows], list[Rows]]:
    """The logits of four more tokens: in one step, and one by one."""
    room, start = program.limits.max_context, len(prompt)
    more = [11, 2, 7, 5]
    program.step(step_inputs(program, [Part(0, prompt, 0)], room))
    together = program.step(step_inputs(program, [Part(0, more, start, every=True)], room))
    at_once = list(np.array(together.logits))
    singly = [
        np.array(program.step(step_inputs(program, [Part(0, [id], start + i)], room)).logits[0])
        for i, id in enumerate(more)
    ]
    return at_once, singly


def _same(name: str, claim: str, one: Sequence[Rows], other: Sequence[Rows]) -> Check:
    """Bits, so that NaN equals NaN and 0 isn't -0; but NaN passes nowhere."""
    rows = [
        (a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]))
        for a, b in zip(one, other, strict=True)
    ]
    differ = sum(int((a.view(np.uint32) != b.view(np.uint32)).any(axis=1).sum()) for a, b in rows)
    finite = all(bool(np.isfinite(a).all()) for a, _ in rows)
    return Check(name, claim, finite and differ == 0, float(differ))
