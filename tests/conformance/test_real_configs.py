"""Published configs, narrow and at full depth, compile at the first try and answer as eager.

Four of the configs of `configs/`, and some that are refused; `make conformance` tries all.
"""

import json
import sys
from pathlib import Path

import pytest
from llmc.compiler.frontend.checkpoint import load_config

sys.path.insert(0, str(Path(__file__).parent))
import real_configs as real


@pytest.mark.parametrize(
    ("name", "what"),
    [("gpt2", "a field that nothing reads"), ("pythia-160m", "fields that its config pops"),
     ("gemma-3-270m", "two kinds of layers"), ("gpt-oss-20b", "sinks, experts, biases")],
)  # fmt: skip
def test_matches_at_the_first_try(name: str, what: str) -> None:
    result = real.attempt(real.CONFIGS / f"{name}.json")
    assert result["verdict"] == real.MATCHES, (what, result)
    assert result["worst"] <= 1e-4


def test_int4_is_as_far_from_eager_as_rounding_inputs_is(tmp_path: Path) -> None:
    """With three layers, whose weights lie as [in, out]."""
    raw = json.loads((real.CONFIGS / "gpt2.json").read_text())
    shallow = tmp_path / "gpt2.json"
    shallow.write_text(json.dumps(raw | {"n_layer": 3}))
    result = real.attempt(shallow, "int4")
    assert result["verdict"] == real.MATCHES, result
    assert 0 < result["mean"] <= real.MOST_NOISE * result["noise"]
    assert result["noise"] < 0.05


@pytest.mark.parametrize(
    ("name", "id", "why"),
    [("kimi-k2", "LLMC-E0402", "no architecture 'kimi_k2'")],
)  # fmt: skip
def test_is_refused_for_the_true_reason(name: str, id: str, why: str, tmp_path: Path) -> None:
    """With two layers: why a model is refused stands in its first one."""
    raw = json.loads((real.CONFIGS / f"{name}.json").read_text())
    shallow = tmp_path / f"{name}.json"
    shallow.write_text(json.dumps(raw | {"num_hidden_layers": 2}))
    result = real.attempt(shallow)
    assert result["verdict"] == real.REFUSED
    assert id in result["error"]
    assert why in result["error"]


def test_the_page_is_rendered_from_the_results() -> None:
    """And nothing in it is wrong: what isn't done is refused."""
    results = real.read()
    assert real.PAGE.read_text() == real.render(results)
    found = {
        row[scheme]["verdict"] for row in results for scheme in ("f32", "int4") if scheme in row
    }
    assert found <= {real.MATCHES, real.REFUSED}
    known = {path.stem for path in real.CONFIGS.glob("*.json")}
    assert {result["config"].rstrip("*") for result in results} <= known


@pytest.mark.parametrize("name", ["starcoder2-3b", "gemma-3-4b", "llama-3.1-405b", "phi-4-mini"])
def test_narrow_configs_say_what_the_published_ones_say(name: str, tmp_path: Path) -> None:
    """Same fields but for sizes, the same number of layers, and readable by transformers."""
    raw = json.loads((real.CONFIGS / f"{name}.json").read_text())
    small = real.narrow(raw)
    (tmp_path / "config.json").write_text(json.dumps(small))
    config = load_config(tmp_path, small, trust_remote_code=False).get_text_config()
    text = raw.get("text_config", raw)
    assert config.num_hidden_layers == text["num_hidden_layers"]
    assert config.vocab_size < 1000
    lost = raw.keys() - small.keys()
    assert lost <= {"rope_scaling", "rope_theta"}
