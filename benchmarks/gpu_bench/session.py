"""A whole run on a machine with a GPU: does it load, is it right, how fast is it.

In: a folder that was built elsewhere, and a `Side`. Out: `Results`. Whatever fails or doesn't fit
into the time is in the results with its reason, and the rest goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from llmc.base.errors import LlmcError
from llmc.runtime.executors.triton_loading import gpu_problem

from . import goals, numerics, suite
from .budget import Budget, Deadline
from .numerics import Check
from .opened import Opened, opened
from .peer import Peer, PeerLost
from .profiles import profile_of
from .results import Figure, Results
from .shapes import CASES, HOST_CASE, PROFILED, SHAPES, Case
from .side import Side
from .suite import Blobs, BuiltProgram, Suite
from .timing import Runner, blocks_of

PARTS = ("numerics", "timings", "peers", "profiles")
ROUNDS = 5
NUMERICS_SECONDS, PROGRAM_SECONDS, PEER_SECONDS = 75.0, 30.0, 80.0
LEAST_NUMERICS, LEAST_PROGRAM = 5.0, 8.0
PEER_SCHEME = "bf16"
PEER_CASES = ("decode-1", "decode-64")
ORDER = ("bf16", "fp8", "int4", "int8")
"""Of schemes: what must not be left out comes first."""

Say = Callable[[str], None]


@dataclass
class Session:
    """A run in progress. `only`: of `PARTS`; `models`, `schemes`: of those that are timed."""

    suite: Suite
    programs: Sequence[BuiltProgram]
    blobs: Blobs
    side: Side
    budget: Budget
    only: Collection[str] = PARTS
    models: Collection[str] = ()
    schemes: Collection[str] = ()
    say: Say = print
    make_peer: Callable[[dict[str, Any], float], Peer] = Peer
    rounds: int = ROUNDS
    cases: Mapping[str, Case] = field(default_factory=lambda: CASES)
    results: Results = field(init=False)

    def __post_init__(self) -> None:
        self.results = Results(datetime.now(UTC).isoformat(timespec="seconds"))
        self.results.built_with = dict(self.suite.tools)
        self.results.left_out |= {
            name: f"not built: {why}" for name, why in self.suite.refused.items()
        }

    def run(self) -> Results:
        """Everything that there is time for."""
        results = self.results
        results.device = self.side.facts()
        results.clocks.append(self.side.clocks())
        if self._loads():
            if "numerics" in self.only:
                self.budget.part("numerics", NUMERICS_SECONDS, self._numerics, LEAST_NUMERICS)
            if "timings" in self.only:
                for built in self._timed():
                    most = PROGRAM_SECONDS + (PEER_SECONDS if self._has_peer(built) else 0)
                    self._time(built, most)
        results.clocks.append(self.side.clocks())
        results.left_out |= self.budget.left_out
        results.seconds = self.budget.spent
        return results

    # ---- does it load

    def _loads(self) -> bool:
        """Whether this driver takes the cubins; if not, what to do is in the check."""
        built = self.programs[0]
        plan = built.variant.options.plan  # type: ignore[union-attr]
        name, claim = built.name, "a cubin loads"
        try:
            with closing(self.side.device()) as device:
                device.attach()
                problem = gpu_problem(plan, device.properties)
                if problem is not None:
                    raise problem
                kernel = plan.kernels[0]
                cubin = memoryview(self.blobs[built.cubins[0]])
                device.load_kernel(cubin, kernel.name, kernel.shared)
        except LlmcError as error:
            said = f"{error}; {advice(self.suite)}" if error.id == "LLMC-E0509" else str(error)
            self.results.checks.append(Check(name, claim, False, error=said))
            self.budget.left_out["everything else"] = "the cubins don't load"
            return False
        self.results.checks.append(Check(name, claim, True))
        return True

    # ---- is it right

    def _numerics(self, deadline: Deadline) -> None:
        for built in self.programs:
            if built.expected is None or not deadline.allows(built.name):
                continue
            try:
                with opened(built, self.blobs, self.side, _tiny_blocks(built)) as program:
                    found = numerics.guarded(built, self.blobs, program.executor)
            except LlmcError as error:
                found = [Check(built.name, "loads", False, error=str(error))]
            self.results.checks += found
            wrong = [check.claim for check in found if not check.passed]
            self.say(f"{built.name}: {'WRONG: ' + ', '.join(wrong) if wrong else 'right'}")

    # ---- how fast is it

    def _timed(self) -> list[BuiltProgram]:
        """Programs with costs, the most important ones first."""
        names = list(SHAPES)

        def rank(built: BuiltProgram) -> tuple[bool, int, int]:
            order = ORDER.index(built.scheme) if built.scheme in ORDER else len(ORDER)
            model = names.index(built.model) if built.model in names else -1
            return built.model == "135m", order, model

        found = [
            built
            for built in self.programs
            if built.expected is None
            and (not self.models or built.model in self.models)
            and (not self.schemes or built.scheme in self.schemes)
        ]
        return sorted(found, key=rank)

    def _has_peer(self, built: BuiltProgram) -> bool:
        return "peers" in self.only and built.scheme == PEER_SCHEME and built.model in SHAPES

    def _time(self, built: BuiltProgram, most: float) -> None:
        def run(deadline: Deadline) -> None:
            cases = [self.cases[name] for name in built.costs]
            blocks = blocks_of(cases, built.variant.limits.block_size)
            with opened(built, self.blobs, self.side, blocks) as program:
                Timings(self, program, deadline).run()

        self.say(f"{built.name}: {self.budget.left:.0f} s are left")
        self.budget.part(built.name, most, run, LEAST_PROGRAM)


class Timings:
    """The turns of one program and its peer."""

    def __init__(self, session: Session, program: Opened, deadline: Deadline) -> None:
        self.session, self.program, self.deadline = session, program, deadline
        self.built, self.results, self.cases = program.built, session.results, session.cases
        self.limits: dict[str, list[float]] = {"copy": [], "matmul": []}
        self.peer_times: dict[str, list[float]] = {}
        self.peer: Peer | None = None

    def run(self) -> None:
        """Warm up, take turns, and add what was found even if it breaks off."""
        runners = [Runner(self.program, self.cases[name]) for name in self.built.costs]
        warm = [runner.warm_up() for runner in runners]  # all of them
        self.results.checks.append(Check(self.built.name, "logits are numbers", all(warm)))
        try:
            if self.session._has_peer(self.built):
                self._start_peer()
            self._turns(runners)
        finally:
            if self.peer is not None:
                self.peer.close()
            self._add_figures(runners)
        if HOST_CASE in self.built.costs and self.deadline.allows("host"):
            runner = next(r for r in runners if r.case.name == HOST_CASE)
            seconds = runner.host_seconds()
            of = (self.built.model, self.built.scheme, HOST_CASE)
            self.results.figures.append(goals.host_figure(*of, seconds))
        if "profiles" in self.session.only:
            self._profiles()

    def _start_peer(self) -> None:
        """Compile the peer's steps, as many as its time allows."""
        end = time.monotonic() + min(PEER_SECONDS, self.deadline.left - LEAST_PROGRAM)
        named = f"{self.built.name}: torch.compile"
        left_out = self.session.budget.left_out
        config = SHAPES[self.built.model].configuration()
        case = "start"
        try:
            self.peer = self.session.make_peer(config, end - time.monotonic())
            self.results.peers[self.built.model] = self.peer.what
            for case in PEER_CASES:
                sizes = self.cases[case].sequences, self.cases[case].context
                self.peer.prepare(case, *sizes, end - time.monotonic())
                self.peer_times[case] = []
        except PeerLost as lost:
            left_out[f"{named}, {case}"] = str(lost)

    def _turns(self, runners: Sequence[Runner]) -> None:
        for number in range(self.session.rounds):
            if number and not self.deadline.allows(f"round {number + 1} of turns"):
                break
            self.limits["copy"].append(self.session.side.copy_bandwidth())
            self.limits["matmul"].append(self.session.side.matmul_rate())
            for runner in runners:
                runner.turn()
            self._peer_turns()

    def _peer_turns(self) -> None:
        if self.peer is None:
            return
        try:
            for case, times in self.peer_times.items():
                times.append(self.peer.turn(case))
        except PeerLost as lost:
            self.session.budget.left_out[f"{self.built.name}: torch.compile, turns"] = str(lost)
            self.peer.close()
            self.peer = None

    def _add_figures(self, runners: Sequence[Runner]) -> None:
        model, scheme = self.built.model, self.built.scheme
        for name, values in self.limits.items():
            self.results.limits.setdefault(name, []).extend(values)
        for runner in runners:
            if runner.times and self.limits["matmul"]:
                cost = self.built.costs[runner.case.name]
                self.results.figures += goals.step_figures(
                    *(model, scheme, runner.case, runner.median, cost), self.limits
                )
        for case, times in self.peer_times.items():
            if times:
                self.results.figures.append(
                    Figure(model, scheme, case, "peer step", median(times), "s")
                )
        self.results.figures += list(goals.compared(self.results, model, scheme))

    def _profiles(self) -> None:
        for name in PROFILED:
            if name in self.built.costs and self.deadline.allows(f"profile of {name}"):
                self.results.profiles.append(profile_of(self.program, self.cases[name]))


def _tiny_blocks(built: BuiltProgram) -> int:
    """Blocks for the conformance schedule: four sequences and some spare."""
    limits = built.variant.limits
    return 4 * -(-limits.max_context // limits.block_size) + 3


def advice(built: Suite) -> str:
    """What to do when a driver refuses cubins."""
    used = built.ptxas or f"Triton {built.tools.get('triton', 'unknown')}'s ptxas"
    what = f"the cubins were made by {used} ({built.tools.get('ptxas', 'unknown version')})"
    return f"{what}: build them with one that isn't newer than the driver, `build --ptxas PATH`"


def run(folder: Path, side: Side, seconds: float, json: Path | None, **options: Any) -> Results:
    """Read a folder, run it, and keep the results. Errors: OSError, ValueError for the folder."""
    budget = Budget(seconds)
    made, programs, blobs = suite.read(folder)
    if not programs:
        raise ValueError(f"{folder} holds no programs")
    session = Session(made, programs, blobs, side, budget, **options)
    try:
        return session.run()
    finally:
        if json is not None:
            with suppress(OSError):
                session.results.write(json)
