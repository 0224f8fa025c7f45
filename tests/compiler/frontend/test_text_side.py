"""Of any folder, the artifact's tokenizer makes the ids and the text that transformers makes.

What is right is asked of `AutoTokenizer` each time. Ids of tokens, where a test names them, are
those that the files give.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from llmc.artifact.manifest import GENERATION, TEXT_VECTORS, Generation, decode_generation
from llmc.artifact.text_vectors import decode_text_vectors
from llmc.base.errors import LlmcError
from llmc.compiler.assemble import template_sources
from llmc.compiler.frontend.model_source import ModelSource
from llmc.compiler.frontend.sources import open_source
from llmc.compiler.frontend.text_side import text_side
from llmc.compiler.text_entries import text_entries
from llmc.runtime.text import template_sandbox
from llmc.runtime.text.templates import ChatTemplates
from llmc.runtime.text.tokenizer import Tokenizer
from small_tokenizers import (
    CORPUS,
    KINDS,
    TEXTS,
    byte_level,
    folder_of,
    pieces_bpe,
    pre,
    sentencepiece_model,
    tekken_model,
    tiktoken_model,
)
from transformers import AutoConfig, AutoTokenizer

pytestmark = pytest.mark.fast

CHAT = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ASKED = [{"role": "user", "content": "hi"}]
MARKS = {"bos_token": "<s>", "eos_token": "</s>"}


def opened(folder: Path) -> tuple[ModelSource, Generation, Tokenizer]:
    """A folder as the artifact has it; proven while it is opened."""
    source = open_source(str(folder))
    entries = text_entries(source)
    generation = decode_generation(entries[GENERATION])
    data = source.text.tokenizer
    assert data is not None
    split = generation.split_special_tokens
    return source, generation, Tokenizer(data, split_special_tokens=split)


def same_as_transformers(folder: Path, *more: str) -> tuple[ModelSource, Generation]:
    """Ids and text of texts, alone and with marks, are those of `AutoTokenizer`."""
    source, generation, tokenizer = opened(folder)
    reference: Any = AutoTokenizer.from_pretrained(folder)
    for text in (*TEXTS, *CORPUS[:5], *more):
        for marked in (False, True):
            expected = reference.encode(text, add_special_tokens=marked)
            assert tokenizer.encode(text, add_special_tokens=marked) == expected, text
            for special in (False, True):
                said = reference.decode(expected, skip_special_tokens=not special)
                assert tokenizer.decode(expected, keep_special=special) == said
    assert generation.special_tokens == reference.special_tokens_map
    return source, generation


@pytest.fixture(scope="module")
def bytes_bpe() -> Any:
    return byte_level(pre.ByteLevel(add_prefix_space=False))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(kind: str, tmp_path: Path) -> None:
    model_type, name, make = KINDS[kind]
    marks = {} if "Bert" in name else MARKS
    folder = folder_of(tmp_path / "m", model_type, make(), {"tokenizer_class": name, **marks})
    source, generation = same_as_transformers(folder)
    assert len(generation.eos_token_ids) == len(marks) // 2
    replaced = [note for note in source.notes if "replaces" in note]
    assert len(replaced) == (kind in REPLACED)
    assert all(part in note for note in replaced for part in REPLACED[kind])


REPLACED = {
    "of another pattern than qwen2's": ("Qwen2Tokenizer", "normalizer", "pre_tokenizer"),
    "llama2": ("LlamaTokenizer", "model.unk_token"),
    "llama2 of old": ("LlamaTokenizer", "normalizer", "pre_tokenizer"),
    "gemma": ("GemmaTokenizer", "normalizer", "pre_tokenizer"),
}
"""Kinds whose class puts its own parts in the place of the file's, and which."""


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("named", [None, "LlamaTokenizer", "GemmaTokenizer"])
def test_a_sentencepiece_model_alone(kind: str, named: str | None, tmp_path: Path) -> None:
    settings = {"tokenizer_class": named, **MARKS} if named else None
    folder = folder_of(tmp_path / "m", settings=settings)
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(kind))
    _, generation = same_as_transformers(folder, "<|end|>", "<|user|>")
    assert generation.eos_token_ids == [2]


@pytest.mark.parametrize("name", ["tokenizer.model", "tiktoken.model"])
def test_a_tiktoken_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after another one has stood at the same place, which tiktoken's cache goes by."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    added = {str(400 + i): {"content": f"<|mark{i}|>", "special": True} for i in (0, 2)}
    settings = {"added_tokens_decoder": added, "eos_token": "<|mark0|>"}
    folder = folder_of(tmp_path / "m", settings=settings)
    whole = tiktoken_model()
    (folder / name).write_bytes(b"".join(whole.splitlines(keepends=True)[:300]))
    opened(folder)
    (folder / name).write_bytes(whole)
    _, generation = same_as_transformers(folder, "<|mark0|><|mark2|>")
    assert generation.eos_token_ids == [400]


def test_a_tekken_file(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", "mistral", eos_token_id=2)
    (folder / "tekken.json").write_bytes(tekken_model())
    _, generation = same_as_transformers(folder, "<s>[INST] a[INST]b</s>")
    assert generation.eos_token_ids == [2]


def test_a_vocabulary_with_merges(bytes_bpe: Any, tmp_path: Path) -> None:
    settings = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|im_end|>"}
    folder = folder_of(tmp_path / "m", "gpt2", settings=settings)
    model = json.loads(bytes_bpe.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    (folder / "added_tokens.json").write_text(json.dumps({"<|im_end|>": 400, "<|more|>": 401}))
    _, generation = same_as_transformers(folder, "a<|more|> <|im_end|>")
    assert generation.eos_token_ids == [400]


# ---- tokens that stand in one file only ----------------------------------------------------

ADDED: Mapping[str, Mapping[str, Any]] = {
    "added_tokens_decoder": {
        "tokenizer_config.json": {"added_tokens_decoder": {"500": {"content": "<|new|>"}}}
    },
    "additional_special_tokens": {
        "tokenizer_config.json": {"additional_special_tokens": ["<|new|>"]}
    },
    "extra_special_tokens, a list": {
        "tokenizer_config.json": {"extra_special_tokens": ["<|new|>"]}
    },
    "extra_special_tokens, by name": {
        "tokenizer_config.json": {"extra_special_tokens": {"new_token": "<|new|>"}}
    },
    "a named token": {"tokenizer_config.json": {"image_token": "<|new|>"}},
    "eos_token": {"tokenizer_config.json": {"eos_token": "<|new|>"}},
    "special_tokens_map.json": {"special_tokens_map.json": {"eos_token": "<|new|>"}},
    "special_tokens_map.json, a list": {
        "special_tokens_map.json": {"additional_special_tokens": ["<|new|>"]}
    },
    "added_tokens.json": {"added_tokens.json": {"<|new|>": 404}},
}


@pytest.mark.parametrize("place", ADDED)
def test_tokens_that_stand_in_one_file_only(place: str, bytes_bpe: Any, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", tokenizer=bytes_bpe)
    for name, content in ADDED[place].items():
        (folder / name).write_text(json.dumps(content))
    _, generation = same_as_transformers(folder, "a<|new|>b", " <|new|> ")
    _, _, tokenizer = opened(folder)
    (number,) = tokenizer.encode("<|new|>", add_special_tokens=False)
    assert generation.eos_token_ids == ([number] if "eos_token" in str(ADDED[place]) else [])


def test_split_special_tokens(bytes_bpe: Any, tmp_path: Path) -> None:
    settings = {**MARKS, "split_special_tokens": True, "chat_template": CHAT}
    folder = folder_of(tmp_path / "m", tokenizer=bytes_bpe, settings=settings)
    _, generation = same_as_transformers(folder)
    assert generation.split_special_tokens
    _, _, tokenizer = opened(folder)
    assert len(tokenizer.encode("</s>", add_special_tokens=False)) > 1


def test_dropout_and_tokens_without_a_row(tmp_path: Path, bytes_bpe: Any) -> None:
    raw = json.loads(bytes_bpe.to_str())
    raw["model"]["dropout"] = 0.9
    settings = {"extra_special_tokens": ["<|a|>", "<|b|>"]}
    folder = folder_of(tmp_path / "m", settings=settings, vocab_size=405)
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    source, _, tokenizer = opened(folder)
    assert tokenizer.encode(CORPUS[0], add_special_tokens=False) == bytes_bpe.encode(CORPUS[0]).ids
    assert [n for n in source.notes if "dropout" in n or "'<|b|>'" in n] == list(source.notes)
    assert len(source.notes) == 2


# ---- special tokens, templates and ends ----------------------------------------------------


def rendered(folder: Path, **given: Any) -> tuple[str, str]:
    """The prompt of a chat, and transformers'."""
    source, generation, _ = opened(folder)
    templates = ChatTemplates(template_sources(source.text), generation.special_tokens)
    reference: Any = AutoTokenizer.from_pretrained(folder)
    expected = reference.apply_chat_template(
        ASKED, tokenize=False, add_generation_prompt=True, **given
    )
    return templates.render(ASKED, **given), expected


TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
NAMED = [
    {"name": "default", "template": CHAT},
    {"name": "tool_use", "template": "TOOLS:{{ tools | tojson }}" + CHAT},
    {"name": "rag", "template": "RAG" + CHAT},
]


@pytest.mark.parametrize(
    "settings",
    [
        {**MARKS, "chat_template": CHAT},
        {"bos_token": None, "eos_token": "</s>", "chat_template": CHAT},
        {"bos_token": {"__type": "AddedToken", "content": "<s>"}, "chat_template": CHAT},
        {"eot_token": "<|im_end|>", "chat_template": "{{ eot_token }}" + CHAT},
        {
            "extra_special_tokens": {"image_token": "<|im_start|>"},
            "chat_template": "{{ image_token }}{{ unk_token is defined }}" + CHAT,
        },
        {"chat_template": "{{ additional_special_tokens is defined }}{{ pad_token }}" + CHAT},
        {"chat_template": NAMED},
    ],
    ids=str,
)
@pytest.mark.parametrize("given", [{}, {"tools": TOOLS}], ids=["plain", "tools"])
def test_what_templates_may_name(
    settings: Mapping[str, Any], given: Mapping[str, Any], bytes_bpe: Any, tmp_path: Path
) -> None:
    """An id in the config names no token."""
    folder = folder_of(
        tmp_path / "m", tokenizer=bytes_bpe, settings=settings, bos_token_id=5, pad_token_id=6
    )
    found, expected = rendered(folder, **given)
    if not given or isinstance(settings["chat_template"], list):
        assert found == expected
    else:  # told in words to a template that knows no tools
        assert found.endswith(expected[-40:])


def test_templates_in_files(bytes_bpe: Any, tmp_path: Path) -> None:
    settings = {**MARKS, "chat_template": "of the settings"}
    folder = folder_of(tmp_path / "m", tokenizer=bytes_bpe, settings=settings)
    (folder / "chat_template.jinja").write_text("FILE" + CHAT)
    more = folder / "additional_chat_templates"
    more.mkdir()
    (more / "tool_use.jinja").write_text("TOOLS" + CHAT)
    (more / "a b.jinja").write_text("OTHER" + CHAT)
    for given in ({}, {"tools": TOOLS}, {"chat_template": "a b"}):
        found, expected = rendered(folder, **given)
        assert found == expected
    entries = text_entries(open_source(str(folder)))
    named = sorted(name for name in entries if name.startswith("chat_template"))
    assert named == [
        "chat_template.jinja",
        "chat_templates/_0.jinja",
        "chat_templates/tool_use.jinja",
    ]


def test_without_a_default_template(bytes_bpe: Any, tmp_path: Path) -> None:
    settings = {**MARKS, "chat_template": NAMED[1:]}
    folder = folder_of(tmp_path / "m", tokenizer=bytes_bpe, settings=settings)
    source, generation, _ = opened(folder)
    assert source.notes == ("no chat template is the default one, only rag, tool_use",)
    with pytest.raises(LlmcError, match=r"E0209.*rag, tool_use"):
        ChatTemplates(template_sources(source.text), generation.special_tokens).render(ASKED)
    for given in ({"tools": TOOLS}, {"chat_template": "rag"}):
        found, expected = rendered(folder, **given)
        assert found == expected


def test_the_template_of_a_processor(bytes_bpe: Any, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", tokenizer=bytes_bpe, settings=MARKS)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "P" + CHAT}))
    source, _, _ = opened(folder)
    assert source.text.chat_template == "P" + CHAT
    assert source.text.vectors is not None
    assert all(chat.prompt.startswith("P<s>") for chat in source.text.vectors.chats)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": 5}))
    with pytest.raises(LlmcError, match="E0417"):
        open_source(str(folder))


ENDS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any] | None, Mapping[str, Any], list[int]]]
ENDS = {
    "of nothing": ({}, None, {}, []),
    "of the config": ({"eos_token_id": 7}, None, {}, [7]),
    "of the config's text part": ({"text_config": {"eos_token_id": 7}}, None, {}, [7]),
    "of the defaults": ({}, {"eos_token_id": [8, 9]}, {}, [8, 9]),
    "of the tokenizer": ({}, None, {"eos_token": "<|im_end|>"}, [403]),
    "of all": (
        {"eos_token_id": 9},
        {"eos_token_id": [8, 9]},
        {"eos_token": {"__type": "AddedToken", "content": "<|im_end|>"}},
        [8, 9, 403],
    ),
    "of the class": ({}, None, {"tokenizer_class": "GPTNeoXTokenizer"}, []),
    "said to be none": ({"eos_token_id": None}, {"eos_token_id": None}, {"eos_token": None}, []),
}


@pytest.mark.parametrize("case", ENDS)
def test_a_text_ends_where_any_file_says(case: str, bytes_bpe: Any, tmp_path: Path) -> None:
    """And nowhere else: not at a default of a config's or a tokenizer's class."""
    config, defaults, settings, ends = ENDS[case]
    folder = folder_of(tmp_path / "m", tokenizer=bytes_bpe, settings=settings, **config)
    if defaults is not None:
        (folder / "generation_config.json").write_text(json.dumps(defaults))
    _, generation, _ = opened(folder)
    assert generation.eos_token_ids == ends


# ---- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["ByT5Tokenizer", "CTRLTokenizer", "BioGptTokenizer", "XLMTokenizer", "MistralCommonBackend"],
)
def test_tokenizers_of_python_alone(name: str, tmp_path: Path) -> None:
    """Whether or not their files are there."""
    folder = folder_of(tmp_path / "m", settings={"tokenizer_class": name})
    for complete in (False, True):
        if complete:
            vocabulary = {"<unk>": 0, "a</w>": 1, "<s>": 2, "</s>": 3}
            (folder / "vocab.json").write_text(json.dumps(vocabulary))
            (folder / "merges.txt").write_text("#version\na </w>\n")
        with pytest.raises(LlmcError) as caught:
            open_source(str(folder))
        assert caught.value.id == "LLMC-E0426"
        assert name in caught.value.message
        assert "\n" not in caught.value.message


def test_models_that_transformers_knows_by_their_name(tmp_path: Path) -> None:
    """Their files name a class that makes other ids."""
    settings = {"tokenizer_class": "LlamaTokenizer", **MARKS}
    folder = folder_of(tmp_path / "m", tokenizer=pieces_bpe(False), settings=settings)
    config = AutoConfig.from_pretrained(folder)
    for hub_id, name in ((None, "LlamaTokenizer"), ("deepseek-ai/deepseek-coder-1b", "Tokenizers")):
        assets, _ = text_side(folder, {}, config, hub_id=hub_id, trust_remote_code=False)
        assert assets.vectors is not None
        assert name in assets.vectors.reference


@pytest.mark.parametrize("name", ["Qwen2Tokenizer", "GPT2Tokenizer", "LlamaTokenizer"])
def test_a_vocabulary_that_is_missing(name: str, tmp_path: Path) -> None:
    """Of some classes, transformers would make a tokenizer of one token."""
    folder = folder_of(tmp_path / "m", settings={"tokenizer_class": name})
    with pytest.raises(LlmcError) as caught:
        open_source(str(folder))
    assert caught.value.id == "LLMC-E0417"
    assert "\n" not in caught.value.message


def test_code_of_a_tokenizer_is_not_run(bytes_bpe: Any, tmp_path: Path) -> None:
    settings = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    folder = folder_of(tmp_path / "m", tokenizer=bytes_bpe, settings=settings)
    (folder / "own.py").write_text("raise SystemExit('ran')")
    with pytest.raises(LlmcError) as caught:
        open_source(str(folder))
    assert caught.value.id == "LLMC-E0417"
    assert "--trust-remote-code" in caught.value.hint


OWN = """
from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast
class Own(PreTrainedTokenizerFast):
    def __init__(self, **given):
        super().__init__(**given)
        self.add_tokens(["<|own|>"])
class Cut:
    def pre_tokenize(self, text):
        pass
class Mixed(PreTrainedTokenizerFast):
    def __init__(self, **given):
        super().__init__(**given)
        self.backend_tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Cut())
class Slow(PreTrainedTokenizer):
    vocab_size = 1
    def get_vocab(self):
        return {"a": 0}
"""


def test_code_of_a_tokenizer_that_is_trusted(bytes_bpe: Any, tmp_path: Path) -> None:
    for name in ("Own", "Slow", "Mixed"):
        settings = {"tokenizer_class": name, "auto_map": {"AutoTokenizer": [None, f"own.{name}"]}}
        folder = folder_of(tmp_path / name, tokenizer=bytes_bpe, settings=settings)
        (folder / "own.py").write_text(OWN)
        if name != "Own":
            with pytest.raises(LlmcError, match=rf"E0426.*{name}"):
                open_source(str(folder), trust_remote_code=True)
            continue
        data = open_source(str(folder), trust_remote_code=True).text.tokenizer
        reference: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
        assert data is not None
        for text in (*TEXTS, "a<|own|>b"):
            expected = reference.encode(text, add_special_tokens=False)
            assert Tokenizer(data).encode(text, add_special_tokens=False) == expected


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"model": 5}', '{"version":"1.0","model":{"type":"BPE"}}']
)
@pytest.mark.parametrize("name", ["LlamaTokenizer", "Qwen2Tokenizer", None])
def test_a_broken_tokenizer(content: str, name: str | None, tmp_path: Path) -> None:
    settings = {"tokenizer_class": name} if name else None
    folder = folder_of(tmp_path / "m", settings=settings)
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(LlmcError) as caught:
        open_source(str(folder))
    assert caught.value.id == "LLMC-E0417"
    assert "\n" not in caught.value.message


def test_a_template_that_goes_on_and_on(
    bytes_bpe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers' own renderer would not end."""
    monkeypatch.setattr(template_sandbox, "MAX_SECONDS", 1.0)
    loop = "{% for i in range(99999) %}"
    source = CHAT + "{% if tools %}" + loop * 3 + "{% endfor %}" * 3 + "{% endif %}"
    settings = {**MARKS, "chat_template": source}
    with pytest.raises(LlmcError, match="E0417"):
        open_source(str(folder_of(tmp_path / "m", tokenizer=bytes_bpe, settings=settings)))


@pytest.mark.parametrize(
    "name", ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]
)
def test_a_broken_file_is_named(name: str, bytes_bpe: Any, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", tokenizer=bytes_bpe)
    for content in ("", "[]", "{", "\x00"):
        (folder / name).write_text(content)
        with pytest.raises(LlmcError) as caught:
            open_source(str(folder))
        assert caught.value.id in ("LLMC-E0417", "LLMC-E0418")
        assert name in caught.value.message


@pytest.mark.parametrize("kind", ["gpt2", "llama2", "unigram"])
def test_what_is_built_is_proven_as_well(kind: str, tmp_path: Path) -> None:
    """Of a source without vectors, such as a GGUF file, the parts themselves say what is right."""
    _, _, make = KINDS[kind]
    settings = {**MARKS, "chat_template": NAMED}
    source = open_source(str(folder_of(tmp_path / "m", "llama", make(), settings)))
    told = source.text.vectors
    bare = replace(source, text=replace(source.text, vectors=None))
    vectors = decode_text_vectors(text_entries(bare)[TEXT_VECTORS])
    assert told is not None
    assert (vectors.texts, vectors.chats) == (told.texts, told.chats)
    assert len(vectors.chats) > 10


def test_text_that_differs_is_not_written(
    bytes_bpe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**MARKS, "chat_template": CHAT}
    source = open_source(str(folder_of(tmp_path / "m", tokenizer=bytes_bpe, settings=settings)))
    assert TEXT_VECTORS in text_entries(source)
    for method in ("encode", "decode"):
        with monkeypatch.context() as patch:
            real = getattr(Tokenizer, method)
            patch.setattr(Tokenizer, method, lambda *a, real=real, **k: real(*a, **k)[:-1])
            with pytest.raises(LlmcError, match="E0427"):
                text_entries(source)
    monkeypatch.setattr(ChatTemplates, "render", lambda *_, **__: "another prompt")
    with pytest.raises(LlmcError, match="E0427"):
        text_entries(source)


def test_a_template_that_writes_whole_messages(bytes_bpe: Any, tmp_path: Path) -> None:
    source = "{{ tools | tojson }}{% for m in messages %}{{ m | tojson }}{{ m.keys() | list }}"
    settings = {"chat_template": source + "{{ m.content }}{% endfor %}"}
    folder = folder_of(tmp_path / "m", tokenizer=bytes_bpe, settings=settings)
    source, _, _ = opened(folder)
    assert source.text.vectors is not None
    assert len(source.text.vectors.chats) > 5


def test_of_many_tokens_those_of_the_template_are_proven(bytes_bpe: Any, tmp_path: Path) -> None:
    many = [f"<|extra{number}|>" for number in range(400)]
    settings = {"extra_special_tokens": many, "chat_template": CHAT + "<|extra200|>"}
    folder = folder_of(tmp_path / "m", tokenizer=bytes_bpe, settings=settings)
    vectors = open_source(str(folder)).text.vectors
    assert vectors is not None
    shown = vectors.texts[-2].text
    assert [f"<|extra{i}|>" in shown for i in (0, 50, 200, 201, 399)] == [1, 1, 1, 0, 1]


def test_vectors_name_what_they_were_taken_from(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", tokenizer=pieces_bpe(True), settings=MARKS)
    vectors = open_source(str(folder)).text.vectors
    assert vectors is not None
    assert "TokenizersBackend" in vectors.reference
    kinds = ("🙂", "日本", "  ", "\n", "123", "It's", "def ", " leading", "trailing ", "</s>")
    assert all(any(kind in one.text for one in vectors.texts) for kind in kinds)
    assert not vectors.chats
