"""Several prompts at once: open streams of one model share its steps.

    python examples/batch.py smol.llmc "The capital of France is" "2 + 2 =" [--max-tokens 32]

The sequences of a step share the reading of the weights, so they cost less together than one after
another. A sequence's text does not depend on what runs beside it.
"""

import argparse
from time import perf_counter

import llmc

PROMPTS = ["The capital of France is", "def fibonacci(n):", "Once upon a time"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Several prompts at once.")
    parser.add_argument("artifact")
    parser.add_argument("prompts", nargs="*", default=PROMPTS)
    parser.add_argument("--max-tokens", type=int, default=32)
    options = parser.parse_args()
    began = perf_counter()
    with llmc.load(options.artifact) as model:
        # `generate` only queues a request. The first stream that is read steps the model for all.
        streams = [
            model.generate(prompt, max_tokens=options.max_tokens, raw=True)
            for prompt in options.prompts
        ]
        for prompt, stream in zip(options.prompts, streams, strict=True):
            text = "".join(chunk.text for chunk in stream)
            print(f"{prompt!r} -> {text!r} ({stream.finish_reason})")
        count = sum(len(stream.token_ids) for stream in streams)
    seconds = perf_counter() - began
    print(f"[{count} tokens of {len(streams)} sequences in {seconds:.2f} s, loading included]")


if __name__ == "__main__":
    main()
