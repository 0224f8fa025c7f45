"""Models that can't be compiled: one error each, early, and the artifact that was there stays."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llmc
import numpy as np
import pytest
from llmc.base.errors import LlmcError
from llmc.compiler import driver
from safetensors.numpy import load_file, save_file

Edit = Callable[[Path], None]
WEIGHTS = "model.safetensors"


@pytest.fixture
def model(llama: Path, tmp_path: Path) -> Path:
    """A copy to be broken."""
    return shutil.copytree(llama, tmp_path / "model")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An artifact from before."""
    path = tmp_path / "out" / "x.llmc"
    path.parent.mkdir()
    path.write_bytes(b"from before")
    return path


@pytest.fixture
def no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if the compile comes as far as the probe."""
    monkeypatch.setattr(driver, "probe", lambda *_: pytest.fail("the probe was run"))


def refused(model: Path | str, output: Path, **options: Any) -> LlmcError:
    with pytest.raises(LlmcError) as caught:
        llmc.compile(str(model), output=output, **options)
    assert output.read_bytes() == b"from before"
    assert list(output.parent.iterdir()) == [output]
    assert caught.value.exit_code == 4
    return caught.value


@pytest.mark.usefixtures("no_probe")
@pytest.mark.parametrize(
    ("fields", "id"),
    [
        ({"num_attention_heads": 0}, "LLMC-E0418"),
        ({"num_attention_heads": -1}, "LLMC-E0418"),
        ({"num_attention_heads": 3}, "LLMC-E0418"),
        ({"num_attention_heads": "4"}, "LLMC-E0418"),
        ({"num_key_value_heads": 0}, "LLMC-E0418"),
        ({"num_key_value_heads": 8}, "LLMC-E0406"),
        ({"num_hidden_layers": -1}, "LLMC-E0410"),
        ({"num_hidden_layers": 4}, "LLMC-E0406"),
        ({"num_hidden_layers": 10**9}, "LLMC-E0418"),
        ({"hidden_size": 0}, "LLMC-E0406"),
        ({"hidden_size": -64}, "LLMC-E0418"),
        ({"hidden_size": 10**12}, "LLMC-E0406"),
        ({"head_dim": 0}, "LLMC-E0418"),
        ({"intermediate_size": 0}, "LLMC-E0406"),
        ({"vocab_size": -1}, "LLMC-E0418"),
        ({"max_position_embeddings": 0}, "LLMC-E0418"),
        ({"rope_parameters": {"rope_type": "nope"}}, "LLMC-E0418"),
        ({"hidden_act": "nope"}, "LLMC-E0418"),
        ({"tie_word_embeddings": False}, "LLMC-E0406"),
        ({"attention_bias": True}, "LLMC-E0406"),
        ({"model_type": "t5"}, "LLMC-E0402"),
        ({"model_type": "nope"}, "LLMC-E0402"),
    ],
    ids=str,
)
def test_configs_that_make_no_sense(
    fields: dict[str, Any], id: str, model: Path, output: Path
) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, **fields}))
    assert refused(model, output).id == id


def test_a_config_whose_model_answers_nan(model: Path, output: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "rms_norm_eps": float("inf")}))
    error = refused(model, output)
    assert error.id == "LLMC-E0415"
    assert "source model itself" in error.message


def write(name: str, data: bytes) -> Edit:
    def edit(model: Path) -> None:
        (model / name).unlink(missing_ok=True)
        (model / name).write_bytes(data)

    return edit


def tensors(change: Callable[[dict[str, np.ndarray]], object]) -> Edit:
    """Write the checkpoint again with changed tensors."""

    def edit(model: Path) -> None:
        held = load_file(model / WEIGHTS)
        change(held)
        save_file(held, model / WEIGHTS)

    return edit


def pipe(name: str) -> Edit:
    def edit(model: Path) -> None:
        (model / name).unlink()
        os.mkfifo(model / name)

    return edit


NORM = "model.norm.weight"


@pytest.mark.usefixtures("no_probe")
@pytest.mark.parametrize(
    ("edit", "id"),
    [
        pytest.param(lambda m: (m / WEIGHTS).unlink(), "LLMC-E0404", id="no weights"),
        pytest.param(write(WEIGHTS, b""), "LLMC-E0417", id="empty weights"),
        pytest.param(pipe(WEIGHTS), "LLMC-E0417", id="a pipe for weights"),
        pytest.param(tensors(lambda t: t.pop(NORM)), "LLMC-E0406", id="one missing"),
        pytest.param(
            tensors(lambda t: t.update({NORM: t[NORM].reshape(8, 8)})), "LLMC-E0406", id="shape"
        ),
        pytest.param(
            tensors(lambda t: t.update({NORM: t[NORM].astype(np.int32)})), "LLMC-E0407", id="dtype"
        ),
        pytest.param(
            tensors(lambda t: t.update({"more": t[NORM].copy()})), "LLMC-E0410", id="one too many"
        ),
        pytest.param(write("config.json", b"{nope"), "LLMC-E0418", id="config not JSON"),
        pytest.param(
            write("config.json", '{"model_type": "llama"}'.encode("utf-16")),
            "LLMC-E0418",
            id="config in UTF-16",
        ),
        pytest.param(write("tokenizer.json", b"{}"), "LLMC-E0417", id="no tokenizer in it"),
        pytest.param(write("chat_template.jinja", b"\xff"), "LLMC-E0417", id="template bytes"),
        pytest.param(write("generation_config.json", b"[]"), "LLMC-E0418", id="generation list"),
    ],
)
def test_checkpoints_that_are_broken(edit: Edit, id: str, model: Path, output: Path) -> None:
    edit(model)
    assert refused(model, output).id == id


@pytest.mark.parametrize(
    ("value", "scheme", "named"),
    [
        (np.nan, "f32", "mlp.up_proj.weight holds NaN"),
        (np.inf, "int8", "mlp.up_proj.weight holds infinity"),
        (3.4e38, "bf16", "answers with NaN or infinity"),  # rounds to infinity
    ],
)
def test_weights_that_are_not_finite(
    value: float, scheme: str, named: str, model: Path, output: Path
) -> None:
    def change(held: dict[str, np.ndarray]) -> None:
        held["model.layers.1.mlp.up_proj.weight"][3, 5] = value

    tensors(change)(model)
    error = refused(model, output, scheme=scheme)
    assert error.id == "LLMC-E0408"
    assert named in error.message


def test_code_beside_the_checkpoint_is_not_run(model: Path, output: Path, tmp_path: Path) -> None:
    trace = tmp_path / "was-run"
    (model / "own.py").write_text(f"open({str(trace)!r}, 'w')\nclass Config: pass\nclass Tok: pass")
    config = json.loads((model / "config.json").read_text())
    own = {"AutoConfig": "own.Config", "AutoTokenizer": ["own.Tok", "own.Tok"]}
    (model / "config.json").write_text(
        json.dumps({**config, "model_type": "ownnet", "auto_map": own})
    )
    error = refused(model, output)
    assert error.id == "LLMC-E0402"
    assert "--trust-remote-code" in error.hint
    (model / "config.json").write_text(json.dumps(config))
    (model / "tokenizer.json").unlink()
    (model / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Tok", "auto_map": own})
    )
    assert refused(model, output).id == "LLMC-E0417"
    assert not trace.exists()


@pytest.mark.parametrize("data", [b"", b"GGUF", b"GGUF\x03" + bytes(19), b"GGUF\x03" * 40])
def test_gguf_files_without_sense(data: bytes, output: Path, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(data)
    assert refused(tmp_path / "m.gguf", output).id == "LLMC-E0417"


@pytest.mark.parametrize("spec", ["/nowhere/model", "./gone", "gone.gguf", "a\0b", "empty", "loop"])
def test_no_model(spec: str, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    if "\0" not in spec:
        assert refused(spec, output).id == "LLMC-E0409"
        return
    from llmc.compiler.frontend.sources import open_source

    with pytest.raises(LlmcError, match="E0409"):
        open_source(spec)
