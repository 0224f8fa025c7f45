"""The pattern engine: matching, binding, declining."""

import pytest
from llmc.ir.graph import Graph, Node, Value
from llmc.ir.ops import Unary
from llmc.ir.parser import parse
from llmc.passes.rewrite import Bindings, Const, Num, Rule, Var, apply_rules, match, op

pytestmark = pytest.mark.fast

HEAD = "graph main: TRACED\ninput x: f32[T, 4]\ninput y: f32[T, 4]\nconst @w: f32[4] = @w:f32\n"
X, Y = Var("x"), Var("y")


def matched(lines: str, pattern) -> Bindings | None:
    graph = parse(HEAD + lines)
    return match(pattern, graph.nodes[-1].output)


def test_a_name_binds_one_value_everywhere() -> None:
    assert matched("%0: f32[T, 4] = mul(x, x)", op("mul", X, X)) is not None
    assert matched("%0: f32[T, 4] = mul(x, y)", op("mul", X, X)) is None


def test_commutative_operands_match_in_either_order() -> None:
    pattern = op("mul", op("sigmoid", X), X)
    for line in ("mul(%0, x)", "mul(x, %0)"):
        lines = f"%0: f32[T, 4] = sigmoid(x)\n%1: f32[T, 4] = {line}"
        assert matched(lines, pattern) is not None
    assert matched("%0: f32[T, 4] = sub(1.0, x)", op("sub", X, Num())) is None


def test_a_failed_order_leaves_no_bindings() -> None:
    """The second order starts afresh, not with what the first has bound."""
    lines = "%0: f32[T, 4] = exp(y)\n%1: f32[T, 4] = add(x, %0)"
    bound = matched(lines, op("add", op("exp", X), Y))
    assert bound is not None
    assert (bound["x"].name, bound["y"].name) == ("y", "x")


@pytest.mark.parametrize(
    ("operand", "matches"), [("0.5", True), ("0.50000001", True), ("0.51", False), ("@w", False)]
)
def test_numbers_match_to_a_millionth(operand: str, matches: bool) -> None:
    lines = f"%0: f32[T, 4] = mul(x, {operand})"
    assert (matched(lines, op("mul", X, Num(equals=0.5))) is not None) is matches


def test_const_is_a_tensor_and_no_number() -> None:
    assert matched("%0: f32[T, 4] = mul(x, @w)", op("mul", X, Const("w"))) is not None
    assert matched("%0: f32[T, 4] = mul(x, 0.5)", op("mul", X, Const("w"))) is None


def test_checks_see_the_attributes() -> None:
    pattern = op("slice", X, check=lambda o: o.start == 0)
    assert matched("%0: f32[T, 2] = slice(x) {dim=-1, start=0, stop=2}", pattern) is not None
    assert matched("%0: f32[T, 2] = slice(x) {dim=-1, start=2, stop=4}", pattern) is None


def double_negation(graph: Graph, node: Node, m: Bindings) -> Value | str:
    return m["x"]


RULE = Rule("-(-x) => x", (op("neg", op("neg", X)),), double_negation)


def test_rules_apply_until_nothing_changes() -> None:
    """Each sweep makes the next match; dead nodes go."""
    lines = "\n".join(f"%{i}: f32[T, 4] = neg({f'%{i - 1}' if i else 'x'})" for i in range(5))
    graph = parse(f"{HEAD}{lines}\noutput %4")
    assert apply_rules(graph, [RULE])
    assert [n.op for n in graph.nodes] == [Unary("neg")]
    assert not apply_rules(graph, [RULE])


def test_a_declined_rule_says_why(capsys, monkeypatch) -> None:
    monkeypatch.setenv("LLMC_DEBUG", "1")
    text = f"{HEAD}%0: f32[T, 4] = neg(x)\n%1: f32[T, 4] = neg(%0)    # layers.4\noutput %1"
    graph = parse(text)
    rule = Rule("never", RULE.patterns, lambda graph, node, m: "the moon is wrong")
    assert not apply_rules(graph, [rule])
    assert str(graph) == str(parse(text))
    assert "never: not at layers.4: the moon is wrong" in capsys.readouterr().err
