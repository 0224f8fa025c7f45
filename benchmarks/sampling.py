"""What choosing tokens costs: microseconds a row, natively and with numpy, and a grammar's masks.

    python benchmarks/sampling.py model.llmc

Logits are those of the model for its own greedy text, 16 rows at a time. The time is that of
`Sampler.sample`, so everything is in it, on a team of `--threads`. For masks: the same when they
were begun before the step, and when not.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import llmc
from llmc.artifact.program import StepInputs, StepOutputs
from llmc.artifact.reader import ArtifactReader
from llmc.runtime.engine.request import Request
from llmc.runtime.engine.sampling.grammar import Grammar, GrammarCompiler
from llmc.runtime.engine.sampling.parameters import SamplingParams
from llmc.runtime.engine.sampling.sampler import Sampler, sampling_state

ROWS = 16
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
}
CASES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy, repetition penalty": {"repetition_penalty": 1.1},
    "temperature 1": {"temperature": 1.0},
    "temperature 0.7, top-p 0.95": {"temperature": 0.7, "top_p": 0.95},
    "temperature 1, top-p 0.95": {"temperature": 1.0, "top_p": 0.95},
    "temperature 0.7, top-k 50": {"temperature": 0.7, "top_k": 50},
    "temperature 0.7, top-k 50, top-p 0.95": {"temperature": 0.7, "top_k": 50, "top_p": 0.95},
    "temperature 1, min-p 0.05": {"temperature": 1.0, "min_p": 0.05},
    "temperature 1, typical 0.95": {"temperature": 1.0, "typical_p": 0.95},
    "greedy, 5 log-probabilities": {"logprobs": 5},
}


def step_inputs(program: Any, tokens: list[int]) -> StepInputs:
    """A step over `tokens` as one sequence, which asks for the logits of the last ROWS."""
    count, size = len(tokens), program.limits.block_size
    blocks = list(range(-(-count // size)))
    return StepInputs(
        token_ids=tokens,
        positions=list(range(count)),
        query_start=[0, count],
        context_len=[count],
        logits_rows=list(range(count - ROWS, count)),
        block_tables=[[blocks] for _ in program.cache_groups],
    )


def microseconds(call: Callable[[], Any], prepare: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        prepare()
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    with llmc.load(arguments.artifact, threads=arguments.threads) as model:
        reader = ArtifactReader(arguments.artifact)
        tokenizer = bytes(reader.read(reader.manifest.tokenizer or ""))
        measure(model, tokenizer, arguments.rounds)


def measure(model: Any, tokenizer: bytes, rounds: int) -> None:
    program, prompt = model.program, "The history of the small town on the river begins with"
    text = [t for chunk in model.generate(prompt, max_tokens=48) for t in chunk.token_ids]
    inputs = step_inputs(program, text[:48])
    outputs = program.step(inputs)
    original = outputs.logits.copy()
    numpy_only = StepOutputs(lambda: outputs.logits, outputs.argmax)

    def restore() -> None:
        outputs.logits[:] = original

    print(f"vocabulary {program.vocab_size}, {ROWS} rows; us a row")
    for name, params in CASES.items():
        requests = [Request((1, 2), 99, SamplingParams(seed=i, **params)) for i in range(ROWS)]
        for request in requests:
            request.output.extend(text)
        states, sampler = [sampling_state(r) for r in requests], Sampler()
        costs = [
            microseconds(partial(sampler.sample, states, some), restore, rounds) / ROWS
            for some in (outputs, numpy_only)
        ]
        print(f"{name:40} native {costs[0]:7.1f}   numpy {costs[1]:7.1f}")
    eos = model.generation.eos_token_ids
    masks(program, inputs, GrammarCompiler(tokenizer, program.vocab_size, eos), rounds)


def masks(program: Any, inputs: StepInputs, compiler: GrammarCompiler, rounds: int) -> None:
    compiled = compiler.compile(Grammar.json_schema(SCHEMA))
    for ahead in (False, True):
        requests = [Request((1,), 999, SamplingParams(), grammar=compiled) for _ in range(ROWS)]
        states, sampler = [sampling_state(r) for r in requests], Sampler()
        times = []
        for _ in range(rounds):
            if ahead:
                sampler.prepare(states)
            outputs = program.step(inputs)
            began = time.perf_counter()
            tokens = sampler.sample(states, outputs)
            times.append(time.perf_counter() - began)
            for request, token in zip(requests, tokens, strict=True):
                request.output.append(token)
        cost = statistics.median(times) * 1e6 / ROWS
        print(f"greedy, JSON schema, masks {'ahead' if ahead else 'in time'}: {cost:.1f} us a row")


if __name__ == "__main__":
    main()
