"""`llmc.compile` where what compiles isn't installed: the error that the command gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from llmc.base.failures import extras_named

CODE = """
import json, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import llmc
from llmc.base.errors import LlmcError
try:
    llmc.compile(sys.argv[2], output=sys.argv[3])
except LlmcError as error:
    cause = type(error.__cause__).__name__
    print(json.dumps([error.id, error.message, error.hint, error.exit_code, cause]))
"""


def write_gguf(path: Path) -> Path:
    """A file whose header is read before anything of the package `gguf` is needed."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.ones((64, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("package", ["torch", "transformers", "safetensors", "gguf"])
def test_a_missing_package_names_what_to_install(llama: Path, tmp_path: Path, package: str) -> None:
    model = llama
    if package == "gguf":
        model = write_gguf(tmp_path / "model.gguf")
    done = subprocess.run(
        [sys.executable, "-c", CODE, package, str(model), str(tmp_path / "out.llmc")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    identifier, message, hint, code, cause = json.loads(done.stdout.splitlines()[-1])
    assert (identifier, code, cause) == ("LLMC-E0703", 7, "ModuleNotFoundError")
    assert package in message
    assert hint == "install it with pip install 'llmc-compiler[compile]'"
    assert not (tmp_path / "out.llmc").exists()


def test_a_module_of_nobody_s_stays_what_it_is() -> None:
    """Only packages of an extra have one to install; another import that fails is a defect."""
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), extras_named():
        raise ModuleNotFoundError("no_such_module", name="no_such_module.part")
