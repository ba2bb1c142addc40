"""Words that are known to name a user, a host or a secret, hidden wherever they stand.

Whence they are known is not decided here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bfo_diag.redact.forms import lowered, word_begins, word_ends, written_forms
from bfo_diag.redact.spans import Span

# Words that are no one's name: hidden in a home path only, since as bare words they mean something else.
_GENERIC = frozenset(
    """
    root user users admin administrator ubuntu debian centos fedora alpine arch redhat ec2-user azureuser vagrant
    runner runneradmin jenkins gitlab-runner test tests tester testing main model models torch pytorch python python3
    train trainer training data dataset work worker workspace build builder docker nobody guest default public shared
    all any app apps code dev devel develop developer prod home host local localhost localdomain server client node
    master slave gpu cpu cuda tpu node1 hpc cluster compute login demo example examples user1 me name system service
    daemon bin sys sync games man mail news proxy backup list irc www www-data web site git github gitlab svn hg ssh
    sshd mysql postgres postgresql redis mongo mongodb oracle jovyan jupyter notebook conda miniconda anaconda spark
    hadoop airflow ray slurm src lib libs include share etc usr var tmp opt mnt media run proc log logs config cache
    project projects repo repos self cls none null true false this that the and for not with from import class def
    return print file files path loss grad optim step batch epoch layer layers linear conv attention weight bias
    state input inputs output outputs result results value values key keys query token tokens numpy scipy pandas jax
    flax keras tensorflow hydra lightning transformers triton nvidia linux windows darwin macos mac pi box pc laptop
    desktop computer macbook debug info warning error tensor float double half int long bool str type dtype device
    eval val validation random seed max min sum mean std norm size shape module modules function forward backward
    """.split()
)
_BEFORE, _AFTER = re.compile(r"[A-Za-z0-9_]{1,100}\Z"), re.compile(r"[A-Za-z0-9_]{1,100}")
_URL_ESCAPE = re.compile(r"%[0-9a-fA-F]{2}")


class Known(NamedTuple):
    """A written form of a word that is hidden wherever it stands."""

    form: str  # in lower case
    kind: str
    key: str
    spellings: frozenset[str] | None  # None: any case
    bounded: bool  # not inside a longer word

    def stands_at(self, text: str, start: int, end: int) -> bool:
        """Whether what is found in lower case is the word as it may be written, with borders where it needs them."""
        if self.spellings is not None and text[start:end] not in self.spellings:
            return False
        return not self.bounded or (word_begins(text, start) and word_ends(text, end))


def find_known(words: Iterable[Known], text: str, lower: str) -> Iterator[Span]:
    """Yield where one of `words` stands."""
    for word in words:
        start = lower.find(word.form)
        while start >= 0:
            end = start + len(word.form)
            if word.stands_at(text, start, end):
                yield Span(start, end, word.kind, word.key)
            start = lower.find(word.form, start + 1)


def identifier_at(text: str, start: int, end: int) -> str:
    """Return the identifier of which `text[start:end]` is a part."""
    before = _BEFORE.search(text[max(0, start - 100) : start])
    after = _AFTER.match(text, end)
    return (before[0] if before else "") + text[start:end] + (after[0] if after else "")


def user_words(name: str) -> list[Known]:
    """Return the written forms of a user's name: as written, Capitalised and in CAPITALS."""
    if not _is_telling(name):
        return []
    spellings = (name, name.capitalize(), name[:1].upper() + name[1:], name.upper())
    forms = {form for spelling in spellings for form in written_forms(spelling)}
    forms |= {_URL_ESCAPE.sub(lambda found: found[0].lower(), form) for form in forms}  # %C3 may be written %c3
    return [Known(form, "user", name.lower(), written, True) for form, written in _by_lower(forms).items()]


def host_words(name: str) -> list[Known]:
    """Return the written forms of a host's name, of any case."""
    if not _is_telling(name):
        return []
    return [Known(form, "host", name.lower(), None, True) for form in _by_lower(written_forms(name))]


def secret_words(secret: str) -> list[Known]:
    """Return the written forms of a secret, in its exact case and wherever it stands."""
    return [Known(form, "secret", secret, spelled, False) for form, spelled in _by_lower(written_forms(secret)).items()]


def _is_telling(name: str) -> bool:
    return len(name) >= 3 and name.lower() not in _GENERIC and any(c.isalpha() for c in name)


def _by_lower(forms: Iterable[str]) -> dict[str, frozenset[str]]:
    """Return the forms by what they are in lower case."""
    found: dict[str, set[str]] = {}
    for form in sorted(forms):
        found.setdefault(lowered(form), set()).add(form)
    return {form: frozenset(written) for form, written in found.items()}
