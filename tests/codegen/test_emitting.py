"""The registry of emitters: found by class, one each, a dialect before what it falls back to."""

import sys
from pathlib import Path

import pytest
from llmc.codegen.emitting import Emitters
from llmc.ir.ops import GroupedLinear, Linear, MatMul, Op, Softmax, TopK

Lines = list[str]

REGISTRY = """
from llmc.codegen.emitting import Emitters

EMITTERS = Emitters(__name__, "emit_*")
"""
EMIT_PRODUCTS = """
from llmc.ir.ops import MatMul
from .registry import EMITTERS

@EMITTERS.emits(MatMul)
def matmul(lines, subject, op):
    lines.append(f"{op.__class__.__name__} of {subject}")
"""
NO_EMITTERS = "raise AssertionError('this module holds no emitters')\n"


def registry(fallback: Emitters[Lines, str, None] | None = None) -> Emitters[Lines, str, None]:
    """One that finds no modules: `emitting.py` stands beside none that are called so."""
    return Emitters("llmc.codegen.emitting", "no_such_*", fallback)


def emitted(emitters: Emitters[Lines, str, None], op: Op) -> Lines:
    lines: Lines = []
    emitter = emitters.find(op)
    assert emitter is not None
    emitter(lines, "x", op)
    return lines


def test_an_emitter_gets_what_the_op_is_applied_to_and_the_op() -> None:
    emitters = registry()

    @emitters.emits(TopK)
    def top_k(lines: Lines, subject: str, op: TopK) -> None:
        lines.append(f"{op.k} of {subject}")

    top_k([], "called by its own name", TopK(1))
    assert emitted(emitters, TopK(7)) == ["7 of x"]


def test_a_class_has_its_own_emitter_not_its_base_class_one() -> None:
    emitters = registry()

    @emitters.emits(Linear)
    def linear(lines: Lines, subject: str, op: Linear) -> None:
        lines.append("linear")

    assert emitters.supports(Linear())
    assert not emitters.supports(GroupedLinear())
    assert emitters.find(GroupedLinear()) is None


def test_one_function_may_emit_several_classes() -> None:
    emitters = registry()

    @emitters.emits(Linear, GroupedLinear, only=lambda op: not op.gated)
    def linear(lines: Lines, subject: str, op: Linear) -> None:
        lines.append(str(op))

    assert emitted(emitters, Linear()) != emitted(emitters, GroupedLinear())
    assert not emitters.supports(GroupedLinear(act="silu", gated=True))


def test_unknown_ops_are_not_supported() -> None:
    emitters = registry()
    assert emitters.find(MatMul()) is None
    assert not emitters.supports(MatMul())


def test_only_decides_what_is_supported_not_what_is_found() -> None:
    """Who refuses ops beforehand asks `supports`."""
    emitters = registry()

    @emitters.emits(TopK, only=lambda op: op.k <= 8)
    def top_k(lines: Lines, subject: str, op: TopK) -> None:
        lines.append(f"{op.k}")

    assert [k for k in (7, 8, 9) if emitters.supports(TopK(k))] == [7, 8]
    assert emitted(emitters, TopK(9)) == ["9"]


def test_a_second_emitter_is_refused() -> None:
    emitters = registry()

    @emitters.emits(Softmax)
    def first(lines: Lines, subject: str, op: Softmax) -> None:
        lines.append("first")

    def second(lines: Lines, subject: str, op: MatMul | Softmax) -> None:
        lines.append("second")

    with pytest.raises(ValueError, match=r"Softmax has two emitters: .*first and .*second"):
        emitters.emits(MatMul, Softmax)(second)
    assert emitted(emitters, Softmax(-1)) == ["first"]


def test_a_dialect_falls_back() -> None:
    standard = registry()
    own = registry(fallback=standard)

    @standard.emits(MatMul)
    def matmul(lines: Lines, subject: str, op: MatMul) -> None:
        lines.append("standard matmul")

    @standard.emits(TopK)
    def top_k(lines: Lines, subject: str, op: TopK) -> None:
        lines.append("standard top_k")

    @own.emits(TopK, only=lambda op: op.k <= 8)
    def own_top_k(lines: Lines, subject: str, op: TopK) -> None:
        lines.append("own top_k")

    assert emitted(own, TopK(3)) == ["own top_k"]
    assert emitted(standard, TopK(3)) == ["standard top_k"]
    assert emitted(own, MatMul()) == emitted(standard, MatMul()) == ["standard matmul"]
    assert not own.supports(TopK(9))
    assert standard.supports(TopK(9))
    assert own.find(Softmax(-1)) is None


def test_modules_are_found_by_name_when_the_first_op_is_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "toy_target"
    package.mkdir()
    files = {"registry": REGISTRY, "emit_products": EMIT_PRODUCTS, "backend": NO_EMITTERS}
    for name, text in {"__init__": "", **files}.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    from toy_target.registry import EMITTERS  # type: ignore[import-not-found]

    assert "toy_target.emit_products" not in sys.modules
    assert emitted(EMITTERS, MatMul()) == ["MatMul of x"]
    assert "toy_target.backend" not in sys.modules
