"""Compiles one kernel in this process: Triton as far as PTX, then NVIDIA's ptxas.

In: a `KernelSpec` and a compute capability. Out: its `Cubin`.

Triton's own `compile` would do for the last step, too; but it keeps files in the user's home, and
prints the whole kernel when ptxas refuses it. Here nothing is written but two files in a temporary
folder. No name of a file gets into the PTX (line information is off) or to ptxas (it runs in that
folder), so that a cubin has the same bytes wherever and however often it is made.

This module imports Triton, which may end the process when its LLVM doesn't like something, and
which reads dozens of environment variables: `cubins.py` runs it in processes of their own.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import linecache
import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from triton import knobs
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas, ptx_get_version
from triton.compiler import ASTSource, make_backend
from triton.compiler.errors import CompilationError

from ...base.errors import LlmcError
from . import kernels
from .cubin_facts import CubinFacts, read_facts
from .kernel_spec import Cubin, KernelSpec
from .machines import MACHINES
from .ptx_waits import never_waits

# Triton's own: older levels of ptxas 13 allocate registers wrongly.
_PTXAS_FLAGS = ("--regAllocOptLevel=2",)
_SCRATCH_POINTERS = 2
"""Triton's last parameters: global scratch memory, and a profiler's."""
_OVERLAPPING = 90
"""From these GPUs on a kernel may begin before the one in front of it has ended. On others the
instructions about that don't exist, and none of them would do anything."""
_OF_OVERLAP = re.compile(r"griddepcontrol\.\w+\s*;")
_DISK_FULL = "No space left on device"


def build_kernel(
    spec: KernelSpec, sm: int, ptxas: Path | None = None, *, keep_ptx: bool = False
) -> Cubin:
    """Compile `spec` for compute capability `sm`; with another `ptxas` than Triton's, PTX for that.

    Raises:
        LlmcError: LLMC-E0706, Triton or ptxas refuses the kernel; LLMC-E0701, the disk is full.
    """
    tool = knobs.NvidiaTool.from_path(str(ptxas)) if ptxas else get_ptxas(sm)
    if tool is None:
        raise LlmcError("LLMC-E0706", f"{ptxas} can't be run or is no ptxas", "see that it works")
    try:
        text, metadata = _lower(spec, sm, ptx_get_version(tool.version))
    except Exception as error:  # whatever Triton may raise about a kernel
        raise _refused(spec, sm, _line_of(error)) from error
    if sm < _OVERLAPPING:
        text = _OF_OVERLAP.sub("", text)
    elif spec.pdl and (why := never_waits(text)) is not None:
        raise _refused(spec, sm, why)
    data = _assemble(text, spec, sm, tool.path)
    return _cubin(spec, sm, data, metadata, text if keep_ptx else "")


def _lower(spec: KernelSpec, sm: int, ptx_version: int) -> tuple[str, dict[str, Any]]:
    """PTX, and what Triton says about it."""
    target = GPUTarget("cuda", sm, 32)
    backend: Any = make_backend(target)
    options = backend.parse_options(_options(spec, sm, ptx_version))
    source = _source_of(spec)
    stages: dict[str, Any] = {}
    backend.add_stages(stages, options, source.language)
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    metadata: dict[str, Any] = {}
    with knobs.compilation.scope():
        knobs.compilation.disable_line_info = True
        functions, modules = backend.get_codegen_implementation(options), backend.get_module_map()
        module: Any = source.make_ir(target, options, functions, modules, context)
        for name, stage in stages.items():
            if name != "cubin":
                module = stage(module, metadata)
    return module, metadata


def _options(spec: KernelSpec, sm: int, ptx_version: int) -> dict[str, Any]:
    return {
        "arch": f"sm{sm}",
        "num_warps": spec.num_warps,
        "num_stages": spec.num_stages,
        # Said, so that Triton doesn't warn that its default will change.
        "enable_fp_fusion": True,
        "launch_pdl": spec.pdl,
        "launch_cooperative_grid": spec.cooperative,
        "ptx_version": ptx_version,
    }


def _source_of(spec: KernelSpec) -> ASTSource:
    function = _function_of(spec)
    types, constants = dict(spec.types), _defaults(function) | dict(spec.constants)
    wanted = [name for name in function.arg_names if name not in constants]
    if wanted != [name for name, _ in spec.types] or not constants.keys() <= {*function.arg_names}:
        given = ", ".join([*types, *dict(spec.constants)])
        raise ValueError(f"it has {', '.join(function.arg_names)}, and is given {given}")
    aligned = [n for n, kind in spec.types if kind.startswith("*") and n not in spec.unaligned]
    index = {name: (at,) for at, name in enumerate(function.arg_names)}
    return ASTSource(
        function,
        {name: types.get(name, "constexpr") for name in function.arg_names},
        constexprs={index[name]: value for name, value in constants.items()},
        attrs={index[name]: [["tt.divisibility", 16]] for name in aligned},
    )


def _defaults(function: Any) -> dict[str, Any]:
    """Values of parameters that needn't be given."""
    parameters = inspect.signature(function.fn).parameters.values()
    known = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    return {"PORTABLE": False} | known if "PORTABLE" in function.arg_names else known


def _function_of(spec: KernelSpec) -> Any:
    if spec.source:
        module, name = _module_of(spec.source), spec.function
    else:
        of, _, name = spec.function.rpartition(".")
        module = importlib.import_module(f"{kernels.__name__}.{of}")
    return getattr(module, name)


@cache
def _module_of(text: str) -> ModuleType:
    """`text` as a module in `kernels`. Triton reads functions' source, which linecache has then."""
    name = f"{kernels.__name__}.generated_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    file = f"<{name}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    module = ModuleType(name)
    module.__package__, module.__file__ = kernels.__name__, file
    sys.modules[name] = module
    exec(compile(text, file, "exec"), module.__dict__)
    return module


def _assemble(text: str, spec: KernelSpec, sm: int, ptxas: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="llmc-ptxas-") as name:
        folder = Path(name)
        (folder / "kernel.ptx").write_text(text, encoding="utf-8")
        command = [ptxas, *_PTXAS_FLAGS, f"--gpu-name=sm_{sm}{'a' if sm >= 90 else ''}"]
        done = subprocess.run(
            [*command, "kernel.ptx", "-o", "kernel.cubin"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        if done.returncode == 0:
            return (folder / "kernel.cubin").read_bytes()
    if _DISK_FULL in done.stdout:
        raise LlmcError("LLMC-E0701", f"no space left for ptxas, in {tempfile.gettempdir()}")
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line or "fatal" in line]
    raise _refused(spec, sm, (errors or lines or [f"ptxas ended with {done.returncode}"])[0])


def _cubin(spec: KernelSpec, sm: int, data: bytes, metadata: dict[str, Any], ptx: str) -> Cubin:
    facts = read_facts(data)
    _check(spec, sm, facts, metadata)
    return Cubin(
        sm=sm,
        data=data,
        name=facts.name,
        threads=facts.threads,
        shared=metadata["shared"],
        scratch=metadata["global_scratch_size"],
        scratch_align=metadata["global_scratch_align"],
        parameters=facts.parameters,
        parameter_bytes=facts.parameter_bytes,
        registers=facts.registers,
        spill_bytes=facts.local,
        static_shared=facts.static_shared,
        ptx=ptx,
    )


def _check(spec: KernelSpec, sm: int, facts: CubinFacts, metadata: dict[str, Any]) -> None:
    """The cubin is what a launch will take it for."""
    sizes = [_size(kind) for _, kind in spec.types] + [8] * _SCRATCH_POINTERS
    if [parameter.nbytes for parameter in facts.parameters] != sizes:
        raise _refused(spec, sm, f"its parameters have {facts.parameters}, not {sizes} bytes")
    if facts.threads != 32 * metadata["num_warps"]:
        raise _refused(spec, sm, f"it wants {facts.threads} threads")
    most = MACHINES[sm].shared_bytes
    if metadata["shared"] > most:
        raise _refused(spec, sm, f"it wants {metadata['shared']} bytes of shared memory of {most}")
    if metadata["profile_scratch_size"]:
        raise _refused(spec, sm, "it wants a profiler")


def _size(kind: str) -> int:
    """Bytes of a parameter: a pointer, or what the digits of `fp32` say in bits."""
    return 8 if kind.startswith("*") else max(1, int(kind.lstrip("bfipu")) // 8)


def _refused(spec: KernelSpec, sm: int, why: str) -> LlmcError:
    message = f"the kernel {spec.label} can't be compiled for SM{sm}: {why}"
    return LlmcError("LLMC-E0706", message, "report it, with this message")


def _line_of(error: BaseException) -> str:
    """One line: the innermost cause, and the line of the kernel that Triton points at."""
    where = ""
    while True:
        if isinstance(error, CompilationError) and isinstance(error.src, str):
            lines, number = error.src.split("\n"), getattr(error.node, "lineno", 0)
            where = f" at {lines[number - 1].strip()!r}" if 0 < number <= len(lines) else where
        if error.__cause__ is None:
            break
        error = error.__cause__
    text = error.error_message if isinstance(error, CompilationError) else str(error)
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__) + where
