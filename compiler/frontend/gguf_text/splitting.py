r"""How a byte-level vocabulary splits text before merging, by its name in `tokenizer.ggml.pre`.

In: the name. Out: patterns, each applied to what the one before left whole, and the other facts
that llama.cpp ties to the name. A GGUF file holds no more of them than the name.

The names and what belongs to each are those of llama.cpp (`src/llama-vocab.cpp`). Where that file
quotes the pattern of the model's own `tokenizer.json` and works with an approximation of it, the
model's own stands here, in the dialect of the `tokenizers` library (Oniguruma).
"""

from __future__ import annotations

from dataclasses import dataclass


def _set(ranges: str) -> str:
    """Inside of a character class, of code points in hexadecimal: ASCII alone stands in a file."""
    return "".join("-".join(rf"\x{{{end}}}" for end in r.split("-")) for r in ranges.split())


_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_HAN_UPPER, _HAN_LOWER = (kind[:-1] + r"&&[^\p{Han}]]" for kind in (_UPPER, _LOWER))
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_CHINESE_JAPANESE = f"[{_set('4E00-9FA5 3040-309F 30A0-30FF')}]+"
_CHINESE_KOREAN = f"[{_set('4E00-9FA5 800-4E00 AC00-D7FF')}]+"
_ASIAN = f"[{_set('4E00-9FFF 3400-4DBF 8C48-FAFF 3040-309F 30A0-30FF FF65-FF9F 2F00-2FDF E40-E7F')}"
_ASIAN += f"{_set('E80-EFF 1780-17FF 1000-109F AA60-AA7F A9E0-A9FF AC00-D7AF 1100-11FF')}]+"
_CASED_LETTERS = _set(
    "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 "
    "388-38A 38C 38E-3A1 3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA "
    "1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 "
    "1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB "
    "1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 212A-212D "
    "212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 "
    "A640-A66D A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A "
    "FF41-FF5A 10400-1044F 104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943"
)
_WIDE_MARKS = _set("FF01-FF0F FF1A-FF5E 2018-201F 3000-3002")
_YOUTU_MARKS = _set("FF01 2026 201C 201D 2018 2019 2014 FF1A FF1B FF0C 3001-303F FE30-FE4F")


def _words(digits: str, *, letters: str = r"\p{L}+", others: str = r"[^\s\p{L}\p{N}]+[\r\n]*",
           spaces: str = _SPACES, contractions: str = f"{_CONTRACTIONS}|") -> str:  # fmt: skip
    """The pattern of cl100k and its kin: words with one leading mark, digits, other characters."""
    return rf"{contractions}[^\r\n\p{{L}}\p{{N}}]?{letters}|{digits}| ?{others}|{spaces}"


def _cased(digits: str, *, tail: str = f"{_CONTRACTIONS}?", upper: str = _UPPER,
           lower: str = _LOWER, line: str = r"[\r\n/]*") -> str:  # fmt: skip
    """The pattern of o200k and its kin: a word ends where capitals follow small letters."""
    start = r"[^\r\n\p{L}\p{N}]?"
    words = f"{start}{upper}*{lower}+{tail}|{start}{upper}+{lower}*{tail}"
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+{line}|{_SPACES}"


_TO_THREE = r"\p{N}{1,3}"
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_QWEN2 = _words(r"\p{N}")
_BLOOM = rf" ?[^(\s|.,!?{_set('2026 3002 FF0C 3001 964 6D4 60C')})]+"
_MARKED = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+"
)
_DEEPSEEK3 = rf"{_MARKED}[\r\n]*|{_SPACES}"

_PATTERNS: dict[str, tuple[str, ...]] = {
    "gpt2": (GPT2_PATTERN,),
    "single digits": (r"\p{N}", GPT2_PATTERN),
    "cl100k": (_words(_TO_THREE),),
    "o200k": (_cased(_TO_THREE),),
    "qwen2": (_QWEN2,),
    "qwen35": (
        _words(r"\p{N}", letters=r"[\p{L}\p{M}]+", others=r"[^\s\p{L}\p{M}\p{N}]+[\r\n]*"),
    ),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", GPT2_PATTERN, r"\p{N}+", "[0-9][0-9][0-9]"),
    "deepseek": (_TO_THREE, _CHINESE_JAPANESE, _DEEPSEEK3),
    "bloom": (_BLOOM,),
    "whole": (),
    "jais-2": (
        _words(
            _TO_THREE,
            spaces=r"\s*[\r\n]+|"
            + "|".join(rf"\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4, "1,2"))
            + r"|\s{1}",
        ),
    ),
    "deepseek-llm": (
        r"[\r\n]", rf"\s?[{_CASED_LETTERS}]+", rf"\s?[!-/:-~{_WIDE_MARKS}]+", r"\s+$",
        _CHINESE_KOREAN, r"\p{N}+",
    ),
    "deepseek-coder": (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CHINESE_KOREAN, r"\p{N}"),
    "spark2_5": (
        _TO_THREE, _CHINESE_JAPANESE, rf"{_MARKED}|[\r\n]|\s+(?!\S)|\s+", r"\p{N}",
    ),
    "youtu": (
        f"[{_set('AC00-D7A3 3131-318E')}]+|[{_YOUTU_MARKS}]+|[{_set('3105-312F')}]+"
        f"|{_CHINESE_JAPANESE}",
        _cased(r"\p{N}"),
    ),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", GPT2_PATTERN, "[0-9][0-9][0-9]"),
    "viking": (_BLOOM, r"\p{N}"),
    "tekken": (_cased(r"\p{N}", tail=""),),
    "chameleon": (
        "<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"([\t\n]|    |  )", r"\p{N}",
        r"[\p{P}!-/:-@\[-`{-~]", GPT2_PATTERN,
    ),
    "tiny_aya": (r"\d{1,3}(?=(?:\d{3})*\b)", _cased(_TO_THREE)),
    "kimi-k2": (
        r"[\p{Han}]+|" + _cased(_TO_THREE, upper=_HAN_UPPER, lower=_HAN_LOWER, line=r"[\r\n]*"),
    ),
    "superbpe": (r"\p{N}+", r"(?=(\d{3})+(?!\d))"),
    "bailingmoe": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
        r"|\s*[\r\n]|\s+(?!\S)|\s+",
    ),
    "seed-coder": (_words(r"\p{N}{1}", others=r"[^\s\p{L}\p{N}\r\n]+"),),
    "ufakzeka": (_words(r"\p{N}", contractions=""),),
    "afmoe": (r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))", _ASIAN, _DEEPSEEK3),
    "laguna": (r"[^\n]+|[\n]+", _QWEN2),
    "exaone-moe": (
        _words(
            r"\p{N}", letters=r"(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+",
            others=r"[^\s\p{L}\p{N}]+[\r\n/]?", spaces=r"\s*[\r\n]|\s+(?!\S)|\s+",
        ),
    ),
    "minicpm5": (_TO_THREE, _words(r"\p{N}+")),
}  # fmt: skip

_NAMES: dict[str, str] = {
    "default": "default",
    "gpt2": (
        "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert "
        "jina-v1-en jina-v2-code roberta-bpe exaone4 mpt olmo jais trillion granite-docling"
    ),
    "single digits": "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2",
    "cl100k": (
        "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano dbrx "
        "smaug-bpe chatglm-bpe glm4 glm5"
    ),
    "o200k": "gpt-4o llama4 kanana2 talkie minimax-m2 granite-embed-multi-97m",
    "qwen2": (
        "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2"
    ),
    "deepseek": "deepseek-v3 hunyuan-dense joyai-llm hy_v4",
    "bloom": "poro-chat bloom gpt3-finnish",
    "whole": "gemma4 granite-embed-multi-311m sarvam-moe",
    "bailingmoe": "bailingmoe bailingmoe2 llada-moe",
    "tiny_aya": "tiny_aya cohere2moe",
}  # fmt: skip
"""Names that share patterns; any other name has those of its own in `_PATTERNS`."""
_PATTERNS_OF = {name: key for key, names in _NAMES.items() for name in names.split()}
_OWN = set(_PATTERNS) - set(_NAMES)

_WHOLE_WORDS = (
    "minicpm5 llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano youtu "
    "glm4 glm5 tekken granite-embed-multi-97m"
)
_BEGIN = (
    "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano tekken "
    "chameleon gemma4 granite-embed-multi-311m"
)
_NO_DEFAULT_BEGIN = "chatglm-bpe glm4 glm5"
_SEPARATED = "jina-v1-en jina-v2-code roberta-bpe"
_COMPOSED = "qwen2 f2llmv2 megrez command-r tiny_aya cohere2moe mpt olmo modern-bert"
"""Where the models' own tokenizers do it; llama.cpp never does, and its recorded ids for `qwen35`
say that it should not be done there."""


@dataclass(frozen=True, slots=True)
class Splitting:
    """What belongs to a name: see the module.

    `spaced`: spaces are written as U+2581 and bytes as tokens such as `<0x41>`; else the vocabulary
    is written in the byte-level alphabet. `whole_words`: a piece that is in the vocabulary is a
    token, whatever its merges. `composed`: text is brought into NFC. `begin`, `separate`: marks
    are added where the file says nothing; `default_begin`: there is a BOS without a key for it.
    """

    patterns: tuple[str, ...]
    spaced: bool = False
    whole_words: bool = False
    composed: bool = False
    begin: bool = False
    separate: bool = False
    default_begin: bool = True


def splitting(name: str) -> Splitting | None:
    """The facts of a name in `tokenizer.ggml.pre`; None for a name that isn't known."""
    key = _PATTERNS_OF.get(name, name if name in _OWN else None)
    if key is None:
        return None
    return Splitting(
        _PATTERNS[key],
        spaced=key == "whole",
        whole_words=name in _WHOLE_WORDS.split(),
        composed=name in _COMPOSED.split(),
        begin=name in _BEGIN.split(),
        separate=name in _SEPARATED.split(),
        default_begin=name not in _NO_DEFAULT_BEGIN.split(),
    )


def splitting_names() -> list[str]:
    """Every known name, sorted."""
    return sorted({*_PATTERNS_OF, *_OWN})
