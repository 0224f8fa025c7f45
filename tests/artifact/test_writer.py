"""Artifacts: all or nothing when written, and nothing but themselves when read."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llmc.artifact import archive, reader
from llmc.artifact import manifest as artifact
from llmc.artifact import writer as container
from llmc.artifact.manifest_check import check
from llmc.artifact.reader import ArtifactReader
from llmc.artifact.writer import ArtifactWriter
from llmc.base.errors import LlmcError
from msgspec.structs import replace

pytestmark = pytest.mark.fast

WEIGHTS = "weights/cpu.safetensors"


def opened(tmp_path, data: bytes | bytearray, **options) -> ArtifactReader:
    path = tmp_path / "a.llmc"
    path.write_bytes(data)
    return ArtifactReader(path, **options)


def content(reader: ArtifactReader) -> dict[str, bytes]:
    return {name: bytes(reader.read(name)) for name in reader.names}


def test_round_trip_and_alignment(tmp_path, tiny_bytes):
    reader = opened(tmp_path, tiny_bytes, verify_weights=True)
    assert reader.names == sorted(reader.names)
    assert bytes(reader.read("LICENSE")) == b"Apache-2.0\n"
    assert len(reader.weights_data(WEIGHTS)) == 5000
    members = archive.parse(memoryview(tiny_bytes))
    assert all(m.data % archive.ALIGNMENT == 0 for m in members.values())


def test_any_unzip_reads_it(tmp_path, tiny_bytes):
    path = tmp_path / "a.llmc"
    path.write_bytes(tiny_bytes)
    with zipfile.ZipFile(path) as z:
        assert z.testzip() is None
        assert z.namelist() == sorted(z.namelist())
        z.extractall(tmp_path / "dir")
    assert content(ArtifactReader(tmp_path / "dir")) == content(ArtifactReader(path))
    if shutil.which("sha256sum"):
        subprocess.run(
            ["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=tmp_path / "dir", check=True
        )


def test_directory_format_holds_the_same_entries(tmp_path, tiny_bytes, write_tiny):
    write_tiny(tmp_path / "d.llmc", format="dir")
    write_tiny(tmp_path / "d.llmc", format="dir")  # replaces the first
    reader = ArtifactReader(tmp_path / "d.llmc", verify_weights=True)
    assert content(reader) == content(opened(tmp_path, tiny_bytes))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.llmc", "d.llmc"]


def test_two_writes_are_equal_but_for_the_certificate(tmp_path, tiny_bytes, write_tiny):
    write_tiny(tmp_path / "same.llmc")
    assert (tmp_path / "same.llmc").read_bytes() == tiny_bytes
    write_tiny(tmp_path / "other.llmc", certificate=b'{"seconds": 3}\n')
    a, b = (content(ArtifactReader(tmp_path / f"{n}.llmc")) for n in ("same", "other"))
    assert {n for n in a if a[n] != b[n]} == {"certificate.json", "SHA256SUMS"}


def test_every_flipped_bit_outside_the_weights_is_refused_at_load(tmp_path, tiny_bytes):
    """One bit in each of ~2000 bytes spread over the file, and each structure byte by byte."""
    weights = archive.parse(memoryview(tiny_bytes))[WEIGHTS]
    inside = range(weights.data, weights.data + weights.size)
    tail = range(len(tiny_bytes) - 700, len(tiny_bytes))
    heads = [
        i
        for m in archive.parse(memoryview(tiny_bytes)).values()
        for i in (*range(m.header, m.header + 60), *range(m.data, m.data + min(m.size, 40)))
    ]
    spread = range(0, len(tiny_bytes), 401)
    path = tmp_path / "a.llmc"
    path.write_bytes(tiny_bytes)
    with path.open("rb+", buffering=0) as file:
        for i in sorted({*tail, *heads, *spread} - set(inside)):
            file.seek(i)
            file.write(bytes([tiny_bytes[i] ^ 1 << (i * 7 % 8)]))
            with pytest.raises(LlmcError) as caught:
                ArtifactReader(path)
            assert caught.value.exit_code == 5
            file.seek(i)
            file.write(tiny_bytes[i : i + 1])
    ArtifactReader(path, verify_weights=True)


def test_a_flipped_bit_in_the_weights_is_found_on_request(tmp_path, tiny_bytes):
    weights = archive.parse(memoryview(tiny_bytes))[WEIGHTS]
    for i in (*range(weights.data + 8, weights.data + weights.size, 97),):
        changed = bytearray(tiny_bytes)
        changed[i] ^= 4
        reader = opened(tmp_path, changed)
        assert not reader.matches_digest(WEIGHTS)
        with pytest.raises(LlmcError, match="E0504"):
            opened(tmp_path, changed, verify_weights=True)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_corruption_crashes_or_loads_silently(tmp_path, tiny_bytes, data):
    draw = data.draw
    size = len(tiny_bytes)
    structure = sorted({*range(size - 900, size), *range(64)})
    position = draw(st.one_of(st.integers(0, size - 1), st.sampled_from(structure)))
    kind = draw(st.sampled_from(["cut", "overwrite", "insert", "delete", "copy", "append"]))
    noise = draw(st.binary(min_size=1, max_size=40))
    source = draw(st.integers(0, size - 1))
    changed = {
        "cut": tiny_bytes[:position],
        "overwrite": (tiny_bytes[:position] + noise + tiny_bytes[position + len(noise) :])[:size],
        "insert": tiny_bytes[:position] + noise + tiny_bytes[position:],
        "delete": tiny_bytes[:position] + tiny_bytes[position + len(noise) :],
        "copy": tiny_bytes[:position]
        + tiny_bytes[source : source + 300]
        + tiny_bytes[position + 300 :],
        "append": tiny_bytes + noise,
    }[kind]
    original = content(opened(tmp_path, tiny_bytes))
    try:
        reader = opened(tmp_path, changed, verify_weights=True)
    except LlmcError as error:
        exit_code, loaded = error.exit_code, original
    else:
        exit_code, loaded = 5, content(reader)
    assert exit_code == 5
    assert loaded == original


def rebuilt(entries: list[tuple[str, bytes]], **claims) -> bytes:
    """An archive of our own layout around any names and contents."""
    out, members = b"", []
    for name, data in entries:
        m = archive.place(len(out), name, len(data))
        m = replace(m, crc=zlib.crc32(data), **claims)
        out += bytes(m.header - len(out)) + archive.local_header(m) + data
        members.append(m)
    return out + archive.directory(members, len(out))


@pytest.mark.parametrize("name", ["../x", "/x", "a/../b", "a\\b", ".hidden", "a//b", "a/", "x\0y"])
def test_traversal_names_are_refused(tmp_path, name):
    with pytest.raises(LlmcError, match="not allowed"):
        opened(tmp_path, rebuilt([("manifest.json", b"{}"), (name, b"x")]))


def test_duplicate_names_are_refused(tmp_path):
    with pytest.raises(LlmcError, match="same name"):
        opened(tmp_path, rebuilt([("manifest.json", b"{}"), ("manifest.json", b"{}")]))


def test_a_compressed_or_foreign_zip_is_refused(tmp_path, tiny_bytes):
    entries = content(opened(tmp_path, tiny_bytes))
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "z.llmc", "w", method) as z:
            for name, data in entries.items():
                z.writestr(name, data)
        with pytest.raises(LlmcError, match="E0503"):
            ArtifactReader(tmp_path / "z.llmc")


def test_overlapping_entries_are_refused():
    one = archive.place(0, "a", 100)
    two = archive.Member("b", 100, header=one.header + 10, data=one.data + 10)
    body = archive.local_header(one) + bytes(100)
    with pytest.raises(LlmcError, match="E0503"):
        archive.parse(memoryview(body + archive.directory([one, two], len(body))))


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\x03\x04", b"GGUF" + bytes(100), bytes(70000)])
def test_other_files_are_refused(tmp_path, data):
    with pytest.raises(LlmcError) as caught:
        opened(tmp_path, data)
    assert caught.value.id in ("LLMC-E0502", "LLMC-E0503")


def test_missing_paths_and_pipes_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    for name, id in (("nothing", "E0501"), ("pipe", "E0501"), ("empty", "E0502")):
        with pytest.raises(LlmcError, match=id):
            ArtifactReader(tmp_path / name)


def test_links_and_strangers_in_a_directory_are_refused(tmp_path, write_tiny):
    for stranger in ("link", "file"):
        path = tmp_path / f"{stranger}.llmc"
        write_tiny(path, format="dir")
        if stranger == "link":
            (path / "LICENSE").unlink()
            (path / "LICENSE").symlink_to("/etc/hostname")
        else:
            (path / "extra").write_bytes(b"x")
        with pytest.raises(LlmcError) as caught:
            ArtifactReader(path)
        assert caught.value.exit_code == 5


def test_a_newer_format_is_named_as_such(tmp_path, monkeypatch, write_tiny):
    write_tiny(tmp_path / "new.llmc", format_version=artifact.FORMAT_VERSION + 1)
    with pytest.raises(LlmcError, match="E0505"):
        ArtifactReader(tmp_path / "new.llmc")
    with zipfile.ZipFile(tmp_path / "z.llmc", "w") as z:  # a container this version doesn't know
        z.writestr("manifest.json", b'{"format_version": 9, "shape": "unknown"}')
    with pytest.raises(LlmcError, match="E0505"):
        ArtifactReader(tmp_path / "z.llmc")


@pytest.mark.parametrize("version", artifact.READABLE_VERSIONS)
def test_formats_that_are_read(tmp_path, write_tiny, version):
    """What version 3 added has defaults that say what version 2 meant."""
    write_tiny(tmp_path / "x.llmc", format_version=version)
    manifest = ArtifactReader(tmp_path / "x.llmc").manifest
    assert (manifest.named_templates, manifest.text_vectors) == ({}, None)
    raw = msgspec.to_builtins(manifest)
    del raw["named_templates"], raw["text_vectors"]
    assert artifact.decode(json.dumps(raw).encode()) == manifest


def test_unknown_fields_are_refused(tmp_path, tiny_bytes):
    manifest = opened(tmp_path, tiny_bytes).manifest
    extended = msgspec.to_builtins(manifest) | {"surprise": 1}
    with pytest.raises(LlmcError, match="E0508"):
        artifact.decode(msgspec.json.encode(extended))
    assert artifact.decode(artifact.encode(manifest)) == manifest


def test_inconsistent_manifests_are_refused(tiny_manifest):
    manifest = tiny_manifest(4096, 5000)
    sizes = {"programs/cpu/portable.so": 1, WEIGHTS: 4096 + 5000}
    entries = {n: artifact.Entry(sha256="0" * 64, size=s) for n, s in sizes.items()}
    good = msgspec.structs.replace(manifest, entries=entries)
    check(good, sizes)
    variant, weights = good.variants[0], good.weights[WEIGHTS]
    change = msgspec.structs.replace
    group = change(variant.cache_groups[0], bytes_per_block=255)
    latent = artifact.make_cache_group(
        name="latents", window=0, layers=2, kv_heads=1, key_dim=40, value_dim=0, latent_dim=24,
        dtype="i8", block_size=group.block_size,
    )  # fmt: skip
    assert latent.kind == "latent"
    assert latent.bytes_per_block == group.block_size * 2 * (32 + 16 + 8)
    check(change(good, variants=[change(variant, cache_groups=[latent])]), sizes)
    beyond = msgspec.structs.replace(weights.tensors["w000"], offset=1)
    buffer = artifact.Buffer(name="b", offset=4000, nbytes=97, first=0, last=1)
    bad = [
        change(good, tokenizer="tokenizer.json"),
        change(good, entries={}),
        change(good, variants=[change(variant, program="programs/none.so")]),
        change(good, variants=[change(variant, weights="LICENSE")]),
        change(good, variants=[change(variant, cache_groups=[group])]),
        change(good, variants=[change(variant, cache_groups=[change(latent, latent_dim=41)])]),
        change(good, variants=[change(variant, cache_groups=[change(latent, kind="full")])]),
        change(good, variants=[change(variant, cache_groups=[change(latent, value_dim=1)])]),
        change(
            good,
            variants=[
                change(variant, memory_plan=artifact.MemoryPlan(arena_bytes=4096, buffers=[buffer]))
            ],
        ),
        change(good, weights={WEIGHTS: change(weights, tensors={"w000": beyond})}),
        change(good, weights={WEIGHTS: change(weights, nbytes=4999)}),
        change(good, weights={WEIGHTS: change(weights, data_offset=4095, nbytes=5001)}),
    ]
    for manifest in bad:
        with pytest.raises(LlmcError, match="E0508"):
            check(manifest, sizes)


def fail(writer, error):
    writer.add("LICENSE", b"x")
    raise error


def test_an_error_leaves_nothing_and_keeps_the_old_artifact(tmp_path):
    path = tmp_path / "a.llmc"
    path.write_bytes(b"old")
    targets: list[tuple[Any, Path]] = [("file", path), ("dir", tmp_path / "b.llmc")]
    for format, target in targets:
        for error in (KeyboardInterrupt, ValueError):
            with pytest.raises(error), ArtifactWriter(target, format=format) as writer:
                fail(writer, error)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.llmc"]


def test_wrong_sizes_and_missing_manifests_are_internal_errors(tmp_path):
    with (
        pytest.raises(LlmcError, match="E0100"),
        ArtifactWriter(tmp_path / "a") as writer,
        writer.open_stream("LICENSE", 3) as stream,
    ):
        stream.write(b"xx")
    with pytest.raises(LlmcError, match="E0100"), ArtifactWriter(tmp_path / "a") as writer:
        writer.add("LICENSE", b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_finished_entry_can_be_read_while_writing(tmp_path):
    formats: tuple[Literal["file"], Literal["dir"]] = ("file", "dir")
    for format in formats:
        writer = ArtifactWriter(tmp_path / "a", format=format)
        writer.__enter__()
        writer.add("first", b"12345")
        writer.add("empty", b"")
        assert bytes(writer.view("first")) == b"12345"
        assert bytes(writer.view("empty")) == b""
        writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, monkeypatch, write_tiny):
    real = container._ZipSink.begin

    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    def begin(self, name, size):
        real(self, name, size)
        return Full()

    monkeypatch.setattr(container._ZipSink, "begin", begin)
    with pytest.raises(LlmcError, match="E0701"):
        write_tiny(tmp_path / "a.llmc")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_cannot_fit_are_refused_before_they_are_made(tmp_path):
    with pytest.raises(LlmcError, match="E0701"), ArtifactWriter(tmp_path / "a") as writer:
        writer.open_stream(WEIGHTS, 1 << 60)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_targets(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("x")
    for target in ("no/such/folder/a.llmc", "folder"):
        with pytest.raises(LlmcError, match="E0702"), ArtifactWriter(tmp_path / target):
            pass
    with pytest.raises(LlmcError, match="E0702"), ArtifactWriter(tmp_path / "folder", format="dir"):
        pass
    with pytest.raises(LlmcError, match="E0702"), ArtifactWriter("/dev/full"):
        pass
    assert (tmp_path / "folder" / "mine").read_text() == "x"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_leave_nothing(tmp_path, number, code):
    script = textwrap.dedent(f"""
        import sys, time
        from llmc.artifact.writer import ArtifactWriter
        try:
            with ArtifactWriter({str(tmp_path / "a.llmc")!r}) as writer:
                writer.add("LICENSE", b"x" * 100000)
                print("ready", flush=True)
                time.sleep(60)
        except KeyboardInterrupt:
            sys.exit(130)
    """)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    assert list(tmp_path.iterdir()) != []
    process.send_signal(number)
    assert process.wait(20) == code
    process.stdout.close()
    assert list(tmp_path.iterdir()) == []


@given(
    position=st.integers(0, 1 << 20),
    name=st.from_regex(r"[a-z]{1,30}", fullmatch=True),
    size=st.sampled_from([0, 1, 1 << 31, 0xFFFFFFFF, 1 << 35]),
)
def test_headers_reach_exactly_to_aligned_data(position, name, size):
    member = archive.place(position, name, size)
    assert member.header >= position
    assert member.header - position < 64
    assert member.data % archive.ALIGNMENT == 0
    assert len(archive.local_header(member)) == member.data - member.header


def test_zip64_archives_read_back(tmp_path):
    """Sparse: a member of 5 GiB of zeros and one that starts behind it."""
    path = tmp_path / "big.zip"
    big = replace(archive.place(0, "a", 5 << 30), crc=1)
    small = replace(archive.place(big.data + big.size, "b", 3), crc=zlib.crc32(b"xyz"))
    with path.open("wb") as f:
        for m in (big, small):
            f.seek(m.header)
            f.write(archive.local_header(m))
        f.write(b"xyz")
        f.write(archive.directory([small, big], f.tell()))
    members = archive.parse(reader._map(path))
    assert members == {"a": big, "b": small}
    with zipfile.ZipFile(path) as z:
        assert z.read("b") == b"xyz"
        assert z.getinfo("a").file_size == 5 << 30
