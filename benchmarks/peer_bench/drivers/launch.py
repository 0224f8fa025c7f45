"""Runs a command when the machine is calm and says how it went: `launch.py PATIENCE COMMAND...`.

The command's output passes through; behind it comes one more line of JSON: when the command began
and ended (monotonic clock), and which share of the processors others took in between. The machine
is waited for as many seconds as `PATIENCE` says. Ends with the command's exit status.
"""

import json
import os
import sys
import time

from llmc.benchmarks.peer_bench.disturbance import busy_seconds, others_share, wait_for_calm


def main(patience: float, command: list[str]) -> int:
    wait_for_calm(patience)
    busy, began = busy_seconds(), time.monotonic()
    process = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(process, 0)
    ended = time.monotonic()
    own = usage.ru_utime + usage.ru_stime
    others = others_share(busy_seconds() - busy, own, ended - began)
    print(json.dumps({"started_at": began, "ended_at": ended, "others": others}), flush=True)
    return os.waitstatus_to_exitcode(status) & 0xFF


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
