"""The targets: one row each. Flags, registries, the README's table and errors come from here.

Two typed sets of options belong to a target: what a user may ask of its compile (`request`), and
what its executor must know of a program (`ProgramOptions`, in the manifest). It lies in the ground,
because `--help` and the reader of a manifest need it without a compiler.
"""

from typing import Annotated, Literal, TypeVar

from msgspec import Meta, Struct

from .bounds import Count, Positive
from .launch_plan import LaunchPlan


class CompileOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user may ask of a target. A field's description and `flag` become an option of
    `llmc compile`."""


class OnnxCompileOptions(CompileOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which operators a model may have."""

    dialect: Annotated[
        Literal["ort", "standard"],
        Meta(
            description="ort (default): ONNX Runtime's fused operators; standard: those of ONNX "
            "alone.",
            extra={"flag": "--onnx-dialect"},
        ),
    ] = "ort"


class TrtCompileOptions(CompileOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an engine is built."""

    timing_cache: Annotated[
        str,
        Meta(
            description="Keep what the trt builder measured.",
            extra={"flag": "--timing-cache", "metavar": "FILE"},
        ),
    ] = ""
    refit: Annotated[
        bool,
        Meta(description="Let the trt engine take other weights later.", extra={"flag": "--refit"}),
    ] = False


class TritonCompileOptions(CompileOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which kernels a program may have."""

    batch_variant: Annotated[
        bool,
        Meta(
            description="Let triton programs run one or two sequences on kernels of their own: "
            "faster, but a result then depends on what runs beside it.",
            extra={"flag": "--batch-variant"},
        ),
    ] = False
    autotune: Annotated[
        bool,
        Meta(
            description="Where there is a GPU of the kind, measure tiles of linear layers on it, "
            "and keep them in the file of --tiles.",
            extra={"flag": "--autotune"},
        ),
    ] = False
    tiles: Annotated[
        str,
        Meta(
            description="A table of tiles of linear layers that goes before that of the triton "
            "target.",
            extra={"flag": "--tiles", "metavar": "FILE"},
        ),
    ] = ""


class ProgramOptions(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="target"
):
    """What the executor of a target must know of a program, beside what all programs say."""


class CpuProgramOptions(ProgramOptions, frozen=True, kw_only=True, tag="cpu"):
    """Nothing: the library knows everything."""


class CacheInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cache [slots, heads, slot length, width] that a runtime is given under its name."""

    name: str
    dtype: Literal["f32", "bf16", "f16"]
    heads: Positive
    width: Positive


class OnnxProgramOptions(ProgramOptions, frozen=True, kw_only=True, tag="onnx"):
    """`precision`: of activations; `provider`: what computes; `caches`: in the model's order."""

    dialect: Literal["ort", "standard"] = "ort"
    precision: Literal["f32", "f16"] = "f32"
    provider: Literal["cpu", "cuda"] = "cpu"
    caches: list[CacheInput] = []


class TrtProgramOptions(ProgramOptions, frozen=True, kw_only=True, tag="trt"):
    """`sms`: the GPUs that the engine is for; `library`, `version`: what built it; `slot_length`:
    tokens of a slot, which is compiled in; `refit`: whether it takes other weights."""

    sms: Annotated[list[Positive], Meta(min_length=1)]
    library: str
    version: str
    slot_length: Positive
    caches: list[CacheInput]
    refit: bool = False


class InductorProgramOptions(ProgramOptions, frozen=True, kw_only=True, tag="inductor"):
    """`sites`: the cache group of each attention site, in the order of the caches."""

    sites: list[Count]


class TritonProgramOptions(ProgramOptions, frozen=True, kw_only=True, tag="triton"):
    """`plan`: everything that a step does."""

    plan: LaunchPlan


OptionsT = TypeVar("OptionsT", bound=ProgramOptions)

AnyProgramOptions = (
    CpuProgramOptions
    | OnnxProgramOptions
    | TrtProgramOptions
    | InductorProgramOptions
    | TritonProgramOptions
)


class TargetInfo(Struct, frozen=True, kw_only=True):
    """One row. `folder`: of its backend in `codegen/`, and the module of its executor; `extra`: of
    our package, which brings what it needs; `levels`: words that name the machines to build for
    (none: the backend reads numbers), by `flag`; `level_help`: what that flag says."""

    name: str
    folder: str
    extra: str | None
    runs_on: str
    flag: str
    level_help: str
    metavar: str
    levels: tuple[str, ...]
    level_error: str
    schemes: tuple[str, ...]
    request: type[CompileOptions] = CompileOptions


CPU_LEVELS = ("native", "x86-64-v3", "x86-64-v4", "portable", "aarch64", "sapphire-rapids")
_INSTRUCTION_SETS = {
    "flag": "--cpu",
    "metavar": "LEVEL,…",
    "level_help": f"Instruction sets of cpu and inductor: {', '.join(CPU_LEVELS)} "
    f"(default: {CPU_LEVELS[0]}).",
    "levels": CPU_LEVELS,
    "level_error": "LLMC-E0202",
}

_GPUS = {
    "flag": "--sm",
    "metavar": "N,…",
    "level_help": "GPUs of trt and triton, by compute capability, such as 86,89,120; for triton "
    "also ptx, for newer ones.",
    "levels": (),
    "level_error": "LLMC-E0202",
}

TARGETS: dict[str, TargetInfo] = {
    row.name: row
    for row in (
        TargetInfo(
            name="cpu",
            folder="cpu",
            extra=None,
            runs_on="x86-64, aarch64",
            schemes=("f32", "bf16", "int8", "int4", "int4-sym"),
            **_INSTRUCTION_SETS,
        ),
        TargetInfo(
            name="onnx",
            folder="onnx",
            extra="onnx",
            runs_on="ONNX Runtime",
            flag="--onnx-provider",
            metavar="NAME,…",
            level_help="What ONNX Runtime computes on: cpu (default), cuda.",
            levels=("cpu", "cuda"),
            level_error="LLMC-E0200",
            schemes=("f32", "bf16", "fp16", "int8", "int4", "int4-sym"),
            request=OnnxCompileOptions,
        ),
        TargetInfo(
            name="trt",
            folder="tensorrt",
            extra="trt",
            runs_on="NVIDIA GPUs, TensorRT for RTX",
            schemes=("f32", "bf16", "fp16", "int8", "int4", "int4-sym", "fp8"),
            request=TrtCompileOptions,
            **_GPUS,
        ),
        TargetInfo(
            name="triton",
            folder="triton",
            extra="triton",
            runs_on="NVIDIA GPUs from compute capability 8.0 on",
            schemes=("f32", "bf16", "fp16", "int8", "int4", "int4-sym", "fp8"),
            request=TritonCompileOptions,
            **_GPUS,
        ),
        TargetInfo(
            name="inductor",
            folder="inductor",
            extra="inductor",
            runs_on="x86-64, torch",
            schemes=("f32", "bf16", "fp16", "int8", "int4", "int4-sym"),
            **_INSTRUCTION_SETS,
        ),
    )
}
"""In the order in which help names them; the first is the default."""

SCHEMES = ("f32", "bf16", "fp16", "int8", "int4", "int4-sym", "fp8")
"""Every scheme that some target computes; the first is the default."""
AS_STORED = "as-stored"
"""What a checkpoint has quantized stays so, all else is as in the default scheme."""
CACHES = ("f32", "bf16", "fp16", "int8")
"""Every element type of a cache that some target keeps."""


def options_of(given: AnyProgramOptions, kind: type[OptionsT]) -> OptionsT:
    """The options of a variant as its executor's own type, which the reader has made sure of."""
    assert isinstance(given, kind)
    return given
