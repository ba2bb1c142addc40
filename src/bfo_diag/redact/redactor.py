"""The `Redactor`: asks each detector in turn, lets the first one win, and writes placeholders for what was found.

How a thing is told from what only looks like it is in the detectors' modules. A user's name is hidden as written,
Capitalised and in CAPITALS; a host's name in any case.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from bfo_diag.redact.addresses import find_addresses
from bfo_diag.redact.assignments import find_assignments
from bfo_diag.redact.emails import find_emails
from bfo_diag.redact.forms import lowered
from bfo_diag.redact.homes import OwnHome, find_homes, own_home, user_of
from bfo_diag.redact.identity import Identity
from bfo_diag.redact.key_blocks import find_key_blocks
from bfo_diag.redact.known import Known, find_known, host_words, identifier_at, secret_words, user_words
from bfo_diag.redact.logins import find_logins, find_urls
from bfo_diag.redact.placeholders import PLACEHOLDER, Placeholders
from bfo_diag.redact.shapes import find_shapes
from bfo_diag.redact.sources import Source
from bfo_diag.redact.spans import Cover, Detector, Span
from bfo_diag.redact.windows import Window, decoded, pieces_of, windows

LEARNED_LIMIT = 64  # names: a record that holds more is hostile, and each costs a search

_DETECTORS: tuple[Detector, ...] = (
    find_key_blocks,
    find_logins,
    find_assignments,
    find_urls,
    find_shapes,
    find_emails,
)


class Redactor:
    """Hides what gives a person away; one for a whole package, so that the placeholders agree."""

    def __init__(self, identity: Identity, keep: frozenset[str] = frozenset()) -> None:
        """Know `identity`; its things get the first numbers, in their order.

        `keep` holds identifiers that stay, though a user or host is called so: words of a library, of the record.
        """
        self._keep = keep
        self._placeholders = Placeholders()
        self._learned: set[str] = set()
        self._users: list[Known] = []
        self._hosts: list[Known] = []
        self._secrets = [word for secret in identity.secrets if len(secret) >= 8 for word in secret_words(secret)]
        self._homes: list[OwnHome] = []
        for home in identity.homes:
            self._know_home(home)
        for user in identity.users:
            self._know_user(user)
        for host in identity.hosts:
            if host:
                self._placeholders.number("host", host.lower())
                self._hosts += host_words(host)

    @property
    def counts(self) -> Mapping[str, int]:
        """How many replacements were made, by kind."""
        return MappingProxyType(self._placeholders.counts)

    def learn(self, chunks: Iterable[bytes]) -> None:
        """Take the names of home folders for users, so that `text` hides them as bare words too."""
        for window in windows(decoded(chunks)):
            for _, user in find_homes(window.text, lowered(window.text)):
                if len(self._learned) >= LEARNED_LIMIT:
                    return
                if len(user) <= 64 and user.lower() not in self._learned:
                    self._know_user(user.split("@")[0])

    def text(self, text: str) -> str:
        """Return `text` with placeholders."""
        return "".join(self._redacted(pieces_of(text)))

    def stream(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield what `text` gives for the whole, however it is cut into chunks."""
        for piece in self._redacted(decoded(chunks)):
            yield piece.encode("utf-8", "replace")

    def path(self, relative: str) -> str:
        """Return a relative path with placeholders, component by component."""
        parts = [part for part in relative.replace("\0", "\ufffd").split("/") if part not in {"", ".", ".."}]
        done: list[str] = []
        if len(parts) >= 2:  # `home/x` at its beginning, without the slash
            head = self.text(f"/{parts[0]}/{parts[1]}")[1:]
            if "/" not in head:
                done, parts = [head], parts[2:]
        for part in parts:
            clean = part.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            done.append(self.text(clean).replace("/", "_"))
        return "/".join(done) or "_"

    def _know_user(self, name: str) -> None:
        if name and name.lower() not in self._learned:
            self._learned.add(name.lower())
            words = user_words(name)
            if words:
                self._placeholders.number("user", name.lower())
                self._users += words

    def _know_home(self, path: str) -> None:
        """A home in the usual place is known by its user's name, another one by its path."""
        user = user_of(path)
        home = own_home(path)
        if user is not None:
            self._placeholders.number("home", user)
            self._know_user(user)
        elif home is not None:
            self._placeholders.number("home", path)
            self._homes.append(home)

    def _redacted(self, pieces: Iterable[str]) -> Iterator[str]:
        for window in windows(piece.replace("\0", "\ufffd") for piece in pieces):
            done = window.begin
            for span in self._spans(window):
                if span.end <= done or span.start >= window.end:
                    continue
                yield window.text[done : span.start]
                yield self._placeholders.replacement(span, window.text)
                done = span.end
            yield window.text[done : window.end]
            window.skipped = max(0, done - window.end)

    def _spans(self, window: Window) -> list[Span]:
        """Return what has to go, without overlaps, in order."""
        text, lower = window.text, lowered(window.text)
        source, cover = Source(text, whole=window.whole), Cover(len(text))
        if "REDACTED_" in text:
            for hidden in PLACEHOLDER.finditer(text):
                cover.take(*hidden.span())
        chosen: list[Span] = []
        for anywhere, found in self._found(text, lower):
            for span in found if anywhere else source.within(list(found)):
                chosen += cover.rest(span)
        return sorted(chosen)

    def _but_kept(self, spans: Iterable[Span], text: str) -> Iterator[Span]:
        return (span for span in spans if not self._keep or identifier_at(text, span.start, span.end) not in self._keep)

    def _found(self, text: str, lower: str) -> Iterator[tuple[bool, Iterable[Span]]]:
        """Yield what each detector finds, and whether it may go anywhere in a source; what comes first wins."""
        yield False, find_known(self._secrets, text, lower)
        for detector in _DETECTORS:
            yield False, detector(text, lower)
        for home in self._homes:
            yield False, home.find(text, lower)
        yield False, (span for span, _ in find_homes(text, lower))
        yield True, self._but_kept(find_known(self._hosts, text, lower), text)
        yield True, self._but_kept(find_known(self._users, text, lower), text)
        yield False, find_addresses(text, lower)
