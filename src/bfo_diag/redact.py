"""Hides who and what a record gives away: homes, users, hosts, secrets, e-mail and private addresses.

The same thing gets the same placeholder (`REDACTED_user_1`) in every text and file name that one `Redactor` sees.
A text is scanned in blocks that overlap. Where they are cut depends on the text alone, so that a stream gives what
the whole text gives. A user's name is hidden as written, Capitalised and in CAPITALS (`REDACTED_User_1`,
`REDACTED_USER_1`: two names in a source stay two names); a host's name in any case.
"""

from __future__ import annotations

import codecs
import contextlib
import getpass
import io
import os
import platform
import re
import tokenize
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import quote, unquote

from bfo_diag.records import JSONValue

BLOCK = 256 * 1024  # characters that are emitted at once
MARGIN = 24 * 1024  # characters seen on either side of a block: more than the longest match
LONGEST_KEY = 16 * 1024
LONGEST_VALUE = 4 * 1024
LEARNED_LIMIT = 64  # names: a record that holds more is hostile, and each costs a search

_PLACEHOLDER = re.compile(r"REDACTED_[A-Za-z]+_\d+")

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
_SYSTEM_HOMES = frozenset({"shared", "public", "default", "all users", "default user", "desktop.ini"})

# ---------------------------------------------------------------------------------------------------- written forms
_ESCAPE_BEFORE = re.compile(
    r"(?:\\[abefnrtv0]|\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}|%(?:25)?[0-9a-fA-F]{2}|\[[\d;]{0,16}[mK])\Z"
)
_SLASH = r"(?:\\{0,8}/|\\{1,8}(?![u/])|%(?:25)?(?:2[Ff]|5[Cc])|\\{1,4}u00(?:2[fF]|5[cC]))"
_AT = re.compile(r"@|%(?:25)?40|\\{1,4}u0040|&#64;")


class _Span(NamedTuple):
    """A part of the text that has to go."""

    start: int
    end: int
    kind: str
    key: str  # what is the same for all written forms of one thing
    whole: bool = False  # left alone, not cut to pieces, where it meets a placeholder


def _before(text: str, index: int) -> bool:
    """Whether a word can begin at `index`: no letter or digit before it that is not the end of an escape."""
    if index == 0 or not text[index - 1].isalnum():
        return True
    return _ESCAPE_BEFORE.search(text, max(0, index - 20), index) is not None


def _after(text: str, index: int) -> bool:
    return index >= len(text) or not text[index].isalnum()


def _begin(text: str, start: int, end: int) -> int:
    """Return where a word really begins that was read backwards: the letters of an escape are none of it."""
    head = text[max(0, start - 2) : start]
    if head.endswith("\\"):
        taken = re.match(r"u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[abefnrtv0]", text[start:end])
        return start + (taken.end() if taken else 0)
    if head.endswith("%"):
        taken = re.match(r"(?:25)?[0-9a-fA-F]{2}", text[start:end])
        return start + (taken.end() if taken else 0)
    if head.endswith("["):
        taken = re.match(r"[\d;]{0,16}[mK]", text[start:end])
        return start + (taken.end() if taken and start > 1 and text[start - 2] == "\x1b" else 0)
    return start


def _plain(text: str) -> str:
    """Undo JSON and URL escapes, so that every written form of one thing has one key."""
    text = re.sub(r"\\+u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)
    if "%" in text:
        text = unquote(unquote(text))
    return unicodedata.normalize("NFC", re.sub(r"\\+(?=[/\"'\\])", "", text))


def _lower(text: str) -> str:
    """Lower the case and keep the length: one letter only has two in lower case."""
    return text.replace("\u0130", "i").lower()


def _forms(word: str) -> set[str]:
    """Return the ways `word` is written in JSON, in a URL and in a repr."""
    forms = {word, unicodedata.normalize("NFC", word), unicodedata.normalize("NFD", word)}
    for form in tuple(forms):
        escaped = "".join(
            c if c.isascii() else "".join(f"\\u{unit:04x}" for unit in _utf16(c)) for c in form.replace("\\", "\\\\")
        )
        raw = "".join(chr(byte) if byte < 128 else f"\\x{byte:02x}" for byte in form.encode("utf-8", "replace"))
        forms |= {
            escaped,
            escaped.replace("\\", "\\\\"),
            escaped.replace('"', '\\"'),
            raw,
            form.replace("/", "\\/"),
            raw.replace("\\", "\\\\"),
        }
        encoded = quote(form, safe="", errors="replace")
        forms |= {encoded, quote(encoded, safe=""), quote(form, safe="/:@", errors="replace")}
    return forms


def _utf16(character: str) -> list[int]:
    data = character.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2)]


# ------------------------------------------------------------------------------------------------------- identity
def _environment_secrets(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values of variables whose name looks secret."""
    found: dict[str, None] = {}
    for name, value in environment.items():
        if _name_strength(name) and len(value) >= 8 and not _PATH_VALUE.match(value) and not value.isalpha():
            found[value] = None
    return tuple(found)


@dataclass(frozen=True)
class Identity:
    """Whose machine wrote the record."""

    users: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    homes: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()

    def to_json(self) -> dict[str, JSONValue]:
        """Return the names. The secrets are never written."""
        return {"users": list(self.users), "hosts": list(self.hosts), "homes": list(self.homes)}

    @classmethod
    def from_json(cls, data: Mapping[str, JSONValue]) -> Identity:
        """Read what `to_json` wrote; what is not a list of names counts as none."""

        def names(field: str) -> tuple[str, ...]:
            value = data.get(field)
            return tuple(name for name in value if isinstance(name, str)) if isinstance(value, list) else ()

        return cls(users=names("users"), hosts=names("hosts"), homes=names("homes"))

    @classmethod
    def here(cls) -> Identity:
        """Return who and what this process runs as."""
        users: dict[str, None] = {}
        with contextlib.suppress(KeyError, OSError, ImportError):  # a container's number without a name
            users[getpass.getuser()] = None
        for name in ("USER", "LOGNAME", "SUDO_USER", "USERNAME", "LNAME", "PBS_O_LOGNAME", "SLURM_JOB_USER"):
            users[os.environ.get(name, "")] = None
        hosts: dict[str, None] = {}
        for host in (platform.node(), os.environ.get("HOSTNAME", ""), os.environ.get("COMPUTERNAME", "")):
            hosts[host] = None
            hosts[host.split(".")[0]] = None
        homes: dict[str, None] = {os.environ.get("HOME", ""): None, os.environ.get("USERPROFILE", ""): None}
        with contextlib.suppress(RuntimeError, OSError):  # no home is known
            homes[str(Path.home())] = None
        return cls(
            users=tuple(user for user in users if user),
            hosts=tuple(host for host in hosts if host),
            homes=tuple(home for home in homes if home),
            secrets=_environment_secrets(os.environ),
        )


# ----------------------------------------------------------------------------------------------------------- homes
_NAME_PART = r"(?:[\w.+@$~-]|\\{1,4}u0[0-5][0-9a-fA-F]{2}|\\x[0-9a-fA-F]{2}|%(?:25)?[89A-Fa-f][0-9A-Fa-f])"
_HOME = re.compile(rf"(?:home|[Uu]sers|USERS)({_SLASH}{{1,2}})({_NAME_PART}{{1,64}})")
_SPACED_NAME = re.compile(r"[^\\/:*?\"<>|\r\n\t\x00-\x1f]{1,64}(?=\\)")
# What stands between the root and `home`: a drive, a mount, a system folder, or nothing.
_MOUNT = (
    rf"(?:(?:var|export|usr|private|mnt|net|nfs\d*|gpfs|lustre|vol\d*|data\d*|scratch|storage|cluster|hpc|srv|rds"
    rf"|cygdrive|Volumes|[a-z]){_SLASH}{{1,2}}){{0,2}}"
)
_ROOTED = re.compile(rf"(?:{_SLASH}{{1,2}}){_MOUNT}\Z")
_DRIVE = re.compile(rf"[A-Za-z](?::|%3[aA]|\\{{1,4}}u003[aA]){_SLASH}{{1,2}}\Z")
_SUPERUSER = re.compile(rf"({_SLASH})(?:var{_SLASH})?root(?![\w.-])")
_FLAG_BEFORE = re.compile(r"(?:-[ILF]|[\[\d;]m)\Z")


def _anchored(text: str, index: int) -> bool:
    """Whether a path that begins at `index` begins at the root."""
    previous = text[index - 1] if index else ""
    if not (previous.isalnum() or previous in {".", "-", "~", "_", ")", "}"}):
        return True
    return bool(
        _ESCAPE_BEFORE.search(text, max(0, index - 20), index) or _FLAG_BEFORE.search(text, max(0, index - 8), index)
    )


def _root_of(text: str, index: int) -> int | None:
    """Return where the first slash of the path stands whose `home` begins at `index`."""
    low = max(0, index - 64)
    drive = _DRIVE.search(text, low, index)
    if drive and (drive.start() == 0 or not text[drive.start() - 1].isalnum()):
        return drive.start() + re.match(r"[A-Za-z](?::|%3[aA]|\\{1,4}u003[aA])", drive[0]).end()  # type: ignore[union-attr]
    for found in re.finditer(r"[/\\%]", text[low:index]):
        rooted = _ROOTED.match(text, low + found.start(), index)
        if rooted and _anchored(text, rooted.start()):
            return rooted.start()
    return None


def _homes(text: str, lower: str) -> Iterator[tuple[_Span, str]]:
    """Yield the home folders, each with its user's name."""
    if "home" in lower or "users" in lower:
        for found in _HOME.finditer(text):
            home = _home(text, found)
            if home:
                yield home
    if "root" in lower:
        for found in _SUPERUSER.finditer(text):
            if _anchored(text, found.start()):
                begin = found.end(1)
                yield _Span(begin, found.end(), "home", "root", True), "root"


def _home(text: str, found: re.Match[str]) -> tuple[_Span, str] | None:
    root = _root_of(text, found.start())
    if root is None:
        return None
    windows = text[root - 1 : root] in {":"} or (root > 2 and text[root - 3 : root].lower() == "%3a")
    if found[0][:5] in {"users", "USERS"} and not windows:
        return None  # an address of a web interface, /users/42
    name, end = found[2], found.end()
    if windows and text[end : end + 1] == " ":
        spaced = _SPACED_NAME.match(text, found.start(2))
        if spaced:
            name, end = spaced[0], spaced.end()
    trimmed = name.rstrip(".~+@$-")
    if not trimmed or name.startswith("$") or _PLACEHOLDER.match(name):
        return None
    end -= len(name) - len(trimmed)
    user = _plain(trimmed)
    if user.lower() in _SYSTEM_HOMES:
        return None
    first = re.match(rf"{_SLASH}{{1,2}}", text[root : found.start()])
    return _Span(root + (first.end() if first else 0), end, "home", user, True), user


# ------------------------------------------------------------------------------------------------------ key blocks
_GAP = r"(?: |%(?:25)?20|\+|\\u0020)"
_KEY_BEGIN = re.compile(rf"-----BEGIN{_GAP}(?:[A-Z0-9]{{1,16}}{_GAP}){{0,3}}PRIVATE{_GAP}KEY(?:{_GAP}BLOCK)?-----")
_KEY_END = re.compile(rf"-----END{_GAP}(?:[A-Z0-9]{{1,16}}{_GAP}){{0,3}}PRIVATE{_GAP}KEY(?:{_GAP}BLOCK)?-----")
_BODY = r"(?:[A-Za-z0-9+/=]{16,100}(?:%(?:25)?(?:2[BbFf]|3[Dd])[A-Za-z0-9+/=]{0,100}){0,40}|[A-Za-z0-9+/=]{1,100})"
_BREAK = r"(?:\\{0,8}r)?(?:\\{1,8}n|\r?\n|%(?:25)?0[Aa])"
_LINE_OF_KEY = re.compile(rf"[\s\"',+>|()-]{{0,40}}(?:{_BREAK})?[\s\"',+>|()bf]{{0,40}}{_BODY}(?=\\|\s|%|[\"',]|\Z)")


def _key_blocks(text: str, lower: str) -> Iterator[_Span]:
    """Yield private keys, whole, without an end and without a beginning."""
    if "-----" not in text:
        return
    done = 0
    for begin in _KEY_BEGIN.finditer(text):
        if begin.start() < done:
            continue
        end = _KEY_END.search(text, begin.end(), begin.end() + LONGEST_KEY)
        done = end.end() if end else _key_lines(text, begin.end())
        yield _Span(begin.start(), done, "key", text[begin.start() : done])
    for end in _KEY_END.finditer(text):
        low = max(done if done <= end.start() else end.start(), end.start() - LONGEST_KEY)
        tail = _tail_of_key(text, low, end.start())
        yield _Span(tail, end.end(), "key", text[tail : end.end()])


def _key_lines(text: str, index: int) -> int:
    """Return the end of the lines that look like those of a key whose end is missing."""
    limit = min(len(text), index + LONGEST_KEY)
    while index < limit:
        line = _LINE_OF_KEY.match(text, index, limit)
        if not line or line.end() == index:
            break
        index = line.end()
    return index


def _tail_of_key(text: str, low: int, high: int) -> int:
    """Return where the lines of a key begin whose beginning was cut off."""
    index = high
    while index > low:
        piece = text[max(low, index - 160) : index]
        line = re.search(rf"[A-Za-z0-9+/=]{{1,128}}[\"'\s,]{{0,24}}(?:{_BREAK})?[\"'\s,]{{0,24}}\Z", piece)
        body = re.match(r"[A-Za-z0-9+/=]*", line[0])[0] if line else ""  # type: ignore[index]
        if line is None or (index != high and len(body) < 16):
            break
        begin = index - len(piece) + line.start()
        begin = _begin(text, begin, index)  # the letter of an escaped line break is none of the line
        if begin >= index:
            break
        index = begin
    return index


# ------------------------------------------------------------------------------------------- well-known token shapes
_SHAPES = re.compile(
    "|".join(
        (
            r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Za-z0-9])",
            r"gh[pousr]_[A-Za-z0-9]{30,255}",
            r"github_pat_\w{22,255}",
            r"gl(?:pat|ptt|dt|rt|soat|cbt)-[\w-]{20,128}",
            r"hf_[A-Za-z0-9]{30,64}",
            r"sk-(?=[\w-]{0,255}\d)[\w-]{20,255}",
            r"xox[abeposr]-[\w-]{10,255}",
            r"xapp-\d-[\w-]{10,255}",
            r"AIza[\w-]{35}",
            r"ya29\.[\w-]{20,1024}",
            r"pypi-[\w-]{50,512}",
            r"npm_[A-Za-z0-9]{36}",
            r"(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,255}",
            r"whsec_[A-Za-z0-9]{24,64}",
            r"SG\.[\w-]{16,64}\.[\w-]{16,128}",
            r"SK[0-9a-f]{32}(?![A-Za-z0-9])",
            r"eyJ[\w-]{8,4096}\.[\w-]{8,8192}(?:\.[\w-]{0,4096}){0,3}",
            r"nvapi-[\w-]{40,128}",
            r"gsk_[A-Za-z0-9]{40,64}",
            r"r8_[A-Za-z0-9]{30,64}",
            r"do[por]_v1_[0-9a-f]{64}",
            r"dckr_pat_[\w-]{20,64}",
            r"lin_api_[A-Za-z0-9]{32,64}",
            r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",
            r"AGE-SECRET-KEY-1[0-9A-Z]{50,64}",
            r"wandb_v1_[\w-]{20,128}",
            r"key-[0-9a-f]{32}(?![A-Za-z0-9])",
            r"hvs\.[\w-]{20,255}",
        )
    )
)
# A search for a literal is several times faster than one for many alternatives.
_SHAPE_HINTS = tuple(
    re.compile(hint)
    for hint in (
        r"A(?:[KSB]I|CC)A gh[pousr]_ github_pat_ gl[a-z]{2,4}- hf_ sk[-_] rk_ xox xapp- AIza ya29 pypi- npm_ whsec_"
        r" SG\. SK[0-9a-f] eyJ nvapi- gsk_ r8_ do[por]_v1_ wandb_v1_ dckr_ lin_api_ shp[acs] AGE-S key-[0-9a-f] hvs\."
    ).split()
)
_TELEGRAM = re.compile(r":AA[\w-]{32,36}(?![\w-])")
_HOOKS = re.compile(
    rf"(?:hooks\.slack\.com{_SLASH}(?:services|workflows)|discord(?:app)?\.com{_SLASH}api{_SLASH}webhooks){_SLASH}"
    rf"([\w-]{{4,32}}(?:{_SLASH}[\w-]{{4,128}}){{1,4}})"
)


def _shapes(text: str, lower: str) -> Iterator[_Span]:
    for hint in (found for pattern in _SHAPE_HINTS for found in pattern.finditer(text)):
        found = _SHAPES.match(text, hint.start())
        if found and _before(text, found.start()) and text[found.start() - 1 : found.start()] not in {"-", "_"}:
            yield _Span(found.start(), found.end(), "token", found[0])
    if ":AA" in text:
        for found in _TELEGRAM.finditer(text):
            digits = re.match(r"\d{8,10}", text[max(0, found.start() - 10) : found.start()][::-1])
            if digits:
                start = found.start() - digits.end()
                yield _Span(start, found.end(), "token", text[start : found.end()])
    if "hooks" in lower:
        for found in _HOOKS.finditer(text):
            yield _Span(found.start(1), found.end(1), "token", _plain(found[1]))


# ----------------------------------------------------------------------------------------- names that hold a secret
_PASSWORDS = (
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "pwd",
    "secret",
    "passwords",
    "secrets",
    "passw",
    "pw",
    "pass",
)
_TOKENS = (
    "token",
    "credential",
    "credentials",
    "apikey",
    "auth",
    "authorization",
    "cookie",
    "jwt",
    "bearer",
    "sas",
    "pat",
)
_TAILS = frozenset(
    "old new prod dev test value hash b64 base64 hex raw str string header default primary secondary".split()
)
_KEY_OWNERS = frozenset(
    """
    api access secret private account auth authentication encryption encrypt decryption signing sign master service
    shared license subscription admin app application storage client hmac aes ssh consumer deploy session webhook wandb
    openai anthropic gemini google azure aws s3 gcp stripe comet neptune clearml hf huggingface mistral cohere groq
    together replicate bearer rsa tls ssl
    """.split()
)
_ML_WORDS = frozenset(
    """
    pad padding eos bos unk mask cls sep image img video audio text special start end first last next prev previous
    current max min num n per total new vocab sub subword word stop begin additional extra input output target source
    think prompt decoder encoder forced generated predicted cur this each char byte tokenizer separator newline
    """.split()
)
_QUERY_NAMES = frozenset({"sig", "signature", "key", "credential", "awsaccesskeyid", "code", "state"})
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_NAME_HINTS = tuple(
    re.compile(
        literal + r"(?=[\w.-]{0,40}(?:(?:\\{0,15}[\"'])?\]?\)?\s{0,8}(?:[:=,]|%(?:25)?3[ad]|\\{1,4}u003[ad])"
        r"|\s|\\{0,15}[\"']\s))"
    )
    for literal in "pass pw secret token key credential auth cookie jwt bearer sas pat sig".split()
)
_NAME_REST = re.compile(r"[\w.-]{0,40}")
_NAME_BACK = re.compile(r"[\w.-]{0,48}")
_OWNER_BACK = re.compile(
    r" (?:yek )?(?:ipa|ssecca|terces|etavirp|htua|tnuocca|noisses|lanosrep|resu|tneilc)(?![A-Za-z])", re.I
)
_SEPARATOR = re.compile(
    r"(?P<closing>\\{0,15}[\"'])?(?P<bracket>\]?\)?)"
    r"(?P<sep>:\s{0,4}[A-Za-z][\w.\[\]| ,]{0,40}=\s{0,4}(?=[fFrRbBuU]{0,2}\\{0,15}[\"'])"  # NAME: type = "..."
    r"|\s{0,8}(?:=>|:=|===?|=|:|%(?:25)?3[AaDd]|\\{1,4}u003[AaDd])[ \t]{0,8}|\s{0,4},\s{0,40}|[ \t]{1,8})"
)
_QUOTE = re.compile(r"[fFrRbBuU]{0,2}(\\{0,15})([\"'])")
_NOTHING = re.compile(
    r"(?:none|null|nil|true|false|undefined|nan|yes|no|on|off|str|string|int|integer|bytes|bool|boolean|any|object|optional"
    r"|secretstr|required|empty|unset|hidden|masked|redacted|password|passwd|token|secret|\*+|x{3,}|\.{2,}|-+|\d\.\d+)\Z",
    re.I,
)
_TEMPLATE = re.compile(
    r"(?:\$\{?\w|\$\(|<[\w /|-]{1,64}>?\Z|\{[\w.()\[\]'\" !:]{0,64}\}?\Z|\{\{|%[sdr(]|%\w{1,40}%|\[[\w ]{1,32}\]\Z)"
)
_CODE = re.compile(
    r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*[(\[]|(?:self|cls|os|args|config|cfg|opts?|options|settings|request|kwargs|env|secrets|st)\.[A-Za-z_]|[a-z_]+(?:\.[a-z_]+)+\Z"
)
_PATH_VALUE = re.compile(r"(?:~|\.{1,2}|[A-Za-z]:)?[/\\]{1,4}[\w.@ -]{1,64}(?:[/\\]|\Z|\.\w{1,8}\Z)|(?:~|\.{1,2})/")
_PROSE = frozenset(
    "to is for or and if option flag in on the a an of from when with as by you your it was not are must file".split()
)


def _name_words(name: str) -> list[str]:
    words = [word.lower() for word in _WORDS.findall(_PLACEHOLDER.sub("", name))]
    while len(words) > 1 and (words[-1] in _TAILS or words[-1].isdigit()):
        words.pop()
    return words


def _name_strength(name: str, *, query: bool = False) -> int:
    """Return 2 for the name of a password, 1 for that of a token (its value has to look like one), else 0."""
    words = _name_words(name)
    if not words:
        return 0
    last, before = words[-1], set(words[:-1])
    if last in _PASSWORDS or last.endswith(("password", "passwd", "passphrase", "secret")):
        return 2 if last not in {"pass", "pw", "passw"} or before or name.isupper() or query else 1
    if last in {"pat", "sas", "bearer", "jwt"} and not (before or name.isupper()):
        return 0
    if last == "cookie" or (query and (last in _QUERY_NAMES or name.lower().startswith(("x-amz-", "x-goog-")))):
        return 1 if last != "key" or not before or before & _KEY_OWNERS or query else 0
    if last in _TOKENS or last.endswith(("token", "apikey")):
        return 0 if before & _ML_WORDS or (last != "token" and last.removesuffix("token") in _ML_WORDS) else 1
    if last == "id" and {"access", "key"} <= before:
        return 1
    if last in {"key", "keys"}:
        return (
            1
            if before & _KEY_OWNERS or (name.isupper() and before and not before & {"cache", "primary", "public"})
            else 0
        )
    return 1 if last.endswith(("accesskey", "secretkey", "privatekey", "accountkey", "authkey")) else 0


def _tokenish(value: str) -> bool:
    """Whether `value` looks as if no person had written it."""
    if len(value) < 8 or re.search(r"\s|[<>|(){}]", value) or re.fullmatch(r"[\d.,:eE+-]+", value):
        return False
    digit, letter = any(c.isdigit() for c in value), any(c.isalpha() for c in value)
    mixed = value != value.lower() and value != value.upper()
    return (digit and letter) or (mixed and len(value) >= 16) or (len(value) >= 24 and value.isalnum())


def _closing(text: str, start: int, slashes: int, sign: str) -> int:
    """Return where a quoted value ends: at a quote of its own depth, or an outer one, or the end of the line."""
    limit = min(len(text), start + LONGEST_VALUE)
    if slashes == 0 and text[start : start + 2] == sign * 2:
        end = text.find(sign * 3, start + 2, limit)
        return end if end >= 0 else start
    for found in re.compile(r"\n|(\\*)" + sign).finditer(text, start, limit):
        depth = len(found[1] or "")
        if found[0] == "\n" or depth < slashes or depth % (2 * (slashes + 1)) == slashes:
            return found.end() - 1 - min(depth, slashes) if found[0] != "\n" else found.start()
    return limit


class _Assignment(NamedTuple):
    """A name that holds a secret, and how its value is joined to it."""

    name: str
    start: int
    strength: int
    dashed: bool
    query: bool
    separator: str
    value: int  # where the value begins
    quoted_name: bool
    called: bool  # an argument after the name: getenv("NAME", "value")


def _assignments(text: str, lower: str) -> Iterator[_Span]:
    seen = -1
    for start in sorted(found.start() for hint in _NAME_HINTS for found in hint.finditer(lower)):
        if start < seen:
            continue
        found = _assignment(text, start)
        if found is None:
            continue
        span = _value(text, found)
        if span:
            seen = span.end
            yield span


def _assignment(text: str, index: int) -> _Assignment | None:
    back = _NAME_BACK.match(text[max(0, index - 48) : index][::-1])
    start = _begin(text, index - (back.end() if back else 0), index)
    rest = _NAME_REST.match(text, index)
    end = rest.end() if rest else index
    owner = _OWNER_BACK.match(text[max(0, start - 20) : start][::-1])
    if owner:
        start -= owner.end()
    written = text[start:end]
    name = written.lstrip("-.")
    dashed = written.startswith("--") or (
        written.startswith("-") and name[:1].isalpha() and text[start - 1 : start] in {"", " ", '"', "'", "\n"}
    )
    previous = text[start - 3 : start] if start >= 3 else text[:start]
    joined = _SEPARATOR.match(text, end)
    if not joined:
        return None
    separator = joined["sep"]
    query = (
        previous[-1:] in {"?", "&", ";"}
        or previous.lower() in {"%3f", "%26"}
        or text[max(0, start - 6) : start].lower() == "\\u0026"
    )
    strength = _name_strength(name, query=query)
    bare = not separator.strip()
    called = separator.strip() == "," and bool(joined["closing"])
    if not strength or (bare and not dashed) or (separator.strip() == "," and not called):
        return None
    return _Assignment(name, start, strength, dashed, query, separator, joined.end(), bool(joined["closing"]), called)


def _value(text: str, found: _Assignment) -> _Span | None:
    quoted = _QUOTE.match(text, found.value)
    if quoted:
        start = quoted.end()
        end = _closing(text, start, len(quoted[1]), quoted[2])
        if text[start : start + 2] == quoted[2] * 2 and end > start and not quoted[1]:
            start += 2
        value = text[start:end]
        if "\n" not in found.separator and _authorization(value):
            start += len(value) - len(_authorization(value))
            value = text[start:end]
        if not _quoted_secret(value, found, text):
            return None
    else:
        if found.called or "==" in found.separator:
            return None
        start = found.value
        end = _unquoted_end(text, found)
        value = text[start:end]
        if _authorization(value):
            start += len(value) - len(_authorization(value))
            value = text[start:end]
        if not _unquoted_secret(value, found, text, end):
            return None
    kind = "password" if found.strength == 2 else "token"
    return _Span(start, end, kind, _plain(value)) if end > start else None


_SCHEME = re.compile(r"(?:Bearer|Basic|Token|Digest|Negotiate|ApiKey|AWS4-HMAC-SHA256)(?: |%20|\+)", re.I)


def _authorization(value: str) -> str:
    """Return the credential after the scheme of an Authorization header, or nothing."""
    scheme = _SCHEME.match(value)
    return value[scheme.end() :] if scheme else ""


def _never(value: str) -> bool:
    return not value or bool(_PLACEHOLDER.search(value) or _NOTHING.match(value) or _TEMPLATE.match(value))


def _quoted_secret(value: str, found: _Assignment, text: str) -> bool:
    if _never(value.strip()) or _PATH_VALUE.match(value):
        return False
    if found.called and not (
        found.dashed
        or re.search(
            r"(?:get|getenv|setdefault|setenv|environ\w*)\(\s*\\*[\"']\Z", text[max(0, found.start - 24) : found.start]
        )
    ):
        return _tokenish(value) and len(value) >= 12
    if _name_words(found.name)[-1] == "cookie":
        return "=" in value
    return found.strength == 2 or _tokenish(value)


_STOP_QUERY = re.compile(r"[^\s\"'&#<>\\`\ufffd]{0,2048}?(?=%26|%23|\\u0026|[\s\"'&#<>\\`\ufffd]|\Z)")
_STOP_WORD = re.compile(r"[^\s\"'`,;<>(){}\[\]|\\&\ufffd]{1,4096}")
_STOP_ARGUMENT = re.compile(r"[^\s\"'`\\\ufffd]{1,4096}")
_STOP_SHELL = re.compile(r"[^\s\"'`\ufffd]{1,4096}")
_STOP_LINE = re.compile(r"[^\r\n\ufffd]{1,4096}?(?=\s{1,64}#|\s{0,64}[\r\n\ufffd]|\s{0,64}\Z)")
_STOP_ESCAPED_LINE = re.compile(r"[^\r\n\ufffd\\\"]{1,4096}")
_STOP_HEADER = re.compile(r"[^\r\n\"'\\\ufffd]{1,4096}")
_LINE_START = re.compile(r"(?:^|[\n\ufffd]|(?P<escaped>\\n))[ \t]{0,32}(?:[-#] |export |set |declare -x |ENV |ARG )?\Z")
_LABELLED = re.compile(r"(?:^|[\s\"'=])(?:Bearer|Basic|Token|Digest)\Z", re.I)


def _at_line_start(text: str, index: int) -> re.Match[str] | None:
    return _LINE_START.search(text, max(0, index - 48), index)


def _unquoted_end(text: str, found: _Assignment) -> int:
    """Return where the value ends, by the place that the name stands in."""
    index = found.value
    words = _name_words(found.name)
    line_start = _at_line_start(text, found.start)
    quote_before = re.search(r"(\\{0,15})([\"'])\Z", text[max(0, found.start - 16) : found.start])
    if words[-1] in {"cookie", "authorization"}:
        pattern = _STOP_HEADER
    elif found.query or found.separator.startswith(("%", "\\")):
        pattern = _STOP_QUERY
    elif quote_before and not found.quoted_name and found.separator == "=":
        return _closing(text, index, len(quote_before[1]), quote_before[2])
    elif line_start and found.separator == "=":
        pattern = _STOP_ARGUMENT if line_start["escaped"] else _STOP_SHELL
    elif line_start and found.strength == 2 and found.separator.strip() == ":":
        # A line inside a JSON string ends at an escaped break or with the string.
        pattern = _STOP_ESCAPED_LINE if line_start["escaped"] else _STOP_LINE
    elif found.dashed:
        pattern = _STOP_ARGUMENT
    else:
        pattern = _STOP_WORD
        scheme = _SCHEME.match(text, index)
        index = scheme.end() if scheme else index
    match = pattern.match(text, index)
    return match.end() if match else found.value


def _unquoted_secret(value: str, found: _Assignment, text: str, end: int) -> bool:
    if _never(value) or _CODE.match(value + text[end : end + 1]) or _PATH_VALUE.match(value):
        return False
    if _name_words(found.name)[-1] == "cookie":
        return "=" in value and "(" not in value
    if found.strength == 1:
        return _tokenish(value)
    if not found.separator.strip():
        return value.lower() not in _PROSE and not value.startswith("-") and not (value.isupper() and value.isalpha())
    digits = any(c.isdigit() for c in value)
    if value.replace("_", "").isalpha() and not digits:
        return not _name_strength(value) and value.lower() not in _PROSE and not _in_code(text, found, end)
    return not re.fullmatch(r"\d{1,3}", value)


def _in_code(text: str, found: _Assignment, end: int) -> bool:
    """Whether a value that is one plain word is a variable: an argument of a call, or assigned with spaces."""
    following = text[end : end + 1]
    if following in {",", ")", "]", "}", "("}:
        return True
    return found.separator == " = " and not _at_line_start(text, found.start)


# -------------------------------------------------------------------------------------------- headers, logins, URLs
_BEARER = re.compile(r"(?:bearer|basic)(?: |%20|\+|\\u0020)([\w.~+/=-]{8,4096})", re.I)
_NETRC = re.compile(r"\blogin\s{1,40}(\S{1,128})\s{1,40}password\s{1,40}(\S{1,256})")
_CURL_USER = re.compile(r"(?:-u|--user|--proxy-user)[ =]?[\"']?([\w.@+-]{1,64}):([^\s\"']{1,256})")
_AUTH_PAIR = re.compile(
    r"(?:auth\s{0,4}=\s{0,4}|BasicAuth)\(\s{0,8}\\{0,7}[\"']([^\"'\\\n]{1,128})\\{0,7}[\"'],"
    r"\s{0,8}\\{0,7}[\"']([^\"'\\\n]{1,256})\\{0,7}[\"']"
)
_ELEMENT = re.compile(r"<([A-Za-z][\w.-]{1,48})>([^<>\r\n]{1,1024})<\\{0,4}/")
_SSHPASS = re.compile(r"sshpass\s{1,4}-p\s{0,4}[\"']?([^\s\"'\\]{1,256})")


def _logins(text: str, lower: str) -> Iterator[_Span]:
    if "bearer" in lower or "basic" in lower:
        for found in _BEARER.finditer(text):
            if _tokenish(found[1]) and not _PLACEHOLDER.search(found[1]):
                yield _Span(found.start(1), found.end(1), "token", found[1])
    pairs: list[re.Match[str]] = []
    if "login" in lower:
        pairs += _NETRC.finditer(text)
    if "curl" in lower:
        pairs += _CURL_USER.finditer(text)
    if "auth" in lower:
        pairs += _AUTH_PAIR.finditer(text)
    for found in pairs:
        yield from _pair(found.start(1), found[1], found.start(2), found[2])
    if "</" in text or "<\\/" in text:
        for found in _ELEMENT.finditer(text):
            strength = _name_strength(found[1])
            if strength and not _never(found[2]) and (strength == 2 or _tokenish(found[2])):
                yield _Span(found.start(2), found.end(2), "password" if strength == 2 else "token", _plain(found[2]))
    if "sshpass" in lower:
        for found in _SSHPASS.finditer(text):
            if not _never(found[1]):
                yield _Span(found.start(1), found.end(1), "password", found[1])


def _pair(user_at: int, user: str, password_at: int, password: str) -> Iterator[_Span]:
    if user and not _never(user):
        kind = "token" if _SHAPES.fullmatch(user) else "user"
        yield _Span(user_at, user_at + len(user), kind, _plain(user).lower() if kind == "user" else user)
    if password and not _PLACEHOLDER.search(password) and not _TEMPLATE.match(password) and password.strip("*x."):
        yield _Span(password_at, password_at + len(password), "password", _plain(password))


def _has_at(text: str) -> bool:
    if "@" in text or "&#64;" in text:
        return True
    return ("%" in text and ("%40" in text or "%2540" in text)) or ("\\" in text and "u0040" in text)


_URL = re.compile(
    r"(?::|%(?:25)?3[aA]|\\u003[aA])(?:\\{0,8}/|%(?:25)?2[fF]|\\{1,4}u002[fF]){2}"
    r"(?P<user>(?:(?!%(?:25)?(?:3[aA]|2[fF]|40)|\\{1,4}u00)[^\s/:@\"'<>?#\\,|`(]){0,256})"
    r"(?:(?::|%(?:25)?3[aA]|\\{1,4}u003[aA])"
    r"(?P<password>(?:(?!%(?:25)?40|\\{1,4}u0040)[^\s/\"'<>\\|`]){0,1024}))?"
    r"(?P<at>@|%(?:25)?40|\\{1,4}u0040)"
)
_URL_HINT = re.compile(r":(?:\\{0,8}/){2}|%(?:25)?3[aA]%(?:25)?2[fF]|\\u003[aA]")


def _urls(text: str, lower: str) -> Iterator[_Span]:
    if not _has_at(text):
        return
    for hint in _URL_HINT.finditer(text):
        found = _URL.match(text, hint.start())
        if not found or (found["user"].lower() in {"git", "hg", "svn"} and not found["password"]):
            continue
        yield from _pair(found.start("user"), found["user"], found.start("password"), found["password"] or "")


# ---------------------------------------------------------------------------------------------------------- e-mail
_LOCAL_BACK = re.compile(r"[\w.+%'=~-]{1,64}")
_DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}([^\W\d_]{2,24}|xn--[a-z0-9-]{2,40})(?![\w-]|\.[\w])")
_TLDS = frozenset(
    """
    com org net edu gov mil int info biz name pro io ai dev app cloud tech online site xyz me tv cc co us uk de fr it es
    nl be ch at se no fi dk pl cz sk hu ro bg gr pt ie ru ua by lt lv ee is lu li mt cy hr si rs ba mk al md tr il ae sa
    ir iq pk in bd lk np cn jp kr tw hk sg my th vn ph id au nz ca mx br ar cl pe uy ve ec bo py za ng ke eg ma tn eu
    asia local lan internal corp intra intranet home localdomain science academy university systems email company ac
    """.split()
)
_CODE_LABELS = frozenset(
    "self cls model net layer layers module weight weights bias data grad torch np args x w".split()
)
_FILE_ENDINGS = frozenset(
    "py png jpg jpeg gif svg json txt md yaml yml toml html css js ts sh cfg ini log so whl gz zip".split()
)


def _emails(text: str, lower: str) -> Iterator[_Span]:
    if not _has_at(text):
        return
    for at in _AT.finditer(text):
        span = _email(text, at)
        if span:
            yield span


def _email(text: str, at: re.Match[str]) -> _Span | None:
    back = _LOCAL_BACK.match(text[max(0, at.start() - 64) : at.start()][::-1])
    domain = _DOMAIN.match(text, at.end())
    if not back or not domain:
        return None
    start = at.start() - back.end()
    percent = text.rfind("%", start, at.start())
    if percent >= 0:
        start = max(start, min(at.start(), percent + (5 if text.startswith("%25", percent) else 3)))
    equals = text.rfind("=", start, at.start())
    start = _begin(text, max(start, equals + 1), at.start())
    local = text[start : at.start()].lstrip(".'-~")
    start = at.start() - len(local)
    tail = _PLACEHOLDER.search(local)
    if not local or (tail and tail.end() == len(local)) or local in {"git", "hg", "svn"}:
        return None
    if not _is_email(text, start, local, domain):
        return None
    return _Span(start, domain.end(), "email", _plain(local + "@" + domain[0]).lower(), True)


def _is_email(text: str, start: int, local: str, domain: re.Match[str]) -> bool:
    """Tell an address from a product of matrices: by the end of its domain and by what follows."""
    labels, end = domain[0].lower().split("."), domain.end()
    if text[end : end + 1] in {"(", "["} or domain[1] != domain[1].lower() != domain[1].swapcase():
        return False
    if labels[0] in _CODE_LABELS or len(labels[0]) == len(local) == 1:
        return False
    if labels[-1] in _TLDS:
        return True
    before, after = text[max(0, start - 7) : start], text[end : end + 1]
    enclosed = before.endswith(("<", '"', "'", "mailto:")) and after in {">", '"', "'", "\\", "?"}
    return enclosed and labels[-1] not in _CODE_LABELS | _FILE_ENDINGS


# ------------------------------------------------------------------------------------------------------- addresses
_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPS = tuple(
    re.compile(rf"{network}\.{_OCTET}\.{_OCTET}(?!\d|\.\d|[A-Za-z])")
    for network in (
        rf"10\.{_OCTET}",
        r"192\.168",
        r"172\.(?:1[6-9]|2\d|3[01])",
        r"169\.254",
        r"100\.(?:6[4-9]|[7-9]\d|1[01]\d|12[0-7])",
    )
)
_IP6 = re.compile(
    r"(?:(?<=[\s\"'\[(=/@,<])|(?<=\\n))(?:fe80|f[cd][0-9a-f]{2}):(?=[0-9a-f]{0,4}:)[0-9a-f:]{2,37}(?:%[\w.-]{1,16})?"
)
_IP_NAME = re.compile(r"ip-1(?:0|72|92)(?:-\d{1,3}){3}(?!\d)")
_IS_VERSION = re.compile(
    r"(?:(?:nvidia|cu(?:da|dnn|blas|rand|fft|solver|sparse|pti|file|tlass)|nccl|nvtx|nvjit|tensorrt|driver|toolkit|mkl"
    r"|version|release|build|pkg|package|wheel)[\w.-]{0,40}[\s\"'\\:=<>~!(@,v]{0,24}|[=<>~!]=\s?|\bv|[A-Za-z0-9]-)\Z",
    re.I,
)
_HIDDEN_BEFORE = re.compile(r"REDACTED_[A-Za-z]+_\d+\S{0,24}\s{0,24}\Z")
_IS_ADDRESS = re.compile(
    r"(?:addr|address|host|hostname|inet|ip|peer|server|gateway|route|via|dns|listen|bind|connect|ping|ssh|endpoint)"
    r"(?:ed|ing)?[\s\"'\\:=<>(\[]{0,12}(?:to |from |on |at |is )?\Z|[/@]\Z",
    re.I,
)


def _addresses(text: str, lower: str) -> Iterator[_Span]:
    for found in (found for network in _IPS for found in network.finditer(text)):
        start = found.start()
        if (_before(text, start) and text[start - 1 : start] not in {".", "_"}) and not _version(text, found):
            yield _Span(start, found.end(), "ip", found[0], True)
    if "::" in text or "fe80:" in lower:
        for found in _IP6.finditer(" " + lower):
            if _is_ip6(found[0]):
                yield _Span(found.start() - 1, found.end() - 1, "ip", found[0], True)
    if "ip-1" in text:
        for found in _IP_NAME.finditer(text):
            if _before(text, found.start()):
                yield _Span(found.start(), found.end(), "ip", found[0][3:].replace("-", "."), True)


def _is_ip6(address: str) -> bool:
    return "::" in address or address.count(":") == 7


def _version(text: str, found: re.Match[str]) -> bool:
    """Whether four numbers are the version of a package: only those that begin with 10 can be one."""
    if not found[0].startswith("10."):
        return False
    start, end = found.span()
    if re.match(r"[:/<]\d", text[end : end + 2]):
        return False
    line = text[max(0, start - 64) : start].rpartition("\n")[2]
    if _IS_ADDRESS.search(line):
        return False
    if _HIDDEN_BEFORE.search(line):
        return True  # it was judged by what now is hidden
    return bool(_IS_VERSION.search(line)) or text.startswith((".dist-info", "-py", ".whl", "+cu", "-cp"), end)


# ----------------------------------------------------------------------------------------------------- known words
class _Known(NamedTuple):
    """A word that is hidden wherever it stands."""

    form: str  # in lower case
    kind: str
    key: str
    spellings: frozenset[str] | None  # None: any case
    bounded: bool


def _user_words(name: str) -> list[_Known]:
    """Return the written forms of a user's name."""
    if len(name) < 3 or name.lower() in _GENERIC or not any(c.isalpha() for c in name):
        return []
    found: dict[str, set[str]] = {}
    for spelling in (name, name.capitalize(), name[:1].upper() + name[1:], name.upper()):
        for form in _forms(spelling):
            found.setdefault(_lower(form), set()).add(form)
            # Escapes are written with letters of either case.
            found[_lower(form)].add(re.sub(r"%[0-9a-fA-F]{2}", lambda m: m[0].lower(), form))
    return [_Known(form, "user", name.lower(), frozenset(written), True) for form, written in found.items()]


def _other_words(kind: str, word: str) -> list[_Known]:
    """Return the written forms of a host's name, or of a secret (in its exact case, wherever it stands)."""
    host = kind == "host"
    if host and (len(word) < 3 or word.lower() in _GENERIC or not any(c.isalpha() for c in word)):
        return []
    found: dict[str, set[str]] = {}
    for form in _forms(word):
        found.setdefault(_lower(form), set()).add(form)
    return [
        _Known(form, kind, word.lower() if host else word, None if host else frozenset(w), host)
        for form, w in found.items()
    ]


def _source_parts(text: str) -> list[tuple[int, int]] | None:
    """Return where strings and comments stand if the whole `text` is a Python source, else None.

    Outside of them only names may change: the source has to run as before.
    """
    if not re.search(r"^(?:import \w|from [\w.]+ import |\s*(?:async )?def \w+\(|class \w+[(:]|@\w)", text, re.M):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(text, "source", "exec", dont_inherit=True, flags=0x400)  # a syntax tree: nothing runs
        return _string_tokens(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError, tokenize.TokenError, OverflowError):
        return None


def _string_tokens(text: str) -> list[tuple[int, int]]:
    starts = [0]
    for line in io.StringIO(text, newline=""):
        starts.append(starts[-1] + len(line))
    parts: list[tuple[int, int]] = []
    for token in tokenize.generate_tokens(io.StringIO(text, newline="").readline):
        start, end = starts[token.start[0] - 1] + token.start[1], starts[token.end[0] - 1] + token.end[1]
        if token.type == tokenize.COMMENT:
            parts.append((start + 1, end))
        elif token.type == tokenize.STRING:
            opening = re.match(r"[A-Za-z]*(?:\"\"\"|'''|\"|')", text[start:end])
            sign = opening[0].lstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") if opening else ""
            parts.append((start + (opening.end() if opening else 0), end - len(sign)))
        elif tokenize.tok_name[token.type] == "FSTRING_MIDDLE":
            parts.append((start, end))
    return parts


def _clip(span: _Span, parts: list[tuple[int, int]]) -> list[_Span]:
    return [
        span._replace(start=max(span.start, low), end=min(span.end, high))
        for low, high in parts
        if low < span.end and span.start < high
    ]


_Detector = Callable[[str, str], Iterator[_Span]]
_SECRETS: tuple[_Detector, ...] = (_key_blocks, _logins, _assignments, _urls, _shapes)


class Redactor:
    """Hides what gives a person away; one for a whole package, so that the placeholders agree."""

    def __init__(self, identity: Identity) -> None:
        """Know `identity`; its things get the first numbers, in their order."""
        self._counts: Counter[str] = Counter()
        self._numbers: dict[tuple[str, str], int] = {}
        self._last: Counter[str] = Counter()
        self._kinds: dict[str, str] = {}
        self._words: list[_Known] = []
        self._learned: set[str] = set()
        self._homes: list[tuple[re.Pattern[str], str, str]] = []
        for secret in identity.secrets:
            if len(secret) >= 8:
                self._words += _other_words("secret", secret)
        for home in identity.homes:
            self._know_home(home)
        for user in identity.users:
            self._know_user(user)
        for host in identity.hosts:
            if host:
                self._number("host", host.lower())
                self._words += _other_words("host", host)

    @property
    def counts(self) -> Mapping[str, int]:
        """How many replacements were made, by kind."""
        return MappingProxyType(self._counts)

    def _know_user(self, name: str) -> None:
        if name and name.lower() not in self._learned:
            self._learned.add(name.lower())
            words = _user_words(name)
            if words:
                self._number("user", name.lower())
                self._words += words

    def _know_home(self, home: str) -> None:
        """A home in the usual place is known by its user's name, another one by its path."""
        parts = [part for part in re.split(r"[/\\]+", home) if part]
        usual = next((user for _, user in _homes(home, _lower(home))), None)
        if usual is not None:
            self._number("home", usual)
            self._know_user(usual)
        elif len(parts) >= 2 and len(parts[-1]) >= 2:
            self._number("home", home)
            drive = re.fullmatch(r"[A-Za-z]:", parts[0])
            body = rf"{_SLASH}{{1,2}}".join(re.escape(part) for part in parts[1 if drive else 0 :])
            pattern = re.compile(rf"({_SLASH}{{1,2}}){body}(?![\w-])")
            self._homes.append((pattern, _lower(parts[-1]), home))

    def _number(self, kind: str, key: str) -> int:
        if (kind, key) not in self._numbers:
            self._last[kind] += 1
            self._numbers[kind, key] = self._last[kind]
        return self._numbers[kind, key]

    def learn(self, chunks: Iterable[bytes]) -> None:
        """Take the names of home folders for users, so that `text` hides them as bare words too."""
        for window in _windows(_decoded(chunks)):
            for _, user in _homes(window.text, _lower(window.text)):
                if len(self._learned) >= LEARNED_LIMIT:
                    return
                if len(user) <= 64 and user.lower() not in self._learned:
                    self._know_user(user.split("@")[0])

    def text(self, text: str) -> str:
        """Return `text` with placeholders."""
        return "".join(self._redacted(text[i : i + BLOCK] for i in range(0, len(text), BLOCK)))

    def stream(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield what `text` gives for the whole, however it is cut into chunks."""
        for piece in self._redacted(_decoded(chunks)):
            yield piece.encode("utf-8", "replace")

    def path(self, relative: str) -> str:
        """Return a relative path with placeholders, component by component."""
        parts = [part for part in relative.replace("\0", "\ufffd").split("/") if part not in {"", ".", ".."}]
        done: list[str] = []
        if len(parts) >= 2:
            head = self.text(f"/{parts[0]}/{parts[1]}")[1:]
            if "/" not in head:
                done, parts = [head], parts[2:]
        for part in parts:
            clean = part.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            done.append(self.text(clean).replace("/", "_"))
        return "/".join(done) or "_"

    def _redacted(self, pieces: Iterable[str]) -> Iterator[str]:
        for window in _windows(piece.replace("\0", "\ufffd") for piece in pieces):
            spans = self._spans(window)
            begin = window.begin
            for span in spans:
                if span.end <= begin or span.start >= window.end:
                    continue
                if span.start > begin:
                    yield window.text[begin : span.start]
                yield self._placeholder(span, window.text)
                begin = span.end
            if begin < window.end:
                yield window.text[begin : window.end]
            window.skip(max(0, begin - window.end))

    def _placeholder(self, span: _Span, text: str) -> str:
        # The same secret keeps the kind that it was first seen as.
        kind = (
            self._kinds.setdefault(span.key, span.kind) if span.kind in {"token", "password", "secret"} else span.kind
        )
        self._counts[kind] += 1
        number = self._number(kind, span.key)
        written = text[span.start : span.end]
        shown = kind
        if kind == "user" and written[:1].isupper():
            shown = "USER" if written.isupper() else "User"
        return f"REDACTED_{shown}_{number}" + "\n" * written.count("\n")  # the lines after it keep their numbers

    def _spans(self, window: _Window) -> list[_Span]:
        """Return what has to go, without overlaps, in order."""
        text, lower = window.text, _lower(window.text)
        mask = bytearray(len(text))
        for found in _PLACEHOLDER.finditer(text) if "REDACTED_" in text else ():
            mask[found.start() : found.end()] = b"\1" * (found.end() - found.start())
        parts: list[tuple[int, int]] | None = None
        asked = False
        chosen: list[_Span] = []
        for renames, found_spans in self._found(text, lower):
            spans = list(found_spans)
            if spans and not renames:
                if not asked and window.only:
                    parts, asked = _source_parts(text), True
                spans = spans if parts is None else [piece for span in spans for piece in _clip(span, parts)]
            for span in spans:
                chosen += _uncovered(span, mask)
        return sorted(chosen)

    def _found(self, text: str, lower: str) -> Iterator[tuple[bool, Iterable[_Span]]]:
        """Yield the detectors' findings; what comes first wins. Names may change anywhere in a source."""
        yield False, self._known(text, lower, {"secret"})
        for detector in (*_SECRETS, _emails):
            yield False, detector(text, lower)
        yield False, self._own_homes(text, lower)
        yield False, (span for span, _ in _homes(text, lower))
        yield True, self._known(text, lower, {"host"})
        yield True, self._known(text, lower, {"user"})
        yield False, _addresses(text, lower)

    def _own_homes(self, text: str, lower: str) -> Iterator[_Span]:
        for pattern, last, home in self._homes:
            if last in lower:
                for found in pattern.finditer(text):
                    if _anchored(text, found.start()):
                        yield _Span(found.end(1), found.end(), "home", home, True)

    def _known(self, text: str, lower: str, kinds: set[str]) -> Iterator[_Span]:
        for word in self._words:
            if word.kind not in kinds:
                continue
            start = lower.find(word.form)
            while start >= 0:
                end = start + len(word.form)
                if _matches(word, text, start, end):
                    yield _Span(start, end, word.kind, word.key)
                start = lower.find(word.form, start + 1)


def _matches(word: _Known, text: str, start: int, end: int) -> bool:
    if word.spellings is not None and text[start:end] not in word.spellings:
        return False
    return not word.bounded or (_before(text, start) and _after(text, end))


def _uncovered(span: _Span, mask: bytearray) -> list[_Span]:
    """Return the parts of `span` that nothing covers yet, and cover them."""
    start, end = span.start, span.end
    if mask.find(1, start, end) < 0:
        mask[start:end] = b"\1" * (end - start)
        return [span]
    if span.whole:
        return []
    pieces: list[_Span] = []
    while start < end:
        low = mask.find(0, start, end)
        if low < 0:
            break
        high = mask.find(1, low, end)
        high = end if high < 0 else high
        pieces.append(span._replace(start=low, end=high))
        mask[low:high] = b"\1" * (high - low)
        start = high
    return pieces


# --------------------------------------------------------------------------------------------------------- windows
class _Window:
    """A block of the text between what stands before and after it."""

    def __init__(self, text: str, begin: int, end: int, *, only: bool) -> None:
        self.text = text
        self.begin = begin
        self.end = end
        self.only = only  # the whole text
        self.skipped = 0

    def skip(self, characters: int) -> None:
        """Leave out what a match of this block took from the next one."""
        self.skipped = characters


def _windows(pieces: Iterable[str]) -> Iterator[_Window]:
    """Cut a text into blocks at places that do not depend on how it came in."""
    source = iter(pieces)
    buffer, begin, first, ended = "", 0, True, False
    while True:
        incoming = [buffer]
        size = len(buffer)
        while not ended and size < begin + BLOCK + MARGIN:
            piece = next(source, None)
            ended = piece is None
            incoming.append(piece or "")
            size += len(piece or "")
        buffer = "".join(incoming)
        last = ended and len(buffer) <= begin + BLOCK + MARGIN
        seen = buffer if last else buffer[: begin + BLOCK + MARGIN]
        end = len(buffer) if last else begin + BLOCK
        window = _Window(seen, begin, end, only=first and last)
        yield window
        if last:
            return
        first = False
        at = end + window.skipped
        buffer, begin = buffer[max(0, at - MARGIN) :], min(at, MARGIN)


def _decoded(chunks: Iterable[bytes]) -> Iterator[str]:
    """Yield the text of UTF-8, or of UTF-16 if it says so at its beginning."""
    decoder: codecs.IncrementalDecoder | None = None
    head = b""
    for chunk in chunks:
        head += chunk
        if decoder is None and len(head) >= 2:
            wide = head[:2] in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}
            decoder = codecs.getincrementaldecoder("utf-16" if wide else "utf-8")("replace")
        if decoder is not None:
            for start in range(0, len(head), BLOCK):
                yield decoder.decode(head[start : start + BLOCK])
            head = b""
    if decoder is None:
        yield head.decode("utf-8", "replace")
    else:
        yield decoder.decode(b"", True)
