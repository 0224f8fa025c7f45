"""How fast an artifact runs on this machine, and how near that is to what its memory allows.

In: an artifact and the shape of a load (prompt and output lengths, sequences at once). Out: speeds,
latencies, memory, and the machine's read bandwidth measured in the same run with as many threads.
Prompts are random token ids, new ones for every repetition, so that no cached prefix is timed.
"""

import resource
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from ...artifact.manifest import Manifest, Variant, weight_bytes
from ...artifact.program import Program
from ...base.errors import LlmcError
from ...base.machine import available_cores, available_memory
from ...base.progress import Progress, silent
from ..engine.engine import Engine, Request
from .model import Model, load

_READ_BYTES = 512 << 20
"""Larger than the caches of any machine this runs on, small enough to be there."""
_READ_PASSES = 5
_WARMUP_TOKENS = 4


@dataclass(frozen=True)
class Load:
    """What is run: `batch` sequences at once, all of the same length, `repeat` times over.

    `target`: which program, of an artifact for several.
    """

    prompt_tokens: int = 512
    output_tokens: int = 64
    batch: int = 1
    repeat: int = 3
    threads: int | None = None
    target: str | None = None

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "batch", "repeat"):
            if getattr(self, name) < 1:
                raise LlmcError("LLMC-E0205", f"{name} cannot be {getattr(self, name)}")
        if self.output_tokens < 2:
            raise LlmcError("LLMC-E0205", "output_tokens must be at least 2 to time a decode step")


@dataclass(frozen=True)
class Result:
    """One measurement; speeds are medians over the repetitions, milliseconds where `_ms`.

    `tpot_ms`: time per output token of a sequence after its first, median; `p99_tpot_ms`: 99th
    percentile. `memory_read_gbs`: reading 512 MB with numpy's maximum, best of 5 passes.
    `bandwidth_fraction`: bytes of a decode step over what memory could have read in that time.
    """

    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    output_tokens_per_s: float
    ttft_ms: float
    tpot_ms: float
    p99_tpot_ms: float
    load_ms: float
    peak_rss_mb: float
    bytes_per_decode_step: int
    memory_read_gbs: float
    bandwidth_fraction: float
    cost_per_1k_tokens: float | None


@dataclass(frozen=True)
class _Run:
    """Seconds since the requests were added: per request, when each of its tokens came."""

    times: tuple[tuple[float, ...], ...]

    @property
    def prefill(self) -> float:
        return max(times[0] for times in self.times)

    @property
    def total(self) -> float:
        return max(times[-1] for times in self.times)

    @property
    def gaps(self) -> list[float]:
        """Seconds between consecutive tokens of the same sequence."""
        return [float(gap) for times in self.times for gap in np.diff(times)]

    @property
    def decode_rate(self) -> float:
        """Tokens per second once every prompt is computed."""
        later = sum(t > self.prefill for times in self.times for t in times)
        return later / max(self.total - self.prefill, 1e-9)


def bench(
    path: str | Path,
    shape: Load,
    *,
    price_per_hour: float | None = None,
    progress: Progress = silent,
) -> Result:
    """Measure an artifact. Errors: those of `load`, E0204 if the sequences exceed the context."""
    if price_per_hour is not None and not 0 <= price_per_hour < float("inf"):
        raise LlmcError("LLMC-E0205", f"price_per_hour cannot be {price_per_hour}")
    progress("loading", 0.0)
    began = perf_counter()
    with load(path, target=shape.target, threads=shape.threads) as model:
        load_ms = (perf_counter() - began) * 1e3
        check_context(model, shape)
        runs = _measure(model, shape, progress)
        manifest, variant = model.manifest, model.variant
        assert manifest is not None
        assert variant is not None
        step_bytes = decode_step_bytes(manifest, variant, shape)
        peak = peak_rss_mb()
        progress("reading memory", 1.0)
        bandwidth = read_gbs(model.program, shape.threads)
    return _summarize(runs, shape, load_ms, peak, step_bytes, bandwidth, price_per_hour)


def check_context(model: Model, shape: Load) -> None:
    """E0204 unless the sequences of a load fit into the context."""
    needed = shape.prompt_tokens + shape.output_tokens - 1
    if needed > model.engine.max_context:
        raise LlmcError(
            "LLMC-E0204",
            f"{shape.prompt_tokens} prompt and {shape.output_tokens} output tokens need a context "
            f"of {needed}, the artifact has {model.engine.max_context}",
            hint="lower --prompt-tokens or --output-tokens",
        )


def _measure(model: Model, shape: Load, progress: Progress) -> list[_Run]:
    """Run the load once to warm up (page in the weights, start the threads), then `repeat`."""
    prompts = random_prompts(model, shape)
    progress("warming up", 0.0)
    run_once(model.engine, prompts[0], min(_WARMUP_TOKENS, shape.output_tokens))
    runs = []
    for index in range(shape.repeat):
        progress("measuring", index / shape.repeat)
        runs.append(run_once(model.engine, prompts[index + 1], shape.output_tokens))
    return runs


def random_prompts(model: Model, shape: Load) -> np.ndarray:
    """Token ids [repeat + 1, batch, prompt_tokens]: one set for warming up, one a repetition."""
    size = (shape.repeat + 1, shape.batch, shape.prompt_tokens)
    return np.random.default_rng(0).integers(0, model.program.vocab_size, size)


def run_once(engine: Engine, prompts: np.ndarray, output_tokens: int) -> _Run:
    """Run these prompts at once to their last token; when each token came."""
    requests = [Request(tuple(prompt.tolist()), output_tokens) for prompt in prompts]
    times: list[list[float]] = [[] for _ in requests]
    began = perf_counter()
    for request in requests:
        engine.add(request)
    while engine.has_work:
        engine.step()
        now = perf_counter() - began
        for seen, request in zip(times, requests, strict=True):
            if len(request.output) > len(seen):
                seen.append(now)
    return _Run(tuple(tuple(seen) for seen in times))


def _summarize(
    runs: Sequence[_Run],
    shape: Load,
    load_ms: float,
    peak: float,
    step_bytes: int,
    bandwidth: float,
    price_per_hour: float | None,
) -> Result:
    gaps = [gap for run in runs for gap in run.gaps]
    tpot = median(gaps)
    output_rate = median(shape.batch * shape.output_tokens / run.total for run in runs)
    cost = None if price_per_hour is None else price_per_hour / 3600 / output_rate * 1000
    return Result(
        prefill_tokens_per_s=median(shape.batch * shape.prompt_tokens / r.prefill for r in runs),
        decode_tokens_per_s=median(run.decode_rate for run in runs),
        output_tokens_per_s=output_rate,
        ttft_ms=median(times[0] for run in runs for times in run.times) * 1e3,
        tpot_ms=tpot * 1e3,
        p99_tpot_ms=float(np.percentile(gaps, 99)) * 1e3,
        load_ms=load_ms,
        peak_rss_mb=peak,
        bytes_per_decode_step=step_bytes,
        memory_read_gbs=bandwidth,
        bandwidth_fraction=step_bytes / tpot / (bandwidth * 1e9),
        cost_per_1k_tokens=cost,
    )


def describe(result: Result) -> str:
    """Return the result as a few lines for people."""
    lines = [
        f"prefill  {result.prefill_tokens_per_s:10.1f} tokens/s   first token after "
        f"{result.ttft_ms:.1f} ms",
        f"decode   {result.decode_tokens_per_s:10.1f} tokens/s   a token every "
        f"{result.tpot_ms:.2f} ms, 99th percentile {result.p99_tpot_ms:.2f} ms",
        f"output   {result.output_tokens_per_s:10.1f} tokens/s   over the whole run",
        f"memory   {result.bytes_per_decode_step / 1e6:10.1f} MB a decode step; reads at "
        f"{result.memory_read_gbs:.1f} GB/s, of which decode uses {result.bandwidth_fraction:.0%}",
        f"loaded in {result.load_ms:.0f} ms, peak memory {result.peak_rss_mb:.0f} MB",
    ]
    if result.cost_per_1k_tokens is not None:
        lines.append(f"cost     {result.cost_per_1k_tokens:10.6f} USD per 1000 output tokens")
    return "\n".join(lines)


def decode_step_bytes(manifest: Manifest, variant: Variant, shape: Load) -> int:
    """Bytes of weights and cache that a decode step of `shape.batch` sequences reads, and of state
    that it reads and writes.

    Half-way through the output. Weights as the compiler counted them for the variant (an embedding
    row and the chosen experts only), or all of them where it did not.
    """
    weights = variant.decode_weight_bytes or weight_bytes(manifest, variant)
    context = shape.prompt_tokens + shape.output_tokens // 2
    cache = sum(
        group.bytes_per_block * min(context, group.window or context) / group.block_size
        for group in variant.cache_groups
    )
    state = 0 if variant.state is None else 2 * variant.state.bytes_per_slot
    return int(weights + shape.batch * (cache + state))


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def read_gbs(program: Program, threads: int | None) -> float:
    """GB/s at which the memory is read that a program lies in: its device's, or this machine's.
    What a cache holds may be lost."""
    own = getattr(program, "memory_read_gbs", None)
    return own() if own is not None else memory_read_gbs(threads or available_cores())


def memory_read_gbs(threads: int) -> float:
    """GB/s at which `threads` threads read an array larger than the caches (numpy's maximum)."""
    size = min(_READ_BYTES, available_memory() // 2)
    parts = np.array_split(np.ones(size, np.uint8), threads)
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_READ_PASSES):
            began = perf_counter()
            list(pool.map(np.max, parts))
            best = min(best, perf_counter() - began)
    return size / best / 1e9
