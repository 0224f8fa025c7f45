"""Small tokenizers of every kind that models have, trained here, and folders with one.

In: a kind by name. Out: a `tokenizers.Tokenizer`, or a folder that `open_source` and transformers'
`AutoTokenizer` read. Nothing is downloaded.
"""

import base64
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, processors, trainers
from tokenizers import pre_tokenizers as pre

CORPUS = [
    "Hello world, it's a small test of text 123 4567 and numbers.",
    "def f(x):\n    return x**2  # a comment\n",
    "naïve café Ångström straße Привет мир 日本語 テキスト",
    "the quick brown fox jumps over the lazy dog's back  twice",
    "UPPER lower MixedCase can't won't I'LL we've",
] * 4
TEXTS = [
    "Hello world", " a  b ", "def f(x):\n\n  return y\t", "<s>x</s><|im_start|> <|im_end|>", "\n",
    "日本語 🙂 é e\u0301", "12345 it's 6 I'LL", "<|user|>hi<|end|> there", "naïve  <0x41>",
    "▁a\u00a0b",
]  # fmt: skip
"""Of none of these is an id stored anywhere: transformers says what they are."""
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_THREES = (
    _CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_ONES = _THREES.replace(r"\p{N}{1,3}", r"\p{N}")
_BYTE_TOKENS = [f"<0x{number:02X}>" for number in range(256)]


def byte_level(
    splitting: pre.PreTokenizer, normalizer: normalizers.Normalizer | None = None
) -> Any:
    """BPE of bytes, with marks of chats."""
    made: Any = Tokenizer(models.BPE())
    made.pre_tokenizer = splitting
    if normalizer is not None:
        made.normalizer = normalizer
    made.decoder = decoders.ByteLevel()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    made.add_special_tokens(["<s>", "</s>", "<|im_start|>", "<|im_end|>"])
    return made


def by_pattern(pattern: str) -> pre.PreTokenizer:
    """Split by a pattern, then bytes."""
    bytes_alone = pre.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre.Sequence([pre.Split(Regex(pattern), "isolated"), bytes_alone])


def _gpt2() -> pre.PreTokenizer:
    return pre.ByteLevel(add_prefix_space=False)


def _digits() -> pre.PreTokenizer:
    return pre.Sequence([pre.Digits(individual_digits=True), _gpt2()])


def pieces_bpe(marked_once: bool) -> Any:
    """BPE of pieces with byte fallback, as sentencepiece trains it."""
    made: Any = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if marked_once:
        made.pre_tokenizer = pre.Metaspace(prepend_scheme="first", split=False)
    else:
        marks = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        made.normalizer = normalizers.Sequence(marks)
    trainer: Any = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<unk>", "<s>", "</s>", *_BYTE_TOKENS],
        show_progress=False,
        limit_alphabet=60,
    )
    made.train_from_iterator(CORPUS, trainer)
    raw = json.loads(made.to_str())
    raw["added_tokens"] = [t for t in raw["added_tokens"] if t["content"] not in _BYTE_TOKENS]
    made = Tokenizer.from_str(json.dumps(raw))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return made


def unigram() -> Any:
    made: Any = Tokenizer(models.Unigram())
    made.normalizer, made.pre_tokenizer = normalizers.NFKC(), pre.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer: Any = trainers.UnigramTrainer(
        vocab_size=300,
        special_tokens=["<unk>", "<s>", "</s>"],
        unk_token="<unk>",
        show_progress=False,
    )
    made.train_from_iterator(CORPUS, trainer)
    return made


def word_piece() -> Any:
    made: Any = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer: Any = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=special, show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


KINDS: Mapping[str, tuple[str, str, Callable[[], Any]]] = {
    "gpt2": ("gpt2", "GPT2Tokenizer", lambda: byte_level(_gpt2())),
    "digits apart": ("llama", "PreTrainedTokenizerFast", lambda: byte_level(_digits())),
    "three digits": ("llama", "LlamaTokenizer", lambda: byte_level(by_pattern(_THREES))),
    "qwen2": ("qwen2", "Qwen2Tokenizer", lambda: byte_level(by_pattern(_ONES), normalizers.NFC())),
    "of another pattern than qwen2's": ("qwen3", "Qwen2Tokenizer", lambda: byte_level(_gpt2())),
    "neox": ("gpt_neox", "GPTNeoXTokenizer", lambda: byte_level(_gpt2(), normalizers.NFC())),
    "cohere": ("cohere", "CohereTokenizer", lambda: byte_level(_digits(), normalizers.NFC())),
    "llama2": ("llama", "LlamaTokenizer", lambda: pieces_bpe(True)),
    "llama2 of old": ("llama", "LlamaTokenizerFast", lambda: pieces_bpe(False)),
    "mistral": ("mistral", "LlamaTokenizer", lambda: pieces_bpe(False)),
    "gemma": ("gemma2", "GemmaTokenizer", lambda: pieces_bpe(False)),
    "phi3": ("phi3", "LlamaTokenizer", lambda: pieces_bpe(False)),
    "unigram": ("llama", "PreTrainedTokenizerFast", unigram),
    "word piece": ("bert", "BertTokenizer", word_piece),
}
"""`model_type`, tokenizer class and tokenizer.json of a kind."""


def folder_of(
    path: Path,
    model_type: str = "llama",
    tokenizer: Any = None,
    settings: Mapping[str, Any] | None = None,
    **config: Any,
) -> Path:
    """A checkpoint whose text side is real and whose weights are none."""
    path.mkdir(parents=True)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000}
    whole = {"model_type": model_type, **sizes, **heads, **config}
    (path / "config.json").write_text(json.dumps(whole))
    save_file({"a": torch.zeros(2, 2)}, path / "model.safetensors")
    if tokenizer is not None:
        (path / "tokenizer.json").write_text(tokenizer.to_str())
    if settings is not None:
        (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


def sentencepiece_model(kind: str) -> bytes:
    """A `tokenizer.model` of that kind (`bpe`, `unigram`), with two marks."""
    import sentencepiece

    made = io.BytesIO()
    lines = [line.replace("\n", " ") for line in CORPUS * 10]
    sentencepiece.SentencePieceTrainer.train(  # type: ignore[attr-defined]
        sentence_iterator=iter(lines),
        model_writer=made,
        model_type=kind,
        vocab_size=420,
        byte_fallback=True,
        user_defined_symbols=["<|user|>"],
        control_symbols=["<|end|>"],
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return made.getvalue()


def tiktoken_model() -> bytes:
    """A file of tiktoken's: tokens in base64, with their ranks."""
    byte_of = {c: b for b, c in _characters().items()}
    vocabulary = json.loads(byte_level(by_pattern(_THREES)).to_str())["model"]["vocab"]
    lines = [
        base64.b64encode(bytes(byte_of[c] for c in token)) + f" {rank}\n".encode()
        for token, rank in sorted(vocabulary.items(), key=lambda pair: pair[1])
    ]
    return b"".join(lines)


def tekken_model() -> bytes:
    """A `tekken.json` of Mistral's: the same tokens behind four special ones."""
    tokens = [bytes([byte]) for byte in range(256)]
    encoded = [line.split()[0] for line in tiktoken_model().splitlines()]
    tokens += [token for token in map(base64.b64decode, encoded) if len(token) > 1]
    special = ["<unk>", "<s>", "</s>", "[INST]"]
    config = {
        "pattern": _ONES.removeprefix(f"{_CONTRACTIONS}|"),
        "num_vocab_tokens": len(tokens),
        "default_vocab_size": len(tokens) + len(special),
        "default_num_special_tokens": len(special),
        "version": "v7",
    }
    vocabulary = [
        {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
        for rank, token in enumerate(tokens)
    ]
    marks = [{"rank": i, "token_str": mark, "is_control": True} for i, mark in enumerate(special)]
    return json.dumps({"config": config, "vocab": vocabulary, "special_tokens": marks}).encode()


def _characters() -> dict[int, str]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return bytes_to_unicode()
