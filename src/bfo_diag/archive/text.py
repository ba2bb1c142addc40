"""Whether the content of a file is what its suffix says: text in UTF-8, strict JSON, lines of strict JSON.

Memory is bounded whatever the content is: nothing is built of what is read, and a text is checked as it arrives.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from typing import Any

from bfo_diag.archive.names import visible

DEPTH = 100
JSON_BYTES = 16 << 20
_QUICK_BYTES = 64 << 10  # above it the standard reader would build too much
_KEY_BYTES = 64 << 10
_KEYS = 100_000  # of all objects that are open at one moment
_DIGITS = 4300  # Python's own bound for an int

_SPACE = re.compile(rb"[ \t\n\r]+")
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WORD = re.compile(rb"true|false|null")
# The common case of a value and of a key, each in one step.
_PLAIN = re.compile(rb'[ \t\n\r]*(?:"[^"\\\x00-\x1f]*"|-?(?:0|[1-9][0-9]{0,17})|true|false|null)[ \t\n\r]*(?=[],}])')
_PLAIN_KEY = re.compile(rb'[ \t\n\r]*"([^"\\\x00-\x1f]{0,1000})"[ \t\n\r]*:')
# The repetition has a bound: the matcher keeps something for each turn of a group.
_TEXT = re.compile(rb'[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*){0,200}')


class _NotStrictError(ValueError):
    """The text is not strict JSON."""


def json_fault(data: bytes | bytearray) -> str:
    """Return why `data`, which is UTF-8, is not one value of strict JSON; an empty text when it is.

    Refused beyond the grammar: a key that stands twice in an object, more than 100 levels, a number beyond a float.
    """
    try:
        if len(data) <= _QUICK_BYTES and data.count(b"[") + data.count(b"{") <= DEPTH:
            _QUICK.decode(data.decode())
        else:
            _Scanner(data).value()
    except ValueError as error:
        return f"not strict JSON: {visible(str(error))}"
    return ""


def _constant(literal: str) -> None:
    raise _NotStrictError(f"the literal {literal}")


def _pairs(found: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in found}) != len(found):
        raise _NotStrictError("a key stands twice in an object")


def _number(literal: str | bytes) -> None:
    if len(literal) > _DIGITS or not math.isfinite(float(literal)):
        raise _NotStrictError("a number beyond a float")


# For a short text: the standard reader, which keeps no object and no number.
_QUICK = json.JSONDecoder(parse_constant=_constant, parse_int=_number, parse_float=_number, object_pairs_hook=_pairs)


class _Scanner:
    """Goes over one JSON text from its beginning and keeps only the keys of the objects that are open."""

    def __init__(self, data: bytes | bytearray) -> None:
        self._data = data
        self._at = 0
        self._open: list[set[bytes] | None] = []  # None: an array
        self._keys = 0

    def _fail(self, what: str) -> _NotStrictError:
        return _NotStrictError(f"{what} at byte {self._at}")

    def _peek(self) -> int:
        """Return the next byte that is no white space, -1 at the end."""
        space = _SPACE.match(self._data, self._at)
        if space is not None:
            self._at = space.end()
        return self._data[self._at] if self._at < len(self._data) else -1

    def value(self) -> None:
        """Go over the whole text.

        Raises:
            ValueError: it is not strict JSON.
        """
        while True:
            plain = _PLAIN.match(self._data, self._at)
            byte = self._peek() if plain is None else -1
            if plain is not None:
                self._at = plain.end()
            elif byte in (ord("["), ord("{")):
                if not self._enter(byte):
                    continue
            elif byte == ord('"'):
                self._text()
            else:
                self._scalar()
            if self._leave():
                return

    def _enter(self, byte: int) -> bool:
        """Open an array or an object; return whether it is empty (and then closed by `_leave`)."""
        if len(self._open) == DEPTH:
            raise self._fail(f"more than {DEPTH} levels")
        self._open.append(set() if byte == ord("{") else None)
        self._at += 1
        if self._peek() == byte + 2:  # the closing bracket, in ASCII
            return True
        if byte == ord("{"):
            self._key()
        return False

    def _leave(self) -> bool:
        """Go on after a value, to the next one; return whether the text ends here."""
        while self._open:
            byte, keys = self._peek(), self._open[-1]
            if byte == ord(","):
                self._at += 1
                if keys is not None:
                    self._key()
                return False
            if byte != (ord("]") if keys is None else ord("}")):
                raise self._fail("no comma and no closing bracket")
            self._keys -= len(self._open.pop() or ())
            self._at += 1
        if self._peek() != -1:
            raise self._fail("something after the value")
        return True

    def _key(self) -> None:
        """Go over a key and its colon."""
        plain = _PLAIN_KEY.match(self._data, self._at)
        if plain is not None:
            key = plain[1]
            self._at = plain.end()
        else:
            key = self._odd_key()
        keys = self._open[-1]
        if keys is None or key in keys:
            raise self._fail("a key stands twice in an object")
        keys.add(key)
        self._keys += 1
        if self._keys > _KEYS:
            raise self._fail("too many keys")

    def _odd_key(self) -> bytes:
        if self._peek() != ord('"'):
            raise self._fail("no key")
        start = self._at
        self._text()
        end = self._at
        if end - start > _KEY_BYTES:
            raise self._fail("too long a key")
        if self._peek() != ord(":"):
            raise self._fail("no colon after a key")
        self._at += 1
        text: str = json.loads(bytes(self._data[start:end]))
        return text.encode("utf-8", "surrogatepass")

    def _text(self) -> None:
        self._at += 1
        while piece := _TEXT.match(self._data, self._at):
            self._at = piece.end()
            if self._data[self._at : self._at + 1] == b'"':
                self._at += 1
                return
            if piece.start() == piece.end():
                break
        raise self._fail("a text that does not end, or a control character or a wrong escape in it")

    def _scalar(self) -> None:
        number = _NUMBER.match(self._data, self._at)
        if number:
            if number[1] or number[2] or number.end() - number.start() > 300:
                _number(number[0])
            self._at = number.end()
            return
        word = _WORD.match(self._data, self._at)
        if not word:
            raise self._fail("no value")
        self._at = word.end()


class TextCheck:
    """Checks the content of one file as it arrives; `fault` is why it is refused, empty as long as nothing is."""

    def __init__(self, path: str) -> None:
        self.fault = ""
        self._utf8 = codecs.getincrementaldecoder("utf-8")("strict")
        self._whole = path.endswith(".json")
        self._lines = path.endswith(".jsonl")
        self._held = bytearray()
        self._number = 1

    def feed(self, piece: bytes, *, last: bool = False) -> None:
        """Take the next piece of the content; `last` ends it, as an empty piece too."""
        if self.fault:
            return
        try:
            self._utf8.decode(piece, final=last)
        except UnicodeDecodeError as error:
            self.fault = f"not UTF-8: {error.reason}"
            return
        if b"\0" in piece:
            self.fault = "no text: it holds a NUL byte"
        elif self._lines:
            self._feed_lines(piece, last=last)
        elif self._whole:
            self._hold(piece)
            if last and not self.fault:
                self.fault = json_fault(self._held)
        if self.fault or last:
            self._held = bytearray()

    def _hold(self, piece: bytes) -> None:
        if len(self._held) + len(piece) > JSON_BYTES:
            self.fault = f"more than {JSON_BYTES >> 20} MiB of JSON in one piece"
        else:
            self._held += piece

    def _feed_lines(self, piece: bytes, *, last: bool) -> None:
        *ended, rest = piece.split(b"\n")
        for line in ended:
            self._hold(line)
            self._end_line()
            if self.fault:
                return
        self._hold(rest)
        if self.fault or (last and self._held):
            self._end_line()

    def _end_line(self) -> None:
        fault = self.fault or json_fault(self._held)
        self.fault = f"line {self._number}: {fault}" if fault else ""
        self._number += 1
        self._held.clear()
