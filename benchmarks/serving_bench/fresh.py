"""Calls a function in a fresh process, so that no measurement inherits another one's state.

Arguments and results are JSON. The function prints nothing to standard output.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

_RUN = "from llmc.benchmarks.serving_bench.fresh import main; main()"


def call(function: Callable[..., Any], *, timeout: float = 600, **arguments: Any) -> Any:
    """What `function(**arguments)` returns in a fresh process; RuntimeError if it fails."""
    place = (function.__module__, function.__qualname__)
    command = [sys.executable, "-c", _RUN, *place, json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=timeout)
    if done.returncode:
        raise RuntimeError(f"{'.'.join(place)} ended with status {done.returncode}")
    return json.loads(done.stdout)


def main() -> None:
    """The fresh process: module, function and JSON of the arguments are its arguments."""
    module, name, arguments = sys.argv[1:4]
    function = getattr(importlib.import_module(module), name)
    json.dump(function(**json.loads(arguments)), sys.stdout)


if __name__ == "__main__":
    main()
