"""Load an artifact and print text as it comes.

    python examples/generate.py smol.llmc "Why is the sky blue?" [--max-tokens 64] [--seed 1]

Needs only the base installation: no torch, no transformers, no compiler.
"""

import argparse
import sys

import llmc
from llmc.base.errors import LlmcError


def main() -> int:
    parser = argparse.ArgumentParser(description="Load an artifact and print text as it comes.")
    parser.add_argument("artifact")
    parser.add_argument("prompt", nargs="?", default="Why is the sky blue?")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    try:
        generate(options)
    except LlmcError as error:  # an id, a cause and what to do, as `llmc run` prints them
        print(f"{error}\n{error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


def generate(options: argparse.Namespace) -> None:
    with llmc.load(options.artifact) as model:
        stream = model.generate(
            options.prompt,
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            seed=options.seed,
        )
        for chunk in stream:
            print(chunk.text, end="", flush=True)
        print()
        stats = stream.stats
        speed = f"{stats.tokens_per_s:.1f} tokens/s, first after {stats.ttft_ms:.0f} ms"
        print(f"[{stats.output_tokens} tokens, {stream.finish_reason}, {speed}]", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
