"""The command line: what it prints, its exit codes, and how it ends when it must end early."""

import contextlib
import errno
import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from llmc.artifact import targets
from llmc.base.error_table import ERRORS
from llmc.base.errors import LlmcError
from llmc.base.failures import BROKEN_PIPE_EXIT, as_content, as_lines, as_llmc_error, run_guarded
from llmc.base.sizes import parse_size
from llmc.cli import compile as compiling
from llmc.cli.app import invoke as invoke_command
from llmc.runtime.api.conformance import Check

COMMAND = [sys.executable, "-c", "from llmc.cli import main; main()"]

Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str]) -> Iterator[Invoke]:
    """Run a command line in this process: exit code, stdout, stderr."""
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: object) -> tuple[int, str, str]:
        code = run_guarded(invoke_command, [str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def error_of(out: str) -> dict[str, str]:
    content = json.loads(out)
    assert set(content) == {"error"}
    assert set(content["error"]) == {"id", "message", "hint"}
    assert all(content["error"].values())
    assert "\n" not in content["error"]["message"]
    return content["error"]


@pytest.mark.parametrize(
    ("arguments", "identifier"),
    [
        (["nonsense"], "LLMC-E0200"),
        (["run"], "LLMC-E0200"),
        (["run", "x.llmc", "hi", "--no-such-flag"], "LLMC-E0200"),
        (["run", "x.llmc", "hi", "--max-tokens", "many"], "LLMC-E0200"),
        (["compile", "x", "--int4", "--int8"], "LLMC-E0200"),
        (["compile", "x", "--format", "tar"], "LLMC-E0200"),
        (["compile", "x", "--quant", "int3"], "LLMC-E0201"),
        (["compile", "x", "--cpu", "native,sparc"], "LLMC-E0202"),
        (["compile", "x", "--cpu", ""], "LLMC-E0202"),
        (["compile", "x", "--target", "abacus"], "LLMC-E0203"),
        (["compile", "x", "--max-ram", "lots"], "LLMC-E0205"),
        (["bench", "x.llmc", "--batch", "0"], "LLMC-E0205"),
        (["bench", "x.llmc", "--price-per-hour", "nan"], "LLMC-E0205"),
        (["compile", "x\0y"], "LLMC-E0409"),
        (["run", "x.llmc", "\ud800"], "LLMC-E0205"),
        (["--nonsense"], "LLMC-E0200"),
        (["explain", "LLMC-E9999"], "LLMC-E0207"),
        (["run", "no-such-file.llmc", "hi"], "LLMC-E0501"),
        (["inspect", "no-such-file.llmc"], "LLMC-E0501"),
        (["verify", "no-such-file.llmc"], "LLMC-E0501"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_bad_input_is_one_object_or_two_lines(
    invoke: Invoke, arguments: list[str], identifier: str
) -> None:
    code, out, err = invoke(*arguments, "--json")
    assert (code, error_of(out)["id"]) == (int(identifier[6:8]), identifier)
    assert err == ""
    code, out, err = invoke(*arguments)
    assert (code, out) == (int(identifier[6:8]), "")
    cause, hint = err.splitlines()
    assert cause.startswith(f"llmc: {identifier}: ")
    assert hint.startswith("hint: ")


def test_run_streams_text_and_reports_speed(invoke: Invoke, toy_artifact: Path) -> None:
    code, out, err = invoke("run", toy_artifact, "hello", "--max-tokens", 5)
    assert code == 0
    assert out.endswith("\n")
    assert "5 tokens" in err
    assert "tokens/s" in err


def test_run_json(invoke: Invoke, toy_artifact: Path) -> None:
    code, out, err = invoke("run", toy_artifact, "hello", "--raw", "--max-tokens", 5, "--json")
    content = json.loads(out)
    assert (code, err) == (0, "")
    assert set(content) == {
        "text",
        "token_ids",
        "prompt_token_ids",
        "finish_reason",
        "ttft_ms",
        "tokens_per_s",
    }
    assert len(content["token_ids"]) == 5
    assert content["finish_reason"] == "length"
    assert content["prompt_token_ids"]
    plain = invoke("run", toy_artifact, "hello", "--raw", "--max-tokens", 5)[1]
    assert plain == content["text"] + "\n"


def test_run_options_reach_the_sampler(invoke: Invoke, toy_artifact: Path) -> None:
    def text(*options: object) -> str:
        arguments = ("run", toy_artifact, "hello", "--max-tokens", 12, *options, "--json")
        return json.loads(invoke(*arguments)[1])["token_ids"]

    assert text("--temperature", 1, "--seed", 1) == text("--temperature", 1, "--seed", 1)
    assert text("--temperature", 1, "--seed", 1) != text("--temperature", 1, "--seed", 2)
    assert text("--temperature", 1, "--seed", 1, "--top-k", 1) == text()
    code, out, _ = invoke("run", toy_artifact, "hello", "--temperature", -1, "--json")
    assert (code, error_of(out)["id"]) == (2, "LLMC-E0205")


def test_run_reads_the_prompt_from_stdin(toy_artifact: Path) -> None:
    command = [*COMMAND, "run", str(toy_artifact), "--max-tokens", "3", "--json"]
    done = subprocess.run(command, input="hello", capture_output=True, text=True, check=True)
    argument = [*COMMAND, "run", str(toy_artifact), "hello", "--max-tokens", "3", "--json"]
    same = subprocess.run(argument, capture_output=True, text=True, check=True)
    keys = ("token_ids", "prompt_token_ids")
    first, second = json.loads(done.stdout), json.loads(same.stdout)
    assert [first[key] for key in keys] == [second[key] for key in keys]


def test_a_prompt_that_is_not_utf8(toy_artifact: Path) -> None:
    command = [*COMMAND, "run", str(toy_artifact), "--json"]
    done = subprocess.run(command, input=b"h\xffi", capture_output=True, check=False)
    assert (done.returncode, error_of(done.stdout.decode())["id"]) == (2, "LLMC-E0205")


def test_prompts_are_utf8_in_any_locale(toy_artifact: Path) -> None:
    command = [*COMMAND, "run", str(toy_artifact), "wörld 🙂", "--max-tokens", "3"]
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    found = [
        subprocess.run([*command, *more], env={**os.environ, **locale}, capture_output=True)
        for locale in (plain, {"LC_ALL": "C.UTF-8"})
        for more in (["--json"], [])
    ]
    assert [done.returncode for done in found] == [0] * 4, found
    ids = [json.loads(found[i].stdout)["prompt_token_ids"] for i in (0, 2)]
    assert ids[0] == ids[1]


def test_messages_have_no_control_characters() -> None:
    """What files hold can't move a terminal's cursor, nor make two lines of one."""
    error = LlmcError("LLMC-E0410", "tensor a\n\x1b[31mb \x00", "look\nthere")
    assert as_lines(error) == ["llmc: LLMC-E0410: tensor a \\x1b[31mb \\x00", "hint: look there"]
    assert as_content(error)["error"]["message"] == "tensor a \\x1b[31mb \\x00"


def test_notes_have_none_either(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of config fields are anybody's text."""
    compiling = pytest.importorskip("llmc.cli.compile")
    driver = pytest.importorskip("llmc.compiler.driver")
    report = driver.CompileReport("m.llmc", "0" * 64, 1, 1.0, 1.0, notes=["a\n\x1b[31mb"])
    compiling._compile(lambda _: report, False)
    assert "note: a \\x1b[31mb\n" in capsys.readouterr().err


def test_a_prompt_longer_than_the_context(invoke: Invoke, toy_artifact: Path) -> None:
    code, out, _ = invoke("run", toy_artifact, "hello " * 400, "--json")
    assert (code, error_of(out)["id"]) == (2, "LLMC-E0204")


def test_a_profile_needs_a_program_that_tells(
    invoke: Invoke, toy_artifact: Path, tmp_path: Path
) -> None:
    """The toy's library has nothing but what every library must have."""
    shape = ("--prompt-tokens", 20, "--output-tokens", 8, "--json")
    code, out, _ = invoke("bench", toy_artifact, "--profile", tmp_path / "trace.json", *shape)
    assert (code, error_of(out)["id"]) == (2, "LLMC-E0241")
    assert not (tmp_path / "trace.json").exists()


def test_bench_json(invoke: Invoke, toy_artifact: Path) -> None:
    arguments = ("bench", toy_artifact, "--prompt-tokens", 20, "--output-tokens", 8, "--batch", 2)
    code, out, err = invoke(*arguments, "--price-per-hour", 3.6, "--json")
    content = json.loads(out)
    assert code == 0
    assert set(content) == {
        "prefill_tokens_per_s",
        "decode_tokens_per_s",
        "output_tokens_per_s",
        "ttft_ms",
        "tpot_ms",
        "p99_tpot_ms",
        "load_ms",
        "peak_rss_mb",
        "bytes_per_decode_step",
        "memory_read_gbs",
        "bandwidth_fraction",
        "cost_per_1k_tokens",
    }
    assert all(value > 0 for value in content.values())
    assert content["cost_per_1k_tokens"] == pytest.approx(1 / content["output_tokens_per_s"])
    assert "measuring" in err  # plain progress lines where stderr is no terminal
    code, out, _ = invoke(*arguments)
    assert code == 0
    assert "prefill" in out
    assert "GB/s" in out


def test_inspect(invoke: Invoke, toy_artifact: Path) -> None:
    code, out, _ = invoke("inspect", toy_artifact, "--memory", "--json")
    content = json.loads(out)
    assert code == 0
    assert content["source"]["id"] == "test/tiny"
    assert content["variants"][0]["level"] == "portable"
    assert content["memory"]["cpu/portable"]["arena_bytes"] == 4096
    assert content["memory"]["cpu/portable"]["bytes_per_token"] == 2 * 128
    assert content["memory"]["cpu/portable"]["bytes_per_sequence"] == 0
    assert content["certificate"] == {}
    code, out, _ = invoke("inspect", toy_artifact)
    assert code == 0
    for part in ("test/tiny", "cpu portable", "context 320", "programs/cpu/portable.so"):
        assert part in out
    code, out, _ = invoke("inspect", toy_artifact, "--memory")
    assert "cache sliding: 1 layers, f32, 128 B a token, keeps the last 40 tokens" in out
    code, out, _ = invoke("inspect", toy_artifact, "--graph", "--json")
    assert (code, error_of(out)["id"]) == (5, "LLMC-E0503")  # the toy was made without a graph


def test_verify(invoke: Invoke, toy_artifact: Path, tmp_path: Path) -> None:
    code, out, _ = invoke("verify", toy_artifact, "--json")
    content = json.loads(out)
    assert (code, content["ok"]) == (0, True)
    assert all(check["ok"] for check in content["checks"])
    data = bytearray(toy_artifact.read_bytes())
    position = data.index(bytes.fromhex("efcdab8967452301"))  # the toy's first weight
    data[position] ^= 1
    damaged = tmp_path / "damaged.llmc"
    damaged.write_bytes(data)
    code, out, _ = invoke("verify", damaged, "--json")
    content = json.loads(out)
    assert (code, content["ok"], content["error"]["id"]) == (5, False, "LLMC-E0504")
    assert [check["name"] for check in content["checks"] if not check["ok"]] == [
        "digest weights/cpu.safetensors"
    ]
    code, out, _ = invoke("verify", damaged)
    assert code == 5
    assert "FAILED  digest weights/cpu.safetensors" in out
    code, out, _ = invoke("run", damaged, "hello", "--verify-weights", "--json")
    assert (code, error_of(out)["id"]) == (5, "LLMC-E0504")


@pytest.mark.parametrize("name", ["source config.json", "rebuilt graph.txt"])
def test_a_rebuild_that_differs(
    invoke: Invoke, toy_artifact: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    rebuilding = pytest.importorskip("llmc.compiler.rebuild")
    asked = []

    def fake(
        path: Path, source: str | None, progress: object, *, lora: object, trust_remote_code: bool
    ) -> list[Check]:
        asked.append((path, source, lora, trust_remote_code))
        return [Check(name, False, "differs")]

    monkeypatch.setattr(rebuilding, "rebuild", fake)
    arguments = ("verify", toy_artifact, "--rebuild", "--source", "./there", "--json")
    code, out, _ = invoke(*arguments)
    content = json.loads(out)
    assert (code, content["ok"], content["error"]["id"]) == (5, False, "LLMC-E0511")
    assert name in content["error"]["message"]
    invoke(*arguments, "--trust-remote-code", "--lora", "./a", "--lora", "./b")
    first, second = (None, False), (["./a", "./b"], True)
    assert asked == [(toy_artifact, "./there", *more) for more in (first, second)]


def test_the_command_knows_every_scheme_and_level() -> None:
    """The table saves it from importing the compiler to print its help."""
    registry = pytest.importorskip("llmc.codegen.registry")
    contract = pytest.importorskip("llmc.codegen.contract")
    toolchain = pytest.importorskip("llmc.codegen.cpu.toolchain")
    assert set(targets.CPU_LEVELS) == {"native", *toolchain.USER_LEVELS}
    levels = {"inductor": ("x86-64-v3",), "triton": ("90",)}
    for name, row in targets.TARGETS.items():
        level = levels.get(name, ())
        done = []
        for scheme in targets.SCHEMES:
            asked = contract.Request(scheme, None, row.request(), level)
            with contextlib.suppress(LlmcError):
                registry.find_backend(name).configure(asked)
                done.append(scheme)
        assert tuple(done) == row.schemes
    assert {s for row in targets.TARGETS.values() for s in row.schemes} == set(targets.SCHEMES)


def test_explain(invoke: Invoke) -> None:
    code, out, _ = invoke("explain", "llmc-e0401", "--json")
    assert code == 0
    assert json.loads(out)["title"] == ERRORS["LLMC-E0401"].title
    code, out, _ = invoke("explain")
    assert [line.split()[0] for line in out.splitlines()] == list(ERRORS)


def test_help_shows_an_example_for_every_verb(invoke: Invoke) -> None:
    code, out, _ = invoke("--help")
    assert code == 0
    assert invoke() == (2, out, "")
    for verb in ("compile", "run", "bench", "inspect", "verify", "explain"):
        assert f"  {verb} " in out
        assert f"llmc {verb} " in invoke(verb, "-h")[1]


def test_version(invoke: Invoke) -> None:
    code, out, _ = invoke("--version")
    assert code == 0
    assert out.startswith("llmc 0.")


@pytest.mark.parametrize(
    ("text", "size"),
    [("800", 800), ("800M", 800_000_000), ("1.5GB", 1_500_000_000), ("2 GiB", 2 << 30)],
)
def test_parse_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1XB", "1e9", "∞"])
def test_parse_size_refuses(text: str) -> None:
    with pytest.raises(LlmcError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("error", "identifier"),
    [
        (ValueError("a\nb"), "LLMC-E0100"),
        (KeyboardInterrupt(), "LLMC-E0798"),
        (SystemExit(143), "LLMC-E0799"),
        (MemoryError(), "LLMC-E0600"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), "LLMC-E0701"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "LLMC-E0707"),
        (ModuleNotFoundError("no", name="torch._C"), "LLMC-E0703"),
        (ModuleNotFoundError("no", name="own_module"), "LLMC-E0100"),
        (LlmcError("LLMC-E0506", "no avx"), "LLMC-E0506"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_every_exception_becomes_an_error(error: BaseException, identifier: str) -> None:
    found = as_llmc_error(error)
    assert found.id == identifier
    assert "\n" not in found.message


def test_a_defect_is_one_line_and_a_traceback_on_request(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(arguments: list[str]) -> int:
        raise ValueError("broken")

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.delenv("LLMC_DEBUG", raising=False)
    assert run_guarded(fail, []) == 1
    assert capsys.readouterr().err.splitlines()[0] == "llmc: LLMC-E0100: ValueError: broken"
    monkeypatch.setenv("LLMC_DEBUG", "1")
    assert run_guarded(fail, []) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "code", "identifier"),
    [(signal.SIGINT, 130, "LLMC-E0798"), (signal.SIGTERM, 143, "LLMC-E0799")],
)
def test_signals(toy_artifact: Path, number: signal.Signals, code: int, identifier: str) -> None:
    command = [*COMMAND, "bench", str(toy_artifact), "--repeat", "1000000", "--json"]
    command += ["--prompt-tokens", "20"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore SIGINT, and their children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "measuring" in line:
                process.send_signal(number)
                break
        out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert error_of(out)["id"] == identifier


def test_a_closed_pipe_ends_quietly(toy_artifact: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [*COMMAND, "run", str(toy_artifact), "hello"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (BROKEN_PIPE_EXIT, "")


def test_a_signal_wins_over_what_libraries_make_of_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers = {}
    monkeypatch.setattr(signal, "signal", lambda number, act: handlers.update({number: act}))

    def swallow(arguments: list[str]) -> int:
        try:
            handlers[signal.SIGTERM](signal.SIGTERM, None)
        except BaseException as error:
            raise RuntimeError("import failed") from error
        return 0

    assert run_guarded(swallow, []) == 143
    assert capsys.readouterr().err.startswith("llmc: LLMC-E0799")


def test_without_standard_output(toy_artifact: Path) -> None:
    command = [*COMMAND, "inspect", str(toy_artifact)]
    done = subprocess.run(
        command, stderr=subprocess.PIPE, text=True, check=False, preexec_fn=lambda: os.close(1)
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_verb_imports_no_other(toy_artifact: Path) -> None:
    code = (
        "import sys; from llmc.cli.app import invoke; invoke(sys.argv[1:]);"
        "print(*(m for m in sys.modules if m.startswith('llmc.cli.')), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "explain", "LLMC-E0401"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(done.stderr.split()) == {f"llmc.cli.{n}" for n in ("app", "options", "explain")}


def test_the_collector_runs_again_when_the_compiler_cannot_be_imported() -> None:
    def fail() -> None:
        with compiling.collection_paused():
            assert not gc.isenabled()
            raise ModuleNotFoundError("torch")

    with pytest.raises(ModuleNotFoundError):
        fail()
    assert gc.isenabled()
