"""How commands end: signals that arrive at inconvenient moments."""

import json
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.fast

IN_A_FINALIZER = """
import signal, sys, time
from llmc.base.failures import run_guarded

class Noisy:
    def __del__(self):
        signal.raise_signal({number})

def command(arguments):
    Noisy()  # finalized at once; an exception in there goes nowhere
    time.sleep(20)
    return 0

sys.exit(run_guarded(command, ["--json"]))
"""


@pytest.mark.parametrize(
    ("number", "code", "id"),
    [(signal.SIGINT, 130, "LLMC-E0798"), (signal.SIGTERM, 143, "LLMC-E0799")],
)
def test_a_signal_in_a_finalizer_is_not_lost(number: signal.Signals, code: int, id: str) -> None:
    """Python drops what a finalizer raises, and with it the only notice of a signal."""
    done = subprocess.run(
        [sys.executable, "-c", IN_A_FINALIZER.format(number=int(number))],
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
        # A shell's background jobs ignore SIGINT, and their children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.returncode == code, done.stderr
    assert json.loads(done.stdout)["error"]["id"] == id
    assert done.stderr == ""


SWALLOWED = """
import signal, sys, time
from llmc.base.failures import run_guarded
from llmc.base.progress import reporter

def command(arguments):
    with reporter() as progress:
        progress("first", 0.1)
        try:
            signal.raise_signal({number})
        except BaseException:  # as libraries do that go on whatever happens
            pass
        progress("second", 0.2)
    return 0

sys.exit(run_guarded(command, ["--json"]))
"""


@pytest.mark.parametrize(
    ("number", "code", "id"),
    [(signal.SIGINT, 130, "LLMC-E0798"), (signal.SIGTERM, 143, "LLMC-E0799")],
)
def test_a_signal_that_a_library_swallows_ends_the_next_stage(
    number: signal.Signals, code: int, id: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWED.format(number=int(number))],
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.returncode == code, done.stderr
    assert json.loads(done.stdout)["error"]["id"] == id
    assert "second" not in done.stderr
