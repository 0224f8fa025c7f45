"""Compiles published configs as a user would, and compares what comes out with eager.

    python tests/conformance/real_configs.py [--configs DIR] [--only NAME …] [--schemes f32,int4]

Each `NAME.json` in DIR is a `config.json` as it was published. It is made narrow (all fields as
they were but sizes: `models/narrowing.py`) at its full depth, random weights for it are saved as a
checkpoint folder, and `llmc compile` gets that folder, without any flag. The artifact then goes
through the conformance schedule of `models/conformance.py` against transformers eager. Every config
has a process of its own, whose time and memory are printed.

A `quantization_config` is left out (`*` behind the name): random weights of that kind would say
nothing. In f32 the difference is one of arithmetic order. In int4 the reference is eager on the
weights that the artifact holds (`rounded_eager.py`), and what is left is the rounding of inputs and
of the cache: its mean may be `MOST_NOISE` times what rounding inputs alone does to eager. A model
of random weights amplifies that by its depth, and more where a router chooses.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CONFIGS = HERE / "configs"
RESULTS, PAGE = HERE / "real_configs.json", HERE.parents[1] / "docs" / "models.md"
CONTEXT = 128
"""Tokens of the longest sequence: beyond every window and rope threshold of a narrow config."""
TOLERANCE = 1e-4
MOST_NOISE, MOST_AMPLIFIED = 2.0, 0.3
"""Keys, values and inputs of the experts' second layers are rounded as well, hence more than 1.
Where rounding alone moves eager by more than the second number, nothing can be told."""
MATCHES, DIFFERS, REFUSED, UNCLEAR = "matches", "differs", "refused", "unclear"
SEED = 3
TEXTS = 3
"""Texts that a model with experts may be tried with: among some thousand choices of random routers
one may hang on the last bit of a sum, and with it all that follows. A fault shows in every text."""
SHARPNESS, MOST_ROUNDING = (1.0, 0.3, 0.1), 2e-5
"""Scales of the norms of queries and keys; the first is taken with which `rounding` stays below
this share. Where attention takes products of normed heads as they are (Gemma 3n and 4), random
norms near 1 make it choose one token, and thirty layers of that amplify the last bit to percents.
"""
_SECONDS = 900

Result = dict[str, Any]
"""`verdict`, `worst` or `mean` and `noise` (shares of the logits' range), `error`, `seconds`, …"""


def narrow(raw: dict[str, Any]) -> dict[str, Any]:
    """The published config with small sizes, in the form in which it was published.

    Raises:
        LlmcError: transformers has no such architecture.
        RuntimeError: no small model can be made of it.
    """
    from llmc.compiler.frontend.checkpoint import load_config
    from llmc.models.twin import narrow_config

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(raw))
        config = load_config(Path(folder), raw, trust_remote_code=False)
    changes = narrow_config(config)
    if changes is None:
        raise RuntimeError("no narrow model can be made of the config")
    return _changed(raw, config, changes)


def _changed(raw: dict[str, Any], config: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """`raw` with `changes`, without what it says of the same fields under other names."""
    names = type(config).attribute_map
    kept = {k: v for k, v in raw.items() if names.get(k, k) == k or names[k] not in changes}
    if "rope_parameters" in changes:  # published under older names, which would be read again
        kept = {k: v for k, v in kept.items() if k not in ("rope_scaling", "rope_theta")}
    for name, change in changes.items():
        nested = name in config.sub_configs
        part = getattr(config, name) if nested else None
        kept[name] = _changed(raw.get(name) or {}, part, change) if nested else change
    return kept


def save(raw: dict[str, Any], folder: Path) -> Any:
    """Write a checkpoint of random weights for a narrow config; returns the eager text model."""
    import torch
    import transformers
    from llmc.models.auto import whole_class
    from llmc.models.random_weights import randomize

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(raw))
    config = transformers.AutoConfig.from_pretrained(folder)
    auto = whole_class(config)
    assert auto is not None, "narrow() has built one"
    torch.manual_seed(SEED)
    model = auto.from_config(config, dtype=torch.float32, attn_implementation="eager")
    model.eval().requires_grad_(False)
    for sharpness in SHARPNESS:
        randomize(model, SEED)
        for key, parameter in model.named_parameters():
            parameter.mul_(sharpness if "q_norm" in key or "k_norm" in key else 1.0)
        if rounding(model) <= MOST_ROUNDING:
            break
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(raw))  # as published, not as saved
    return model


def rounding(model: Any) -> float:
    """How far embeddings in other last bits move the logits, as a share of their range.

    What eager's own rounding does to a deep model of random weights, no compiler can do better.
    """
    import torch
    from llmc.models.eager import eager_logits

    table = model.get_input_embeddings().weight
    ids = torch.randint(0, len(table), (64,), generator=torch.Generator().manual_seed(SEED))
    before, kept = eager_logits(model, ids.tolist()), table.clone()
    table.mul_(1 + 1e-7 * torch.randn(table.shape, generator=torch.Generator().manual_seed(SEED)))
    after = eager_logits(model, ids.tolist())
    table.copy_(kept)
    return float((abs(after - before).max(-1) / (before.max(-1) - before.min(-1))).max())


def attempt(path: Path, scheme: str = "f32") -> Result:
    """Narrow, save, compile and compare the config in `path`."""
    from llmc.base.errors import LlmcError
    from llmc.compiler.driver import compile

    raw = json.loads(path.read_text())
    quantized = bool(raw.pop("quantization_config", None))
    result: Result = {"config": path.stem + "*" * quantized, "scheme": scheme}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            model = save(narrow(raw), folder / "checkpoint")
            start = time.monotonic()
            report = compile(str(folder / "checkpoint"), scheme=scheme, output=folder / "m.llmc",
                             max_context=None)  # fmt: skip
            result |= {"notes": report.notes, "compile_seconds": round(time.monotonic() - start, 1)}
            if scheme == "f32":
                result |= _exact(folder, model, TEXTS if "expert" in str(raw) else 1)
            else:
                result |= _rounded(folder, type(model))
        except LlmcError as error:
            result |= {"verdict": REFUSED, "error": str(error)}
    result["seconds"] = round(time.monotonic() - began, 1)
    result["mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return result


def _exact(folder: Path, model: Any, tries: int) -> Result:
    """How the artifact in `folder` differs from `model`, whose weights it has."""
    from llmc.runtime.api.model import load

    with load(folder / "m.llmc", threads=2) as loaded:
        found = _schedule(loaded.program, model, TOLERANCE, tries)
    matches = found.worst <= TOLERANCE
    result = {"verdict": MATCHES if matches else DIFFERS, "worst": found.worst}
    return result if matches else result | {"error": found.where}


def _rounded(folder: Path, kind: Any) -> Result:
    """How a quantized artifact in `folder` differs from eager on the weights that it holds."""
    import numpy as np
    import torch
    from llmc.artifact.reader import ArtifactReader
    from llmc.models.conformance import run_schedule
    from llmc.models.eager import fix_rope, reference_texts
    from llmc.runtime.api.model import load
    from rounded_eager import mean_noise, round_weights

    graph = bytes(ArtifactReader(folder / "m.llmc").read("graph.txt")).decode()
    round_weights(folder / "checkpoint", graph)
    model = kind.from_pretrained(
        folder / "checkpoint", dtype=torch.float32, attn_implementation="eager"
    )
    with load(folder / "m.llmc", threads=2) as loaded:
        eager = fix_rope(model.eval(), loaded.program.limits.max_context)
        context = min(CONTEXT, loaded.program.limits.max_context)
        texts = reference_texts(eager, context)
        found = run_schedule(loaded.program, texts, max_context=context)
    mean, noise = float(np.mean(found.shares)), mean_noise(eager, texts)
    matches = mean <= MOST_NOISE * noise
    verdict = MATCHES if matches else DIFFERS
    if noise > MOST_AMPLIFIED:
        verdict = UNCLEAR
    result = {"verdict": verdict, "mean": mean, "noise": noise}
    return result if matches else result | {"error": found.where}


def _schedule(program: Any, model: Any, tolerance: float, tries: int) -> Any:
    """The report on the first of `tries` texts with which program and model agree, or the last."""
    from llmc.models.conformance import Report, run_schedule
    from llmc.models.eager import fix_rope, reference_texts

    context = min(CONTEXT, program.limits.max_context)
    eager, found = fix_rope(model, program.limits.max_context), Report()
    for seed in range(tries):
        texts = reference_texts(eager, context, seed)
        found = run_schedule(program, texts, max_context=context)
        if found.worst <= tolerance:
            break
    return found


def attempt_apart(path: Path, scheme: str) -> Result:
    """`attempt` in a process of its own; what ends it by a traceback is a result, too."""
    command = [sys.executable, __file__, "--one", str(path), "--schemes", scheme]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return {"config": path.stem, "scheme": scheme, "verdict": "timeout", "seconds": _SECONDS}
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        error = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return {"config": path.stem, "scheme": scheme, "verdict": "crashed", "error": error}
    return json.loads(lines[-1])


def line(result: Result) -> str:
    """One line of the table."""
    worst = result.get("worst", result.get("mean"))
    what = f"{worst:.1e}" if worst is not None else ""
    return (
        f"{result['config']:28} {result.get('scheme', ''):4} {result['verdict']:8} {what:8} "
        f"{result.get('seconds', 0):6.1f} s "
        f"{result.get('mb', 0):6} MB  {result.get('error', '')}"
    )


def record(results: Iterable[Result]) -> None:
    """Add results to those that are kept, and make docs/models.md of all of them."""
    kept = {result["config"]: result for result in read()}
    fields = ("verdict", "worst", "mean", "noise", "error")
    for result in results:
        row = kept.setdefault(result["config"], {"config": result["config"]})
        row[result["scheme"]] = {f: result[f] for f in fields if f in result}
    rows = [kept[name] for name in sorted(kept)]
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    PAGE.write_text(render(rows))


def read() -> list[Result]:
    """The results that are kept."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else []


def render(results: Iterable[Result]) -> str:
    """The page."""
    lines = [
        "# Models",
        "",
        "Made by `python tests/conformance/real_configs.py --record`, not written by hand:",
        "published configs (`tests/conformance/configs`), made narrow at their full depth, with",
        "random weights, compiled for the `cpu` target without any flag but the scheme, and",
        "compared with transformers eager by the schedule of `models/conformance.py`. `*`: the",
        "published checkpoint is quantized; the config was tried without that. Rows were recorded",
        "over several commits; what isn't listed has no recorded run. Mixtral 8x7B has none in f32",
        "that matches: it differs by 0.1 to 0.5 on a row, where changing the last bit of",
        "embeddings moves eager itself by 0.003; nor in int4, where rounding moves eager by 0.5.",
        "",
        "In f32 the number is the largest difference of a logit, as a share of its row's range; up",
        "to 1e-4 is a match. In int4 the reference is eager on the weights that the artifact holds",
        "(`tests/conformance/rounded_eager.py`), and the number is the mean of rows' largest",
        "differences, beside what rounding the inputs of eager's layers to int8 does; up to "
        f"{MOST_NOISE:g}",
        "times that is a match: the cache is rounded as well. Random weights amplify rounding with",
        "every layer, and a router that chooses another expert changes all that follows.",
        "",
        "| config | f32 | int4 |",
        "|---|---|---|",
    ]
    for row in results:
        cells = " | ".join(_cell(row.get(scheme)) for scheme in ("f32", "int4"))
        lines.append(f"| {row['config'].replace('*', ' *')} | {cells} |")
    return "\n".join(lines) + "\n"


def _cell(result: Result | None) -> str:
    if result is None:
        return ""
    if "mean" in result:
        return f"{result['verdict']}, {result['mean']:.1e} beside {result['noise']:.1e}"
    if "worst" in result:
        return f"{result['verdict']}, {result['worst']:.1e}"
    return f"{result['verdict']}: {_plain(result.get('error', ''))}"


def _plain(error: str) -> str:
    """An error as a cell: no borders, no code marks that a border could stand in."""
    return error.replace("|", "/").replace("`", "'").splitlines()[0][:200]


def main(arguments: Iterable[str] | None = None) -> int:
    """Try the configs that were asked for; 1 if one of them is neither equal nor refused."""
    parser = argparse.ArgumentParser(description="Compile published configs and compare.")
    parser.add_argument("--configs", type=Path, default=CONFIGS, help="folder of config.json files")
    parser.add_argument("--only", nargs="*", help="names of configs, without .json")
    parser.add_argument("--schemes", default="f32", help="f32, int4, … separated by commas")
    parser.add_argument("--json", type=Path, help="append each result to this file as a line")
    parser.add_argument("--record", action="store_true", help="add the results to docs/models.md")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    if chosen.one:
        print(json.dumps(attempt(chosen.one, chosen.schemes)))
        return 0
    counts: dict[str, int] = {}
    for path in sorted(chosen.configs.glob("*.json")):
        if chosen.only and path.stem not in chosen.only:
            continue
        for scheme in chosen.schemes.split(","):
            result = attempt_apart(path, scheme)
            counts[result["verdict"]] = counts.get(result["verdict"], 0) + 1
            print(line(result), flush=True)
            if chosen.json:
                with chosen.json.open("a") as file:
                    file.write(json.dumps(result) + "\n")
            if chosen.record and result["verdict"] != UNCLEAR:
                record([result])
            if result["verdict"] == REFUSED:  # for its architecture, which no scheme changes
                break
    print(", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
    return int(bool(counts.keys() - {MATCHES, REFUSED, UNCLEAR}))


if __name__ == "__main__":
    sys.exit(main())
