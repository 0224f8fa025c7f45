"""Whole models run by the triton target's own kernels, under Triton's interpreter, on a fake GPU.

What `test_zoo_triton.py` shows with the ops' references, a few steps show here with what GPUs run:
prompts in parts beside other sequences, padded steps in graphs, several tokens at once as drafts
are verified, blocks that are copied or shared, sequences that leave. In f32 the logits are those of
eager; in other schemes those of the lowered graph, whose activations aren't rounded to 16 bits. And
bit for bit, what a sequence gets doesn't depend on its company, nor on how its tokens are split.

The interpreter sums products exactly and runs one program of a grid after another, so orders of
sums within a tile, and races, are for other tests. Texts are short: a program takes milliseconds.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from llmc.artifact.program import Program, StepInputs
from llmc.compiler.frontend.probe import StateReader, tensor_of
from llmc.ir.interpreted_program import InterpretedProgram
from llmc.models.eager import eager_logits, fix_rope
from llmc.weights.values import RecipeValues
from planned_program import Planned, planned
from tiny_model import ZooModel
from zoo import find

CONTEXT = 128
BLOCKS = 6
EXACT = 1e-4
ROUNDED = 0.03
"""Of the range of the logits. Rounding to bf16 moves a number by up to 2^-9 of it; a dozen of such
roundings in two layers move logits by up to 1% of their range, and flipped int8 codes add to it."""


FEW = {"num_attention_heads": 2, "num_key_value_heads": 1}
"""Heads: each takes programs of its own."""
EXPERTS = {"num_experts": 4}


def small(family: str, layers: int = 2) -> ZooModel:
    """Two layers of a family of the zoo; few heads and experts, but in two layers of llama."""
    model = find(family)
    few = {} if family == "llama" and layers == 2 else FEW
    config = {**model.config, "num_hidden_layers": layers, **few}
    if "num_experts" in config:
        config |= EXPERTS
    return replace(model, config=config, max_context=CONTEXT)


class Sequences:
    """Named texts on their way through a program; every step returns the logits of its tokens."""

    def __init__(self, program: Program, texts: dict[str, list[int]]) -> None:
        self.program, self.texts = program, texts
        self.blocks: dict[str, list[int]] = {}
        self.context: dict[str, int] = {}

    def start(self, name: str, blocks: list[int], context: int = 0) -> None:
        """A sequence has these blocks of every group, `context` tokens of it are in them."""
        self.blocks[name], self.context[name] = blocks, context

    def step(self, **counts: int) -> dict[str, np.ndarray]:
        """So many new tokens of each: f32 [tokens, vocab] by name, after each token."""
        ids, positions, starts, ends, table = [], [], [0], [], []
        for name, count in counts.items():
            begin, end = self.context[name], self.context[name] + count
            ids += self.texts[name][begin:end]
            positions += range(begin, end)
            starts.append(len(ids))
            ends.append(end)
            table.append(self.blocks[name])
            self.context[name] = end
        tables = tuple(table for _ in self.program.cache_groups)
        rows = list(range(len(ids)))
        outputs = self.program.step(StepInputs(ids, positions, starts, ends, rows, tables))
        logits = np.array(outputs.logits)
        assert outputs.argmax == logits.argmax(axis=1).tolist()
        return dict(zip(counts, np.split(logits, starts[1:-1]), strict=True))


class Expected:
    """What each text's logits should be, and the tolerance as a share of their range."""

    def __init__(self, model: ZooModel, plan: Planned, scheme: str) -> None:
        eager = fix_rope(model.build(), model.max_context)
        self.tolerance = EXACT if scheme == "f32" else ROUNDED
        if scheme == "f32":
            self.of = lambda ids: eager_logits(eager, ids)
            return
        values = RecipeValues(StateReader(eager.state_dict()))
        graph, limits = plan.compiled.generated.program.graph, plan.compiled.limits
        program = InterpretedProgram(graph, limits, BLOCKS, lambda v: tensor_of(values, v))

        def alone(ids: list[int]) -> np.ndarray:
            sequences = Sequences(program, {"it": ids})
            sequences.start("it", list(range(-(-len(ids) // 64))))
            return sequences.step(it=len(ids))["it"]

        self.of = alone

    def check(self, texts: dict[str, list[int]], found: dict[str, list[np.ndarray]]) -> None:
        """`found`: for each text, the logits after each of its first tokens."""
        for name, rows in found.items():
            expected = self.of(texts[name])
            shares = np.abs(np.stack(rows) - expected[: len(rows)]).max(-1) / np.ptp(expected)
            assert shares.max() < self.tolerance, f"{name}: {shares}"


def texts_of(model: ZooModel) -> dict[str, list[int]]:
    """Random ids; "c" begins as "a" does."""
    random = np.random.default_rng(model.seed)
    texts = {name: random.integers(0, 272, 12).tolist() for name in "abc"}
    texts["c"][:5] = texts["a"][:5]
    return texts


@pytest.mark.parametrize(
    ("family", "scheme", "cache"),
    [
        ("llama", "f32", None),
        ("gemma2", "f32", None),
        ("qwen3-moe", "f32", None),
        ("gemma2", "bf16", None),
        ("qwen3-moe", "int4", "int8"),
    ],
)
def test_a_model_in_company_and_alone(family: str, scheme: str, cache: str | None) -> None:
    model = small(family)
    plan = planned(model, scheme, cache)
    program = plan.by_kernels(BLOCKS, seed=1)
    texts, found = texts_of(model), {name: [] for name in "abc"}
    sequences = Sequences(program, texts)

    def step(**counts: int) -> None:
        for name, logits in sequences.step(**counts).items():
            found[name] += [*logits]

    sequences.start("b", [4])
    step(b=9)  # too many tokens for a graph
    sequences.start("a", [2])
    step(a=5, b=1)  # a prompt beside a sequence that decodes
    for group in range(len(program.cache_groups)):
        program.copy_block(group, 2, 0)
    sequences.start("c", [0], context=5)
    found["c"] = found["a"][:5]
    step(b=1, c=2, a=1)  # three sequences, padded to four
    drafted = sequences.step(a=4, c=1)  # b has left; c's token doesn't count
    step_back = sequences.context["a"] - 3
    found["a"] += [*drafted["a"]]
    sequences.start("a", [2], step_back)  # three of the drafts are wrong
    assert np.array_equal(sequences.step(a=1)["a"][0], drafted["a"][1])
    Expected(model, plan, scheme).check(texts, found)

    sequences.start("a", [5])
    alone = [*sequences.step(a=7)["a"]]
    alone += [sequences.step(a=1)["a"][0] for _ in range(3)]
    assert np.array_equal(np.stack(alone), np.stack(found["a"]))
    program.close()


def test_sequences_share_a_full_block() -> None:
    """Contexts go on in a second block; another sequence has the first block of one, as prefix
    caching does it, and the same logits bits as if it had computed it all."""
    model = small("llama", layers=1)
    plan = planned(model)
    program = plan.by_kernels(BLOCKS, seed=2)
    random = np.random.default_rng(7)
    texts = {"a": random.integers(0, 272, 67).tolist()}
    texts["c"] = texts["a"][:64] + random.integers(0, 272, 3).tolist()
    sequences = Sequences(program, texts)
    sequences.start("a", [3, 1])
    first = [*sequences.step(a=63)["a"]]
    sequences.start("c", [3, 0], context=64)
    last = [*sequences.step(a=3)["a"]]  # the block of both is filled here
    shared = sequences.step(c=2, a=1)
    Expected(model, plan, "f32").check(
        texts, {"a": [*first, *last, *shared["a"]], "c": [*first, last[0], *shared["c"]]}
    )
    sequences.start("c", [5, 2])
    alone = [*sequences.step(c=60)["c"], *sequences.step(c=6)["c"]]
    assert np.array_equal(np.stack(alone), np.stack([*first, last[0], *shared["c"]]))
    program.close()
