"""Structured output against the JSON Schema Test Suite: what a grammar lets through must be valid.

    python tests/conformance/json_schema_suite.py ../JSON-Schema-Test-Suite

In: a checkout of github.com/json-schema-org/JSON-Schema-Test-Suite. Out: how many values of the
draft 2020-12, its formats included, were judged as the suite judges them, how many valid ones a
grammar can't write, and what was refused and why. Fails if an invalid value could be written.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from llmc.base.errors import LlmcError
from llmc.runtime.engine.sampling.grammar import CompiledGrammar, Grammar, GrammarCompiler
from tokenizers import Tokenizer, decoders, models, pre_tokenizers


def main() -> int:
    """Judges every value of every schema; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", type=Path, help="a checkout of the suite")
    folder = parser.parse_args().suite / "tests" / "draft2020-12"
    tokenizer = _byte_tokenizer()
    compiler = GrammarCompiler(tokenizer.to_str().encode(), 257, [256])
    counts: Counter[str] = Counter()
    for file in [*sorted(folder.glob("*.json")), *sorted(folder.glob("optional/format/*.json"))]:
        for case in json.loads(file.read_text("utf-8")):
            _judge(f"{file.stem}: {case['description']}", case, compiler, tokenizer, counts)
    print(", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    return 1 if counts["wrong"] or not counts["right"] else 0


def _judge(
    name: str,
    case: dict[str, Any],
    compiler: GrammarCompiler,
    tokenizer: Tokenizer,
    counts: Counter[str],
) -> None:
    try:
        grammar = compiler.compile(Grammar.json_schema(case["schema"]))
    except LlmcError as error:
        counts["refused schemas"] += 1
        print(f"refused  {name}: {error.message[:100]}")
        return
    for test in case["tests"]:
        text = json.dumps(test["data"], ensure_ascii=False)
        if _accepts(grammar, tokenizer, text) == test["valid"]:
            counts["right"] += 1
        elif test["valid"]:
            counts["never written"] += 1
        else:
            counts["wrong"] += 1
            print(f"WRONG    {name}: {test['description']}: {text[:80]}")


def _accepts(grammar: CompiledGrammar, tokenizer: Tokenizer, text: str) -> bool:
    matcher = grammar._start.deep_copy()
    ids = tokenizer.encode(text).ids
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def _byte_tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    return tokenizer


if __name__ == "__main__":
    raise SystemExit(main())
