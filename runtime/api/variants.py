"""Which variant of an artifact this machine runs."""

from ...artifact.manifest import Manifest, Variant
from ...artifact.packages import package_problem
from ...base import machine
from ...base.errors import LlmcError
from ..executors.registry import executable, executor


def select_variant(manifest: Manifest, target: str | None = None) -> Variant:
    """The most demanding variant that this machine can run, of the first target that has one.

    `target`: the only one to look at. Targets come in the order of the manifest, which is the one
    in which they were asked for when the artifact was made.

    Errors: E0507 if none is for this system at all. If none can be run, what the least demanding
    one misses: E0506 features of the machine, E0703 a package, E0513 another version of it, or what
    the target's executor says.
    """
    fitting = [v for v in manifest.variants if target in (None, v.target) and _fits(v)]
    if not fitting:
        raise _nothing_fits(manifest, target)
    problems = [(variant, variant_problem(variant)) for variant in fitting]
    runnable = [variant for variant, problem in problems if problem is None]
    if not runnable:
        _, problem = min(problems, key=lambda p: len(_missing(p[0])))
        assert problem is not None
        raise problem
    first = [v for v in runnable if v.target == runnable[0].target]
    return max(first, key=lambda v: len(set(v.required_features)))


def variant_problem(variant: Variant) -> LlmcError | None:
    """Why a variant for this system can't be run on this machine, if so."""
    missing = _missing(variant)
    if missing:
        lacks = ", ".join(missing)
        return LlmcError(
            "LLMC-E0506", f"this CPU lacks {lacks}, which the variant {variant.level} needs"
        )
    problem = package_problem(variant.packages, extra=variant.target)
    return problem or executor(variant.target).problem(variant)


def _missing(variant: Variant) -> list[str]:
    return machine.missing_features(variant.required_features)


def _fits(variant: Variant) -> bool:
    return (
        executable(variant.target)
        and variant.system in ("any", machine.system())
        and variant.machine in ("any", machine.machine())
    )


def _nothing_fits(manifest: Manifest, target: str | None) -> LlmcError:
    offered = ", ".join(sorted({f"{v.target}/{v.system}/{v.machine}" for v in manifest.variants}))
    here = f"{machine.system()}/{machine.machine()}"
    wanted = "variant" if target is None else f"{target} variant"
    return LlmcError("LLMC-E0507", f"no {wanted} runs on {here}; the artifact has {offered}")
