"""What the pages say is so: commands, paths, names, fields, tables, links, snippets."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
from pathlib import Path
from typing import get_args

import pytest
from doc_pages import ROOT, Block, Page, blocks, commands, page, pages
from llmc.artifact import launch_plan, targets, text_vectors
from llmc.artifact import manifest as artifact
from llmc.base.error_table import ERRORS
from llmc.base.sizes import parse_size
from llmc.cli import compile as compiling
from llmc.cli.app import VERBS as NAMES_OF_VERBS
from llmc.cli.app import invoke, verb
from llmc.cli.target_flags import chosen_targets

pytestmark = pytest.mark.fast

PAGES = pages()
README = page("README.md")
ARCHITECTURE = page("docs/architecture.md")
FORMAT = page("docs/artifact-format.md")
ROOMS = sorted(p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith("."))
FILE = re.compile(r"[\w.<>*-]+(/[\w.<>*-]+)*/?")
SUFFIXES = (".py", ".h", ".j2", ".toml", ".md", ".txt", ".c", ".cpp")
NOT_IN_THE_TREE = {"graph.txt", "NN-pass.txt"}  # an entry of artifacts, a dump
VERBS = {name: verb(name) for name in NAMES_OF_VERBS}


def name_of(value: object) -> str:
    return value.name if isinstance(value, Page) else value.page if isinstance(value, Block) else ""


def test_there_are_pages_to_check() -> None:
    names = {one.name for one in PAGES}
    topics = ("artifact-format", "adding-a-pass", "adding-an-op", "adding-a-target")
    for topic in (*topics, "adding-a-weight-format"):
        assert f"docs/{topic}.md" in names
    assert len(commands("llmc")) > 15
    assert sum(len(one.inline) for one in PAGES) > 300


# ---- commands ------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [w for _, w in commands("llmc")], ids=" ".join)
def test_every_command_parses(words: list[str]) -> None:
    """Options and arguments are those of the verb, and their values are accepted."""
    context = VERBS[words[0]].make_context(words[0], words[1:])
    if words[0] == "compile":
        options = context.params
        flags = {name: options[name] for name in ("int8", "int4", "fp8", "quant")}
        assert compiling.scheme_of(**flags) in (None, *compiling.SCHEMES)
        chosen_targets(**options)
        if options["max_ram"]:
            parse_size(options["max_ram"])


@pytest.mark.parametrize("one", PAGES, ids=name_of)
def test_every_verb_and_option_exists(one: Page) -> None:
    """Inline code too, where commands are not written out."""
    known = {o for one in VERBS.values() for p in one.params for o in p.opts}
    known |= {"--help", "--version"}
    for code in one.inline:
        named = re.match(r"llmc ([a-z]+)", code)
        assert named is None or named[1] in VERBS, code
        if code.startswith(("llmc", "--")):
            assert set(re.findall(r"(?<!\S)--?[a-z][a-z0-9-]*", code)) <= known, code


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for one in PAGES for word in re.findall(r"`make ([a-z]+)`", one.prose)}
    named |= {words[0] for _, words in commands("make")}
    assert named <= targets
    assert {"demo", "test"} <= named


def test_readme_shows_what_make_help_prints() -> None:
    # `make test` hands its own flags down, and a make inside a make prints more.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    command = ["make", "--no-print-directory", "help"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout in [block.text for block in README.blocks]


def test_readme_shows_what_explain_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """The one transcript that doesn't depend on a machine."""
    assert invoke(["explain", "LLMC-E0506"]) == 0
    assert f"$ llmc explain LLMC-E0506\n{capsys.readouterr().out}" in [
        block.text for block in README.blocks
    ]


def test_exit_codes_are_complete() -> None:
    codes = {int(n) for row in README.rows("| code |") for n in re.findall(r"\d+", row[0])}
    documented = {int(n) for n in re.findall(r"\d+", README.rows("| code |")[-1][0])}
    assert documented == {130, 143}
    assert codes == {0} | {int(id[6:8]) for id in ERRORS} | documented


# ---- names ---------------------------------------------------------------------------------


@pytest.mark.parametrize("one", PAGES, ids=name_of)
def test_paths_exist(one: Page) -> None:
    """Paths in inline code are from the repository's root; `*` and `<name>` stand for anything."""
    missing = []
    for code in one.inline:
        if not FILE.fullmatch(code) or code in NOT_IN_THE_TREE:
            continue
        inside = code.split("/")[0] in ROOMS and "/" in code
        if (inside or code.endswith(SUFFIXES)) and not re.search(r"[A-Z]{4,}\.", code):
            pattern = re.sub(r"<\w+>", "*", code.rstrip("/"))
            if not list(ROOT.glob(pattern)):
                missing.append(code)
    assert not missing


@pytest.mark.parametrize("one", PAGES, ids=name_of)
def test_modules_exist(one: Page) -> None:
    for code in one.inline:
        if re.fullmatch(r"llmc(\.\w+)+", code) and not code.endswith(".llmc"):
            resolve(code)


def resolve(dotted: str) -> object:
    """The module or attribute with this dotted name."""
    module, *rest = dotted.split(".")
    value: object = importlib.import_module(module)
    for part in rest:
        module = f"{module}.{part}"
        value = getattr(value, part) if hasattr(value, part) else importlib.import_module(module)
    return value


@pytest.mark.parametrize("one", PAGES, ids=name_of)
def test_error_ids_are_in_the_table(one: Page) -> None:
    assert set(re.findall(r"LLMC-E\d{4}", one.text)) <= set(ERRORS)


@pytest.mark.parametrize("one", PAGES, ids=name_of)
def test_environment_variables_are_listed(one: Page) -> None:
    listed = set(re.findall(r"LLMC_[A-Z]+", (ROOT / "base" / "debug.py").read_text()))
    shell = [b.text for b in one.blocks if b.language in ("sh", "console")]
    named = re.findall(r"LLMC_[A-Z]+(?==)", "\n".join([one.prose, *shell]))
    assert set(named) <= listed


def test_every_field_of_the_manifest_is_described() -> None:
    """One section per struct, exactly its fields, in its order."""
    structs = [artifact.Manifest, artifact.Source, artifact.AdapterSource, artifact.Entry]
    structs += [artifact.Variant, artifact.Limits, artifact.CacheGroup, artifact.MemoryPlan]
    structs += [artifact.Buffer, artifact.Weights, artifact.Tensor, artifact.ConformanceVector]
    structs += [artifact.StateSlots, artifact.StatePart, artifact.Generation]
    structs += [text_vectors.TextVectors, text_vectors.EncodedText, text_vectors.RenderedChat]
    structs += [targets.CacheInput, *get_args(targets.AnyProgramOptions)]
    structs += [launch_plan.LaunchPlan, launch_plan.Kernel, launch_plan.Launch]
    structs += [launch_plan.FormLaunch, launch_plan.Extent, launch_plan.Region, launch_plan.Traffic]
    structs += [launch_plan.Pointer, launch_plan.Size, launch_plan.Number]
    for struct in structs:
        rows = FORMAT.section(f"### `{struct.__name__}`").rows("| field |")
        fields = [row[0].strip("`") for row in rows]
        assert fields == list(struct.__struct_fields__), struct.__name__
    described = re.findall(r"^### `(\w+)`$", FORMAT.text, re.MULTILINE)
    assert sorted(described) == sorted(struct.__name__ for struct in structs)


def test_format_version_and_entry_names() -> None:
    assert f"format version {artifact.FORMAT_VERSION}." in FORMAT.prose
    entries = {row[0].strip("`") for row in FORMAT.rows("| entry |")}
    names = {getattr(artifact, n) for n in ("MANIFEST", "CERTIFICATE", "SUMS", "TOKENIZER")}
    names |= {artifact.CHAT_TEMPLATE, artifact.GENERATION, artifact.TEXT_VECTORS}
    names |= {f"{artifact.NAMED_TEMPLATES}/NAME.jinja"}
    source = (ROOT / "compiler" / "assemble.py").read_text()
    names |= set(re.findall(r'"((?:weights/)?[\w.]+\.(?:txt|json|safetensors))"', source))
    assert names <= entries
    stored = {"weights/LAYOUT.safetensors", "programs/TARGET/LEVEL.SUFFIX"}
    assert entries - names == {"LICENSE", *stored}


# ---- tables --------------------------------------------------------------------------------


def test_passes_are_those_of_the_pipeline() -> None:
    from llmc.passes.pipeline import PIPELINE

    rows = ARCHITECTURE.rows("| # | pass |")
    documented = [(int(n), name.strip("`"), phase.strip("`")) for n, name, phase, _ in rows]
    actual = [(i, step.name, step.ensures.name) for i, step in enumerate(PIPELINE, 1)]
    assert documented == actual


def test_phases_are_those_of_the_enum() -> None:
    from llmc.ir.phase import Phase

    rows = ARCHITECTURE.rows("| phase |")
    assert [row[0].strip("`") for row in rows] == [phase.name for phase in Phase]


def test_schemes_are_those_of_the_compiler() -> None:
    from llmc.passes.quantize import CACHES, SCHEMES

    caches = {dtype: name for name, dtype in CACHES.items()}
    documented = {}
    for name, weight, _, head, _, cache in README.rows("| `--quant` |"):
        first = [re.findall(r"`([\w-]+)`", cell)[0] for cell in (name, weight, head, cache)]
        documented[first[0]] = tuple(first[1:])
    actual = {s.name: (s.weight.value, s.head.value, caches[s.cache]) for s in SCHEMES.values()}
    assert documented == actual


def test_targets_are_those_of_the_table() -> None:
    """Name, extra (none: llmc alone) and schemes of each, in order; the first is the default."""
    documented = []
    rows = README.rows("| `--target` |")
    for name, _, _, extra, schemes in rows:
        (word,) = re.findall(r"`(\w+)`", name)
        extras = re.findall(r"`llmc-compiler\[(\w+)\]`", extra)
        documented.append((word, extras, re.findall(r"`([\w-]+)`", schemes)))
    actual = [
        (row.name, [row.extra] if row.extra else [], list(row.schemes))
        for row in targets.TARGETS.values()
    ]
    assert documented == actual
    assert ["default" in row[0] for row in rows] == [i == 0 for i in range(len(rows))]


def test_levels_are_those_of_the_toolchain() -> None:
    from llmc.codegen.cpu.toolchain import LEVELS, USER_LEVELS

    rows = README.rows("| `--cpu` |")
    documented = {row[0].strip("`"): tuple(re.findall(r"`([\w-]+)`", row[1])) for row in rows}
    assert documented.pop("native") == ()
    assert documented == USER_LEVELS
    assert {*documented, "native"} == set(targets.CPU_LEVELS)
    assert {level for levels in documented.values() for level in levels} <= set(LEVELS)


def test_families_are_those_of_the_zoo() -> None:
    """Every promised family has a row; what is named as refused is refused in the zoo."""
    from zoo import EXTENDED, ZOO

    def plain(text: str) -> str:
        return re.sub(r"[^a-z0-9]", "", text.lower())

    rows = plain(" ".join(row[0] for row in README.rows("| family |")))
    assert [model.name for model in ZOO if plain(model.name.split("-")[0]) not in rows] == []
    assert "qwen3moe" in rows
    refused = {plain(model.name) for model in EXTENDED if model.expected == "refused"}
    (line,) = re.findall(r"looped over or counted \(([^)]+)\)", README.prose)
    assert {plain(name) for name in line.split(",")} <= refused


def test_sketch_matches_the_folders() -> None:
    (sketch,) = [b.text for b in README.blocks if "cli/ __init__.py" in b.text]
    lines = sketch.splitlines()
    second = next(line.index("run tower") for line in lines if "run tower" in line)
    stack: list[tuple[int, Path]] = []
    named = set()
    for line in [line[:second] for line in lines] + [" " * second + x[second:] for x in lines]:
        for match in re.finditer(r"(?<![\w/])([a-z]+)/(?=\s|$)", line):
            while stack and stack[-1][0] >= match.start():
                stack.pop()
            path = (stack[-1][1] if stack else ROOT) / match[1]
            assert path.is_dir(), path
            named.add(path)
            if not line.strip().startswith("tests/"):
                stack.append((match.start(), path))
    rooms = {p for p in ROOT.iterdir() if (p / "__init__.py").is_file()}
    assert rooms <= named


def test_floors_are_those_of_the_house_test() -> None:
    house = (ROOT / "tests" / "test_house.py").read_text()
    found = re.search(r"^FLOORS = (\{.*?\n\})", house, re.MULTILINE | re.DOTALL)
    assert found is not None
    floors = ast.literal_eval(found[1])
    for number, room, _ in page("CONTRIBUTING.md").rows("| floor |"):
        first = room.split(",")[0].strip("` /").removesuffix(".py")
        assert floors[first] == int(number), room


# ---- links, snippets, quotations -----------------------------------------------------------


@pytest.mark.parametrize("one", PAGES, ids=name_of)
def test_links_lead_somewhere(one: Page) -> None:
    for link in one.links:
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / one.name).parent / path if path else ROOT / one.name
        assert target.exists(), link
        if anchor:
            assert anchor in Page(one.name, target.read_text("utf-8")).anchors, link


@pytest.mark.parametrize("block", blocks("python"), ids=name_of)
def test_snippets_parse_and_import_what_exists(block: Block) -> None:
    if block.note == "quote":
        return
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llmc"):
            for alias in node.names:
                resolve(f"{node.module}.{alias.name}")


@pytest.mark.parametrize(
    "block",
    [b for b in blocks("python", "run") if "model.llmc" not in b.text],
    ids=name_of,
)
def test_snippets_run(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that need an artifact run in `tests/examples/test_examples.py`."""
    monkeypatch.chdir(tmp_path)
    from llmc.ir.ops import OPS
    from llmc.ir.states import KINDS

    known = set(OPS), set(KINDS)  # what a snippet adds is gone behind it
    code = compile(block.text, f"<{block.page}>", "exec", dont_inherit=True)
    try:
        exec(code, {"__name__": "snippet"})
    finally:
        for table, names in zip((OPS, KINDS), known, strict=True):
            for name in set(table) - names:
                del table[name]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "block",
    [block for one in PAGES for block in one.blocks if block.note == "quote"],
    ids=lambda block: f"{block.page}-{block.about}",
)
def test_quotations_are_verbatim(block: Block) -> None:
    assert block.text in (ROOT / block.about).read_text("utf-8")


def test_ir_excerpts_use_ops_that_exist() -> None:
    from llmc.ir.ops import OPS

    excerpts = [block for one in PAGES for block in one.blocks if block.note == "ir"]
    assert excerpts
    for block in excerpts:
        used = re.findall(r" = (\w+)\(", block.text)
        assert len(used) > 5
        assert set(used) <= set(OPS)


def test_nothing_is_marked_that_no_test_knows() -> None:
    notes = {block.note for one in PAGES for block in one.blocks}
    assert notes == {"", "run", "quote", "ir"}
    for one in PAGES:
        assert len(re.findall(r"^<!--", one.text, re.MULTILINE)) == len(
            [block for block in one.blocks if block.note]
        ), one.name
