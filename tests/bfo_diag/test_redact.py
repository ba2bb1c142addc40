"""What a package must not give away is hidden in every written form, and nothing else is touched."""

from __future__ import annotations

import json
import re
import tracemalloc
from itertools import pairwise
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bfo_diag.redact import Identity, Redactor, windows

ALICE = Identity(
    users=("alice", "jürgen"),
    hosts=("hydra7.cluster.example.edu", "hydra7"),
    homes=("/home/alice", "/srv/people/alice"),
    secrets=("Zx9-environment/secret+value",),
)
HEX = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b"
BODY = "\n".join("MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8c" + str(n) for n in range(10, 22))
PEM = f"-----BEGIN RSA PRIVATE KEY-----\n{BODY}\nq8fJ==\n-----END RSA PRIVATE KEY-----"
# Shapes of known tokens are put together, so that no scanner takes this file for a leak.
GITHUB = "gh" + "p_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
HUGGING = "h" + "f_" + "QwErTyUiOpAsDfGhJkLzXcVbNmQwErTyUi"
OPENAI = "s" + "k-proj-" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4"
AWS = "AK" + "IA" + "Z7QXR5TPL2MNB3VC"
AWS_SECRET = "wJa1rXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEYZ"
JWT = "ey" + "J0eXAiOiJKV1QiLCJh.ey" + "JzdWIiOiIxMjM0NTY3.dBjftJeZ4CVPmB92K27u"
SLACK = "xo" + "xb-123456789012-abcdefGHIJKL"
STRIPE = "s" + "k_live_" + "4eC39HqLyjWDarjtT1zdp7dc"
TELEGRAM = "123456789" + ":AA" + "HdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1"
GOOGLE = "AI" + "za" + "SyD1a2b3c4d5e6f7g8h9i0j1k2l3m4n5o6p"
NPM = "np" + "m_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"

PLANTED = [
    ("/home/alice/proj/train.py", "alice"),
    ("/home/carol/proj/train.py", "carol"),
    ("cache at /var/home/carol.", "carol"),
    ("/Users/carol/Library", "carol"),
    ("/export/home/carol/x", "carol"),
    ("-I/home/carol/include", "carol"),
    ("\x1b[32m/home/carol/x", "carol"),
    (r"C:\Users\carol\x", "carol"),
    (r"C:\Users\Carol Smith\x", "Carol Smith"),
    (json.dumps(r"C:\Users\carol\x"), "carol"),
    (json.dumps(json.dumps(r"C:\Users\carol\x")), "carol"),
    (r'"\/home\/carol\/x"', "carol"),
    ("%2Fhome%2Fcarol%2Fx", "carol"),
    ("file:///home/carol/x", "carol"),
    ("/mnt/c/Users/carol/x", "carol"),
    ("/root/.cache/x", "/root"),
    ("/srv/people/alice/x", "people"),
    ("by alice at hydra7.cluster.example.edu", "alice"),
    ("alice_train.py", "alice"),
    ("ssh HYDRA7.local", "HYDRA7"),
    (json.dumps("first\nalice"), "alice"),
    (json.dumps("jürgen"), "rgen"),
    (json.dumps(json.dumps("/home/jürgen/x")), "rgen"),
    (quote("/jürgen/"), "rgen"),
    (repr("jürgen".encode()), "rgen"),
    ("mail alice.smith@example.com now", "smith"),
    ("u=alice.smith%40example.com", "smith"),
    (r"\u003cbob.b\u0040example.com\u003e", "bob.b"),
    ("seen Zx9-environment/secret+value there", "Zx9-environment"),
    (json.dumps({"v": quote("Zx9-environment/secret+value", safe="")}), "Zx9-environment"),
    ("connect to 10.1.2.3:29500", "10.1.2.3"),
    ("inet 192.168.7.9/24", "192.168.7.9"),
    ("tcp://172.20.3.4", "172.20.3.4"),
    ("fe80::1ff:fe23:4567:890a", "fe23"),
    (PEM, "MIIEvQ"),
    (json.dumps({"pem": PEM}), "MIIEvQ"),
    (json.dumps(json.dumps({"pem": PEM})), "MIIEvQ"),
    (PEM[200:], "MIIEvQ"),
    (PEM[:400], "MIIEvQ"),
    (f"x = 1\n{PEM[200:]}\ny", "MIIEvQ"),
    (GITHUB, GITHUB),
    (json.dumps({"line": f"x\n{GITHUB}"}), GITHUB),
    (f"id {HUGGING}.", HUGGING),
    (OPENAI, OPENAI),
    (AWS, AWS),
    (f"aws_secret_access_key = {AWS_SECRET}", AWS_SECRET),
    (JWT, "dBjft"),
    (SLACK, SLACK),
    (STRIPE, STRIPE),
    (TELEGRAM, "HdqTcv"),
    (GOOGLE, GOOGLE),
    (NPM, NPM),
    ("https://hooks.slack" + ".com/services/T0AB12CD3/B0AB12CD3/aBcDeFgHiJkLmNoPqRsTuVwX", "aBcDeFg"),
    (f"WANDB_API_KEY={HEX}", HEX),
    (f"wandb: api_key: {HEX}", HEX),
    (f"X-API-Key: {HEX}", HEX),
    ("AccountName=st;AccountKey=q1W2e3R4t5Y6u7I8o9P0==;EndpointSuffix=x", "q1W2e3"),
    ("password: hunter2", "hunter2"),
    ("db:\n  password: correct horse battery\n", "horse"),
    ("password=swordfish", "swordfish"),
    ("export DB_PASSWORD=p#w(d&1", "p#w"),
    ("export DB_PASSWORD='two words'", "two words"),
    ("--password hunter2 --steps 3", "hunter2"),
    ("--api-key=q1W2e3R4t5", "q1W2e3"),
    (json.dumps(["--token", "q1W2e3R4t5"]), "q1W2e3"),
    (json.dumps(["--password", "swordfish"]), "swordfish"),
    (str(["--password", "swordfish"]), "swordfish"),
    (json.dumps({"DB_PASSWORD": "sword fish"}), "fish"),
    (json.dumps({"token": "q1W2e3R4t5"}), "q1W2e3"),
    (json.dumps(json.dumps({"token": "q1W2e3R4t5"})), "q1W2e3"),
    (json.dumps(json.dumps(json.dumps({"token": "q1W2e3R4t5"}))), "q1W2e3"),
    (json.dumps({"password": 'a"secret\\tail'}), "tail"),
    (json.dumps({"Env": ["DB_PASSWORD=two words", "A=1"]}), "words"),
    (str({"HF_TOKEN": "q1W2e3R4t5"}), "q1W2e3"),
    ('os.environ["DB_PASSWORD"] = "swordfish"', "swordfish"),
    ('os.getenv("DB_PASSWORD", "swordfish")', "swordfish"),
    ("password = 'swordfish'", "swordfish"),
    ('clientSecret: "swordfish"', "swordfish"),
    ('if password == "swordfish":', "swordfish"),
    ("Authorization: Bearer q1W2e3R4t5Y6", "q1W2e3"),
    ("curl -H 'Authorization: token q1W2e3R4t5Y6'", "q1W2e3"),
    (json.dumps({"Authorization": "Basic YWxpY2U6c3dvcmRmaXNo"}), "YWxpY2"),
    ("Cookie: sid=q1W2e3; theme=dark", "q1W2e3"),
    ("Set-Cookie: session=abcdef; Path=/", "abcdef"),
    ("postgres://dbuser:sw0rd@fish@db.example.com:5432/x", "sw0rd"),
    ("postgres://dbuser:sw0rd@fish@db.example.com:5432/x", "fish"),
    ("postgres://dbuser:swordfish@db.example.com:5432/x", "dbuser"),
    (quote("postgres://dbuser:swordfish@db.example.com/x", safe=""), "swordfish"),
    (r"redis:\/\/:swordfish@h:1", "swordfish"),
    (f"git clone https://{GITHUB}@github.com/x/y", GITHUB),
    ("https://x.org/a?token=q1W2e3R4t5&n=3", "q1W2e3"),
    ("https://x.org/a?n=3&sig=q1W2e3R4%2Bt5%3D", "q1W2e3"),
    ("https://x.org/a?X-Amz-Credential=q1W2e3R4%2F2026&X-Amz-Signature=" + HEX, HEX),
    ("https://x.org/a?X-Amz-Credential=q1W2e3R4%2F2026&X-Amz-Signature=" + HEX, "q1W2e3"),
    (quote("https://x.org/a?token=q1W2e3R4t5&n=3", safe=""), "q1W2e3"),
    ("machine h.org login bobby password swordfish", "swordfish"),
    ("machine h.org\n  login bobby\n  password swordfish", "bobby"),
    ("//registry.npmjs.org/:_authToken=q1W2e3R4t5Y6u7", "q1W2e3"),
    ("curl -u bobby:swordfish https://x.org", "swordfish"),
    ('requests.get(u, auth=("bobby", "swordfish"))', "swordfish"),
    ("nvidia-host: 10.9.8.7", "10.9.8.7"),
    ('if password == "swordfish":\x01', "swordfish"),
    ("<password>swordfish</password>", "swordfish"),
    ("sshpass -p swordfish ssh x", "swordfish"),
    ("NCCL INFO Using 10.9.8.7<29500>", "10.9.8.7"),
    (r"c:\users\carol\x", "carol"),
    ("HOME=/x\0DB_PASSWORD=swordfish\0A=b", "swordfish"),
    ("# alice.w@corp.example wrote this", "alice.w"),
    ("2026-11-21 12:00:00 INFO mail from alice.w@corp.example: done", "corp.example"),
    (json.dumps({"by": "Alice W, alice.w@corp.example, and others"}), "corp.example"),
    (json.dumps({"by": ["alice.w@corp.example"]}), "corp.example"),
    (r"by bob.b\u0040corp.example, again", "bob.b"),
    ("to=bob.b%40corp.example&n=3", "bob.b"),
    ("BOB.B@CORP.EXAMPLE", "BOB.B"),
]

SURVIVES = [
    f"commit {HEX}",
    f"sha: {HEX}",
    "rev 9f86d08, key 9f86d08",
    "run 123e4567-e89b-12d3-a456-426614174000",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "md5 d41d8cd98f00b204e9800998ecf8427e",
    "tensor([[ 0.1234, -1.5e-05],\n        [10.2500, 192.1680]], device='cuda:0')",
    "cache_key: fxyzq1w2e3r4t5y6u7i8o9p0aqswdefr",
    "nvidia-curand 10.3.5.147",
    "nvidia-cublas-cu12==10.2.0.89",
    "nvidia-curand-cu12        10.3.5.147",
    '{"name": "nvidia-curand-cu12", "version": "10.3.5.147"}',
    "nvidia_curand_cu12-10.3.5.147-py3-none-manylinux1_x86_64.whl",
    "y = x@self.weight",
    "h = x@W.T",
    "inputs@model.weight.t()",
    "scores = q@k.to(device)",
    "@app.command()\ndef f(): ...",
    "scores = q@k.to (device)",
    "y = inputs@weight.to('cpu')",
    "y = inputs@proj.one(x) + inputs@heads.network[0]",
    "y = x@net.media\nz = x@layers.world, x@self.group",
    "y = inputs@block.team.weight",
    "y = a@b.test",
    "token=5",
    "num_tokens: 128",
    'pad_token="<pad>"',
    'sep_token="a1b2c3d4e5"',
    'eos_token="<|endoftext|>"',
    "token_ids = tokenizer(x)",
    'tokenizer: "gpt2-medium-v2"',
    "attention(key=query, value=value)",
    "dict(key=value)",
    "it is no secret that the password is wrong",
    "password=get_password()",
    'token = os.environ["HF_TOKEN"]',
    "self.password = args.password",
    "def login(password: str, token: Optional[str] = None):",
    "login(user, password=password, token=token)",
    "password: ${DB_PASSWORD}",
    "PWD=/workspace/project",
    "torch.Size([64, 32])",
    "from 8.8.8.8 to 127.0.0.1 and 0.0.0.0:80",
    "2026-11-21T12:39:36.123456Z",
    "<Foo object at 0x7f3a2b1c0d10>",
    "tokens per second: 12345.6, loss: 0.25",
    "git@github.com:pytorch/pytorch.git",
    "https://github.com/pytorch/pytorch/issues/123",
    "torch==2.6.0+cu124",
    "https://${USER}:${PASSWORD}@host/",
    'f"https://{user}:{password}@host/"',
    "import numpy, os; os.path.expanduser('~/x')",
    "templates/home/index.html",
    "GET /users/42 200",
    "key=lambda pair: pair[1]",
    "malice and alicette",
    "",
]


def redacted(text: str) -> str:
    return Redactor(ALICE).text(text)


def streamed(data: bytes, cuts: list[int]) -> bytes:
    borders = [0, *sorted(cuts), len(data)]
    return b"".join(Redactor(ALICE).stream(data[a:b] for a, b in pairwise(borders)))


@pytest.mark.parametrize(("text", "secret"), PLANTED, ids=range(len(PLANTED)))
def test_a_planted_secret_is_hidden(text, secret):
    assert secret in text
    hidden = redacted(text)
    assert "REDACTED_" in hidden
    for form in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1]):
        assert form not in hidden, hidden


@pytest.mark.parametrize(("text", "secret"), PLANTED, ids=range(len(PLANTED)))
def test_a_planted_secret_is_hidden_among_other_lines_and_inside_json(text, secret):
    for whole in (f"step 1 loss 0.5\n{text}\nstep 2\n", json.dumps({"line": f"step 1\n{text}"})):
        if secret in whole:
            assert secret not in redacted(whole)


@pytest.mark.parametrize("text", SURVIVES, ids=range(len(SURVIVES)))
def test_what_only_looks_like_a_secret_survives(text):
    redactor = Redactor(ALICE)
    assert redactor.text(text) == text
    assert redactor.text(f"a line\n{text}\nanother") == f"a line\n{text}\nanother"
    assert not redactor.counts


@pytest.mark.parametrize("text", [text for text, _ in PLANTED], ids=range(len(PLANTED)))
def test_a_second_pass_changes_and_counts_nothing(text):
    redactor = Redactor(ALICE)
    once = redactor.text(text)
    counts = dict(redactor.counts)
    assert counts
    assert redactor.text(once) == once
    assert redactor.counts == counts


def test_the_numbers_of_lines_stay():
    assert redacted(f"a\n{PEM}\nb").count("\n") == f"a\n{PEM}\nb".count("\n")


def test_a_home_stays_an_absolute_path():
    assert redacted("/home/alice/x.py") == "/REDACTED_home_1/x.py"
    assert redacted(r"C:\Users\alice\x") == r"C:\REDACTED_home_1\x"
    assert redacted("%2Fhome%2Falice%2Fx") == "%2FREDACTED_home_1%2Fx"
    assert redacted('"C:\\\\Users\\\\alice\\\\x"') == '"C:\\\\REDACTED_home_1\\\\x"'


def test_url_keeps_its_host():
    assert redacted("postgres://bob:pw@db.org/x") == "postgres://REDACTED_user_3:REDACTED_password_1@db.org/x"


def test_one_thing_has_one_placeholder_in_every_text_and_form():
    redactor = Redactor(ALICE)
    first = redactor.text("a bob.b@example.com q1\npassword: hunter2x\n/home/zoe/x")
    second = redactor.text("/home/zoe%20 DB_PASSWORD='hunter2x' BOB.B%40example.com C:\\\\Users\\\\zoe")
    assert sorted(re.findall(r"REDACTED_\w+?_\d+", first)) == sorted(set(re.findall(r"REDACTED_\w+?_\d+", second)))


def test_the_identity_has_the_first_numbers_in_its_order():
    assert redacted("jürgen alice") == "REDACTED_user_2 REDACTED_user_1"
    assert redacted("Alice ALICE") == "REDACTED_User_1 REDACTED_USER_1"


def test_a_secret_keeps_its_placeholder_under_another_name():
    assert redacted("token=q1W2e3R4t5 password=q1W2e3R4t5") == "token=REDACTED_token_1 password=REDACTED_token_1"


def test_a_value_that_ends_with_a_backslash_ends_at_its_quote():
    text = json.dumps({"password": "ab\\", "next": "kept"})
    hidden = json.dumps({"password": "REDACTED_password_1", "next": "kept"})
    assert redacted(text) == hidden
    assert redacted(json.dumps(text)) == json.dumps(hidden)


ENDS = """
    example test invalid localhost uk gov mil xyz page blog shop store life world group team work solutions digital
    network media one in to gg fm ly im is berlin london nyc swiss
"""


@pytest.mark.parametrize("end", ENDS.split())
def test_an_address_at_any_usual_or_reserved_end_is_hidden(end):
    address = f"alice.w@corp.{end}"
    for text in ("# by {} for us\n", "INFO mail={}: done", '{{"by": "Alice W <{}>, and others"}}', "{}.", "({})"):
        hidden = Redactor(Identity()).text(text.format(address))
        assert hidden == text.format("REDACTED_email_1")


def test_an_address_in_a_comment_is_hidden_and_a_product_in_its_source_stays():
    source = "import torch\n\n\ndef step(x, block):  # ask alice.w@corp.example\n    return x@block.one, x@block.to\n"
    assert Redactor(Identity()).text(source) == source.replace("alice.w@corp.example", "REDACTED_email_1")


def test_counts_are_by_kind():
    redactor = Redactor(ALICE)
    redactor.text("/home/alice/x /home/alice/y a.b@example.com password=hunter2")
    assert redactor.counts == {"home": 2, "email": 1, "password": 1}


def test_learned_users_are_hidden_as_words_and_generic_ones_are_not():
    redactor = Redactor(Identity())
    redactor.learn([b"/home/car", b"ol/x C:\\\\Users\\\\dave\\\\y /home/ubuntu/z /home/ab/q"])
    assert redactor.text("carol Dave ubuntu ab") == "REDACTED_user_1 REDACTED_User_2 ubuntu ab"
    assert "ubuntu" not in redactor.text("/home/ubuntu/z")


def test_a_hostile_record_teaches_only_so_many_names():
    redactor = Redactor(Identity())
    redactor.learn([" ".join(f"/home/name{n}x/" for n in range(5000)).encode()])
    assert "name4000x" in redactor.text("name4000x")
    assert "name3x" not in redactor.text("name3x")


@pytest.mark.parametrize(
    ("path", "hidden"),
    [
        ("home/alice/run/alice_train.py", "REDACTED_home_1/run/REDACTED_user_1_train.py"),
        ("logs/hydra7/a.b@example.com.log", "logs/REDACTED_host_2/a.b@example.com.log"),
        ("src/model.py", "src/model.py"),
        ("../../etc/./x//y", "etc/x/y"),
        ("/abs/x", "abs/x"),
        ("..", "_"),
        ("", "_"),
        ("a\0b", "a\ufffdb"),
        ("a\udcffb", "a\ufffdb"),
    ],
)
def test_a_path_is_hidden_by_components_and_stays_relative(path, hidden):
    assert Redactor(ALICE).path(path) == hidden


@given(st.text(alphabet="/.\\ab:@=%\0\udcff\nhome", max_size=40))
def test_every_path_gives_a_valid_relative_path(path):
    parts = Redactor(ALICE).path(path).split("/")
    assert not {"", ".", ".."} & set(parts)
    assert "\0" not in "/".join(parts)
    "/".join(parts).encode()


SHORT = f"é /home/alice/x jürgen password: hunter2\n{GITHUB} a@example.com 10.1.2.3:80\n".encode()


def test_stream_gives_the_same_at_every_border():
    whole = redacted(SHORT.decode()).encode()
    for cut in range(len(SHORT) + 1):
        assert streamed(SHORT, [cut]) == whole
    assert b"".join(Redactor(ALICE).stream(bytes([b]) for b in SHORT)) == whole


FRAGMENTS = [text.encode() for text, _ in PLANTED] + [text.encode() for text in SURVIVES]
PIECES = st.lists(
    st.one_of(
        st.sampled_from(FRAGMENTS), st.binary(max_size=6), st.sampled_from([b"\n", b" ", b'"', b"\\", b"=", b"@"])
    )
)


@settings(max_examples=150, deadline=None)
@given(PIECES.map(b"".join), st.lists(st.integers(0, 3000), max_size=6), st.sampled_from([300, 4000]))
def test_stream_equals_text_whatever_the_chunks(data, cuts, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "BLOCK", block)
        if data[:2] in {b"\xff\xfe", b"\xfe\xff"}:
            data = b" " + data
        text = data.decode("utf-8", "replace")
        assert streamed(data, [min(cut, len(data)) for cut in cuts]) == redacted(text).encode()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(PIECES.map(b"\n".join))
def test_a_second_pass_changes_nothing_in_lines_of_any_kind(data):
    redactor = Redactor(ALICE)
    once = redactor.text(data.decode("utf-8", "replace"))
    counts = dict(redactor.counts)
    assert redactor.text(once) == once
    assert redactor.counts == counts


@pytest.mark.timeout(60)
@pytest.mark.parametrize("secret", [GITHUB, "/home/carol/x", "password: hunter2", "a.b@example.com", PEM])
def test_a_secret_on_the_border_of_two_blocks_is_hidden_once(monkeypatch, secret):
    monkeypatch.setattr(windows, "BLOCK", 1000)
    monkeypatch.setattr(windows, "MARGIN", 2000)
    for before in range(1000 - min(len(secret), 60) - 3, 1004, 3):
        filler = ("x" * 49 + "\n") * 60
        text = filler[-before:] + "\n" + secret + "\n" + filler
        redactor = Redactor(Identity())
        hidden = redactor.text(text)
        assert sum(redactor.counts.values()) == 1
        assert hidden.startswith(filler[-before:])
        assert hidden.endswith(filler)


def test_invalid_bytes_and_nul_become_the_replacement_character():
    assert b"".join(Redactor(ALICE).stream([b"a\xff", b"\0b\xc3"])).decode() == "a\ufffd\ufffdb\ufffd"


def test_utf_16_of_a_shell_is_read():
    data = "password: hunter2\n/home/alice/x".encode("utf-16")
    out = b"".join(Redactor(ALICE).stream([data[:1], data[1:7], data[7:]])).decode()
    assert out == "password: REDACTED_password_1\n/REDACTED_home_1/x"


SOURCE = '''
import os
import math

# alice wrote it; password: hunter2
DB_PASSWORD = "swordfish"
token = os.environ.get("HF_TOKEN")
password1 = token
password = password1
api_key = password1


def alice_step(x, password: str = "swordfish", key=None):
    """Log in as alice.smith@example.com, token=q1W2e3R4t5."""
    query = key
    path = f"/home/alice/{x}"
    return dict(key=query, password=password1, path=path, size=math.floor(len(path)))


class Alice:
    home = "/home/alice"


def answer():
    return alice_step(3)["size"], DB_PASSWORD, Alice.home
'''


def test_a_source_still_runs():
    hidden = redacted(SOURCE)
    space: dict = {}
    exec(compile(hidden, "source", "exec"), space)
    assert space["answer"]() == (len("/REDACTED_home_1/3"), "REDACTED_password_2", "/REDACTED_home_1")
    assert space["password"] is space["token"]
    assert "key=query, password=password1, path=path" in hidden
    assert hidden.count("\n") == SOURCE.count("\n")
    for secret in ("alice", "Alice", "hunter2", "swordfish", "smith", "q1W2e3"):
        assert secret not in hidden


HOSTILE = ["a", "-", "@", "1", '"', "\\", "'", "=", "/", "%", ".", " ", "token", "password:", "://", '="', "--", "10."]
HOSTILE += [
    "-----BEGIN PRIVATE KEY-----\n",
    "-----END PRIVATE KEY-----",
    "a@",
    "a.",
    "key=",
    "eyJa.",
    "/home/",
    "home/a",
]
HOSTILE += [
    "%25",
    "\\u0040",
    "A\n",
    "((",
    "://a:",
    "login a ",
    "MIIEvQIBADANBgkqhkiG\n",
    "alice",
    "users\\",
    "hf_",
    '"""',
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_text_is_read_in_linear_time(piece):
    redactor = Redactor(ALICE)
    redactor.text((piece * (1_000_000 // len(piece) + 1))[:1_000_000])


@pytest.mark.timeout(60)
def test_a_stream_holds_little_memory():
    tracemalloc.start()
    try:
        size = sum(
            len(piece) for piece in Redactor(ALICE).stream(b"\xc3\xa9 some line 0123\n" * 300 for _ in range(600))
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size == len(b"\xc3\xa9 some line 0123\n") * 300 * 600
    assert peak < 20_000_000


def test_an_identity_on_disk_holds_no_secret():
    data = json.loads(json.dumps(ALICE.to_json()))
    assert "Zx9" not in json.dumps(data)
    assert Identity.from_json(data) == Identity(ALICE.users, ALICE.hosts, ALICE.homes)
    assert Identity.from_json({"users": 3, "hosts": ["a", 4]}) == Identity(hosts=("a",))


def test_the_identity_of_this_process(monkeypatch):
    monkeypatch.setenv("USER", "carol")
    monkeypatch.setenv("SUDO_USER", "dave")
    monkeypatch.setenv("HOME", "/home/carol")
    monkeypatch.setenv("SOME_API_TOKEN", "abcd1234efgh")
    monkeypatch.setenv("SHORT_TOKEN", "abc1")
    monkeypatch.setattr("platform.node", lambda: "box9.lab.example.org")
    here = Identity.here()
    assert {"carol", "dave"} <= set(here.users)
    assert {"box9.lab.example.org", "box9"} <= set(here.hosts)
    assert "/home/carol" in here.homes
    assert "abcd1234efgh" in here.secrets
    assert "abc1" not in here.secrets


@pytest.mark.parametrize(
    "name", ["a.*b(", "[x", "\\", "$&", "", "  ", "REDACTED_user_1", "x" * 300, "İstanbul", "%41", "user"]
)
def test_hostile_names_do_no_harm(name):
    redactor = Redactor(Identity(users=(name,), hosts=(name,), homes=(f"/data/{name}", name), secrets=(name,)))
    redactor.learn([f"/home/{name}/x".encode()])
    once = redactor.text(f"plain text, {name} and /home/{name}/x\n")
    assert once.startswith("plain text")
    assert redactor.text(once) == once
    assert redactor.text("a line that names no one: 1 + 1\n") == "a line that names no one: 1 + 1\n"


def test_the_end_of_a_cut_key_is_hidden_though_a_whole_key_follows():
    cut = PEM.split("\n", 3)[3]
    other = PEM.replace("MIIEvQ", "QQQQQQ")
    shown = Redactor(Identity()).text(f"{cut}\nbetween them\n{other}\nafter\n")
    assert "MIIEvQ" not in shown
    assert "QQQQQQ" not in shown
    assert "between them" in shown
    assert shown.endswith("after\n")
