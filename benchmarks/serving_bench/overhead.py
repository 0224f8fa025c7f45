"""What the engine itself takes of a step: a program that computes nothing, many sequences.

Requests end and others arrive all the time, in random lengths. Time in `Engine.step` is counted,
less what the null program itself took; what it takes to add a request is counted apart.
"""

from __future__ import annotations

import gc
import random
from functools import partial
from time import perf_counter

from llmc.artifact.manifest import Variant
from llmc.artifact.reader import ArtifactReader
from llmc.runtime.api.loading import open_artifact_program
from llmc.runtime.engine.engine import Engine
from llmc.runtime.engine.request import Request
from llmc.runtime.engine.sampling.parameters import SamplingParams
from llmc.runtime.executors.registry import runnable_variant
from llmc.runtime.text.output import OutputText
from llmc.runtime.text.tokenizer import Tokenizer

from . import prompts
from .calm import measured
from .fresh import call
from .null_program import TEXT, Logits, NullProgram
from .options import Options
from .statistics import CaseResult, Figure, median, percentile

SEQUENCES = (1, 16, 64)
MODES = (
    "greedy",
    "stop string",
    "temperature",
    "temperature and top-p",
    "temperature, by numpy",
    "temperature and top-p, by numpy",
)
"""By numpy: as where a program has no code for drawing tokens."""
MEDIAN_US, P99_US = 150, 400
_STOP = ("\nHuman:", "###")
_PROMPT, _OUTPUT = (32, 256), (64, 256)
_CONTEXT = 512
_WARMUP_STEPS = 100
_MOST_SECONDS = 15.0


def measure(artifact: str, sequences: int, mode: str, steps: int) -> dict[str, list[float]]:
    """Seconds of each step and of each `add`, of `sequences` requests that follow one another;
    none if the artifact can't do it."""
    reader = ArtifactReader(artifact)
    variant = runnable_variant(reader.manifest)
    assert reader.manifest.tokenizer is not None
    tokenizer = Tokenizer(reader.read(reader.manifest.tokenizer))
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    program = _program(reader, variant, ids, sequences, mode)
    found: dict[str, list[float]] = {"steps": [], "adds": []}
    if program is None:
        return found
    engine, source = Engine(program), random.Random(sequences)

    def add() -> None:
        request = _request(source, tokenizer, mode)
        began = perf_counter()
        engine.add(request)
        found["adds"].append(perf_counter() - began)

    for _ in range(sequences):
        add()
    gc.collect()
    end = perf_counter() + _MOST_SECONDS
    while len(found["steps"]) < steps + _WARMUP_STEPS and perf_counter() < end:
        program.seconds = 0.0
        began = perf_counter()
        deltas = engine.step()
        found["steps"].append(perf_counter() - began - program.seconds)
        for delta in deltas:
            if delta.finish_reason is not None:
                add()
    del found["steps"][:_WARMUP_STEPS], found["adds"][:sequences]
    return found


def _program(
    reader: ArtifactReader, variant: Variant, ids: list[int], sequences: int, mode: str
) -> NullProgram | None:
    """None if the artifact's program has no code for drawing tokens, and the mode needs it."""
    longest = _PROMPT[1] + _OUTPUT[1]
    blocks = 2 * sequences * -(-longest // variant.limits.block_size)
    logits = None
    if mode.endswith("numpy"):
        logits = Logits.new(sequences, variant.vocab_size)
    elif "temperature" in mode:
        logits = Logits.of(open_artifact_program(reader, max_context=_CONTEXT)[1], sequences)
        if logits.draw is None:
            return None
    return NullProgram(variant, ids, sequences=sequences, blocks=blocks, logits=logits)


def _request(source: random.Random, tokenizer: Tokenizer, mode: str) -> Request:
    params = SamplingParams()
    if "temperature" in mode:
        top_p = 0.95 if "top-p" in mode else 1.0
        params = SamplingParams(temperature=0.8, top_p=top_p, seed=source.randrange(2**32))
    text = OutputText(tokenizer, _STOP if mode == "stop string" else ())
    prompt = tuple(prompts.ids(source, source.randint(*_PROMPT)))
    return Request(prompt, source.randint(*_OUTPUT), params, text=text)


def run(options: Options) -> CaseResult:
    """Every mode with every number of sequences, each in fresh processes, in turns."""
    steps = 500 if options.short else 3000
    found: dict[tuple[str, int], dict[str, list[list[float]]]] = {}
    for number in range(options.rounds):
        for mode in MODES:
            for count in SEQUENCES:
                what = f"overhead, round {number + 1}: {count} sequences, {mode}"
                arguments = {"sequences": count, "mode": mode, "steps": steps}
                ask = partial(call, measure, artifact=options.artifact, **arguments)
                times = measured(options, what, ask)
                runs = found.setdefault((mode, count), {"steps": [], "adds": []})
                for name, seconds in times.items():
                    runs[name].append(seconds)
    figures: list[Figure] = []
    notes: list[str] = []
    for (mode, count), runs in found.items():
        if not runs["steps"][0]:
            notes.append(f"{count} sequences, {mode}: the artifact has no code for it")
            continue
        figures += _figures(f"{count} sequences, {mode}", runs, (mode, count) == ("greedy", 64))
    return CaseResult("overhead", tuple(figures), tuple(notes))


def _figures(name: str, runs: dict[str, list[list[float]]], limited: bool) -> list[Figure]:
    """Medians over the rounds of each round's median and 99th percentile, in microseconds."""
    middle = median(median(run) for run in runs["steps"]) * 1e6
    high = median(percentile(run, 0.99) for run in runs["steps"]) * 1e6
    adding = median(median(run) for run in runs["adds"]) * 1e6
    return [
        Figure(f"{name}: median step", middle, "us", MEDIAN_US if limited else None),
        Figure(f"{name}: p99 step", high, "us", P99_US if limited else None),
        Figure(f"{name}: median add", adding, "us"),
    ]
