"""Text → token ids with the span of each token.

In: text and a tokenizer. Out: :class:`Encoded`: ids, character spans (Unicode code points) that partition the text,
and the piece that is shown for each token. No special token is added here.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from trails.errors import ModelError, UnmeasurableError
from trails.platform.arrays import Bools, Ints, Longs
from trails.platform.text import counted
from trails.schema import stable_hash

ControlTokens = Literal["token", "text", "refuse"]
"""What to do with the name of a control token in plain text: take it for the token, read it as text, refuse the text."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Tokens of one text. ``start`` and ``end`` partition it: a token that ends inside a character is empty, the token
    that completes the character owns it. ``pieces`` are the tokens' texts, ``<0xD0>`` for a byte of a split character.
    """

    ids: Ints  # (n,)
    start: Ints  # (n,)
    end: Ints  # (n,)
    pieces: tuple[str, ...]  # (n,)

    def __len__(self) -> int:
        return len(self.ids)


def _show_bytes(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "".join(f"<0x{byte:02X}>" for byte in error.object[error.start : error.end]), error.end


codecs.register_error("trails.show", _show_bytes)


def check_unicode(text: str, what: str) -> None:
    """Raise ModelError naming ``what`` if the text holds a lone surrogate, which no tokenizer can encode."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UnmeasurableError(
            f"{what} has a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}: it is not valid "
            "Unicode text. Repair the source file, or leave the chain out."
        ) from None


def byte_piece(byte: int) -> str:
    """A byte as it is shown: the character of ASCII that it is, else its number."""
    return chr(byte) if byte < 0x80 else f"<0x{byte:02X}>"


def encode_bytes(text: str) -> Encoded:
    """One token per UTF-8 byte; the id is the byte."""
    data = text.encode("utf-8")
    ids = np.frombuffer(data, dtype=np.uint8).astype(np.int32)
    end = np.cumsum(np.fromiter((len(character.encode()) for character in text), dtype=np.int64, count=len(text)))
    # byte i completes as many characters as end at or before i + 1
    completed = np.searchsorted(end, np.arange(1, len(data) + 1), side="right").astype(np.int32)
    start = np.concatenate(([0], completed[:-1])).astype(np.int32)[: len(data)]
    pieces = tuple(map(byte_piece, data))
    return Encoded(ids, start, completed, pieces)


def _byte_alphabet() -> dict[str, int]:
    """Printable stand-in → byte, as byte-level BPE (GPT-2) writes its vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    return alphabet | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTES = _byte_alphabet()


class TextTokenizer:
    """A Hugging Face fast tokenizer as the measuring code uses it: exact spans, no special tokens, a stable hash.

    Raises ModelError for a tokenizer without offsets.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                f"the tokenizer {type(tokenizer).__name__} gives no character offsets, so tokens cannot be traced to the "
                "text. Use a model with a fast tokenizer (a tokenizer.json in its folder)."
            )
        self.tokenizer = tokenizer
        description = json.loads(tokenizer.backend_tokenizer.to_str())
        self._byte_level = "ByteLevel" in json.dumps(
            [description.get("pre_tokenizer"), description.get("decoder")], ensure_ascii=False
        )
        parts = {
            key: description.get(key) for key in ("normalizer", "pre_tokenizer", "decoder", "added_tokens", "model")
        }
        self.hash = stable_hash(json.dumps(parts, sort_keys=True, ensure_ascii=False), length=64)
        self._control = {
            int(token["id"]): str(token["content"])
            for token in description.get("added_tokens") or ()
            if token["special"]
        }
        # what an item is shown as, by its number: making it takes longer than measuring it on a GPU
        self._shown: npt.NDArray[np.object_] = np.empty(0, object)
        self._made: Bools = np.zeros(0, bool)
        names = sorted(filter(None, self._control.values()), key=len, reverse=True)  # of two that fit, the longer one
        self._named = re.compile("|".join(map(re.escape, names))) if names else None

    def ids(self, text: str, *, control_tokens: ControlTokens = "token", what: str = "a text") -> list[int]:
        """Ids of a piece of text (template, question). By default text that names a control token becomes that token; see
        :meth:`encode`.
        """
        if not text:
            return []
        return list(self._tokenized(text, control_tokens, what)["input_ids"])

    def _tokenized(self, text: str, control_tokens: ControlTokens, what: str, **options: Any) -> Any:
        if control_tokens == "text":
            options["split_special_tokens"] = True
        batch = self.tokenizer(text, add_special_tokens=False, **options)
        if control_tokens == "refuse" and (found := self.control_tokens(batch["input_ids"])):
            names = sorted({self._control[token] for token in found})
            raise UnmeasurableError(
                f"{what} names {counted(len(found), 'control token')} of the model ({', '.join(names[:3])}), "
                "which --control-tokens "
                "refuse keeps out. Use --control-tokens text to read them as text, or token to read them as "
                "control tokens."
            )
        return batch

    def control_tokens(self, ids: Sequence[int]) -> list[int]:
        """The ids that are control tokens (special tokens of the tokenizer), in order."""
        return [token for token in ids if token in self._control]

    def names_in(self, text: str) -> int:
        """How many names of control tokens stand in a text, whatever the policy makes of them."""
        return sum(1 for _ in self._named.finditer(text)) if self._named else 0

    def token_bytes(self, token: str) -> bytes:
        """The bytes a vocabulary entry stands for."""
        if self._byte_level:
            return bytes(_BYTES[character] for character in token if character in _BYTES)
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:5], 16)])
        return token.replace("▁", " ").encode("utf-8")

    def pieces(self, ids: Sequence[int] | Ints | Longs) -> tuple[str, ...]:
        """The texts of vocabulary items as they are shown; ``<0xD0>`` for a byte of a split character, ``<49160>`` for an item
        of the model that the tokenizer does not have.
        """
        items = np.asarray(ids, np.int64)
        if (size := int(items.max(initial=-1)) + 1) > (known := len(self._made)):
            more = max(size, 2 * known) - known
            self._shown = np.concatenate((self._shown, np.empty(more, object)))
            self._made = np.concatenate((self._made, np.zeros(more, bool)))
        if len(new := items[~self._made[items]]):
            new = np.unique(new)
            for item, name in zip(new.tolist(), self.tokenizer.convert_ids_to_tokens(new.tolist()), strict=True):
                self._shown[item] = self._control.get(item) or (
                    f"<{item}>" if name is None else self.token_bytes(name).decode("utf-8", "trails.show")
                )
            self._made[new] = True
        return tuple(self._shown[items].tolist())

    def encode(self, text: str, what: str, *, control_tokens: ControlTokens = "token") -> Encoded:
        """Tokens of ``text`` with exact spans.

        ``what`` names the text in errors. ``control_tokens``: text that names a control token becomes that ``token``, stays
        ``text`` (tokenised as any other), or is refused. Raises ModelError when the decoded tokens are not the text (a
        tokenizer that normalises, or lacks a character).
        """
        check_unicode(text, what)
        batch = self._tokenized(text, control_tokens, what, return_offsets_mapping=True)
        ids = np.asarray(batch["input_ids"], dtype=np.int32)
        offsets = np.asarray(batch["offset_mapping"], dtype=np.int32).reshape(-1, 2)
        decoded = self.tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        # SentencePiece tokenizers put a space before the first word and may or may not take it away again
        if decoded != text and decoded != f" {text}" and f" {decoded}" != text:
            differ = next(
                (i for i, (a, b) in enumerate(zip(decoded, text, strict=False)) if a != b), min(len(decoded), len(text))
            )
            raise UnmeasurableError(
                f"{what}: the tokenizer does not reproduce the text: at character {differ} the text has "
                f"{text[differ : differ + 12]!r}, the decoded tokens have {decoded[differ : differ + 12]!r}. The tokenizer "
                "normalises the text or lacks a character; normalise the source the same way, or use another model."
            )
        if not len(ids):
            return Encoded(ids, ids.copy(), ids.copy(), ())
        # A token that ends inside a character shares that character with its successor: the successor owns it.
        following = np.concatenate((offsets[1:, 0], [len(text)])).astype(np.int32)
        shares = np.concatenate((offsets[1:, 0] < offsets[:-1, 1], [False]))
        end = np.where(shares, following, offsets[:, 1])
        end[-1] = len(text)
        end = np.maximum.accumulate(end).astype(np.int32)
        start = np.concatenate(([0], end[:-1])).astype(np.int32)
        partial = shares | np.concatenate(([False], shares[:-1]))
        names = self.tokenizer.convert_ids_to_tokens(ids.tolist()) if partial.any() else ()
        pieces = tuple(
            self.token_bytes(names[i]).decode("utf-8", "trails.show") if partial[i] else text[start[i] : end[i]]
            for i in range(len(ids))
        )
        return Encoded(ids, start, end, pieces)
