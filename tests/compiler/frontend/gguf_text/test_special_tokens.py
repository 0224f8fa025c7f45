"""Special tokens of GGUF vocabularies: ids, ends of turn, marks around a text.

What is expected is what llama.cpp does with the same metadata (`llama_vocab::impl::load`).
"""

from pathlib import Path
from typing import Any

import gguf
import gguf_vocabularies as gv
import pytest
from llmc.base.errors import LlmcError
from llmc.compiler.frontend.gguf_text import assets as assets_module

pytestmark = pytest.mark.fast

FIRST = len(gv.ALPHABET)
MARKS = [
    ("<｜begin▁of▁sentence｜>", gv.CONTROL), ("<｜end▁of▁sentence｜>", gv.CONTROL),
    ("<｜User｜>", gv.USER_DEFINED), ("<｜Assistant｜>", gv.USER_DEFINED),
    ("<think>", gv.USER_DEFINED), ("    ", gv.USER_DEFINED), ("\n\n", gv.USER_DEFINED),
    ("<|tool call|>", gv.CONTROL), ("[PAD7]", gv.UNUSED),
]  # fmt: skip


def vocabulary(path: Path, *extra: tuple[str, int], **keys: Any) -> Path:
    return gv.write_vocabulary(path / "v.gguf", *gv.byte_level(*extra), **keys)


@pytest.mark.parametrize("pre", ["deepseek-r1-qwen", "gpt-2", "llama-bpe", "smollm", "default"])
def test_each_token_is_found_in_a_text(pre: str, tmp_path: Path) -> None:
    found, _, notes = gv.opened(vocabulary(tmp_path, *MARKS, pre=pre))
    for place, (token, kind) in enumerate(MARKS):
        if kind != gv.UNUSED:
            assert found.encode(token, add_special_tokens=False) == [FIRST + place]
            ids = found.encode(f"a{token}b", add_special_tokens=False)
            assert ids == [gv.ALPHABET.index("a"), FIRST + place, gv.ALPHABET.index("b")]
            assert found.decode([FIRST + place], keep_special=True) == token
            hidden = "" if kind == gv.CONTROL else token
            assert found.decode([FIRST + place]) == hidden
    assert len(found.encode("[PAD7]", add_special_tokens=False)) == len("[PAD7]")
    assert notes == ()


@pytest.mark.parametrize(
    ("extra", "keys", "ends"),
    [
        (["</s>", "<|im_end|>"], {"eos_token_id": FIRST}, ["</s>", "<|im_end|>"]),
        (["<e>", "<t>", "<m>"], {"eos_token_id": FIRST, "eot_token_id": FIRST + 1,
                                 "eom_token_id": FIRST + 2}, ["<e>", "<t>", "<m>"]),
        (["<|eot_id|>", "<x>"], {"eos_token_id": FIRST + 1}, ["<x>", "<|eot_id|>"]),
        (["<end_of_turn>", "<eos>"], {}, ["<end_of_turn>", "<eos>"]),
        (["<｜end▁of▁sentence｜>"], {}, ["<｜end▁of▁sentence｜>"]),
        (["<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|fim_prefix|>"], {},
         ["<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"]),
        (["<|return|>", "<|call|>", "<|end|>"], {}, ["<|return|>", "<|call|>"]),
        (["<|end|>"], {}, ["<|end|>"]),
        (["<|tool_response>", "<turn|>", "</s>"], {}, ["<|tool_response>", "<turn|>"]),
        (["<x>"], {}, []),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_ends_of_turn(
    extra: list[str], keys: dict[str, int], ends: list[str], tmp_path: Path
) -> None:
    path = vocabulary(tmp_path, *((token, gv.CONTROL) for token in extra), **keys)
    _, assets, _ = gv.opened(path)
    assert assets.generation["eos_token_id"] == [FIRST + extra.index(token) for token in ends]


def test_an_ordinary_token_that_ends_a_turn_by_its_name(tmp_path: Path) -> None:
    found, assets, notes = gv.opened(vocabulary(tmp_path, ("<|im_end|>", gv.NORMAL)))
    assert assets.generation["eos_token_id"] == [FIRST]
    assert found.encode("a<|im_end|>", add_special_tokens=False)[-1] == FIRST
    assert any("<|im_end|> is a special one by its name" in note for note in notes)


@pytest.mark.parametrize(
    ("pre", "keys", "before", "after"),
    [
        ("gpt-2", {}, [], []),
        ("llama-bpe", {}, ["<b>"], []),
        ("tekken", {}, ["<b>"], []),
        ("llama-bpe", {"add_bos_token": False}, [], []),
        ("gpt-2", {"add_bos_token": True, "add_eos_token": True}, ["<b>"], ["<e>"]),
    ],
)
def test_marks_around_a_text(
    pre: str, keys: dict[str, bool], before: list[str], after: list[str], tmp_path: Path
) -> None:
    marks = ["<b>", "<e>"]
    path = vocabulary(
        tmp_path, *((token, gv.CONTROL) for token in marks), pre=pre, bos_token_id=FIRST,
        eos_token_id=FIRST + 1, **keys,
    )  # fmt: skip
    found, _, _ = gv.opened(path)
    ids = found.encode("x", add_special_tokens=True)
    own = [FIRST + marks.index(token) for token in (*before, *after)]
    assert ids == [*own[: len(before)], gv.ALPHABET.index("x"), *own[len(before) :]]
    assert found.encode("x", add_special_tokens=False) == [gv.ALPHABET.index("x")]


def test_default_ids(tmp_path: Path) -> None:
    """1 and 2 of a sentencepiece vocabulary; 11 of a byte-level one if it is a special token."""
    tokens = ["<unk>", "<s>", "</s>", "a"]
    kinds = [gv.UNKNOWN, gv.CONTROL, gv.CONTROL, gv.NORMAL]
    path = gv.write_vocabulary(tmp_path / "v.gguf", tokens, kinds, model="llama", scores=[0.0] * 4)
    _, assets, _ = gv.opened(path)
    assert assets.generation == {"eos_token_id": [2], "bos_token_id": 1, "unk_token_id": 0}
    for kind, expected in ((gv.NORMAL, []), (gv.CONTROL, [11])):
        tokens, kinds = gv.byte_level()
        kinds[11] = kind
        _, assets, _ = gv.opened(gv.write_vocabulary(tmp_path / "v.gguf", tokens, kinds))
        assert assets.generation["eos_token_id"] == expected


def test_a_mark_without_an_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LlmcError, match="add_bos_token is true, but there is no bos") as caught:
        gv.opened(vocabulary(tmp_path, add_bos_token=True))
    assert caught.value.id == "LLMC-E0418"


def test_ids_outside_of_the_vocabulary(tmp_path: Path) -> None:
    _, assets, notes = gv.opened(vocabulary(tmp_path, eos_token_id=9999))
    assert assets.generation["eos_token_id"] == []
    assert any("eos_token_id 9999 is outside" in note for note in notes)


def test_spaces_that_belong_to_tokens_by_the_name_of_the_model(tmp_path: Path) -> None:
    marks = [("<|user|>", gv.CONTROL), ("<s>", gv.CONTROL)]
    path = vocabulary(tmp_path, *marks, general__name="Phi-3 mini")
    found, _, _ = gv.opened(path)
    a = gv.ALPHABET.index("a")
    assert found.encode("<|user|> \n a", add_special_tokens=False) == [FIRST, a]
    assert len(found.encode("<s> a", add_special_tokens=False)) == 3
    path = vocabulary(tmp_path, ("<mask>", gv.CONTROL), pre="jina-v2-code")
    assert gv.opened(path)[0].encode("a <mask>", add_special_tokens=False) == [a, FIRST]


def test_tokens_that_their_text_does_not_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last guard: whatever the reason, a needed token that is lost stops the compile."""
    add = assets_module._add_special

    def forgetful(tokenizer: Any, vocabulary: Any, file: Any) -> None:
        kinds = [1 if "lost" in token else kind for token, kind in
                 zip(vocabulary.tokens, vocabulary.kinds, strict=True)]  # fmt: skip
        from dataclasses import replace

        add(tokenizer, replace(vocabulary, kinds=kinds), file)

    monkeypatch.setattr(assets_module, "_add_special", forgetful)
    path = vocabulary(tmp_path, ("<lost>", gv.CONTROL), ("<kept>", gv.CONTROL))
    _, _, notes = gv.opened(path)
    assert notes == ("special tokens that text never gives: '<lost>'",)
    path = vocabulary(tmp_path, ("<lost>", gv.CONTROL), eos_token_id=FIRST)
    with pytest.raises(LlmcError, match="'<lost>' can't be written as text") as caught:
        gv.opened(path)
    assert caught.value.id == "LLMC-E0418"


def test_sampling_defaults(tmp_path: Path) -> None:
    def stated(writer: gguf.GGUFWriter) -> None:
        writer.add_float32("general.sampling.temp", 0.7)
        writer.add_int32("general.sampling.top_k", 20)
        writer.add_float32("general.sampling.penalty_repeat", 1.1)
        writer.add_float32("general.sampling.xtc_probability", 0.5)
        writer.add_int32("general.sampling.mirostat", 0)
        writer.add_array("tokenizer.ggml.suppress_tokens", [3])

    _, assets, notes = gv.opened(vocabulary(tmp_path, extra=stated))
    assert assets.generation["temperature"] == 0.7
    assert assets.generation["top_k"] == 20
    assert assets.generation["repetition_penalty"] == 1.1
    assert len(notes) == 2
    assert "xtc_probability" in notes[0]
    assert "suppress_tokens" in notes[1]


def test_named_templates(tmp_path: Path) -> None:
    """As gguf's writer stores what `tokenizer_config.json` lists by name."""
    templates = [
        {"name": "default", "template": "{{ messages }}"},
        {"name": "tool_use", "template": "{{ tools }}"},
    ]
    path = vocabulary(tmp_path, extra=lambda writer: writer.add_chat_template(templates))
    _, assets, notes = gv.opened(path)
    assert assets.chat_template == "{{ messages }}"
    assert dict(assets.named_templates) == {"tool_use": "{{ tools }}"}
    assert notes == ()
