"""A compile that is stopped: the exit code, no compiler left running, nothing half-written."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-c", "from llmc.cli import main; main()", "compile"]


def running_with(text: str) -> list[str]:
    """Command lines of processes whose environment or arguments name `text`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if text.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().decode().replace("\0", " "))
        except OSError:
            continue  # it has ended, or is somebody else's
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("number", "code", "id", "stage"),
    [
        (signal.SIGINT, 130, "LLMC-E0798", "tracing the model"),
        (signal.SIGTERM, 143, "LLMC-E0799", "compiling programs"),
    ],
)
def test_a_signal_ends_a_compile(
    number: signal.Signals, code: int, id: str, stage: str, llama: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out" / "x.llmc"
    temporary = tmp_path / "temporary"
    for folder in (output.parent, temporary):
        folder.mkdir()
    output.write_bytes(b"from before")
    # A cold cache: else there would be nothing to compile.
    places = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": str(temporary)}
    with subprocess.Popen(
        [*COMMAND, str(llama), "-o", str(output), "--cpu", "native,portable", "--json"],
        env={**os.environ, **places},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore SIGINT, and their children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if stage in line:
                break
        time.sleep(0.5)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert json.loads(out)["error"]["id"] == id
    assert "Traceback" not in err
    assert output.read_bytes() == b"from before"
    assert list(output.parent.iterdir()) == [output]
    assert not list(temporary.glob("*llmc*"))
    assert not running_with(str(temporary))
