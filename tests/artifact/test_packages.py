"""Which versions of a package will do."""

import pytest
from llmc.artifact.packages import package_problem, version_fits

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("1.24", ">=1.24", True), ("1.24.1", ">=1.24", True), ("1.9", ">=1.24", False),
        ("2.0", ">=1.24", True), ("2.13.0+cpu", "==2.13.0", True), ("2.13", "==2.13.0", True),
        ("2.13.1", "==2.13.0", False), ("2.13.1", "==2.13", True), ("2.14.0.dev3", ">=2.14", True),
    ],
)  # fmt: skip
def test_version_fits(version: str, wanted: str, fits: bool) -> None:
    assert version_fits(version, wanted) == fits


def test_what_is_missing_is_named_with_its_extra() -> None:
    problem = package_problem({"no-such-package|nor-this-one": ">=1"}, extra="onnx")
    assert problem is not None
    assert (problem.id, problem.hint) == ("LLMC-E0703", "pip install 'llmc-compiler[onnx]'")
    assert "no-such-package >=1" in problem.message


def test_another_version_is_named() -> None:
    problem = package_problem({"no-such-package|numpy": "==0.1"}, extra="onnx")
    assert problem is not None
    assert problem.id == "LLMC-E0513"
    assert "numpy ==0.1" in problem.message


def test_nothing_is_wrong() -> None:
    assert package_problem({}, extra="cpu") is None
    assert package_problem({"numpy": ">=1.0"}, extra="cpu") is None
