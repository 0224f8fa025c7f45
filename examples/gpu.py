"""Compile a model for NVIDIA GPUs and run it; where there is no GPU, show what one would do.

    python examples/gpu.py smollm2-135m "Why is the sky blue?" --sm 90 [--scheme int4] [-o gpu.llmc]
    python examples/gpu.py gpu.llmc "Why is the sky blue?"       # compiled already

Compiling needs `llmc-compiler[compile,triton]` and no GPU, running `llmc-compiler[cuda]` and no
compiler.
"""

import argparse
import sys
from pathlib import Path

import llmc
from llmc.artifact.inspection import Inspection
from llmc.artifact.launch_plan import NO_KERNEL
from llmc.artifact.manifest import Variant
from llmc.artifact.targets import TritonProgramOptions
from llmc.base.errors import LlmcError

NO_GPU = ("LLMC-E0514", "LLMC-E0703")
"""What loading says where the GPU, its driver or the package that asks it isn't there."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile a model for GPUs and run it.")
    parser.add_argument("model", help="an artifact, or what `llmc compile` takes")
    parser.add_argument("prompt", nargs="?", default="Why is the sky blue?")
    parser.add_argument("--sm", default="90", help="compute capabilities, such as 80,90")
    parser.add_argument("--scheme", default="int4")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu.llmc"))
    options = parser.parse_args()
    try:
        artifact = find_or_compile(options)
        try:
            generate(artifact, options)
        except LlmcError as error:
            if error.id not in NO_GPU:
                raise
            print(f"not run: {error.message}")
            show_plans(artifact)
    except LlmcError as error:
        print(f"{error}\n{error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


def find_or_compile(options: argparse.Namespace) -> Path:
    if options.model.endswith(".llmc"):
        return Path(options.model)
    report = llmc.compile(
        options.model,
        target="triton",
        scheme=options.scheme,
        levels=options.sm.split(","),
        output=options.output,
    )
    return Path(report.artifact)


def generate(artifact: Path, options: argparse.Namespace) -> None:
    with llmc.load(artifact, target="triton") as model:
        stream = model.generate(options.prompt, max_tokens=options.max_tokens)
        for chunk in stream:
            print(chunk.text, end="", flush=True)
        print(f"\n[{stream.stats.output_tokens} tokens, {stream.stats.tokens_per_s:.1f} tokens/s]")


def show_plans(artifact: Path) -> None:
    """A line for each GPU that the artifact is for."""
    for variant in Inspection(artifact).manifest.variants:
        if isinstance(variant.options, TritonProgramOptions):
            print(described(variant, variant.options))


def described(variant: Variant, options: TritonProgramOptions) -> str:
    """What a decode step of one sequence with a full context does."""
    plan, context = options.plan, variant.limits.max_context
    form = plan.form_for(1)
    launches = sum(launch.forms[form].kernel != NO_KERNEL for launch in plan.launches)
    cache = sum(
        group.bytes_per_block // group.block_size * min(context, group.window or context)
        for group in variant.cache_groups
    )
    read = f"{variant.decode_weight_bytes:,} bytes of weights and {cache:,} of cache"
    return f"{variant.level}: {launches} launches a decode step, which reads {read}"


if __name__ == "__main__":
    sys.exit(main())
