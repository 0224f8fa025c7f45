"""What is measured: models, cases, and who takes part in which.

Only data and arithmetic: no file is opened and nothing is started here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

PROMPTS = (16, 512, 4096)
SEQUENCES = (1, 2, 4, 8, 16)
BATCH_PROMPT, BATCH_OUTPUT = 128, 64
START_PROMPT = 16
LONG_PROMPT_REPEATS = 1024
"""Prompts at least this long are run once a process, shorter ones several times."""


class Scheme(StrEnum):
    """How many bits a weight has, whatever each peer's format of that size is."""

    INT4 = "int4"
    INT8 = "int8"
    BF16 = "bf16"


@dataclass(frozen=True)
class Model:
    """A shape with tied embeddings; `output` tokens are generated after each prompt.

    Without `config` a Llama. `config`: file in `configs/` of another architecture, whose `layers`,
    `heads`, `kv_heads` and `head_dim` are those of its attention alone (0: it has none), and whose
    linear layers have `linear` weights.
    """

    name: str
    hidden: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    output: int
    catalog: str | None = None
    """Name in the catalog; None for random weights of this shape."""
    config: str | None = None
    linear: int | None = None

    @property
    def shape(self) -> dict[str, int]:
        return {name: value for name, value in asdict(self).items() if type(value) is int}

    @property
    def layer_weights(self) -> int:
        """Weights of the linear layers, the head left out."""
        if self.linear is not None:
            return self.linear
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden * (2 * queries + 2 * keys)
        return self.layers * (attention + 3 * self.hidden * self.mlp)

    @property
    def head_weights(self) -> int:
        return self.vocab * self.hidden

    def step_ops(self, tokens: int, context: int, logits_rows: int = 1) -> float:
        """Operations of `tokens` tokens of one sequence, the last of which sees `context`.

        A multiply-add is two. Scores and weighted values are what a causal mask leaves.
        """
        seen = tokens * (context - (tokens - 1) / 2)
        attention = 4 * self.layers * self.heads * self.head_dim * seen
        return 2 * (self.layer_weights * tokens + self.head_weights * logits_rows) + attention


def _hybrid(name: str, shape: tuple[int, ...], linear: int) -> Model:
    """A model that keeps state beside keys and values, or no keys and values at all."""
    return Model(name, *shape, output=32, config=f"{name}.json", linear=linear)


MODELS = {
    model.name: model
    for model in (
        Model("smollm2-135m", 576, 1536, 30, 9, 3, 64, 49152, 64, catalog="smollm2-135m"),
        Model("llama-1b", 2048, 8192, 16, 32, 8, 64, 49152, 32),
        _hybrid("lfm2-350m", (1024, 4608, 6, 16, 8, 64, 65536), 287_309_824),
        _hybrid("mamba2-130m", (768, 0, 0, 0, 0, 0, 50288), 90_095_616),
        _hybrid("granite-4-h-350m", (768, 2048, 4, 12, 4, 64, 100352), 262_914_048),
        _hybrid("qwen3.5-0.8b", (1024, 3584, 6, 8, 2, 256, 248320), 497_614_848),
    )
}


@dataclass(frozen=True)
class Case:
    """One measurement: prompts of one length, all at once; `cold` asks for process start."""

    name: str
    prompt: int
    sequences: int = 1
    cold: bool = False

    @property
    def batch(self) -> bool:
        return self.name.startswith("batch-")

    def output(self, model: Model) -> int:
        return 1 if self.cold else BATCH_OUTPUT if self.batch else model.output

    @property
    def repeat(self) -> int:
        """Runs in each process, so that short ones are long enough to time."""
        if self.cold or self.prompt >= LONG_PROMPT_REPEATS or self.sequences > 4:
            return 1
        return 5 if self.prompt <= START_PROMPT else 2


CASES = {
    case.name: case
    for case in (
        *(Case(f"prompt-{tokens}", tokens) for tokens in PROMPTS),
        *(Case(f"batch-{count}", BATCH_PROMPT, count) for count in SEQUENCES),
        Case("start", START_PROMPT, cold=True),
    )
}


@dataclass(frozen=True)
class Contender:
    """A peer with one of its formats: which environment, which driver, which model file.

    `kinds`: of cases that it takes part in ("prompt", "batch", "start"). `target`: which of llmc's
    targets it is, for llmc itself.
    """

    peer: str
    label: str
    scheme: Scheme
    format: str
    kinds: tuple[str, ...] = ("prompt", "batch", "start")
    options: dict[str, Any] = field(default_factory=dict)
    target: str = "cpu"

    def takes_part(self, case: Case) -> bool:
        return case.name.split("-")[0] in self.kinds


OURS = "llmc"
TARGETS = ("cpu", "onnx")
"""Those of llmc's targets that run on CPUs; the first one is what is compared with peers."""
_PLAIN = {"continuous": False, "properties": {}}
_BATCHING = {"continuous": True, "properties": {}}
_IN_BF16 = {"continuous": False, "properties": {"INFERENCE_PRECISION_HINT": "bf16"}}

CONTENDERS = (
    Contender(OURS, "llmc", Scheme.INT4, "int4"),
    Contender(OURS, "llmc onnx", Scheme.INT4, "int4", target="onnx"),
    Contender("llamacpp", "llama.cpp Q4_0", Scheme.INT4, "Q4_0"),
    Contender("llamacpp", "llama.cpp Q4_K_M", Scheme.INT4, "Q4_K_M"),
    Contender("openvino", "OpenVINO", Scheme.INT4, "int4", options=_PLAIN),
    Contender("openvino", "OpenVINO batching", Scheme.INT4, "int4", ("batch",), _BATCHING),
    Contender("onnxruntime", "ONNX Runtime", Scheme.INT4, "int4"),
    Contender(OURS, "llmc", Scheme.INT8, "int8"),
    Contender("llamacpp", "llama.cpp Q8_0", Scheme.INT8, "Q8_0"),
    Contender("openvino", "OpenVINO", Scheme.INT8, "int8", options=_PLAIN),
    Contender("openvino", "OpenVINO batching", Scheme.INT8, "int8", ("batch",), _BATCHING),
    Contender(OURS, "llmc", Scheme.BF16, "bf16"),
    Contender("llamacpp", "llama.cpp BF16", Scheme.BF16, "BF16"),
    Contender("openvino", "OpenVINO", Scheme.BF16, "fp16", options=_IN_BF16),
    Contender("torch", "torch.compile", Scheme.BF16, "source"),
)


@dataclass(frozen=True)
class Group:
    """What is measured interleaved: all contenders of one scheme on one case of one model."""

    model: Model
    scheme: Scheme
    case: Case
    contenders: tuple[Contender, ...]

    @property
    def title(self) -> str:
        return f"{self.model.name} {self.scheme} {self.case.name}"


def groups(
    models: list[str],
    schemes: list[Scheme],
    cases: list[str],
    peers: list[str],
    targets: Sequence[str] = TARGETS[:1],
) -> list[Group]:
    """Everything asked for, in the order in which it is measured. llmc itself, which is none of
    `peers`, takes part with `targets`.
    """
    wanted = {OURS, *peers}
    found = []
    for model in models:
        for scheme in schemes:
            for name in cases:
                case = CASES[name]
                taking = tuple(
                    one
                    for one in CONTENDERS
                    if one.scheme == scheme
                    and one.peer in wanted
                    and one.takes_part(case)
                    and (one.peer != OURS or one.target in targets)
                )
                found.append(Group(MODELS[model], scheme, case, taking))
    return found
