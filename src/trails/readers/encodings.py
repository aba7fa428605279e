"""The encoding that bytes are likely to be in: a hint for the user, who names it. Nothing is decoded by it.

In: bytes that could not be decoded. Out: a sentence.
"""

from __future__ import annotations

import unicodedata

CANDIDATES = ("cp1252", "cp1251", "koi8-r", "cp866", "gb18030", "big5", "shift_jis", "euc-jp", "euc-kr")
"""In this order where several fit equally well. Every encoding fits something; these are what files are found in. cp1252 stands
for all Latin ones: which of them it is cannot be told from the letters.
"""

LOOKED_AT = 20_000
MIN_FIT = 0.3
MIN_WIDE = 6
RUSSIAN = "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъё"
"""From the most to the least frequent."""
USUAL_LATIN = frozenset("éèàùâêîôûçëïüáíóúñäößãõåøæœìòýžš")
USUAL_SIGNS = frozenset("«»“”„‘’–—…°€£§©®№·•½¿¡\u00a0、。，！？；：「」（）《》")
USUAL_HANZI = frozenset(
    "的一是不了在人有我他这这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经"
    "么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日这個們來為國說時會對過發後裡經麼學現當沒動還進樣開從實那"
    "果问题答所以算每共第步等于因此则若假设证明數問題則設證點數字雨天气街路湿干"
)


def encoding_hint(piece: bytes, head: bytes = b"") -> str:
    """What to do with bytes that are no text in the encoding named, as a sentence: the likely encoding, or that they are
    damaged UTF-8. ``piece`` holds the first such byte, ``head`` is the beginning of the file.
    """
    data = piece[:LOOKED_AT] + b"\n" + head[:LOOKED_AT]
    good = sum(character > "\x7f" for character in data.decode("utf-8", "ignore"))
    bad = data.decode("utf-8", "replace").count("\ufffd")
    if good and not bad:
        return "It is UTF-8: leave --encoding out."
    if good > 4 * bad:
        return "The rest is UTF-8, so this place is damaged: mend it, or leave the record out."
    name = likely_encoding(data)
    other = ", or cp1250 for a language of Central Europe" if name == "cp1252" else ""
    return f"Name the encoding (--encoding {name or 'NAME'}{other}) or convert the file with iconv."


def likely_encoding(data: bytes) -> str:
    """The candidate whose reading of the bytes is the most plausible; empty where none is."""
    best, best_fit = "", MIN_FIT
    for name in CANDIDATES:
        try:
            text = data[:LOOKED_AT].decode(name)
        except UnicodeDecodeError as error:
            if error.start < min(len(data), LOOKED_AT) - 4:
                continue
            text = data[: error.start].decode(name)  # cut inside a character
        fit = _fit(text)
        if fit > best_fit + 1e-9:
            best, best_fit = name, fit
    return best


def _fit(text: str) -> float:
    """How plausible the characters beyond ASCII are, from -1 to 1: letters in words of one script and of usual case, usual
    signs; 0 without any."""
    points: list[float] = []
    letters_found = wide = 0
    for place, character in enumerate(text):
        if character < "\x80":
            continue
        if not character.isalpha():
            points.append(0.5 if character in USUAL_SIGNS else -1.0)
            continue
        script = _script(character)
        letters_found, wide = letters_found + 1, wide + (script == "CJK")
        beside = [text[place - 1] if place else " ", text[place + 1] if place + 1 < len(text) else " "]
        letters = [other for other in beside if other.isalpha()]
        mixed = script != "CJK" and any(_script(other) != script for other in letters)
        if mixed or (character.isupper() and beside[0].isalpha() and beside[0].islower()):
            points.append(-1.0)
        elif script == "LATIN":
            crowded = len(letters) == 2 and all(other > "\x7f" for other in letters)
            points.append(-1.0 if crowded else 1.0 if character.lower() in USUAL_LATIN else 0.2)
        elif script == "CYRILLIC":
            rank = RUSSIAN.find(character.lower())
            shouted = 0.8 if character.isupper() and beside[0].isupper() else 1.0
            points.append(shouted * (1 - rank / len(RUSSIAN)) if rank >= 0 else 0.0)
        elif script == "CJK":
            kana = "\u3040" <= character <= "\u30ff" or "\uac00" <= character <= "\ud7a3"
            points.append(
                1.0 if kana or character in USUAL_HANZI else 0.2 if "\u4e00" <= character <= "\u9fff" else -1.0
            )
        else:
            points.append(-0.5)
    if not letters_found:
        return 0.0
    # a pair of bytes is easily a character of a large set: few of them prove nothing
    return sum(points) / len(points) * (min(1.0, wide / MIN_WIDE) if wide else 1.0)


def _script(character: str) -> str:
    if character < "\x80":
        return "LATIN"
    name = unicodedata.name(character, "")
    if name.startswith(("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "IDEOGRAPHIC", "FULLWIDTH")):
        return "CJK"
    return name.split(" ", 1)[0]
