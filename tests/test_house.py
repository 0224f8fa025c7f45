"""The rules of the house that a tool can check: floors, imports, sizes, names, error ids."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from statistics import median

import pytest

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parent.parent
FLOORS = {
    "base": 0, "artifact": 1, "runtime": 2, "server": 3, "ir": 3, "models": 3, "weights": 4,
    "passes": 5, "codegen": 6, "compiler": 7, "cli": 8,
}  # fmt: skip
"""Rooms by floor: each imports lower ones only."""
COMPILE_TOWER = {"ir", "models", "weights", "passes", "codegen", "compiler"}
"""It stands beside the run tower, on `artifact/` and `base/`; it may use the runtime, not the
server, and the run tower uses none of it."""
MAY_IMPORT = {
    ("base/", "artifact/", "runtime/", "server/"): {"msgspec", "numpy"},
    ("base/progress.py",): {"rich"},
    ("runtime/text/",): {"jinja2", "tokenizers"},
    ("server/",): {
        *("fastapi", "prometheus_client", "pydantic", "starlette", "uvicorn", "uvloop"),
    },
    ("runtime/engine/sampling/grammar.py", "runtime/engine/sampling/matcher.py"): {"llguidance"},
    ("runtime/engine/metrics/spans.py",): {"opentelemetry"},
    ("runtime/executors/inductor.py",): {"torch"},
    ("runtime/executors/onnx.py",): {"onnxruntime"},
}
"""Packages beside the standard library, and the places of ground and run tower that name them."""
MAX_LINES = 400
FAMILIES = re.compile(
    r"\b(llama|qwen|mi[sx]tral|gemma|smollm|olmo|granite|cohere|starcoder|stablelm|deepseek|"
    r"nemotron|falcon|bloom|mpt|phi-?[1-4]|phimoe|gpt-?(2|j|neo|neox|oss)|opt-\d|glm-?4?|dbrx|"
    r"ernie|exaone|helium|persimmon|hunyuan|mamba|lfm2)(\b|_|\d)",
    re.IGNORECASE,
)


def python_files(*rooms: str) -> list[Path]:
    """Return the package's Python files, or those of `rooms` only."""
    folders = [ROOT / room for room in rooms or FLOORS]
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    return files if rooms else [*files, *sorted(ROOT.glob("*.py"))]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of(path: Path) -> str:
    part = path.relative_to(ROOT).parts[0]
    return "cli" if part == "__init__.py" else part


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and absolute dotted name of every import; names of this package start with `llmc`.

    `from a import b` yields `a.b`, since `b` may be a module.
    """
    package = ["llmc", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *([node.module] if node.module else [])]
            yield from ((node.lineno, ".".join([*module, alias.name])) for alias in node.names)


def test_floors_import_downwards_only() -> None:
    wrong = []
    for path in python_files():
        for line, name in imports(path):
            parts = name.split(".")
            if parts[0] == "llmc" and len(parts) > 1:
                room = room_of(path)
                lower = FLOORS.get(parts[1], 5) < FLOORS[room]
                if not lower and parts[1] != room:
                    wrong.append(f"{name_of(path)}:{line} imports {name}")
    assert not wrong


def import_graph() -> dict[str, set[str]]:
    """File → files that it imports, wherever in it: in functions and under TYPE_CHECKING too."""
    files = {name_of(path) for path in python_files()}

    def file_of(parts: list[str]) -> str | None:
        stem = "/".join(parts)
        places = (f"{stem}.py", f"{stem}/__init__.py") if parts else ("__init__.py",)
        return next((place for place in places if place in files), None)

    graph: dict[str, set[str]] = {name: set() for name in files}
    for path in python_files():
        for _, name in imports(path):
            parts = name.split(".")
            if parts[0] == "llmc":  # `from a import b`: the file of b, else that of a
                found = file_of(parts[1:]) or file_of(parts[1:-1])
                if found not in (None, name_of(path)):
                    graph[name_of(path)].add(found)
    return graph


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """Strongly connected components of more than one node: those that reach one another."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            fresh = graph[todo.pop()] - seen
            seen |= fresh
            todo += fresh
        return seen

    reach = {name: reached(name) for name in graph}
    alike = (frozenset(n for n in reach[name] if name in reach[n]) for name in graph)
    return {circle for circle in alike if len(circle) > 1}


def test_no_circle_of_imports_between_files_type_checking_included() -> None:
    found = circles(import_graph())
    assert sorted(map(sorted, found)) == []


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
    assert circles(graph) == {frozenset("bc"), frozenset("de")}
    edges = import_graph()
    assert "runtime/api/model.py" in edges["runtime/api/async_engine.py"]  # TYPE_CHECKING
    assert "artifact/inspection.py" in edges["cli/inspect.py"]  # in a function


def test_package_uses_relative_imports() -> None:
    absolute = re.compile(r"^\s*(from|import) llmc\b", re.MULTILINE)
    assert [name_of(p) for p in python_files() if absolute.search(p.read_text())] == []


def may_import(path: Path) -> set[str]:
    """Names that this file of ground or run tower may import, the standard library included."""
    granted = (
        names for places, names in MAY_IMPORT.items() if name_of(path).startswith(tuple(places))
    )
    return {"llmc", *sys.stdlib_module_names}.union(*granted)


def test_ground_and_run_tower_import_what_their_place_allows() -> None:
    wrong = [
        f"{name_of(path)}:{line} imports {name}"
        for path in python_files("base", "artifact", "runtime", "server")
        for line, name in imports(path)
        if name.split(".")[0] not in may_import(path)
    ]
    assert not wrong
    assert "llguidance" in may_import(ROOT / "runtime/engine/sampling/grammar.py")
    assert "llguidance" not in may_import(ROOT / "runtime/engine/engine.py")


def test_towers_stand_apart() -> None:
    """The run tower knows nothing of the compile tower, which in turn knows no server."""
    wrong = [
        f"{name_of(path)}:{line} imports {name}"
        for path in python_files()
        for line, name in imports(path)
        if name.startswith("llmc.")
        and (
            (room_of(path) in ("runtime", "server") and name.split(".")[1] in COMPILE_TOWER)
            or (room_of(path) in COMPILE_TOWER and name.split(".")[1] == "server")
        )
    ]
    assert not wrong


@pytest.mark.parametrize("module", ["llmc", "llmc.cli"])
def test_light_modules_stay_light(module: str) -> None:
    """What every command imports first; the heavy packages come when a verb needs them."""
    heavy = {"torch", "transformers", "numpy", "tokenizers", "jinja2"}
    code = f"import {module}, sys; print(*({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_pyproject_lists_every_package() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        ".".join(["llmc", *path.parent.relative_to(ROOT).parts])
        for room in FLOORS
        for path in (ROOT / room).rglob("__init__.py")
    }
    assert sorted(setuptools["packages"]) == sorted({"llmc", *found})


def test_pyproject_ships_every_data_file() -> None:
    """A header or template that the wheel lacks is found only by who installs it."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    shipped = {
        f"{package.replace('.', '/').removeprefix('llmc').lstrip('/')}/{pattern}".lstrip("/")
        for package, patterns in setuptools["package-data"].items()
        for pattern in patterns
    }
    missing = [
        name_of(path)
        for room in FLOORS
        for path in (ROOT / room).rglob("*")
        if path.is_file()
        and path.suffix not in (".py", ".pyc")
        and not any(
            path.parent == (ROOT / pattern).parent and fnmatch(name_of(path), pattern)
            for pattern in shipped
        )
    ]
    assert not missing


def test_no_file_is_too_long() -> None:
    files = [
        path
        for room in FLOORS
        for path in (ROOT / room).rglob("*")
        if path.suffix in (".py", ".h", ".j2")
    ]
    lengths = {name_of(p): p.read_text().count("\n") for p in [*files, *ROOT.glob("*.py")]}
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}


MAX_FUNCTION, MEDIAN_FUNCTION = 60, 12


def function_lengths() -> dict[str, int]:
    """Lines of every function's body: parameters and a docstring are no logic."""
    return {
        f"{name_of(path)}:{node.name}": body_lines(node)
        for path in python_files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From the first statement behind the docstring to the last; 0 where there is none."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return ((body[-1].end_lineno or 0) - body[0].lineno + 1) if body else 0


def test_functions_are_short() -> None:
    """None over 60 lines, half of them under 12."""
    lengths = function_lengths()
    long = {name: count for name, count in lengths.items() if count > MAX_FUNCTION}
    assert long == {}
    assert median(lengths.values()) < MEDIAN_FUNCTION


def test_no_family_is_special() -> None:
    """Passes and code generators know operations, not the names of models."""
    wrong = [
        f"{name_of(path)}:{number} {match.group()}"
        for room in ("passes", "codegen")
        for path in sorted((ROOT / room).rglob("*"))
        if path.suffix in (".py", ".h", ".j2")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (match := FAMILIES.search(line))
    ]
    assert not wrong


def test_every_error_id_is_in_the_table() -> None:
    from llmc.base.error_table import ERRORS

    used = {
        (identifier, name_of(path))
        for path in python_files()
        for identifier in re.findall(r"LLMC-E\d{4}", path.read_text())
    }
    assert sorted(use for use in used if use[0] not in ERRORS) == []
    assert len({identifier for identifier, _ in used}) > 20


def test_error_table_is_sorted_and_complete() -> None:
    from llmc.base.error_table import ERRORS

    assert list(ERRORS) == sorted(ERRORS)
    for identifier, info in ERRORS.items():
        assert re.fullmatch(r"LLMC-E0[1-7]\d\d", identifier)
        assert info.title
        assert info.explanation.endswith(".")
        assert info.advice
        assert not info.advice.endswith(".")


def test_nothing_is_left_unfinished() -> None:
    unfinished = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|raise NotImplementedError(\(\))?\s*$")
    wrong = [
        f"{name_of(path)}:{number} {line.strip()}"
        for path in python_files()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if unfinished.search(line)
    ]
    assert not wrong


def test_every_module_says_what_it_is_for() -> None:
    wrong = [
        name_of(path)
        for path in python_files()
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not wrong


def test_root_package_imports_nothing() -> None:
    """An eager import here would break tools in a checkout whose folder is not an identifier."""
    tree = ast.parse((ROOT / "__init__.py").read_text())
    names = [ast.unparse(n) for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    assert [name for name in names if not name.startswith("from typing")] == []


def test_tests_are_no_packages() -> None:
    """With importlib import mode, an __init__.py would make `tests.…` shadow what is tested."""
    assert not list((ROOT / "tests").rglob("__init__.py"))
    assert not (ROOT / "conftest.py").exists()
