"""Compiles published configs as a user would, and compares what comes out with eager.

    python tests/conformance/real_configs.py [--configs DIR] [--only NAME …] [--scheme f32] …

Each `NAME.json` in DIR is a `config.json` as it was published. It is made narrow (all fields as
they were but sizes: `models/narrowing.py`) at its full depth, random weights for it are saved as a
checkpoint folder, and `llmc compile` gets that folder, without any flag. The artifact then goes
through the conformance schedule of `models/conformance.py` against transformers eager. Every config
has a process of its own, whose time and memory are printed.

A `quantization_config` is left out (`*` behind the name): random weights of that kind would say
nothing. In f32 the difference is one of arithmetic order. In other schemes it is what rounding
random weights costs, and only a bound on nonsense.
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
TOLERANCE = {"f32": 1e-4}
ROUNDED_TOLERANCE = 0.5
MATCHES, DIFFERS, REFUSED = "matches", "differs", "refused"
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
"""`verdict`, `worst` (share of the logits' range), `error`, `seconds`, `compile_seconds`, `mb`."""


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
    from llmc.runtime.api.model import load

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
            with load(folder / "m.llmc", threads=2) as loaded:
                tries = TEXTS if "expert" in str(raw) else 1
                found = _schedule(loaded.program, model, _tolerance(scheme), tries)
            matches = found.worst <= _tolerance(scheme)
            result |= {"verdict": MATCHES if matches else DIFFERS, "worst": found.worst}
            result |= {} if matches else {"error": found.where}
        except LlmcError as error:
            result |= {"verdict": REFUSED, "error": str(error)}
    result["seconds"] = round(time.monotonic() - began, 1)
    result["mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return result


def _tolerance(scheme: str) -> float:
    return TOLERANCE.get(scheme, ROUNDED_TOLERANCE)


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
    command = [sys.executable, __file__, "--one", str(path), "--scheme", scheme]
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
    worst = result.get("worst")
    what = f"{worst:.1e}" if worst is not None else ""
    return (
        f"{result['config']:28} {result['verdict']:8} {what:8} {result.get('seconds', 0):6.1f} s "
        f"{result.get('mb', 0):6} MB  {result.get('error', '')}"
    )


def record(results: Iterable[Result]) -> None:
    """Add f32 results to those that are kept, and make docs/models.md of all of them."""
    kept = {result["config"]: result for result in [*read(), *results]}
    fields = ("config", "verdict", "worst", "error")
    rows = [{f: kept[name][f] for f in fields if f in kept[name]} for name in sorted(kept)]
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
        "random weights, compiled for the `cpu` target in f32 without any flag, and compared with",
        "transformers eager by the schedule of `models/conformance.py`. The number is the largest",
        "difference of a logit, as a share of its row's range; up to 1e-4 is a match. `*`: the",
        "published checkpoint is quantized; the config was tried",
        "without that. Configs that aren't listed have no recorded run; Mixtral 8x7B has none that",
        "matches: it differs by 0.1 to 0.5 on a row, where changing the last bit of embeddings",
        "moves eager itself by 0.003. Rows were recorded over several commits.",
        "",
        "| config | | largest difference, or why not |",
        "|---|---|---|",
    ]
    for result in results:
        what = f"{result['worst']:.1e}" if "worst" in result else _plain(result["error"])
        lines.append(f"| {result['config'].replace('*', ' *')} | {result['verdict']} | {what} |")
    return "\n".join(lines) + "\n"


def _plain(error: str) -> str:
    """An error as a cell: no borders, no code marks that a border could stand in."""
    return error.replace("|", "/").replace("`", "'").splitlines()[0][:200]


def main(arguments: Iterable[str] | None = None) -> int:
    """Try the configs that were asked for; 1 if one of them is neither equal nor refused."""
    parser = argparse.ArgumentParser(description="Compile published configs and compare.")
    parser.add_argument("--configs", type=Path, default=CONFIGS, help="folder of config.json files")
    parser.add_argument("--only", nargs="*", help="names of configs, without .json")
    parser.add_argument("--scheme", default="f32")
    parser.add_argument("--json", type=Path, help="append each result to this file as a line")
    parser.add_argument("--record", action="store_true", help="add the results to docs/models.md")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    if chosen.one:
        print(json.dumps(attempt(chosen.one, chosen.scheme)))
        return 0
    counts: dict[str, int] = {}
    for path in sorted(chosen.configs.glob("*.json")):
        if chosen.only and path.stem not in chosen.only:
            continue
        result = attempt_apart(path, chosen.scheme)
        counts[result["verdict"]] = counts.get(result["verdict"], 0) + 1
        print(line(result), flush=True)
        if chosen.json:
            with chosen.json.open("a") as file:
                file.write(json.dumps(result) + "\n")
        if chosen.record and chosen.scheme == "f32":
            record([result])
    print(", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
    return int(bool(counts.keys() - {MATCHES, REFUSED}))


if __name__ == "__main__":
    sys.exit(main())
