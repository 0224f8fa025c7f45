"""llmc beside llama.cpp on the same GGUF file, interleaved in one run, as ratios.

    python benchmarks/llamacpp.py model.gguf model.llmc --peer-python /path/to/venv/bin/python

The peer's environment needs `llama-cpp-python` and numpy (build it natively:
`CMAKE_ARGS=-DGGML_NATIVE=ON pip install --no-binary llama-cpp-python llama-cpp-python`).
Each round runs both as fresh processes, one after the other; medians over rounds, and the
median of the per-round ratios. Both get the same number of threads and the same prompt ids.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

PEER = """
import json, sys, time, numpy as np
from llama_cpp import Llama
path, prompt, output, threads = sys.argv[1], *map(int, sys.argv[2:5])
model = Llama(path, n_ctx=prompt + output + 8, n_batch=512, n_ubatch=512, n_threads=threads,
              n_threads_batch=threads, flash_attn=True, verbose=False)
ids = np.random.RandomState(0).randint(100, 40000, prompt).tolist()
best = None
for _ in range(2):  # the first warms up
    model.reset()
    t0 = time.perf_counter(); model.eval(ids); t1 = time.perf_counter()
    for _ in range(output): model.eval([123])
    best = {"prefill": prompt / (t1 - t0), "decode": output / (time.perf_counter() - t1)}
print(json.dumps(best))
"""
OURS = """
import json, sys, time, numpy as np, llmc
path, prompt, output, threads = sys.argv[1], *map(int, sys.argv[2:5])
ids = np.random.RandomState(0).randint(100, 40000, prompt).tolist()
with llmc.load(path, threads=threads) as model:
    for _ in range(2):
        stream = model.generate(ids, max_tokens=output + 1, ignore_eos=True)
        list(stream)
    stats = stream.stats
print(json.dumps({"prefill": prompt / stats.ttft_ms * 1e3, "decode": stats.tokens_per_s}))
"""


def run(python: str, script: str, path: str, shape: tuple[int, int, int]) -> dict[str, float]:
    """One fresh process; tokens/s of prefill and decode."""
    command = [python, "-c", script, path, *map(str, shape)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("gguf")
    parser.add_argument("artifact")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    shape = (options.prompt_tokens, options.output_tokens, options.threads)
    rounds = [
        (
            run(options.peer_python, PEER, options.gguf, shape),
            run(sys.executable, OURS, options.artifact, shape),
        )
        for _ in range(options.rounds)
    ]
    print(f"{'tokens/s':10}{'llama.cpp':>12}{'llmc':>12}{'ratio':>9}   (medians of {len(rounds)})")
    for what in ("prefill", "decode"):
        peer = statistics.median(r[0][what] for r in rounds)
        ours = statistics.median(r[1][what] for r in rounds)
        ratio = statistics.median(r[1][what] / r[0][what] for r in rounds)
        print(f"{what:10}{peer:12.1f}{ours:12.1f}{ratio:9.2f}")


if __name__ == "__main__":
    main()
