"""What the name of a variable, an option or a field tells of its value: a password, a token, or nothing.

The value itself is judged in `secret_values.py`.
"""

from __future__ import annotations

import re

from bfo_diag.redact.placeholders import PLACEHOLDER

_PASSWORDS = frozenset("password passwd passphrase passcode pwd secret passwords secrets passw pw pass".split())
_TOKENS = frozenset("token credential credentials apikey auth authorization cookie jwt bearer sas pat".split())
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
_NO_SECRET_KEYS = frozenset({"cache", "primary", "public"})
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def name_words(name: str) -> list[str]:
    """Return the words of a name, in lower case, without a last one such as `old`, `hash` or a number."""
    words = [word.lower() for word in _WORDS.findall(PLACEHOLDER.sub("", name))]
    while len(words) > 1 and (words[-1] in _TAILS or words[-1].isdigit()):
        words.pop()
    return words


def name_strength(name: str, *, query: bool = False) -> int:
    """Return 2 for the name of a password, 1 for that of a token (its value has to look like one), else 0.

    In the query of a URL more names hold a secret.
    """
    words = name_words(name)
    if not words:
        return 0
    last, before = words[-1], set(words[:-1])
    if last in _PASSWORDS or last.endswith(("password", "passwd", "passphrase", "secret")):
        short = last in {"pass", "pw", "passw"}
        return 2 if not short or before or name.isupper() or query else 1
    if last in {"pat", "sas", "bearer", "jwt"} and not before and not name.isupper():
        return 0
    if query and (last in _QUERY_NAMES or name.lower().startswith(("x-amz-", "x-goog-"))):
        return 1
    return int(_names_token(name, last, before))


def _names_token(name: str, last: str, before: set[str]) -> bool:
    if last == "cookie":
        return True
    if last in _TOKENS or last.endswith(("token", "apikey")):
        return not before & _ML_WORDS and last.removesuffix("token") not in _ML_WORDS
    if last == "id":
        return {"access", "key"} <= before
    if last in {"key", "keys"}:
        constant = name.isupper() and bool(before) and not before & _NO_SECRET_KEYS
        return constant or bool(before & _KEY_OWNERS)
    return last.endswith(("accesskey", "secretkey", "privatekey", "accountkey", "authkey"))
