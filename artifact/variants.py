"""Which variants of an artifact a machine can run, as far as the manifest tells.

In: a manifest, and what this machine is: its system, instruction set, CPU features and packages.
Out: a variant, or why it can't be run. What only a target's executor knows (whether there is such a
GPU) is passed in by who has executors; an inspector does without.
"""

from collections.abc import Callable, Container

from ..base import machine
from ..base.errors import LlmcError
from .manifest import Manifest, Variant
from .packages import package_problem
from .targets import TARGETS

ExecutorProblem = Callable[[Variant], LlmcError | None]
"""Why a target's executor can't run a variant whose features and packages are there, if so."""


def no_problem(variant: Variant) -> LlmcError | None:
    """What is said where there are no executors to ask."""
    return None


def select_variant(
    manifest: Manifest,
    target: str | None = None,
    *,
    targets: Container[str] | None = None,
    executor_problem: ExecutorProblem = no_problem,
) -> Variant:
    """The most demanding variant that this machine can run, of the first target that has one.

    `target`: the only one to look at. `targets`: those that there are executors for, None for all.
    They come in the order of the manifest, which is the one in which they were asked for when the
    artifact was made.

    Errors: E0507 if none is for this system at all. If none can be run, what the least demanding
    one misses: E0506 features of the machine, E0703 a package, E0513 another version of it, or what
    the target's executor says.
    """
    fitting = [
        variant
        for variant in manifest.variants
        if target in (None, variant.target)
        and (targets is None or variant.target in targets)
        and is_for_this_system(variant)
    ]
    if not fitting:
        raise _nothing_fits(manifest, "variant" if target is None else f"{target} variant")
    problems = [(variant, variant_problem(variant, executor_problem)) for variant in fitting]
    runnable = [variant for variant, problem in problems if problem is None]
    if not runnable:
        _, problem = min(problems, key=lambda p: len(_missing(p[0])))
        assert problem is not None
        raise problem
    first = [v for v in runnable if v.target == runnable[0].target]
    return max(first, key=lambda v: len(set(v.required_features)))


def variant_problem(
    variant: Variant, executor_problem: ExecutorProblem = no_problem
) -> LlmcError | None:
    """Why a variant can't be run on this machine, if so; errors as `select_variant` has them."""
    if not is_for_this_system(variant):
        return LlmcError(
            "LLMC-E0507", f"it runs on {variant.system}/{variant.machine}, this is {_here()}"
        )
    missing = _missing(variant)
    if missing:
        lacks = ", ".join(missing)
        return LlmcError(
            "LLMC-E0506", f"this CPU lacks {lacks}, which the variant {variant.level} needs"
        )
    problem = package_problem(variant.packages, extra=_extra(variant.target))
    return problem or executor_problem(variant)


def is_for_this_system(variant: Variant) -> bool:
    """Whether a variant's system and instruction set are this machine's."""
    own_system = variant.system in ("any", machine.system())
    return own_system and variant.machine in ("any", machine.machine())


def _extra(target: str) -> str:
    """The extra of our package that brings what a target's executor needs."""
    row = TARGETS.get(target)
    return (row.extra if row is not None else None) or target


def _missing(variant: Variant) -> list[str]:
    return machine.missing_features(variant.required_features)


def _here() -> str:
    return f"{machine.system()}/{machine.machine()}"


def _nothing_fits(manifest: Manifest, wanted: str) -> LlmcError:
    offered = ", ".join(sorted({f"{v.target}/{v.system}/{v.machine}" for v in manifest.variants}))
    return LlmcError("LLMC-E0507", f"no {wanted} runs on {_here()}; the artifact has {offered}")
