"""The Python packages that a target's executor needs: are they here, and will these versions do?

In: requirements as manifests state them (`{"onnxruntime": ">=1.24"}`; alternatives are joined by
"|"). Out: what is wrong, as an error, or nothing.
"""

from collections.abc import Mapping
from importlib import metadata

from ..base.errors import LlmcError


def package_problem(packages: Mapping[str, str], extra: str) -> LlmcError | None:
    """E0703 if one is missing (`extra` of ours installs it), E0513 if its version won't do."""
    for names, wanted in packages.items():
        found = _installed(names)
        if found is None:
            first = names.split("|")[0]
            return LlmcError(
                "LLMC-E0703",
                f"this program needs the package {first} {wanted}, which isn't installed",
                hint=f"pip install 'llmc-compiler[{extra}]'",
            )
        name, version = found
        if not version_fits(version, wanted):
            return LlmcError(
                "LLMC-E0513",
                f"the artifact was made for {name} {wanted}, here is {version}",
                hint=f"pip install '{name}{wanted}', or compile the artifact anew",
            )
    return None


def version_fits(version: str, wanted: str) -> bool:
    """Whether `version` (what is behind a "+" doesn't count) is `>=` or `==` what is wanted."""
    here, there = _numbers(version), _numbers(wanted[2:])
    here += (0,) * (len(there) - len(here))
    return here >= there if wanted.startswith(">=") else here[: len(there)] == there


def _installed(names: str) -> tuple[str, str] | None:
    """The first of the alternatives that is installed, and its version."""
    for name in names.split("|"):
        try:
            return name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def _numbers(version: str) -> tuple[int, ...]:
    parts = []
    for part in version.split("+")[0].split("."):
        if not part.isdigit():
            break
        parts.append(int(part))
    return tuple(parts)
