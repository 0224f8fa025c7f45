"""The runtime's public face: `load` an artifact, `generate` text with it.

    model = llmc.load("model.llmc")
    for chunk in model.generate("Why is the sky blue?", max_tokens=64):
        print(chunk.text, end="")

Several streams of one model may be read side by side: their requests share the engine's steps.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from threading import RLock
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from .artifact import Generation, Manifest, Variant, decode_generation
from .engine.engine import Engine, FinishReason, Request
from .engine.sampling import SamplingParams
from .errors import LlmcError
from .loading import open_artifact_program
from .program import Program
from .reader import ArtifactReader
from .stream import Chunk, Stats, Stream
from .text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from .arrays import Float32Array
    from .text.chat import ChatTemplate

__all__ = ["Chunk", "Model", "Prompt", "Stats", "Stream", "load", "model_of"]

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]


class Model:
    """A running model: program, engine and tokenizer. Safe to use from several threads.

    Built by `load`; the compiler builds one from its parts before the artifact is complete.
    """

    def __init__(
        self,
        program: Program,
        *,
        manifest: Manifest | None = None,
        variant: Variant | None = None,
        tokenizer: bytes | memoryview | None = None,
        chat_template: str | None = None,
        generation: Generation | None = None,
        max_context: int | None = None,
    ) -> None:
        self.program = program
        self.manifest = manifest
        self.variant = variant
        self.generation = generation or Generation()
        self.engine = Engine(program, max_context=max_context)
        self.stats: Stats | None = None
        self._tokenizer = Tokenizer(tokenizer) if tokenizer is not None else None
        self._chat_source = chat_template
        self._lock = RLock()
        self._abandoned: deque[Request] = deque()

    @property
    def has_tokenizer(self) -> bool:
        """Whether the model can read and write text, not only token ids."""
        return self._tokenizer is not None

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; E0210 if there is none."""
        if self._tokenizer is None:
            raise LlmcError("LLMC-E0210", "the artifact has no tokenizer")
        return self._tokenizer

    @cached_property
    def chat_template(self) -> "ChatTemplate | None":
        """The model's chat template, if it has one."""
        if self._chat_source is None:
            return None
        from .text.chat import ChatTemplate

        return ChatTemplate(self._chat_source, self.generation.special_tokens)

    def encode(self, prompt: Prompt, *, raw: bool = False) -> list[int]:
        """Token ids of a prompt: text goes through the chat template as one user message unless
        `raw` or there is none; messages always do; ids are taken as they are."""
        if isinstance(prompt, str):
            if raw or self._chat_source is None:
                return self.tokenizer.encode(prompt, add_special_tokens=True)
            prompt = [{"role": "user", "content": prompt}]
        if all(isinstance(item, Mapping) for item in prompt) and len(prompt):
            if self._chat_source is None:
                raise LlmcError("LLMC-E0209", "the artifact has no chat template")
            self.tokenizer.start()  # parsed while the template is compiled
            assert self.chat_template is not None
            text = self.chat_template.render(cast(Sequence[Mapping[str, Any]], prompt))
            return self.tokenizer.encode(text, add_special_tokens=False)
        return [int(token) for token in cast(Sequence[int], prompt)]

    def generate(
        self,
        prompt: Prompt,
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        ignore_eos: bool = False,
        raw: bool = False,
    ) -> Stream:
        """Continues a prompt; the chunks are computed while they are read.

        Wrong parameters and prompts are refused here, not when the first chunk is read: E0204
        prompt longer than the context, E0205, E0206, E0208, E0209, E0210, E0603.
        """
        began = perf_counter()
        params = SamplingParams(temperature, top_k, top_p, min_p, repetition_penalty, seed)
        eos = frozenset() if ignore_eos else frozenset(self.generation.eos_token_ids)
        request = Request(tuple(self.encode(prompt, raw=raw)), max_tokens, params, eos)
        stop = (stop,) if isinstance(stop, str) else tuple(stop)
        if stop:
            _ = self.tokenizer  # stop strings are text
        stream = Stream(self, request, stop, began)
        with self._lock:
            self._drop_abandoned()
            self.engine.add(request)
        return stream

    def logits(self, token_ids: Sequence[int]) -> "Float32Array":
        """Logits f32 [T, vocab] of every position of a text given as ids."""
        from .engine import scoring

        with self._lock:
            self._drop_abandoned()
            return scoring.logits(self.engine, token_ids)

    def iter_logits(self, token_ids: Sequence[int]) -> "Iterator[tuple[int, Float32Array]]":
        """The same in pieces: (first position, rows) with rows valid until the next piece."""
        from .engine import scoring

        with self._lock:
            self._drop_abandoned()
            yield from scoring.iter_logits(self.engine, token_ids)

    def close(self) -> None:
        """Ends all streams and frees the program's memory; idempotent."""
        with self._lock:
            self.engine.abort_all()
            self.program.close()

    def __enter__(self) -> "Model":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _step_until(self, done: Callable[[], bool]) -> None:
        """Steps the engine until `done()`, or until there is nothing left to compute."""
        with self._lock:
            self._drop_abandoned()
            while not done() and self.engine.has_work:
                self.engine.step()

    def _drop_abandoned(self) -> None:
        """Ends the requests whose streams nobody keeps any more."""
        while self._abandoned:
            self.engine.finish(self._abandoned.popleft())

    def _finish(self, request: Request, reason: FinishReason) -> None:
        with self._lock:
            self.engine.finish(request, reason)


def load(
    path: str | Path,
    *,
    threads: int | None = None,
    memory: int | None = None,
    max_context: int | None = None,
    verify_weights: bool = False,
) -> Model:
    """Opens an artifact and starts the variant that suits this machine best.

    `threads`: of the program, default all usable cores. `memory`: bytes that weights, workspace
    and cache may take. `max_context`: smaller than the compiled one, to save cache.
    `verify_weights`: hash the weights too. Errors: E05xx artifact or machine, E0601 memory.
    """
    reader = ArtifactReader(path, verify_weights=verify_weights)
    return model_of(reader, threads=threads, memory=memory, max_context=max_context)


def model_of(
    reader: ArtifactReader,
    *,
    threads: int | None = None,
    memory: int | None = None,
    max_context: int | None = None,
) -> Model:
    """The model in an artifact that is already open."""
    if max_context is not None and max_context < 1:
        raise LlmcError("LLMC-E0205", f"max_context cannot be {max_context}")
    manifest = reader.manifest
    variant, program = open_artifact_program(
        reader, threads=threads, max_context=max_context, memory=memory
    )
    template, generation = manifest.chat_template, manifest.generation
    return Model(
        program,
        manifest=manifest,
        variant=variant,
        tokenizer=reader.read(manifest.tokenizer) if manifest.tokenizer else None,
        chat_template=_text(reader.read(template)) if template else None,
        generation=decode_generation(reader.read(generation)) if generation else None,
        max_context=max_context,
    )


def _text(data: memoryview) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise LlmcError("LLMC-E0512", "the chat template is not UTF-8") from error
