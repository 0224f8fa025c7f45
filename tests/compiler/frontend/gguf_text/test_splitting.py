"""How text is split, by the name of a GGUF file's pre-tokenizer, against other implementations."""

import pytest
from llmc.compiler.frontend.gguf_text.splitting import splitting, splitting_names
from tokenizers import Regex, pre_tokenizers
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

pytestmark = pytest.mark.fast

TEXTS = (
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶‍🌫️ (emojis) ✅",
    "3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 १२३४ ⅷ½ v2.0",
    "កាន់តែពិសេសអាច😁 ?我想在apple工作1314151天～ ------======= нещо на Български \u1ed1 \u1fbe",
    "''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, 'RE sure? 'M We'Ve a'lL",
    "  leading and  double   spaces\tand tabs\r\nand lines \r\n\r\n trailing  ",
    "camelCase HTMLParser naïve Ünïcode e\u0301a İstanbul ſ's $100 a+b=c <tag/> x_1~`|",
    "日本語テキスト。中文，标点！한국어 ไทย हिन्दी שלום مرحبا \u0964 a/b//c /\n",
)


def pieces(name: str, text: str) -> list[str]:
    facts = splitting(name)
    assert facts is not None
    splits = [pre_tokenizers.Split(Regex(p), "isolated") for p in facts.patterns]
    found = pre_tokenizers.Sequence(splits).pre_tokenize_str(text)
    return [piece for piece, _ in found]


@pytest.mark.parametrize("name", splitting_names())
def test_nothing_is_lost_or_changed(name: str) -> None:
    for text in TEXTS:
        assert "".join(pieces(name, text)) == text


@pytest.mark.parametrize("name", sorted(GGUF_PRE_TOKENIZER_SPLITS))
def test_as_transformers_splits(name: str) -> None:
    split = pre_tokenizers.Split(Regex(GGUF_PRE_TOKENIZER_SPLITS[name]), "isolated")
    for text in TEXTS:
        assert pieces(name, text) == [piece for piece, _ in split.pre_tokenize_str(text)]


@pytest.mark.parametrize("name", ["starcoder", "refact", "command-r", "smollm", "codeshell"])
def test_as_the_library_splits_digits(name: str) -> None:
    own = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    expected = pre_tokenizers.Sequence(own)
    byte_level = pre_tokenizers.ByteLevel(False, use_regex=False)
    for text in TEXTS:
        found = [byte_level.pre_tokenize_str(piece)[0][0] for piece in pieces(name, text)]
        assert found == [piece for piece, _ in expected.pre_tokenize_str(text)]


def test_as_falcon_splits() -> None:
    """The pre-tokenizer of its own tokenizer.json."""
    own = [
        pre_tokenizers.Punctuation("contiguous"),
        pre_tokenizers.ByteLevel(False),
        pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
    ]
    expected = pre_tokenizers.Sequence(own)
    byte_level = pre_tokenizers.ByteLevel(False, use_regex=False)
    for text in TEXTS:
        found = [byte_level.pre_tokenize_str(piece)[0][0] for piece in pieces("falcon", text)]
        assert found == [piece for piece, _ in expected.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("afmoe", "1234567 12", ["1", "234", "567", " ", "12"]),
        ("tiny_aya", "1234567", ["1", "234", "567"]),
        ("superbpe", "a 1234567", ["a ", "1", "234", "567"]),
        ("deepseek-v3", "1234 中文ab", ["123", "4", " ", "中文", "ab"]),
        ("deepseek-llm", "ab 中文\n12", ["ab", " ", "中文", "\n", "12"]),
        ("deepseek-coder", "ab 12", ["ab", " ", "1", "2"]),
        ("bloom", "a b,c", ["a", " b", ",", "c"]),
        ("viking", "a1 b", ["a", "1", " b"]),
        ("kimi-k2", "ab中文HTMLParser", ["ab", "中文", "HTMLParser"]),
        ("minicpm5", "x12345", ["x", "123", "45"]),
        ("jais-2", "a      b", ["a", "    ", " ", " b"]),
        ("chameleon", "a  b\t1", ["a", "  ", "b", "\t", "1"]),
        ("laguna", "a\n\nb", ["a", "\n\n", "b"]),
        ("exaone-moe", "a b c\n\n", ["a b c", "\n\n"]),
        ("ufakzeka", "Ali's", ["Ali", "'s"]),
        ("youtu", "한국,中", ["한국", ",", "中"]),
        ("default", "12345", ["123", "45"]),
        ("gemma4", "a b\n\nc", ["a b\n\nc"]),
    ],
)
def test_digits_and_scripts(name: str, text: str, expected: list[str]) -> None:
    """By hand, from the rules that llama.cpp's source states for each name."""
    assert pieces(name, text) == expected


def test_an_unknown_name() -> None:
    assert splitting("nonesuch") is None
    assert splitting("single digits") is None
    assert splitting("whitespace") is None
