"""How long a fresh process takes to load an artifact and to give its first token.

    python benchmarks/startup.py smol.llmc other.llmc
    python benchmarks/startup.py smol.llmc --checkout before=/path/with/llmc --checkout after=.

`load`: of `llmc.load`, the imports it makes included. `anonymous`, `mapped`: memory that the
process holds right after it, its own and pages of files. `first token`: from the start of `llmc run
--max-tokens 1` to its first byte of output, with a prompt of about 16 tokens, as it is (`raw`) and
through the model's chat template. Each figure is the median of fresh processes; artifacts and
checkouts take turns. Bytecode is cached, as it is for installed packages, in a folder of this run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from time import perf_counter

LOAD = """
import sys, time
began = time.perf_counter()
import llmc
model = llmc.load(sys.argv[1])
took = time.perf_counter() - began
import json
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
mb = {name: int(status[key].split()[0]) / 1e3
      for name, key in (("anonymous MB", "RssAnon"), ("mapped MB", "RssFile"))}
print(json.dumps({"load ms": took * 1e3, **mb}))
"""
RUN = "from llmc.cli import main; main()"
PROMPT = "The quick brown fox jumps over the lazy dog and then runs into the dark"

Figures = dict[str, float]


def load(artifact: str, environment: dict[str, str]) -> Figures:
    """Time and memory of `llmc.load` in a fresh process."""
    command = [sys.executable, "-c", LOAD, artifact]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout)


def first_token(artifact: str, environment: dict[str, str], *options: str) -> float:
    """Milliseconds from the start of `llmc run` to its first output."""
    command = [sys.executable, "-c", RUN, "run", artifact, PROMPT, "--max-tokens", "1", "--json"]
    began = perf_counter()
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        took = perf_counter() - began
        process.stdout.read()
    if not first or process.returncode:
        raise SystemExit(f"{artifact}: llmc run ended with {process.returncode}")
    return took * 1e3


def measure(artifact: str, environment: dict[str, str]) -> Figures:
    """One fresh process of each kind."""
    figures = load(artifact, environment)
    figures["first token raw ms"] = first_token(artifact, environment, "--raw")
    figures["first token chat ms"] = first_token(artifact, environment)
    return figures


def environments(checkouts: list[str], cache: str) -> dict[str, dict[str, str]]:
    """By name, the environment in which `import llmc` finds a checkout."""
    base = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    found = {}
    for number, checkout in enumerate(checkouts):
        name, _, folder = checkout.rpartition("=")
        path = {"PYTHONPATH": str(Path(folder).resolve())} if folder else {}
        prefix = {"PYTHONPYCACHEPREFIX": str(Path(cache) / str(number))}
        found[name or folder or "llmc"] = base | path | prefix
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("artifacts", nargs="+")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--checkout", action="append", metavar="NAME=DIR", help="DIR holds a package llmc"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    runs: dict[tuple[str, str], list[Figures]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as cache:
        places = environments(options.checkout or [""], cache)
        for number in range(options.rounds + 1):
            for artifact in options.artifacts:
                for name, environment in places.items():
                    figures = measure(artifact, environment)
                    if number:  # the first round fills the caches
                        runs[Path(artifact).name, name].append(figures)
    rows = [
        {"artifact": artifact, "checkout": name}
        | {what: round(statistics.median(r[what] for r in found), 1) for what in found[0]}
        for (artifact, name), found in runs.items()
    ]
    if options.json:
        print(json.dumps(rows))
        return
    titles = list(rows[0])
    print("| " + " | ".join(titles) + " |\n|" + "---|" * len(titles))
    for row in rows:
        print("| " + " | ".join(str(row[title]) for title in titles) + " |")


if __name__ == "__main__":
    main()
