"""Small tokenizers, one of each kind of decoder, in the shape that real models have them."""

from collections.abc import Callable, Sequence

from llmc.runtime.text.tokenizer import Tokenizer
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Native

PIECES = ["▁", "a", "b", "é", "日", "▁a", "ab", "▁ab", "▁▁", "▁▁a", "a▁", "'", ".", "▁.", " a "]
WORDS = ["ab", "##ab", "a", "##b", ".", ",", "'", "n't", "##", "##.", "do", "not", "'s", "日", " "]
BYTES = [f"<0x{i:02X}>" for i in range(256)]
MERGES = [("▁", "a"), ("a", "b"), ("▁a", "b")]


def add_tokens(native: Native) -> None:
    """Special ones, and added ones that are ordinary text."""
    native.add_special_tokens(["</s>", "<|call|>", "[日本 x]"])
    native.add_tokens([AddedToken("<tag>", normalized=False), AddedToken("▁é Ġ", normalized=False)])


def byte_level() -> Native:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    native = Native(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    native.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    native.decoder = decoders.ByteLevel()
    return native


def _sequence(strip: int) -> decoders.Decoder:
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*steps, *([decoders.Strip(" ", strip, 0)] if strip else [])])


def fallback_bpe() -> Native:
    """A metaspace, bytes as `<0x41>`, the first space stripped."""
    vocab = {piece: i for i, piece in enumerate([*BYTES, *PIECES])}
    native = Native(models.BPE(vocab, MERGES, byte_fallback=True))
    native.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    native.decoder = _sequence(strip=1)
    return native


def fallback_unigram() -> Native:
    vocab = [(piece, -1.0 - i % 7) for i, piece in enumerate(["<unk>", *BYTES, *PIECES])]
    native = Native(models.Unigram(vocab, 0, byte_fallback=True))
    native.decoder = _sequence(strip=0)
    return native


def strip_two() -> Native:
    native = fallback_unigram()
    native.decoder = _sequence(strip=2)
    return native


def fallback_metaspace() -> Native:
    native = fallback_unigram()
    native.decoder = decoders.Sequence([decoders.Metaspace(), decoders.ByteFallback()])
    return native


def metaspace() -> Native:
    native = Native(models.Unigram([(p, -1.0) for p in ["<unk>", *PIECES]], 0, False))
    native.pre_tokenizer = pre_tokenizers.Metaspace()
    native.decoder = decoders.Metaspace()
    return native


def metaspace_without_prefix() -> Native:
    native = metaspace()
    native.decoder = decoders.Metaspace(prepend_scheme="never")
    return native


def word_piece() -> Native:
    native = Native(models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="a"))
    native.pre_tokenizer = pre_tokenizers.Whitespace()
    native.decoder = decoders.WordPiece()
    return native


def word_piece_as_written() -> Native:
    native = word_piece()
    native.decoder = decoders.WordPiece(cleanup=False)
    return native


def no_decoder() -> Native:
    native = word_piece()
    native.decoder = None  # type: ignore[assignment]
    return native


def end_of_word() -> Native:
    """A decoder that isn't read into a table: spaces depend on the next token."""
    pieces = ["a", "b", "a</w>", "ab</w>", "日", "</w>"]
    native = Native(models.BPE({p: i for i, p in enumerate(pieces)}, [], end_of_word_suffix="</w>"))
    native.decoder = decoders.BPEDecoder()
    return native


def pattern_replaced() -> Native:
    """Another one: a pattern that is replaced after the tokens are joined."""
    native = word_piece()
    native.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace(Regex("a"), "A")])
    return native


TABLED: Sequence[Callable[[], Native]] = (
    byte_level,
    fallback_bpe,
    fallback_unigram,
    strip_two,
    fallback_metaspace,
    metaspace,
    metaspace_without_prefix,
    word_piece,
    word_piece_as_written,
    no_decoder,
)
WINDOWED: Sequence[Callable[[], Native]] = (end_of_word, pattern_replaced)


def tokenizer_of(kind: Callable[[], Native]) -> Tokenizer:
    native = kind()
    add_tokens(native)
    return Tokenizer(native.to_str().encode())
