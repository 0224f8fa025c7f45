"""Carries out measurements, each in a fresh process, contenders taking turns.

In: a group and the path of each contender's model. Out: what each process printed, turn by turn,
with the machine's limits measured around it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .cases import OURS, Contender, Group
from .disturbance import ALLOWED
from .environments import OUR_VARIABLES, last_line
from .models import DRIVERS

_TRIES = 3
"""How often a disturbed measurement is made; the least disturbed one counts."""

Raw = dict[str, Any]
"""What one process printed (`drivers/driving.py`), or `{"error": reason}`."""


@dataclass(frozen=True)
class Processes:
    """Starts measuring processes: `threads` each, behind the words of `under`, time-limited.

    `folder`: an empty one for what is built in order to measure. `patience`: seconds that each
    process waits for others to leave the processors alone.
    """

    threads: int
    pythons: Mapping[str, Path]
    folder: Path
    under: Sequence[str] = ()
    patience: float = 60
    timeout: float = 900

    def limits(self) -> Raw:
        """The machine's limits now, from a process of its own."""
        script = str(DRIVERS / "measure_limits.py")
        library = str(self.folder / "limits.so")
        answer = self._run([sys.executable, script, str(self.threads), library], ours=True)
        if "error" in answer:
            raise RuntimeError(f"the machine's limits can't be measured: {answer['error']}")
        return answer

    def measure(self, group: Group, contender: Contender, path: Path) -> Raw:
        """One measurement of one contender."""
        case = group.case
        task = {
            "model": str(path),
            "threads": self.threads,
            "prompt": case.prompt,
            "output": case.output(group.model),
            "sequences": case.sequences,
            "repeat": case.repeat,
            "cold": case.cold,
            "shape": group.model.shape,
            "options": contender.options,
        }
        ours = contender.peer == OURS
        python = sys.executable if ours else str(self.pythons[contender.peer])
        script = DRIVERS / f"drive_{contender.peer}.py"
        return self._run([python, str(script), json.dumps(task)], ours=ours)

    def compile(self, command: list[str]) -> Raw:
        """Run llmc's compiler, which prints a JSON object too; once, since it takes long."""
        return self._run_once(command, ours=True)

    def _run(self, command: list[str], *, ours: bool) -> Raw:
        """What a command printed; if others disturbed it, it is run again, thrice at most."""
        answers: list[Raw] = []
        while len(answers) < _TRIES:
            answers.append(self._run_once(command, ours=ours))
            if answers[-1].get("others", 0.0) <= ALLOWED:
                return answers[-1]
        return min(answers, key=lambda answer: answer["others"])

    def _run_once(self, command: list[str], *, ours: bool) -> Raw:
        launch = [sys.executable, str(DRIVERS / "launch.py"), str(self.patience)]
        if not ours:
            launch += ["env", *(word for name in OUR_VARIABLES for word in ("-u", name))]
        process = subprocess.Popen(
            [*self.under, *launch, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(self.threads)},
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=self.timeout)
        except subprocess.TimeoutExpired:
            return {"error": f"took longer than {self.timeout:.0f} s"}
        finally:
            _end(process)
        return {"error": _failure(process.returncode, err)} if process.returncode else _answer(out)


def _end(process: subprocess.Popen[str]) -> None:
    """Leave nothing running, whatever `under` has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _failure(code: int, err: str) -> str:
    """Why a command behind `launch.py` failed, which ends with the low byte of its exit code."""
    ended = code - 256 if code > 192 else code
    try:
        return f"ended by {signal.Signals(-ended).name}" if ended < 0 else last_line(err)
    except ValueError:
        return last_line(err)


def _answer(out: str) -> Raw:
    """The JSON object that a process printed last, with those of `launch.py` behind it."""
    lines = out.splitlines()
    try:
        return {**json.loads(lines[-2]), **json.loads(lines[-1])}
    except (IndexError, ValueError, TypeError):
        return {"error": f"printed no measurement: {last_line(chr(10).join(lines[:-1]))}"}


@dataclass(frozen=True)
class Turn:
    """One contender's answer, and the machine's limits around it."""

    answer: Raw
    limits: Raw


@dataclass
class Measured:
    """All turns of a group, by label."""

    group: Group
    turns: dict[str, list[Turn]] = field(default_factory=dict)

    def error(self, label: str) -> str | None:
        """Why a contender that took part has no figures, if it failed in any turn."""
        errors = (turn.answer.get("error") for turn in self.turns.get(label, []))
        return next(filter(None, errors), None)


def run_group(
    group: Group,
    paths: Mapping[str, Path],
    count: int,
    processes: Processes,
    say: Callable[[str], None],
) -> Measured:
    """Measure everybody who has a path (by label) `count` times, in turns; who fails is out.

    Limits are measured between the turns, so that each turn has those before and after it.
    """
    measured = Measured(group)
    before = processes.limits()
    for index in range(count):
        for contender in group.contenders:
            path, label = paths.get(contender.label), contender.label
            if path is None or measured.error(label):
                continue
            say(f"{group.title}, round {index + 1} of {count}: {label}")
            answer = processes.measure(group, contender, path)
            after = processes.limits()
            measured.turns.setdefault(label, []).append(Turn(answer, around(before, after)))
            before = after
    return measured


def around(before: Raw, after: Raw) -> Raw:
    """The limits during a turn: the mean of the bandwidths, the higher of each peak."""
    peaks = {name: max(before[name], after[name]) for name in ("int8", "bf16", "fma")}
    return {"read": (before["read"] + after["read"]) / 2, **peaks}
