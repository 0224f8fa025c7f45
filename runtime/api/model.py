"""The runtime's public face: `load` an artifact, `generate` text with it.

    model = llmc.load("model.llmc")
    for chunk in model.generate("Why is the sky blue?", max_tokens=64):
        print(chunk.text, end="")

Several streams of one model may be read side by side, by one thread or by many: a thread of the
engine computes them together, ahead of their readers.
"""

import weakref
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack, cast

from ...artifact.manifest import Generation, Manifest, Variant, decode_generation
from ...artifact.program import Program
from ...artifact.reader import ArtifactReader
from ...artifact.text_vectors import TextVectors, decode_text_vectors
from ...base.errors import LlmcError
from ..engine.engine import Engine, EngineOptions
from ..engine.loop.thread import EngineThread
from ..engine.request import Request
from ..text.tokenizer import Encode, Tokenizer
from .cache_plan import Capacity, capacity_of
from .generation_options import GenerateOptions
from .loading import open_artifact_program
from .request_maker import RequestMaker
from .stream import Choice, Chunk, Stats, Stream

if TYPE_CHECKING:
    from ...base.arrays import Float32Array
    from ..text.templates import ChatTemplates

__all__ = ["Choice", "Chunk", "Model", "Prompt", "Stats", "Stream", "load", "model_of"]

_PROVEN = 3
"""Of so many recorded chats one is replayed when the template is first used: a few ms."""

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]


class Model:
    """A running model: program, engine and tokenizer. Safe to use from several threads.

    Built by `load`; the compiler builds one from its parts before the artifact is complete.
    `chat_template`: the source of one, or of several by name. `text_vectors`: what its tokenizer
    and its templates are held to, before they are first used.
    """

    def __init__(
        self,
        program: Program,
        *,
        manifest: Manifest | None = None,
        variant: Variant | None = None,
        tokenizer: bytes | memoryview | None = None,
        chat_template: str | Mapping[str, str] | None = None,
        generation: Generation | None = None,
        text_vectors: bytes | memoryview | None = None,
        max_context: int | None = None,
        options: EngineOptions | None = None,
    ) -> None:
        self.program = program
        self.manifest = manifest
        self.variant = variant
        self.generation = generation or Generation()
        ends = frozenset(self.generation.eos_token_ids)
        self.engine = Engine(program, max_context=max_context, options=options, turn_ids=ends)
        self.thread = EngineThread(self.engine)
        """Steps the engine; whoever uses `engine` itself does so while this is `paused`, or before
        the first request."""
        self.stats: Stats | None = None
        """Of the generation that was last read to its end."""
        self._text_vectors = text_vectors
        self.request_maker = RequestMaker(
            _opened(tokenizer, weakref.ref(self)) if tokenizer is not None else None,
            program.vocab_size,
            ends,
        )
        self._chat_source = chat_template

    @property
    def has_tokenizer(self) -> bool:
        """Whether the model can read and write text, not only token ids."""
        return self.request_maker.has_tokenizer

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; E0210 if there is none."""
        return self.request_maker.tokenizer

    @cached_property
    def chat_template(self) -> "ChatTemplates | None":
        """The model's chat templates, if it has any. Errors: E0510 if they don't make the prompts
        that were recorded when the model was compiled."""
        if self._chat_source is None:
            return None
        from ..text.replay import wrong_prompts
        from ..text.templates import DEFAULT, ChatTemplates

        given = self._chat_source
        sources = {DEFAULT: given} if isinstance(given, str) else given
        templates = ChatTemplates(sources, self.generation.special_tokens)
        told = self.text_vectors.chats[::_PROVEN] if self.text_vectors else ()
        wrong = wrong_prompts(templates, told)
        if wrong is not None:
            raise LlmcError("LLMC-E0510", f"the chat template isn't as it was compiled: {wrong}")
        return templates

    @cached_property
    def text_vectors(self) -> TextVectors | None:
        """What transformers made of fixed texts and chats, if the artifact says so."""
        return decode_text_vectors(self._text_vectors) if self._text_vectors is not None else None

    def encode(self, prompt: Prompt, *, raw: bool = False) -> list[int]:
        """Token ids of a prompt: text goes through the chat template as one user message unless
        `raw` or there is none; messages always do; ids are taken as they are."""
        if isinstance(prompt, str):
            if raw or not self._has_default_template:
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

    @property
    def _has_default_template(self) -> bool:
        source = self._chat_source
        return source is not None and (isinstance(source, str) or "default" in source)

    def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Stream:
        """Continues a prompt: a `Stream`, whose chunks are computed ahead of its reader.

        The options are those of `GenerateOptions`: max_tokens, temperature, top_k, top_p, min_p,
        typical_p, repetition_penalty, presence_penalty, frequency_penalty, logit_bias, bad_words,
        min_tokens, seed, logprobs, prompt_logprobs, n, stop, include_stop, stop_token_ids,
        ignore_eos, keep_special, grammar, json_schema, regex, choice, priority, client, namespace,
        timeout, raw. Without any: at most 256 tokens, greedily, of the chat template's answer.

        Wrong options and prompts are refused here, not when the first chunk is read: E0204
        prompt longer than the context, E0205, E0206, E0208, E0209, E0210, E0211, E0603, and E0104
        if the model was closed.
        """
        began = monotonic()
        requests = self.make_requests(prompt, **options)
        return Stream(self.thread, requests, began, self.keep_stats)

    def keep_stats(self, stats: Stats) -> None:
        """Remembers how a generation went that was read to its end."""
        self.stats = stats

    def make_request(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Request:
        """The first of `make_requests`."""
        return self.make_requests(prompt, **options)[0]

    def make_requests(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> list[Request]:
        """Requests for the engine's thread, as `generate` makes them: `n` continuations of one
        prompt. The engine checks the rest of it when they are submitted."""
        asked = self.request_maker.options(options)
        prompt_ids = self.encode(prompt, raw=options.get("raw", False))
        return self.request_maker.make(prompt_ids, asked)

    @property
    def capacity(self) -> Capacity:
        """How many sequences of how many tokens the cache has room for at once."""
        return capacity_of(self.program, self.engine.max_context)

    def logits(self, token_ids: Sequence[int]) -> "Float32Array":
        """Logits f32 [T, vocab] of every position of a text given as ids."""
        from ..engine import scoring

        with self.thread.paused() as engine:
            return scoring.logits(engine, token_ids)

    def iter_logits(self, token_ids: Sequence[int]) -> "Iterator[tuple[int, Float32Array]]":
        """The same in pieces: (first position, rows). Between two of them others may compute."""
        from ..engine import scoring

        pieces = cast("Generator[Any]", scoring.iter_logits(self.engine, token_ids))
        try:
            while True:
                with self.thread.paused():
                    piece = next(pieces, None)
                    if piece is None:
                        return
                    first, rows = piece[0], piece[1].copy()  # the next step overwrites them
                yield first, rows
        finally:
            self.thread.later(pieces.close)  # its blocks; also from a destructor

    def close(self, *, drain: bool = False, timeout: float | None = None) -> bool:
        """Ends the engine and frees the program's memory; idempotent. What runs is cancelled, or
        with `drain` finished first, for at most `timeout` seconds. Returns whether all has ended.
        """
        return self.thread.close(drain, timeout)

    def __enter__(self) -> "Model":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def load(
    path: str | Path,
    *,
    target: str | None = None,
    threads: int | None = None,
    memory: int | None = None,
    max_context: int | None = None,
    verify_weights: bool = False,
    options: EngineOptions | None = None,
) -> Model:
    """Opens an artifact and starts the variant that suits this machine best.

    `target`: which one, of an artifact for several; else the first that runs here. `threads`: of
    the program, default all usable cores. `memory`: bytes that weights, workspace and cache may
    take. `max_context`: smaller than the compiled one, to save cache. `verify_weights`: hash the
    weights too. `options`: of the engine. Errors: E05xx artifact or machine, E0601 memory.
    """
    reader = ArtifactReader(path, verify_weights=verify_weights)
    return model_of(
        reader,
        target=target,
        threads=threads,
        memory=memory,
        max_context=max_context,
        options=options,
    )


def model_of(
    reader: ArtifactReader,
    *,
    target: str | None = None,
    threads: int | None = None,
    memory: int | None = None,
    max_context: int | None = None,
    options: EngineOptions | None = None,
) -> Model:
    """The model in an artifact that is already open."""
    if max_context is not None and max_context < 1:
        raise LlmcError("LLMC-E0205", f"max_context cannot be {max_context}")
    manifest = reader.manifest
    variant, program = open_artifact_program(
        reader, target=target, threads=threads, max_context=max_context, memory=memory
    )
    generation, vectors = manifest.generation, manifest.text_vectors
    return Model(
        program,
        manifest=manifest,
        variant=variant,
        tokenizer=reader.read(manifest.tokenizer) if manifest.tokenizer else None,
        chat_template=_templates(reader),
        generation=decode_generation(reader.read(generation)) if generation else None,
        text_vectors=reader.read(vectors) if vectors else None,
        max_context=max_context,
        options=options,
    )


def _opened(tokenizer: bytes | memoryview, model: weakref.ref[Model]) -> Tokenizer:
    """The model's tokenizer, to be proven at first use. It doesn't keep the model, which is closed
    as soon as nobody does."""

    def proof(encode: Encode) -> str | None:
        from ..text.replay import wrong_ids

        owner = model()
        told = owner.text_vectors if owner is not None else None
        return wrong_ids(encode, told.texts) if told else None

    owner = model()
    assert owner is not None
    split = owner.generation.split_special_tokens
    return Tokenizer(tokenizer, split_special_tokens=split, proof=proof)


def _templates(reader: ArtifactReader) -> dict[str, str] | None:
    """The sources of the artifact's chat templates by name, if it has any."""
    entries = dict(reader.manifest.named_templates)
    if reader.manifest.chat_template is not None:
        entries["default"] = reader.manifest.chat_template
    return {name: _text(reader.read(entry)) for name, entry in entries.items()} or None


def _text(data: memoryview) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise LlmcError("LLMC-E0512", "the chat template is not UTF-8") from error
