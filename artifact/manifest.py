"""The schema of `manifest.json`: what an artifact says about itself.

In: the bytes of a manifest. Out: a `Manifest` of which every number is within bounds, or an
`LlmcError` (E0505, E0508). `manifest_check.py` says whether every name in it leads somewhere.
The compiler builds the same structs and encodes them; both sides share only this file.

Three entries are not in `Manifest.entries`: the manifest itself, `certificate.json` (measurements,
outside what two compiles must have in common) and `SHA256SUMS`, which holds the digests of both.
"""

from math import prod
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from ..base.errors import LlmcError
from .bounds import Count, Positive
from .targets import AnyProgramOptions, CpuProgramOptions

FORMAT_VERSION = 4
"""Version of the container and of this schema."""
READABLE_VERSIONS = (2, 3, 4)
"""Versions 3 and 4 have only added fields, whose defaults say what earlier ones meant."""
SIGNATURE_VERSION = 1
"""Version of `step(StepInputs) -> StepOutputs`."""
ABI_VERSION = 2
"""Version of the C interface in `llmc.h`."""
READABLE_ABIS = (1, 2)
"""Version 2 has only added members at the ends of structs, which version 1 did without."""
WEIGHTS_ALIGNMENT = 64
"""What programs may assume of the address of a weights entry's data section."""

MANIFEST = "manifest.json"
CERTIFICATE = "certificate.json"
SUMS = "SHA256SUMS"
TOKENIZER = "tokenizer.json"
CHAT_TEMPLATE = "chat_template.jinja"
NAMED_TEMPLATES = "chat_templates"
GENERATION = "generation.json"
TEXT_VECTORS = "text_vectors.json"

ELEMENT_BYTES = {"f32": 4, "bf16": 2, "f16": 2, "i8": 1}
SCALE_BYTES = {"f32": 0, "bf16": 0, "f16": 0, "i8": 4}
"""Beside the elements of one key or value."""
HEAD_MULTIPLE = 16
"""Head sizes are rounded up to a multiple of this in the cache."""

PackageVersions = Annotated[str, Meta(pattern=r"^(>=|==)[0-9]+(\.[0-9]+)*$")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class _Schema(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Immutable, by keyword, and strict: an unknown field means that we misread the file."""


class AdapterSource(_Schema, frozen=True, kw_only=True):
    """Where an adapter came from that was merged into the model. `digests` as those of `Source`."""

    id: str
    revision: str | None = None
    digests: dict[str, Sha256] = {}


class Source(_Schema, frozen=True, kw_only=True):
    """Where the model came from. `digests`: sha256 of each source file by its name.

    `adapters`: what was merged into it, in this order.
    """

    id: str
    revision: str | None = None
    digests: dict[str, Sha256] = {}
    adapters: list[AdapterSource] = []


class Entry(_Schema, frozen=True, kw_only=True):
    """Digest and size in bytes of one entry of the artifact."""

    sha256: Sha256
    size: Count


class Limits(_Schema, frozen=True, kw_only=True):
    """The most that one step takes: T, S, tokens of one sequence, R, and tokens per block.

    `uniform_query`: all sequences of a step bring equally many query tokens, so T counts
    sequences times the most that one brings; such a program can't share blocks either.
    """

    max_tokens: Positive
    max_sequences: Positive
    max_context: Positive
    max_logits_rows: Positive
    block_size: Positive
    uniform_query: bool = False


class CacheGroup(_Schema, frozen=True, kw_only=True):
    """Layers whose keys and values live and die together.

    The group's memory is one block after another. A block holds, layer by layer and kv head by kv
    head, the keys and values of `block_size` tokens, head sizes rounded up to multiples of 16, and
    with `i8` a float32 scale for each key and each value. How they are arranged inside is the
    program's own affair. `window` is the number of positions a query sees, itself included (0:
    all of them). `bytes_per_block` counts all layers.

    Of kind `latent` a token has one key for all heads, whose first `latent_dim` elements are its
    value too, so that nothing is kept beside it (`value_dim` 0). Both parts of the key are rounded
    up to multiples of 16, with `i8` each has 4 bytes for its scale. Of another kind with
    `value_dim` 0 only keys are kept.
    """

    name: str
    kind: Literal["full", "sliding", "latent"]
    window: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    layers: Positive
    kv_heads: Positive
    key_dim: Positive
    value_dim: Count
    latent_dim: Count = 0
    dtype: Literal["f32", "bf16", "f16", "i8"]
    block_size: Positive
    bytes_per_block: Count

    def expected_bytes_per_block(self) -> int:
        """What `bytes_per_block` must be, from the group's own geometry."""
        parts = self.key_dim - self.latent_dim, self.latent_dim, self.value_dim
        sizes = sum(-(-part // HEAD_MULTIPLE) for part in parts) * HEAD_MULTIPLE
        per_head = sizes * ELEMENT_BYTES[self.dtype] + 2 * SCALE_BYTES[self.dtype]
        return self.layers * self.kv_heads * per_head * self.block_size


def make_cache_group(*, window: int, **geometry: Any) -> CacheGroup:
    """A `CacheGroup` with what follows from its geometry: kind and bytes per block."""
    kind = "latent" if geometry.get("latent_dim") else "sliding" if window else "full"
    group = CacheGroup(kind=kind, window=window, bytes_per_block=0, **geometry)
    return msgspec.structs.replace(group, bytes_per_block=group.expected_bytes_per_block())


class StatePart(_Schema, frozen=True, kw_only=True):
    """One tensor of what a sequence keeps: f32, in the program's own order of elements."""

    site: Count
    name: str
    shape: list[Positive]
    offset: Count


class StateSlots(_Schema, frozen=True, kw_only=True):
    """State of a fixed size, as convolutions and recurrences have it: a slot for each sequence.

    A slot holds all `parts` of the model at their offsets, and before them, in `SLOT_HEADER` bytes,
    how many tokens it has seen (int32). It is as long whatever the sequence's length.
    """

    bytes_per_slot: Positive
    parts: list[StatePart]


SLOT_HEADER = 64
"""Bytes of a slot before its parts."""


def make_state_slots(parts: list[tuple[int, str, tuple[int, ...]]]) -> StateSlots:
    """The slots of parts (site, name, shape), one behind the other, each at a multiple of 64."""
    placed, end = [], SLOT_HEADER
    for site, name, shape in parts:
        placed.append(StatePart(site=site, name=name, shape=list(shape), offset=end))
        end += -(-4 * prod(shape) // 64) * 64
    return StateSlots(bytes_per_slot=end, parts=placed)


class Buffer(_Schema, frozen=True, kw_only=True):
    """One buffer of the arena: bytes [offset, offset + nbytes), alive in steps first to last."""

    name: str
    offset: Count
    nbytes: Count
    first: Count
    last: Count


class MemoryPlan(_Schema, frozen=True, kw_only=True):
    """The arena of a program, at its limits."""

    arena_bytes: Count
    buffers: list[Buffer] = []


class Tensor(_Schema, frozen=True, kw_only=True):
    """A weight: bytes [offset, offset + nbytes) of the data section, in `format`; logical shape."""

    offset: Count
    nbytes: Count
    format: str
    shape: list[Count]


class Weights(_Schema, frozen=True, kw_only=True):
    """One safetensors entry. `data_offset`: where its data section starts; `nbytes`: its length."""

    data_offset: Count
    nbytes: Count
    tensors: dict[str, Tensor]


class Variant(_Schema, frozen=True, kw_only=True):
    """One program and the machine it runs on.

    `program` and `weights` name entries; without weights the program holds them. `system` and
    `machine` are what the runtime compares with `platform` ("linux", "x86_64"); "any" for targets
    whose own loader decides. `packages`: what the target's executor imports, each with the versions
    that will do (">=1.24" or "==2.13.0"). `options`: what else it must know, of a type of the
    target's own (`artifact/targets.py`). `state`: what a sequence keeps beside its cache blocks.
    `decode_weight_bytes`: what a decode step of one sequence reads (0: not counted).
    """

    target: str
    level: str
    system: str = "linux"
    machine: str = "x86_64"
    required_features: list[str] = []
    packages: dict[str, PackageVersions] = {}
    options: AnyProgramOptions = CpuProgramOptions()
    program: str
    weights: str | None
    signature_version: int = SIGNATURE_VERSION
    abi_version: int = ABI_VERSION
    limits: Limits
    cache_groups: list[CacheGroup]
    state: StateSlots | None = None
    memory_plan: MemoryPlan
    vocab_size: Positive
    decode_weight_bytes: Count = 0
    outputs: tuple[str, ...] = ("logits", "argmax")


class ConformanceVector(_Schema, frozen=True, kw_only=True):
    """What the compiled model answered on the machine that compiled it.

    `top_ids` and `top_logits` hold, for each of the last positions of the prompt, the best tokens
    and their logits. `greedy_ids` is the continuation. `tolerance` is absolute, in logits.
    `target`: whose answers they are.
    """

    target: str = "cpu"

    prompt_ids: list[Count]
    top_ids: list[list[Count]]
    top_logits: list[list[float]]
    greedy_ids: list[Count]
    tolerance: Annotated[float, Meta(ge=0)]


class Manifest(_Schema, frozen=True, kw_only=True):
    """Everything an artifact promises. `weights` is keyed by entry, so that variants share it.

    `chat_template` is the default one, `named_templates` are the entries of all others by name
    (such as `tool_use`). `text_vectors`: what transformers made of texts and chats.
    """

    format_version: int = FORMAT_VERSION
    source: Source
    options: dict[str, Any] = {}
    variants: Annotated[list[Variant], Meta(min_length=1)]
    weights: dict[str, Weights]
    tokenizer: str | None = None
    chat_template: str | None = None
    named_templates: dict[str, str] = {}
    generation: str | None = None
    text_vectors: str | None = None
    entries: dict[str, Entry] = {}
    tool_versions: dict[str, str] = {}
    conformance: list[ConformanceVector] = []


class Generation(_Schema, frozen=True, kw_only=True):
    """`generation.json`: when to stop, what the chat template may name, the model's own defaults.

    `special_tokens` maps names like `bos_token` to text. The sampling defaults are the model
    author's; `generate` is greedy unless it is told otherwise and doesn't apply them by itself.
    `split_special_tokens`: special tokens that stand in a text are ordinary text.
    """

    eos_token_ids: list[Count] = []
    special_tokens: dict[str, str] = {}
    split_special_tokens: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


T = TypeVar("T")


class _Version(Struct):
    """The one field of a manifest that every version of the format has."""

    format_version: int


def encode(value: Struct) -> bytes:
    """Readable JSON with sorted keys: equal structs give equal bytes."""
    raw = msgspec.json.encode(value, order="deterministic")
    return msgspec.json.format(raw, indent=1) + b"\n"


def check_version(data: bytes | memoryview) -> None:
    """Raises E0505 if `data` is a manifest of another format than this one reads."""
    try:
        version = msgspec.json.decode(data, type=_Version).format_version
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return  # not readable as a manifest at all: the digests and the schema say more
    if version not in READABLE_VERSIONS:
        newer = version > FORMAT_VERSION
        raise LlmcError(
            "LLMC-E0505",
            f"the artifact has format {version}, this llmc reads {FORMAT_VERSION}",
            "upgrade llmc" if newer else "compile the model again, or use the llmc that made it",
        )


def decode(data: bytes | memoryview) -> Manifest:
    """The manifest in `data`; E0505 if it is of another format, E0508 if it is not one."""
    check_version(data)
    return decode_entry(data, Manifest, MANIFEST)


def decode_generation(data: bytes | memoryview) -> Generation:
    """The generation defaults in `data`; E0508 if it is something else."""
    return decode_entry(data, Generation, GENERATION)


def decode_entry(data: bytes | memoryview, type: type[T], name: str) -> T:
    """The struct in an entry's `data`; E0508 if it is something else."""
    try:
        return msgspec.json.decode(data, type=type)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(f"{name}: {error}") from error


def weight_bytes(manifest: Manifest, variant: Variant) -> int:
    """Bytes of a variant's weights: its weights entry, or the program that holds them."""
    if variant.weights is None:
        return manifest.entries[variant.program].size
    return manifest.weights[variant.weights].nbytes


def invalid(cause: str) -> LlmcError:
    """The error for a manifest that contradicts itself or its schema."""
    return LlmcError("LLMC-E0508", f"invalid manifest: {cause}")
