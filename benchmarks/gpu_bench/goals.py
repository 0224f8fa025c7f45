"""What is to be reached, by shape; and figures from medians of times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median

from .results import Figure, Results
from .shapes import Case
from .suite import StepCost

BANDWIDTH = {
    ("1b", "bf16"): 0.75,
    ("8b", "bf16"): 0.88,
    ("1b", "fp8"): 0.60,
    ("8b", "fp8"): 0.75,
    ("1b", "int4"): 0.50,
    ("8b", "int4"): 0.65,
}
"""Of the bandwidth of copies, in decode steps of one sequence."""
PEER = {"1b": 1.5, "8b": 1.2}
"""Times as fast as `torch.compile`, one sequence in bf16."""
BATCH = {"1b": 0.5, "8b": 0.6}
"""Tokens a second of 64 sequences over 64 times those of one."""
VERIFY = {"1b": 1.2, "8b": 1.15}
"""Time of a step of four query tokens over that of one."""
PREFILL = {"1b": 0.45, "8b": 0.60}
"""Of the peak of bf16 products, in a prefill of 4096 tokens in bf16."""
HOST_SECONDS = 150e-6


def step_figures(
    model: str,
    scheme: str,
    case: Case,
    seconds: float,
    cost: StepCost,
    limits: Mapping[str, list[float]],
) -> Iterator[Figure]:
    """The step, what it must do, and how near that is to what the machine can do."""
    of = (model, scheme, case.name)
    yield Figure(*of, "step", seconds, "s")
    yield Figure(*of, "tokens per second", case.tokens / seconds)
    yield Figure(*of, "bytes", cost.nbytes)
    yield Figure(*of, "operations", cost.operations)
    yield Figure(*of, "launches", cost.launches)
    fraction = cost.nbytes / seconds / median(limits["copy"])
    goal = BANDWIDTH.get((model, scheme)) if case.name == "decode-1" else None
    yield Figure(*of, "of copy bandwidth", fraction, at_least=goal)
    fraction = cost.operations / seconds / median(limits["matmul"])
    goal = PREFILL.get(model) if case.name == "prefill-4096" and scheme == "bf16" else None
    yield Figure(*of, "of matrix peak", fraction, at_least=goal)


def compared(results: Results, model: str, scheme: str) -> Iterator[Figure]:
    """Steps of a program against one another, and against the peer's."""

    def step(case: str) -> float | None:
        return results.value(model, scheme, case, "step")

    one, many, four = step("decode-1"), step("decode-64"), step("verify-4")
    if one and many:
        yield Figure(
            *(model, scheme, "decode-64", "of 64 times one sequence"),
            one / many,
            at_least=BATCH.get(model),
        )
    if one and four:
        yield Figure(
            *(model, scheme, "verify-4", "times one query token"),
            four / one,
            at_most=VERIFY.get(model),
        )
    for figure in [f for f in results.figures if f.quantity == "peer step"]:
        ours = step(figure.case)
        if (figure.model, figure.scheme) == (model, scheme) and ours:
            goal = PEER.get(model) if figure.case == "decode-1" else None
            yield Figure(
                *(model, scheme, figure.case, "against torch.compile"),
                figure.value / ours,
                at_least=goal,
            )


def host_figure(model: str, scheme: str, case: str, seconds: float) -> Figure:
    """The host's time of a step."""
    return Figure(model, scheme, case, "host", seconds, "s", at_most=HOST_SECONDS)
