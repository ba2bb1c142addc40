r"""The forms that one text is written in (JSON, URL, repr, each inside another), and where words in them begin.

`/home/x` may be written `\/home\/x` or `%2Fhome%2Fx`; what such a path or word means is decided elsewhere.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote, unquote

SLASH = r"(?:\\{0,8}/|\\{1,8}(?![u/])|%(?:25)?(?:2[Ff]|5[Cc])|\\{1,4}u00(?:2[fF]|5[cC]))"
AT = re.compile(r"@|%(?:25)?40|\\\\{0,3}u0040|&#64;")  # each way begins with a literal: searched several times faster

_ESCAPE_BEFORE = re.compile(
    r"(?:\\[abefnrtv0]|\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}|%(?:25)?[0-9a-fA-F]{2}|\[[\d;]{0,16}[mK])\Z"
)
# What follows the first sign of an escape and reads like the beginning of a word.
_ESCAPE_LETTERS = {
    "\\": re.compile(r"u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[abefnrtv0]"),
    "%": re.compile(r"(?:25)?[0-9a-fA-F]{2}"),
    "[": re.compile(r"[\d;]{0,16}[mK]"),
}
_UNICODE_ESCAPE = re.compile(r"\\+u([0-9a-fA-F]{4})")
_ESCAPING_SLASHES = re.compile(r"\\+(?=[/\"'\\])")


def has_at(text: str) -> bool:
    """Whether an `@` may be in `text`, in any form: a quick answer for texts that have none."""
    if "@" in text or "&#64;" in text:
        return True
    return ("%" in text and ("%40" in text or "%2540" in text)) or ("\\" in text and "u0040" in text)


def ends_with_escape(text: str, index: int) -> bool:
    """Whether an escape, as of a line break or a colour, ends at `index`."""
    return _ESCAPE_BEFORE.search(text, max(0, index - 20), index) is not None


def word_begins(text: str, index: int) -> bool:
    """Whether a word can begin at `index`: no letter or digit before it that is not the end of an escape."""
    return index == 0 or not text[index - 1].isalnum() or ends_with_escape(text, index)


def word_ends(text: str, index: int) -> bool:
    """Whether a word can end at `index`."""
    return index >= len(text) or not text[index].isalnum()


def run_before(characters: re.Pattern[str], text: str, index: int, longest: int) -> int:
    """Return where the run of `characters` begins that ends at `index`; it is read backwards, in one pass."""
    run = characters.match(text[max(0, index - longest) : index][::-1])
    return index - (run.end() if run else 0)


def past_escape(text: str, start: int, end: int) -> int:
    """Return where a word really begins that was read backwards to `start`: the letters of an escape are none of it."""
    sign = text[start - 1 : start]
    letters = _ESCAPE_LETTERS.get(sign)
    taken = letters.match(text, start, end) if letters else None
    if taken is None or (sign == "[" and text[max(0, start - 2)] != "\x1b"):
        return start
    return taken.end()


def plain(text: str) -> str:
    """Undo JSON and URL escapes, so that every written form of one thing has one key."""
    if text.isascii() and "\\" not in text and "%" not in text:
        return text
    text = _UNICODE_ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
    if "%" in text:
        text = unquote(unquote(text))
    return unicodedata.normalize("NFC", _ESCAPING_SLASHES.sub("", text))


def lowered(text: str) -> str:
    """Lower the case and keep the length: one letter only has two in lower case."""
    return text.replace("\u0130", "i").lower()


def written_forms(word: str) -> set[str]:
    """Return the ways `word` is written in JSON, in a URL and in a repr."""
    forms = {word, unicodedata.normalize("NFC", word), unicodedata.normalize("NFD", word)}
    for form in tuple(forms):
        in_json = _json_escaped(form)
        in_bytes = "".join(chr(b) if b < 128 else f"\\x{b:02x}" for b in form.encode("utf-8", "replace"))
        in_url = quote(form, safe="", errors="replace")
        forms |= {in_json, in_json.replace("\\", "\\\\"), in_json.replace('"', '\\"'), form.replace("/", "\\/")}
        forms |= {in_bytes, in_bytes.replace("\\", "\\\\")}
        forms |= {in_url, quote(in_url, safe=""), quote(form, safe="/:@", errors="replace")}
    return forms


def _json_escaped(text: str) -> str:
    return "".join(c if c.isascii() else _utf16_escaped(c) for c in text.replace("\\", "\\\\"))


def _utf16_escaped(character: str) -> str:
    data = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{data[i : i + 2].hex()}" for i in range(0, len(data), 2))
