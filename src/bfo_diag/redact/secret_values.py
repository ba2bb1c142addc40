"""What a value looks like by itself: a token, a stand-in for one, a path.

What its name makes of it is decided where the name is read, in `assignments.py` and `logins.py`.
"""

from __future__ import annotations

import re

from bfo_diag.redact.placeholders import PLACEHOLDER

_NOTHING = re.compile(
    r"(?:none|null|nil|true|false|undefined|nan|yes|no|on|off|str|string|int|integer|bytes|bool|boolean|any|object|optional"
    r"|secretstr|required|empty|unset|hidden|masked|redacted|password|passwd|token|secret|\*+|x{3,}|\.{2,}|-+|\d\.\d+)\Z",
    re.I,
)
TEMPLATE = re.compile(
    r"(?:\$\{?\w|\$\(|<[\w /|-]{1,64}>?\Z|\{[\w.()\[\]'\" !:]{0,64}\}?\Z|\{\{|%[sdr(]|%\w{1,40}%|\[[\w ]{1,32}\]\Z)"
)
PATH_VALUE.match(value) and not value.isalpha():
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
PATH_VALUE = re.compile(r"(?:~|\.{1,2}|[A-Za-z]:)?[/\\]{1,4}[\w.@ -]{1,64}(?:[/\\]|\Z|\.\w{1,8}\Z)|(?:~|\.{1,2})/")
_SCHEME = re.compile(r"(?:Bearer|Basic|Token|Digest|Negotiate|ApiKey|AWS4-HMAC-SHA256)(?: |%20|\+)", re.I)
_NO_TOKEN = re.compile(r"\s|[<>|(){}]")
_NUMBER = re.compile(r"[\d.,:eE+-]+")


def is_stand_in(value: str) -> bool:
    """Whether `value` stands where a secret would: nothing, a placeholder, `none`, `${PASSWORD}`."""
    return not value or bool(PLACEHOLDER.search(value) or _NOTHING.match(value) or TEMPLATE.match(value))


def looks_random(value: str) -> bool:
    """Whether `value` looks as if no person had written it."""
    if len(value) < 8 or _NO_TOKEN.search(value) or _NUMBER.fullmatch(value):
        return False
    digit, letter = any(c.isdigit() for c in value), any(c.isalpha() for c in value)
    mixed = value != value.lower() and value != value.upper()
    return (digit and letter) or (mixed and len(value) >= 16) or (len(value) >= 24 and value.isalnum())


def past_scheme(text: str, start: int, end: int) -> int:
    """Return where the credential begins after the scheme of an Authorization header, else `start`."""
    scheme = _SCHEME.match(text, start, end)
    return scheme.end() if scheme else start
