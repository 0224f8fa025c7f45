"""An app around a model: many users at once, a limit on how many, and an end that waits for them.

    python examples/async_app.py smol.llmc "Why is the sky blue?" "What is rain?" [--max-tokens 64]

Each prompt is a user. Their answers are computed together and printed when they are complete;
Ctrl+C ends what runs. Needs only the base installation.
"""

import argparse
import asyncio
import sys

import llmc
from llmc.base.errors import LlmcError


class Assistant:
    """Answers questions, at most `limit` at a time; the others wait for their turn here, where
    they cost nothing."""

    def __init__(self, engine: llmc.AsyncEngine, limit: int, max_tokens: int) -> None:
        self._engine, self._max_tokens = engine, max_tokens
        self._places = asyncio.Semaphore(limit)

    async def answer(self, question: str) -> str:
        async with self._places:
            stream = self._engine.generate(question, max_tokens=self._max_tokens, timeout=60)
            async for _ in stream:  # an app would send each chunk to its user here
                pass
        return f"{stream.text} [{stream.stats.output_tokens} tokens, {stream.finish_reason}]"


async def serve(options: argparse.Namespace) -> None:
    async with llmc.AsyncEngine(llmc.load(options.artifact)) as engine:
        assistant = Assistant(engine, options.users, options.max_tokens)
        answers = [asyncio.ensure_future(assistant.answer(prompt)) for prompt in options.prompts]
        for prompt, answer in zip(options.prompts, answers, strict=True):
            print(f"> {prompt}\n{await answer}")
        await engine.close(drain=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Answer several users at once.")
    parser.add_argument("artifact")
    parser.add_argument("prompts", nargs="+", metavar="prompt")
    parser.add_argument("--users", type=int, default=8, help="most at a time")
    parser.add_argument("--max-tokens", type=int, default=64)
    options = parser.parse_args()
    try:
        asyncio.run(serve(options))
    except LlmcError as error:
        print(f"{error}\n{error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
