"""Tokens cover the text exactly, whatever the text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference import byte_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from trails.errors import ModelError
from trails.measure.tokens import Encoded, TextTokenizer, encode_bytes

TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40) | st.text(
    "the is ё🙂👨‍👩‍👧н1\n ", min_size=1, max_size=40
)


def check(tokens: Encoded, text: str) -> None:
    """Spans partition the text, in order; a piece of whole characters is the text it covers."""
    assert tokens.start[0] == 0
    assert tokens.end[-1] == len(text)
    assert (tokens.start[1:] == tokens.end[:-1]).all()
    assert (tokens.start <= tokens.end).all()
    for start, end, piece in zip(tokens.start, tokens.end, tokens.pieces, strict=True):
        assert piece
        if "<0x" not in piece:
            assert piece == text[start:end]


def as_bytes(tokens: Encoded) -> bytes:
    """The text's bytes, put together from the pieces as shown."""
    out = b""
    for piece in tokens.pieces:
        while piece:
            if len(piece) >= 6 and piece.startswith("<0x") and piece[5] == ">":
                out, piece = out + bytes([int(piece[3:5], 16)]), piece[6:]
            else:
                out, piece = out + piece[0].encode(), piece[1:]
    return out


def sentencepiece() -> PreTrainedTokenizerFast:
    """Characters with byte fallback and ▁ for spaces, as Llama 2 and Gemma have them."""
    pieces = [*(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghinorst1.", "<unk>"]
    backend = Tokenizer(
        models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], byte_fallback=True, unk_token="<unk>")
    )
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


TOKENIZERS = {"byte-level": TextTokenizer(byte_tokenizer()), "byte fallback": TextTokenizer(sentencepiece())}


@pytest.mark.slow
@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(TEXTS)
@example("Мышление — это не генерация текста.")
@example("🙂 👨‍👩‍👧 e\u0301 \U0001f1f7\U0001f1fa")
@example("  two  spaces\n\n")
@example("<s> <0xD0>")
def test_tokens_are_the_text(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    if name == "byte fallback" and "▁" in text:
        return  # this tokenizer writes its own space mark and cannot give it back; see the refusal below
    tokens = tokenizer.encode(text, "it")
    check(tokens, text)
    assert tokenizer.tokenizer.decode(tokens.ids.tolist()) == text
    if "<0x" not in text:
        assert as_bytes(tokens) == text.encode()


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(TEXTS)
def test_bytes_are_the_text(text: str) -> None:
    tokens = encode_bytes(text)
    check(tokens, text)
    assert bytes(tokens.ids.astype(np.uint8)) == text.encode()


def test_a_split_character_belongs_to_the_token_that_completes_it() -> None:
    tokens = TOKENIZERS["byte-level"].encode("aЫ🙂", "it")
    assert tokens.pieces == ("a", "<0xD0>", "<0xAB>", "<0xF0>", "<0x9F>", "<0x99>", "<0x82>")
    assert tokens.start.tolist() == [0, 1, 1, 2, 2, 2, 2]
    assert tokens.end.tolist() == [1, 1, 2, 2, 2, 2, 3]


def test_a_token_may_begin_inside_a_character() -> None:
    tokens = TOKENIZERS["byte-level"].encode(" н", "it")  # merged: " " with the first byte of н
    assert tokens.pieces == (" <0xD0>", "<0xBD>")
    assert tokens.end.tolist() == [1, 2]


def test_a_normalising_tokenizer_is_refused() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(ModelError) as error:
        TextTokenizer(tokenizer).encode("so If", "chain c1")
    assert str(error.value) == (
        "chain c1: the tokenizer does not reproduce the text: at character 3 the text has 'If', the decoded "
        "tokens have "
        "'if'. The tokenizer normalises the text or lacks a character; normalise the source the same way, or use another "
        "model."
    )


def test_an_unknown_character_is_refused() -> None:
    backend = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    with pytest.raises(ModelError, match=r"^chain c1: the tokenizer does not reproduce the text: at character 0"):
        TextTokenizer(tokenizer).encode("й", "chain c1")


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(ModelError) as error:
        TOKENIZERS["byte-level"].encode("ab\ud800", "chain c1")
    assert str(error.value) == (
        "chain c1 has a lone surrogate (U+D800) at character 2: it is not valid Unicode text. Repair the source file, or "
        "leave the chain out."
    )


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match=r"^the tokenizer Slow gives no character offsets"):
        TextTokenizer(Slow())


def test_the_hash_names_the_tokenizer() -> None:
    other = byte_tokenizer()
    assert TextTokenizer(other).hash == TOKENIZERS["byte-level"].hash
    other.add_tokens(["zzz"])
    assert TextTokenizer(other).hash != TOKENIZERS["byte-level"].hash


@pytest.mark.model
@pytest.mark.parametrize(
    "text", ["Мышление — это не генерация текста.", "a🙂b 👨‍👩‍👧 ё", "  two  spaces\n\n\tx", "⠿\x00"]
)
def test_real_tokenizer(smollm2: Any, text: str) -> None:
    tokens = smollm2.model.text.encode(text, "it")
    check(tokens, text)
    assert as_bytes(tokens) == text.encode()
