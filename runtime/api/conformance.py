"""Does this artifact, on this machine, still answer what it answered when it was compiled?

`record` makes a vector (the compiler stores them in the manifest), `verify` replays an artifact's
vectors, those of its text too, and hashes all of its entries.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...artifact.manifest import ConformanceVector
from ...artifact.reader import ArtifactReader
from ...artifact.text_vectors import TextVectors
from ...base.arrays import Float32Array
from ...base.errors import LlmcError
from ..executors.registry import runnable_variant
from ..text.replay import wrong_ids, wrong_prompts, wrong_texts
from .model import Model, model_of


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was verified: `detail` is one line, also when it is fine."""

    name: str
    ok: bool
    detail: str


def record(
    model: Model,
    prompt_ids: Sequence[int],
    *,
    positions: int = 4,
    top: int = 5,
    greedy_tokens: int = 16,
    tolerance: float,
    target: str = "cpu",
) -> ConformanceVector:
    """What the model answers now, in a program of `target`.

    `tolerance`: largest difference of a logit on other machines.
    """
    rows = model.logits(prompt_ids)[-positions:]
    top_ids = np.argsort(-rows, axis=1, kind="stable")[:, :top]
    values = np.take_along_axis(rows, top_ids, axis=1)
    return ConformanceVector(
        target=target,
        prompt_ids=list(prompt_ids),
        top_ids=top_ids.tolist(),
        top_logits=[[float(v) for v in row] for row in values],
        greedy_ids=_greedy(model, prompt_ids, greedy_tokens),
        tolerance=tolerance,
    )


def verify(path: str | Path, *, threads: int | None = None) -> list[Check]:
    """All checks of an artifact: the digest of every entry, then every conformance vector of its
    text and of the targets that run here.

    Raises the errors of opening it (E05xx): what can't be opened can't be checked further. Where
    nothing runs here (E0514) and no answers were recorded, there is nothing to compare with.
    """
    reader = ArtifactReader(path)
    checks = digests(reader)
    if all(check.ok for check in checks):  # damaged weights are not worth running
        try:
            first = runnable_variant(reader.manifest).target
        except LlmcError as error:
            if reader.manifest.conformance:
                raise
            return [*checks, Check("answers", True, f"none recorded, none made: {error.message}")]
        targets = [first, *(v.target for v in reader.manifest.variants if v.target != first)]
        for target in dict.fromkeys(targets):
            checks += _replayed(reader, target, threads, required=target == first)
    return checks


def _replayed(
    reader: ArtifactReader, target: str, threads: int | None, *, required: bool
) -> list[Check]:
    """The checks of one target; none if it isn't required and can't be run here."""
    vectors = [v for v in reader.manifest.conformance if v.target == target]
    try:
        model = model_of(reader, target=target, threads=threads)
    except LlmcError as error:
        if required:
            raise
        return [Check(f"target {target}", True, f"not run here: {error.message}")]
    with model:
        return [*(text_checks(model) if required else ()), *replay(model, vectors)]


def text_checks(model: Model) -> list[Check]:
    """Whether texts and chats become the ids and prompts that transformers made of them."""
    told = model.text_vectors
    if told is None:
        return []
    checks = [
        _text_check("text ids", len(told.texts), lambda: _wrong_ids(model, told)),
        _text_check(
            "text of ids", len(told.texts), lambda: wrong_texts(model.tokenizer, told.texts)
        ),
    ]
    if told.chats:
        checks.append(_text_check("prompts", len(told.chats), lambda: _wrong_prompts(model, told)))
    return checks


def _text_check(name: str, count: int, wrong: Callable[[], str | None]) -> Check:
    try:
        found = wrong()
    except LlmcError as error:
        found = error.message
    return Check(name, found is None, found or f"{count} are as transformers makes them")


def _wrong_ids(model: Model, told: TextVectors) -> str | None:
    def encode(text: str, marked: bool) -> list[int]:
        return model.tokenizer.encode(text, add_special_tokens=marked)

    return wrong_ids(encode, told.texts)


def _wrong_prompts(model: Model, told: TextVectors) -> str | None:
    templates = model.chat_template
    return wrong_prompts(templates, told.chats) if templates else "there is no chat template"


def digests(reader: ArtifactReader) -> list[Check]:
    """One check per entry, the weights included."""
    checks = []
    for name in reader.names:
        ok = reader.matches_digest(name)
        detail = f"{len(reader.read(name))} bytes" if ok else "not as it was written"
        checks.append(Check(f"digest {name}", ok, detail))
    return checks


def replay(model: Model, vectors: Sequence[ConformanceVector]) -> list[Check]:
    """Two checks per vector: the recorded logits, and the greedy continuation."""
    checks = []
    for i, vector in enumerate(vectors):
        try:
            _check_shape(vector, model.program.vocab_size)
            checks += [_logits_check(model, vector, i), _greedy_check(model, vector, i)]
        except LlmcError as error:
            checks.append(Check(f"vector {i}", False, str(error)))
    return checks


def _check_shape(vector: ConformanceVector, vocab_size: int) -> None:
    """The manifest is data: its ids must be usable as indices."""
    lengths = [
        len(ids) == len(v) for ids, v in zip(vector.top_ids, vector.top_logits, strict=False)
    ]
    ids = [token for row in vector.top_ids for token in row] + vector.greedy_ids
    if (
        len(vector.top_ids) != len(vector.top_logits)
        or not all(lengths)
        or not 0 < len(vector.top_ids) <= len(vector.prompt_ids)
        or any(token >= vocab_size for token in ids)
    ):
        raise LlmcError("LLMC-E0508", "a conformance vector contradicts itself")


def _logits_check(model: Model, vector: ConformanceVector, index: int) -> Check:
    rows = model.logits(vector.prompt_ids)[-len(vector.top_ids) :]
    worst = 0.0
    for row, ids, expected in zip(rows, vector.top_ids, vector.top_logits, strict=True):
        difference = np.abs(row[np.array(ids, np.int64)] - np.array(expected))
        worst = max(worst, float(np.where(np.isnan(difference), np.inf, difference).max()))
    detail = f"largest difference {worst:.3g}, allowed {vector.tolerance:.3g}"
    return Check(f"vector {index} logits", worst <= vector.tolerance, detail)


def _greedy_check(model: Model, vector: ConformanceVector, index: int) -> Check:
    """Equal ids; where they part, the recorded id must be a tie within the tolerance.

    (On another instruction set the order of additions differs, and a tie may fall the other way.)
    """
    name = f"vector {index} greedy"
    got = _greedy(model, vector.prompt_ids, len(vector.greedy_ids))
    if got == vector.greedy_ids:
        return Check(name, True, f"{len(got)} tokens are equal")
    parted = next(
        (i for i, (a, b) in enumerate(zip(got, vector.greedy_ids, strict=False)) if a != b),
        min(len(got), len(vector.greedy_ids)),
    )
    rows = model.logits(vector.prompt_ids + vector.greedy_ids[:parted])
    gap = _gap(rows[-1], vector.greedy_ids[parted])
    ok = gap <= 2 * vector.tolerance  # both of the two logits may be off by the tolerance
    kind = "a tie" if ok else "not a tie"
    return Check(name, ok, f"parts at token {parted}, {kind}: logits {gap:.3g} apart")


def _gap(row: Float32Array, token: int) -> float:
    """How far the token is behind the best; infinite where that can't be told."""
    gap = float(row.max() - row[token])
    return gap if np.isfinite(gap) else float("inf")


def _greedy(model: Model, prompt_ids: Sequence[int], count: int) -> list[int]:
    stream = model.generate(list(prompt_ids), max_tokens=max(1, count), ignore_eos=True)
    return [token for chunk in stream for token in chunk.token_ids][:count]
