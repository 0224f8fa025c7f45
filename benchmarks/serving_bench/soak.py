"""The soak: a thousand requests of every kind against a server with little memory for its cache.

Afterwards nothing may be left over (blocks, requests, threads, tasks, descriptors), memory must
have stayed flat, every request must have been answered or cleanly refused, and every answer must
be what the same request gets when it is alone on a fresh server.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llmc.artifact.manifest import weight_bytes
from llmc.artifact.reader import ArtifactReader
from llmc.runtime.api.cache_plan import fixed_bytes
from llmc.runtime.executors.registry import runnable_variant

from . import probe
from .client import Answer, post
from .options import Options
from .server import Server
from .soak_plan import Item, plan
from .statistics import CaseResult, Figure, median

CACHE_BYTES = 160_000_000
"""Small, so that the cache is full soon: from then on memory must be flat, and bursts wait."""
MOST_WAITING = 12
"""Less than a burst, so that some requests are told to come again."""
ANSWER_SECONDS = 120
SETTLE_SECONDS = 3
WARM_REQUESTS, WARM_STREAMS = 150, 20
MOST_GROWTH = 1.03
BUSY = (429, 503)

Texts = dict[int, tuple[str, str | None]]
"""By choice, the text and why it ended."""


@dataclass
class Outcome:
    """What became of one request: how it is counted, and what is wrong with that, if anything."""

    item: Item
    answer: Answer | None
    kind: str
    wrong: str | None = None


@dataclass
class Watched:
    """What the server's process held, before, during and after."""

    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    rss_mb: list[float] = field(default_factory=list)


def run(options: Options) -> CaseResult:
    """Soak, look what is left, then ask everything again of a fresh server, one by one."""
    seconds = options.minutes * 60
    items = plan(options.seed, options.requests, seconds)
    options.say(f"soak: {len(items)} requests over {options.minutes:g} minutes")
    with TemporaryDirectory(prefix="llmc-soak-") as folder:
        path, log = Path(folder) / "probe", Path(folder) / "server.log"
        code = probe.CODE.format(str(path))
        memory = f"{_memory(options.artifact) // 1_000_000}MB"
        words = ("--memory", memory, "--max-waiting", str(MOST_WAITING))
        with Server(options.artifact, *words, code=code, log=log) as server:
            outcomes, watched = asyncio.run(_soak(server, path, items))
            status = server.stop()
        complaints = _complaints(log)
    options.say("soak: every answer again, alone")
    with Server(options.artifact) as server:
        different = _different(server.port, outcomes)
    failures = [f"request {o.item.number}: {o.wrong}" for o in outcomes if o.wrong]
    failures += _left_over(watched)
    failures += [f"request {n} is another one alone: {why}" for n, why in different.items()]
    failures += [f"the server said: {line}" for line in complaints]
    if status != 0:
        failures.append(f"the server ended with status {status} after SIGTERM")
    figures = _figures(outcomes, watched, different)
    return CaseResult("soak", figures, (_memory_note(watched.rss_mb),), tuple(failures[:40]))


def _memory(artifact: str) -> int:
    """What the server may take: what it needs without a cache, and a small cache."""
    reader = ArtifactReader(artifact)
    variant = runnable_variant(reader.manifest)
    return fixed_bytes(variant, weight_bytes(reader.manifest, variant)) + CACHE_BYTES


async def _soak(server: Server, path: Path, items: list[Item]) -> tuple[list[Outcome], Watched]:
    watched, over = Watched(), asyncio.Event()
    await _warm_up(server.port)
    watched.before = _look(server, path)

    async def watch() -> None:
        while not over.is_set():
            watched.rss_mb.append(server.rss_mb)
            await asyncio.sleep(1)

    watching = asyncio.create_task(watch())
    began = time.monotonic()

    async def one(item: Item) -> Outcome:
        await asyncio.sleep(max(0.0, began + item.at - time.monotonic()))
        return await carry_out(server.port, item)

    outcomes = list(await asyncio.gather(*(one(item) for item in items)))
    await asyncio.sleep(SETTLE_SECONDS)
    over.set()
    await watching
    watched.after = _look(server, path)
    return outcomes, watched


async def _warm_up(port: int) -> None:
    """So many side by side, of each kind, that all that is made or touched once is there before
    the first look: threads, pages of the arena, the whole cache."""
    room = asyncio.Semaphore(WARM_STREAMS)

    async def one(item: Item) -> None:
        async with room:
            await carry_out(port, item)

    await asyncio.gather(*(one(item) for item in plan(-1, WARM_REQUESTS, 1.0)))
    await asyncio.sleep(SETTLE_SECONDS)


def _look(server: Server, path: Path) -> dict[str, Any]:
    return probe.ask(server.pid, path) | {
        "descriptors": server.descriptors,
        "kernel_threads": server.threads,
    }


async def carry_out(port: int, item: Item) -> Outcome:
    """Send one request as its item says, and judge what comes."""
    arguments: dict[str, Any] = {}
    if item.behaviour == "leaves in time":
        arguments["leave_after"] = item.patience
    elif item.behaviour == "sends half":
        arguments |= {"share": 0.5, "leave_after": 0.05}
    elif item.behaviour == "leaves at a token":
        arguments["until"] = lambda answer: len(answer.pieces) > item.patience
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            answer = await post(port, item.path, item.body, **arguments)
    except TimeoutError:
        return Outcome(item, None, "hung", f"no answer in {ANSWER_SECONDS} s")
    except OSError as error:
        return Outcome(item, None, "no connection", str(error))
    return judge(item, answer)


def judge(item: Item, answer: Answer) -> Outcome:
    """What an answer counts as."""
    if answer.cut:
        return Outcome(item, answer, "left by the client")
    if answer.status in BUSY:
        polite = b"retry-after:" in answer.raw.partition(b"\r\n\r\n")[0].lower()
        return Outcome(item, answer, "busy", None if polite else "busy without Retry-After")
    if item.refused:
        expected = answer.status in item.refused
        wrong = None if expected else f"status {answer.status} to a wrong request"
        return Outcome(item, answer, "refused", wrong)
    if answer.status != 200:
        return Outcome(item, answer, "failed", f"status {answer.status}: {answer.raw[-160:]!r}")
    if item.streams and not answer.complete:
        return Outcome(item, answer, "failed", f"the stream broke off: {answer.raw[-160:]!r}")
    return Outcome(item, answer, "answered", _wrong_text(item, answer))


def _wrong_text(item: Item, answer: Answer) -> str | None:
    for text, reason in texts(item, answer).values():
        if reason not in ("stop", "length"):
            return f"finish reason {reason}"
        if item.structured and reason == "stop" and not _is_json(text):
            return f"no JSON of the schema: {text!r}"
    return None


def _is_json(text: str) -> bool:
    try:
        return set(json.loads(text)) == {"name", "age"}
    except ValueError:
        return False


def texts(item: Item, answer: Answer) -> Texts:
    """The text of each choice."""
    found: Texts = {}
    if not item.streams:
        for choice in answer.body["choices"]:
            text = choice.get("text") or choice.get("message", {}).get("content") or ""
            found[choice["index"]] = text, choice["finish_reason"]
        return found
    for event in answer.events:
        for choice in event.data.get("choices") or []:
            text, reason = found.get(choice["index"], ("", None))
            text += choice.get("text") or choice.get("delta", {}).get("content") or ""
            found[choice["index"]] = text, choice.get("finish_reason") or reason
    return found


def _different(port: int, outcomes: list[Outcome]) -> dict[int, str]:
    """The requests that were answered and get another answer alone, with both."""
    found = {}
    for outcome in outcomes:
        if outcome.kind != "answered" or outcome.answer is None:
            continue
        # A client that would have left, had it taken longer, stays this time.
        again = asyncio.run(carry_out(port, replace(outcome.item, behaviour="reads")))
        if again.answer is None or again.kind != "answered":
            found[outcome.item.number] = f"{again.kind} {again.wrong}"
            continue
        before, after = texts(outcome.item, outcome.answer), texts(again.item, again.answer)
        if before != after:
            found[outcome.item.number] = f"{before!r} and {after!r}"
    return found


def _left_over(watched: Watched) -> list[str]:
    """What the server holds after the soak that it didn't hold before."""
    found, before, after = [], watched.before, watched.after
    for name in ("tasks", "requests", "kernel_threads"):
        if after[name] > before[name]:
            found.append(f"{name}: {before[name]} before, {after[name]} after")
    for name in ("threads", "descriptors"):
        more = Counter(after[name]) - Counter(before[name])
        if more:
            found.append(f"{name} left over: {dict(more)}")
    for engine in after["engine"]:
        held = {k: engine[k] for k in ("running", "waiting", "cache_used") if engine[k]}
        if held:
            found.append(f"the engine still holds {held}")
    return found


def growth(rss_mb: list[float]) -> float:
    """Memory in the last fifth over that in the second fifth, by when the cache is full."""
    fifth = max(1, len(rss_mb) // 5)
    return median(rss_mb[-fifth:]) / median(rss_mb[fifth : 2 * fifth] or rss_mb)


def _memory_note(rss_mb: list[float]) -> str:
    """Memory in ten parts of the run."""
    tenth = max(1, len(rss_mb) // 10)
    parts = [median(rss_mb[i : i + tenth]) for i in range(0, len(rss_mb), tenth)]
    return "memory in MB, in time: " + ", ".join(f"{part:.0f}" for part in parts)


def _complaints(log: Path) -> list[str]:
    lines = log.read_text(errors="replace").splitlines()
    words = ("Traceback", "never retrieved", "was destroyed", "ResourceWarning")
    return [line for line in lines if any(word in line for word in words)][:5]


def _figures(
    outcomes: list[Outcome], watched: Watched, different: dict[int, str]
) -> tuple[Figure, ...]:
    counts = Counter(outcome.kind for outcome in outcomes)
    wrong = sum(outcome.wrong is not None for outcome in outcomes)
    answered = max(1, counts["answered"])
    return (
        *(Figure(f"requests {kind}", count) for kind, count in sorted(counts.items())),
        Figure("neither answered nor cleanly refused", wrong, "", 0),
        Figure("left over", len(_left_over(watched)), "kinds", 0),
        Figure("other text alone", len(different), f"of {answered}", 0),
        Figure("memory, last fifth over second", growth(watched.rss_mb), "", MOST_GROWTH),
        Figure("memory at the end", watched.rss_mb[-1], "MB"),
        Figure("descriptors", len(watched.after["descriptors"])),
        Figure("threads", watched.after["kernel_threads"]),
        Figure("tasks", watched.after["tasks"]),
    )
