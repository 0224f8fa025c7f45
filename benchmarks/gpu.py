"""Measures the triton target on a GPU, with programs that were built on a machine without one.

    python benchmarks/gpu.py build --out build/gpu            # anywhere: needs llmc's compile extra
    python benchmarks/gpu.py run build/gpu --json gpu.json    # on the machine with the GPU

`build` lowers Llama shapes of 135 M, 1 B and 8 B parameters without weights, compiles their kernels
and those of a few tiny models with weights, and leaves a folder of a few megabytes. `run` takes at
most `--seconds`: it looks whether the driver takes the cubins, checks numerics, and measures steps
against the machine's own limits and `torch.compile`. The exit status is 1 if a check fails or a
goal is missed.

The machine with the GPU needs this checkout and the folder, torch with CUDA (for limits, weights
and the peer; transformers too if it is there), numpy, `msgspec`, and `cuda-bindings` 13 with its
`cuda-pathfinder`. Where the last three are missing, carry their wheels; `cuda-core` is not needed,
and neither are Triton and a compiler. llmc needn't be installed: this script finds its checkout.
"""

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def use_checkout() -> None:
    """Make this checkout `llmc` where none is installed, whatever its folder's name."""
    if importlib.util.find_spec("llmc") is None:
        found = importlib.util.spec_from_file_location(
            "llmc", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        assert found is not None
        assert found.loader is not None
        sys.modules["llmc"] = module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)


def build(arguments: argparse.Namespace) -> int:
    from llmc.benchmarks.gpu_bench.build_all import build_all

    size = build_all(
        arguments.out,
        arguments.models,
        arguments.schemes,
        arguments.sm,
        arguments.ptxas,
        tiny=not arguments.no_tiny,
    )
    print(f"{arguments.out}: {size / 1e6:.1f} MB")
    return 0


def run(arguments: argparse.Namespace) -> int:
    from llmc.base.errors import LlmcError
    from llmc.benchmarks.gpu_bench import report, session

    try:
        from llmc.benchmarks.gpu_bench.torch_side import TorchSide

        side = TorchSide()
        results = session.run(
            arguments.folder,
            side,
            arguments.seconds,
            arguments.json,
            only=arguments.only,
            models=arguments.models,
            schemes=arguments.schemes,
            rounds=arguments.rounds,
        )
    except (ImportError, LlmcError, OSError, RuntimeError, ValueError) as error:
        print(f"nothing can be measured: {error}", file=sys.stderr)
        return 2
    print(report.text(results))
    return 0 if results.passed else 1


def names(known: tuple[str, ...]) -> Any:
    """Reads a list of names."""

    def read(text: str) -> list[str]:
        found = [name for name in text.split(",") if name]
        wrong = [name for name in found if name not in known]
        if wrong:
            raise argparse.ArgumentTypeError(f"{wrong[0]} is none of {', '.join(known)}")
        return found

    return read


def parser() -> argparse.ArgumentParser:
    from llmc.benchmarks.gpu_bench.shapes import SCHEMES, SHAPES

    parts = ("numerics", "timings", "peers", "profiles")
    read_models, read_schemes = names(tuple(SHAPES)), names(SCHEMES)
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = made.add_subparsers(required=True)
    one = verbs.add_parser("build", help="compile, without a GPU")
    one.add_argument("--out", type=Path, default=Path("build/gpu"))
    one.add_argument("--sm", type=int, default=90, help="compute capability, as in 90")
    one.add_argument("--models", type=read_models, default=list(SHAPES), metavar="NAME,…")
    one.add_argument("--schemes", type=read_schemes, default=list(SCHEMES), metavar="NAME,…")
    one.add_argument("--ptxas", type=Path, help="for drivers older than Triton's own ptxas")
    one.add_argument("--no-tiny", action="store_true", help="leave out the check of numerics")
    one.set_defaults(call=build)
    two = verbs.add_parser("run", help="check and measure, on the machine with the GPU")
    two.add_argument("folder", type=Path)
    two.add_argument("--seconds", type=float, default=420, help="the whole run ends within these")
    two.add_argument("--json", type=Path, help="write the results here")
    two.add_argument("--only", type=names(parts), default=list(parts), metavar="PART,…")
    two.add_argument("--models", type=read_models, default=[], metavar="NAME,…")
    two.add_argument("--schemes", type=read_schemes, default=[], metavar="NAME,…")
    two.add_argument("--rounds", type=int, default=5, help="turns of everybody; medians count")
    two.set_defaults(call=run)
    return made


def main() -> int:
    use_checkout()
    arguments = parser().parse_args()
    return arguments.call(arguments)


if __name__ == "__main__":
    sys.exit(main())
