from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import random
import string
import subprocess
import sys
import tarfile
import unicodedata
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bfo_diag import archive
from bfo_diag.archive import Limits, Listed, Manifest, PackageError
from bfo_diag.archive import text as text_module
from bfo_diag.archive.names import clash, fault_of_file, fault_of_name, header, visible
from bfo_diag.archive.read import examine
from bfo_diag.archive.text import TextCheck, json_fault
from bfo_diag.errors import DiagError, RecordError, WorkspaceError

write_module = sys.modules["bfo_diag.archive.write"]  # the package's attribute of this name is the function
folders = sys.modules["bfo_diag.archive.folders"]
read_module = sys.modules["bfo_diag.archive.read"]

ROOT = "case-1"
FILES = {
    "README.md": b"# What was seen\n",
    "logs/observations.jsonl": b'{"loss": 1.5}\n{"loss": [1, 2]}\n',
    "logs/run.json": b'{"a": {"b": [1, 2, {"c": null}]}}\n',
    "target.py": "print('ü')\n".encode(),
}
END = bytes(1024)


# --- making packages by hand ---------------------------------------------------------------------------------------


def padded(data):
    return data + bytes(-len(data) % 512)


def member(name, data=b""):
    return header(name, len(data)) + padded(data)


def resummed(block, **fields):
    """Return a header with other bytes at an offset (`at_156=b"2"`) and the checksum that then is right."""
    block = bytearray(block)
    for at, value in fields.items():
        start = int(at.removeprefix("at_"))
        block[start : start + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def listed(files):
    return tuple(Listed(path, len(data), hashlib.sha256(data).hexdigest()) for path, data in sorted(files.items()))


def manifest_text(files=FILES, root=ROOT, about=None):
    return Manifest(root, listed(files), about or {}).to_bytes()


def first(files=FILES, text=None, root=ROOT):
    text = manifest_text(files, root) if text is None else text
    return resummed(header(f"{root}/MANIFEST.json", len(text))) + padded(text)


def members(files=FILES, root=ROOT):
    return b"".join(member(f"{root}/{path}", data) for path, data in sorted(files.items()))


def good_tar():
    return first() + members() + END


def packed(tar, level=1):
    return gzip.compress(tar, level, mtime=0)


def seen_of(tar, **options):
    return examine(io.BytesIO(packed(tar)), Path("x.tar.gz"), **options)


def forged(change):
    """Return a manifest's text whose content id fits what `change` made of it."""
    body = json.loads(manifest_text())
    del body["content_id"]
    body = change(body) or body
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    body["content_id"] = hashlib.sha256(canonical.encode()).hexdigest()
    return (json.dumps(body, sort_keys=True, indent=1) + "\n").encode()


def with_entry(**fields):
    def change(body):
        body["files"][0].update(fields)

    return first(text=forged(change)) + members() + END


def with_paths(*paths):
    def change(body):
        body["files"] = [{"path": path, "bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()} for path in paths]

    return first(text=forged(change)) + END


def with_member(block):
    """Return a package with one more member, before the others."""
    return first() + block + members() + END


def named(raw):
    """Return a member whose header holds these bytes as its name."""
    return resummed(header("case-1/x.txt", 0), at_0=raw.ljust(100, b"\0"))


def of_type(kind, name=f"{ROOT}/README.md"):
    return resummed(header(name, 0), at_156=kind, at_157=b"/etc/passwd" if kind in b"12" else b"")


def tarfile_members(kind, data=b"", **fields):
    info = tarfile.TarInfo(f"{ROOT}/" + "long" * 80 + ".txt" if kind == "long" else f"{ROOT}/README.md")
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    form = tarfile.PAX_FORMAT if "pax_headers" in fields else tarfile.GNU_FORMAT
    return info.tobuf(form) + padded(data)


def tree(folder, files=FILES):
    for path, data in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return folder


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def staged(tmp_path):
    return tree(tmp_path / "staged")


@pytest.fixture
def package(tmp_path, staged):
    archive.write(staged, tmp_path / "case.tar.gz", root=ROOT, about={"verdict": "no gradient"})
    return tmp_path / "case.tar.gz"


def refused(tmp_path, raw, phrase):
    """The package is refused for this reason by each reader, and nothing is written."""
    folder = tmp_path / "fresh"
    folder.mkdir(exist_ok=True)
    path = tmp_path / "hostile.tar.gz"
    path.write_bytes(raw)
    before = listing(tmp_path)
    for seen in (archive.verify(path), archive.unpack(path, folder)):
        assert not seen.ok
        said = " | ".join([*seen.refusals, *(entry.why for entry in seen.entries)])
        assert phrase in said, said
        assert said.isprintable()
        assert len(said) < 4000
    assert listing(tmp_path) == before
    return seen


# --- what is written is accepted -----------------------------------------------------------------------------------


def test_a_package_is_verified_unpacked_and_checked_again(tmp_path, package):
    seen = archive.verify(package)
    assert seen.ok, seen
    assert (seen.root, seen.refusals, seen.path) == (ROOT, (), package)
    assert [(entry.path, entry.state) for entry in seen.entries] == [(path, "ok") for path in sorted(FILES)]
    assert seen.manifest == archive.read_manifest(package)
    assert seen.manifest.about == {"verdict": "no gradient"}
    folder = tmp_path / "fresh"
    folder.mkdir()
    assert archive.unpack(package, folder) == seen
    assert listing(folder) == sorted([*FILES, "MANIFEST.json", "logs"])
    assert {path: (folder / path).read_bytes() for path in FILES} == FILES
    assert (folder / "logs").stat().st_mode & 0o777 == 0o700
    assert (folder / "target.py").stat().st_mode & 0o777 == 0o600
    checked = archive.check_folder(folder)
    assert checked.ok
    assert checked.entries == seen.entries


def test_the_package_is_the_hand_made_one_and_a_plain_tar_for_others(tmp_path, package):
    raw = package.read_bytes()
    assert raw[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # no file name, no time
    assert gzip.decompress(raw) == first(text=manifest_text(about={"verdict": "no gradient"})) + members() + END
    with tarfile.open(package) as tar:
        infos = tar.getmembers()
        assert [info.name for info in infos] == [f"{ROOT}/{path}" for path in ("MANIFEST.json", *sorted(FILES))]
        assert tar.extractfile(f"{ROOT}/target.py").read() == FILES["target.py"]
    assert {(i.mode, i.uid, i.gid, i.uname, i.gname, i.mtime, i.type) for i in infos} == {
        (0o644, 0, 0, "", "", 0, tarfile.REGTYPE)
    }


def test_the_content_id_is_of_the_content_and_not_of_its_compression(tmp_path, staged, package):
    seen = archive.verify(package)
    again = tmp_path / "again.tar.gz"
    again.write_bytes(packed(gzip.decompress(package.read_bytes()), 9))
    assert again.read_bytes() != package.read_bytes()
    assert archive.verify(again).content_id == seen.content_id != ""
    body = json.loads(text := seen.manifest.to_bytes())
    assert list(body) == sorted(body)
    assert text == (json.dumps(body, indent=1, sort_keys=True) + "\n").encode()
    assert body.pop("content_id") == seen.content_id
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(canonical.encode()).hexdigest() == seen.content_id
    other = archive.write(staged, tmp_path / "other.tar.gz", root=ROOT, about={"verdict": "another"})
    assert other.content_id != seen.content_id


LETTERS = st.sampled_from(string.ascii_letters + string.digits + " .-_~,'äÄßé日本語𝒳\u0301\u212a\u00a0[]{}()\"*?%")
NAMES = st.lists(st.text(LETTERS, min_size=1, max_size=60), min_size=1, max_size=5).map("/".join)
TEXTS = st.one_of(
    st.sampled_from([0, 1, 511, 512, 513, 1024, 65535, 65536, 65537]).map(lambda size: b"x" * size),
    st.text(st.characters(codec="utf-8", exclude_characters="\0")).map(str.encode),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text().filter(lambda key: key != "$float"), inner),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.dictionaries(NAMES, st.tuples(st.sampled_from(sorted(archive.SUFFIXES)), TEXTS), max_size=6),
    value=VALUES,
    about=st.dictionaries(st.text().filter(lambda key: key != "$float"), VALUES, max_size=3),
    root=st.text(string.ascii_letters + string.digits + "-_.ü", min_size=1, max_size=100),
)
def test_what_is_written_is_accepted_and_unpacks_to_the_same(tmp_path_factory, names, value, about, root):
    place = tmp_path_factory.mktemp("any")
    files = {}
    for stem, (suffix, data) in names.items():
        if suffix.startswith(".json"):
            data = (json.dumps(value) + "\n").encode() * (3 if suffix == ".jsonl" else 1)
        files[stem + suffix] = data
    wrong = any(map(fault_of_file, files)) or clash(["MANIFEST.json", *files]) or root.rstrip(".") != root
    if wrong or any(len(part.encode()) > 255 for path in files for part in path.split("/")):
        return
    tree(place, {f"in/{path}": data for path, data in files.items()})
    (place / "in").mkdir(exist_ok=True)
    (place / "out").mkdir()
    try:
        for path in ["MANIFEST.json", *files]:
            header(f"{root}/{path}", 0)
        assert not fault_of_name(root)
    except (PackageError, AssertionError) as error:
        with pytest.raises(
            DiagError, match="USTAR" if isinstance(error, PackageError) else "the name .* of the package"
        ):
            archive.write(place / "in", place / "p.tar.gz", root=root, about=about)
        assert not (place / "p.tar.gz").exists()
        return
    manifest = archive.write(place / "in", place / "p.tar.gz", root=root, about=about)
    seen = archive.unpack(place / "p.tar.gz", place / "out")
    assert seen.ok, seen
    assert seen.manifest == manifest
    assert manifest.about == json.loads(json.dumps(about))
    assert {path: (place / "out" / path).read_bytes() for path in files} == files


WRITER = """
import os, sys, time
from pathlib import Path
from bfo_diag import archive
staged, target, umask = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3], 8)
os.umask(umask)
archive.write(staged, target, root="case", about={"b": 1, "a": ["ü", 0.1, float("nan")]})
"""


def test_the_same_files_give_the_same_bytes_wherever_and_by_whomever(tmp_path):
    files = {f"{folder}/{n}ü.txt": f"{n}\n".encode() * n for folder in ("b", "a", "B-", "b.d") for n in (3, 1, 2, 700)}
    worlds = [
        ("UTC", "C.UTF-8", "022", list(files), 0o644, 0),
        ("Asia/Tokyo", "C", "077", sorted(files, reverse=True), 0o600, 1),
        ("America/New_York", "POSIX", "002", sorted(files), 0o755, 2**31),
    ]
    made = []
    for number, (zone, locale, umask, order, mode, mtime) in enumerate(worlds):
        world = tmp_path / str(number)
        tree(world / "staged", {path: files[path] for path in order})
        for path in order:
            (world / "staged" / path).chmod(mode)
            os.utime(world / "staged" / path, (mtime, mtime))
        environment = {**os.environ, "TZ": zone, "LC_ALL": locale, "PYTHONHASHSEED": str(number)}
        command = [sys.executable, "-c", WRITER, str(world / "staged"), str(world / f"{number}.tar.gz"), umask]
        subprocess.run(command, env=environment, cwd=world, check=True)
        assert (world / f"{number}.tar.gz").stat().st_mode & 0o777 == 0o644 & ~int(umask, 8)
        made.append((world / f"{number}.tar.gz").read_bytes())
    assert made[0] == made[1] == made[2]


# --- what the writer refuses, and how it ends ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "data", "phrase"),
    [
        ("a.pkl", b"x", "suffix '.pkl'"),
        ("LICENSE", b"x", "suffix ''"),
        (".txt", b"x", "suffix ''"),
        ("a\nb.txt", b"x", "U+000A"),
        ("a\\b.txt", b"x", "backslash"),
        ("c:x.txt", b"x", "colon"),
        ("aux.txt", b"x", "device"),
        ("a /b.txt", b"x", "space"),
        ("MANIFEST.json", b"{}", "two names are one"),
        ("manifest.JSON/x.txt", b"x", "two names are one"),
        ("q" * 101 + ".txt", b"x", "does not fit in a USTAR header"),
        ("a.txt", b"\xff", "a.txt: not UTF-8"),
        ("a.txt", b"a\0b", "NUL"),
        ("a.json", b"NaN", "not strict JSON"),
        ("a.jsonl", b"1\n\n2\n", "line 2: not strict JSON"),
        ("a.txt", b"x" * (100 << 20), "grows more than 400 times"),
    ],
)
def test_the_writer_names_what_a_package_cannot_hold(tmp_path, staged, path, data, phrase):
    tree(staged, {path: data})
    before = listing(tmp_path)
    with pytest.raises(DiagError) as caught:
        archive.write(staged, tmp_path / "p.tar.gz", root=ROOT, about={})
    assert phrase in caught.value.message
    assert caught.value.message.isprintable()
    assert listing(tmp_path) == before


def test_the_writer_refuses_a_name_that_is_not_utf8(tmp_path, staged):
    try:
        Path(os.fsdecode(os.fsencode(staged) + b"/\xff.txt")).write_bytes(b"x")
    except OSError:
        pytest.skip("this disk has only names in UTF-8")
    with pytest.raises(DiagError, match=r"\\udcff.txt can't be packed: its name holds the character U\+DCFF"):
        archive.write(staged, tmp_path / "p.tar.gz", root=ROOT, about={})


@pytest.mark.parametrize("kind", ["link", "folder link", "fifo"])
def test_the_writer_packs_plain_files_only(tmp_path, staged, kind):
    place = staged / "odd.txt"
    if kind == "fifo":
        os.mkfifo(place)
    else:
        place.symlink_to(staged / ("logs" if kind == "folder link" else "README.md"))
    with pytest.raises(DiagError, match=r"odd\.txt is (a symbolic link|neither a file nor a folder): a package"):
        archive.write(staged, tmp_path / "p.tar.gz", root=ROOT, about={})
    assert listing(tmp_path) == sorted(["staged", *(f"staged/{path}" for path in listing(staged))])


@pytest.mark.parametrize("root", ["", ".", "..", "a/b", "/a", "a\n", "C:", "nul", "ü" * 60])
def test_the_name_of_a_package_is_one_safe_component(tmp_path, staged, root):
    with pytest.raises(DiagError, match=r"the name .* of the package|USTAR"):
        archive.write(staged, tmp_path / "p.tar.gz", root="x" * 156 if root.startswith("ü") else root, about={})


@pytest.mark.parametrize("about", [{"a": object()}, {"$float": "nan"}, {"a": 10**5000}, {"k": [{}] * 100_001}])
def test_what_is_said_about_a_package_is_strict_json(tmp_path, staged, about):
    with pytest.raises(DiagError, match=r"is no strict JSON|can't be packed"):
        archive.write(staged, tmp_path / "p.tar.gz", root=ROOT, about=about)
    deep = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(DiagError, match=r"is no strict JSON|can't be packed"):
        archive.write(staged, tmp_path / "p.tar.gz", root=ROOT, about={"deep": deep})


def test_too_many_files_are_not_packed(tmp_path):
    (tmp_path / "staged").mkdir()
    for number in range(10_001):
        (tmp_path / "staged" / f"{number}.txt").touch()
    with pytest.raises(DiagError, match="more than 10000 files"):
        archive.write(tmp_path / "staged", tmp_path / "p.tar.gz", root=ROOT, about={})


def test_an_existing_package_is_replaced_by_force_only(tmp_path, staged, package):
    before = package.read_bytes()
    with pytest.raises(DiagError, match="exists") as caught:
        archive.write(staged, package, root=ROOT, about={"other": 1})
    assert "--force" in caught.value.mend
    assert package.read_bytes() == before
    archive.write(staged, package, root=ROOT, about={"other": 1}, force=True)
    assert archive.verify(package).manifest.about == {"other": 1}


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_came_in_between_is_not_overwritten(tmp_path, staged, monkeypatch, links):
    target = tmp_path / "p.tar.gz"
    fsync = os.fsync

    def meanwhile(descriptor):
        target.write_bytes(b"of another")
        fsync(descriptor)

    if not links:
        monkeypatch.setattr(write_module.os, "link", no_links)
    with monkeypatch.context() as patch:
        patch.setattr(write_module.os, "fsync", meanwhile)
        with pytest.raises(DiagError, match="exists"):
            archive.write(staged, target, root=ROOT, about={})
    assert target.read_bytes() == b"of another"
    assert {path.name for path in tmp_path.iterdir()} == {"staged", "p.tar.gz"}


def no_links(*_):
    raise PermissionError(1, "Operation not permitted")


def test_a_disk_without_hard_links_gets_its_package(tmp_path, staged, monkeypatch):
    monkeypatch.setattr(write_module.os, "link", no_links)
    archive.write(staged, tmp_path / "p.tar.gz", root=ROOT, about={})
    assert archive.verify(tmp_path / "p.tar.gz").ok
    assert {path.name for path in tmp_path.iterdir()} == {"staged", "p.tar.gz"}


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_nothing_is_left_when_writing_ends_early(tmp_path, staged, monkeypatch, error, force):
    def stop(*_):
        raise error

    target = tmp_path / "p.tar.gz"
    if force:
        target.write_bytes(b"before")
    before = listing(tmp_path)
    monkeypatch.setattr(write_module.os, "fsync", stop)
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else WorkspaceError
    with pytest.raises(expected) as caught:
        archive.write(staged, target, root=ROOT, about={}, force=force)
    if expected is WorkspaceError:
        assert "p.tar.gz can't be written: No space left on device" in caught.value.message
    assert listing(tmp_path) == before
    assert not force or target.read_bytes() == b"before"


@pytest.mark.parametrize("where", ["missing/p.tar.gz", "a-file/p.tar.gz"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, staged, where):
    (tmp_path / "a-file").touch()
    with pytest.raises(WorkspaceError, match=r"p\.tar\.gz can't be written"):
        archive.write(staged, tmp_path / where, root=ROOT, about={})
    with pytest.raises(WorkspaceError, match="absent can't be read"):
        archive.write(tmp_path / "absent", tmp_path / "p.tar.gz", root=ROOT, about={})
    with pytest.raises(WorkspaceError, match="staged can't be written"):
        archive.write(staged, staged, root=ROOT, about={}, force=True)


FULL = """
import resource, sys
from pathlib import Path
from bfo_diag import archive
from bfo_diag.errors import WorkspaceError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    archive.write(Path(sys.argv[1]), Path(sys.argv[2]), root="case", about={})
except WorkspaceError as error:
    print(error.message)
"""


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path):
    rng = random.Random(1)
    tree(tmp_path / "staged", {"big.txt": rng.randbytes(400_000).hex().encode()})
    command = [sys.executable, "-c", FULL, str(tmp_path / "staged"), str(tmp_path / "p.tar.gz")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "p.tar.gz can't be written: File too large" in said
    assert listing(tmp_path) == ["staged", "staged/big.txt"]


@pytest.mark.parametrize(("data", "phrase"), [(b"", "changed while"), (b"#" * 16, "README.md: 16 bytes, sha256")])
def test_a_file_that_changes_while_it_is_packed_is_named(tmp_path, staged, monkeypatch, data, phrase):
    pack = write_module._pack

    def late(*arguments):
        (staged / "README.md").write_bytes(data)
        pack(*arguments)

    monkeypatch.setattr(write_module, "_pack", late)
    with pytest.raises(DiagError, match=phrase):
        archive.write(staged, tmp_path / "p.tar.gz", root=ROOT, about={})
    assert not (tmp_path / "p.tar.gz").exists()


# --- hostile archives ----------------------------------------------------------------------------------------------

UNSAFE = {
    b"case-1/../x.txt": "component '..'",
    b"../x.txt": "component '..'",
    b"case-1/./x.txt": "component '.'",
    b"case-1//x.txt": "component ''",
    b"case-1/x.txt/": "component ''",
    b"/etc/passwd.txt": "is absolute",
    b"C:\\x.txt": "backslash",
    b"C:/x.txt": "colon",
    b"case-1/x.txt:stream": "colon",
    b"case-1\\x.txt": "backslash",
    b"case-1/a\nb.txt": "U+000A",
    b"case-1/\x1b[2Jb.txt": "U+001B",
    "case-1/\u202etxt.md".encode(): "U+202E",
    "case-1/\u2066txt.md".encode(): "U+2066",
    "case-1/\u2028txt.md".encode(): "U+2028",
    b"case-1/\x7f.txt": "U+007F",
    "case-1/\x85.txt".encode(): "U+0085",
    b"case-1/\xff.txt": "is not UTF-8",
    b"case-1/\xed\xa0\x80.txt": "is not UTF-8",  # a surrogate
    b"case-1/con.txt": "device",
    b"case-1/x.txt ": "space",
    b"case-1/x.": "ends with a dot",
}
UNLISTED = {f"unsafe {raw!r}": (with_member(named(raw)), phrase) for raw, phrase in UNSAFE.items()}
LINKS = {
    f"type {kind!r}": (with_member(of_type(kind)), phrase)
    for kind, phrase in {
        b"1": "a hard link",
        b"2": "a symbolic link",
        b"3": "a character device",
        b"4": "a block device",
        b"5": "a folder",
        b"6": "a fifo",
        b"7": "of the type b'7'",
        b"\0": "of the type b'\\x00'",
        b"x": "a PAX header",
        b"g": "a global PAX header",
        b"L": "a GNU long name",
        b"K": "a GNU long link name",
        b"S": "a GNU sparse file",
        b"V": "of the type b'V'",
    }.items()
}
HEADERS = {
    f"header field at {at}": (with_member(resummed(header(f"{ROOT}/README.md", 0), **{f"at_{at}": value})), phrase)
    for at, value, phrase in [
        (124, b"\x80" + bytes(11), "no plain octal number"),
        (124, b"         0 \0", "no plain octal number"),
        (124, b"-0000000001\0", "no plain octal number"),
        (157, b"x", "is not plain"),
        (257, b"ustar\x0011", "no USTAR header"),
        (257, b"\0" * 8, "no USTAR header"),
        (345, b"case-1", "is not in the manifest"),
        (346, b"x", "is not plain"),
        (500, b"x", "is not plain"),
        (90, b"x", "is not plain"),
    ]
}
LISTS = {
    **{
        f"listed {path!r}": (with_paths(path), phrase)
        for path, phrase in {
            "../x.txt": "component '..'",
            "/x.txt": "is absolute",
            "a/": "component ''",
            "": "component ''",
            "C:/x.txt": "colon",
            "a\\x.txt": "backslash",
            "a\nx.txt": "U+000A",
            "a\u202ex.txt": "U+202E",
            "a\ud800x.txt": "U+D800",
            "a\ue000x.txt": "U+E000",
            "x.pkl": "suffix '.pkl'",
            "x.TXT": "suffix '.TXT'",
            "x": "suffix ''",
            "a/" * 127 + "a.txt": "longer than 255 bytes",
            "d" * 101 + ".txt": "USTAR",
            "MANIFEST.json": "two names are one",
            "Manifest.json": "two names are one",
        }.items()
    },
    "case duplicates": (with_paths("A.txt", "a.txt"), "two names are one on some disks: A.txt and a.txt"),
    "case duplicates apart": (with_paths("A/B.txt", "b.txt", "c.txt", "z/B.txt", "z/b.txt"), "two names are one"),
    "folder case duplicates": (with_paths("A/b.txt", "a/c.txt"), "two names are one"),
    "sharp s": (with_paths("ss.txt", "ß.txt"), "two names are one"),
    "composed": (with_paths("e\u0301.txt", "\u00e9.txt"), "two names are one"),
    "file and folder": (with_paths("a.txt", "a.txt/b.txt"), "two names are one"),
    "file and folder apart": (with_paths("a.txt", "a.txt!/c.txt", "a.txt/b.txt"), "two names are one"),
    "listed twice": (with_paths("a.txt", "a.txt"), "two names are one"),
    "not sorted": (with_paths("b.txt", "a.txt"), "not in the order"),
    "too many": (with_paths(*sorted(f"{n}.txt" for n in range(10_001))), "lists 10001 files, more than 10000"),
    "a file of 5 GiB": (with_entry(bytes=5 << 30), "is larger than"),
    "bytes negative": (with_entry(bytes=-1), "wrong type"),
    "bytes a bool": (with_entry(bytes=True), "wrong type"),
    "bytes a text": (with_entry(bytes="1"), "wrong type"),
    "path a number": (with_entry(path=1), "wrong type"),
    "sha256 a list": (with_entry(sha256=[]), "wrong type"),
    "sha256 in capitals": (with_entry(sha256="A" * 64), "no sha256"),
    "sha256 with a newline": (with_entry(sha256="a" * 64 + "\n"), "no sha256"),
    "one key more": (with_entry(more=1), "not path, bytes and sha256"),
}


def changed_manifest(**fields):
    return first(text=forged(lambda body: body.update(fields))) + members() + END


def raw_manifest(text):
    return first(text=text) + members() + END


GOOD = manifest_text()
MANIFESTS = {
    "no object": (raw_manifest(b"[]"), "no JSON object"),
    "no JSON": (raw_manifest(b"{"), "not strict JSON"),
    "empty": (raw_manifest(b""), "not strict JSON"),
    "other encoding": (raw_manifest(GOOD.decode().encode("utf-16")), "not ASCII"),
    "a number too large": (raw_manifest(b'{"schema": 1e999}'), "a number beyond a float"),
    "NaN": (raw_manifest(GOOD.replace(b'"schema": 1', b'"schema": NaN')), "the literal NaN"),
    "Infinity": (raw_manifest(GOOD.replace(b'"schema": 1', b'"schema": -Infinity')), "the literal -Infinity"),
    "a key twice": (raw_manifest(GOOD.replace(b'"schema": 1', b'"schema": 1, "schema": 1')), "a key stands twice"),
    "deep": (raw_manifest(b"[" * 100_000), "more than 100 levels"),
    "deep and closed": (raw_manifest(b'{"a":' * 101 + b"1" + b"}" * 101), "more than 100 levels"),
    "huge": (raw_manifest(b" " * (4 << 20) + GOOD), "the manifest is larger than 4194304 bytes"),
    "many values": (raw_manifest(b'{"a": [' + b"1," * 200_000 + b"1]}"), "more than 100000 values"),
    "content changed": (raw_manifest(GOOD.replace(b'"bytes": 16', b'"bytes": 17')), "the manifest says content"),
    "other space": (raw_manifest(GOOD.replace(b'"schema": 1', b'"schema":  1')), "not written in its one form"),
    "no newline": (raw_manifest(GOOD.rstrip()), "not written in its one form"),
    "schema 2": (changed_manifest(schema=2), "the schema 2, this version reads 1"),
    "schema true": (changed_manifest(schema=True), "the schema True, this version reads 1"),
    "schema text": (changed_manifest(schema="\x1b[2J"), "the schema '\\x1b[2J', this"),
    "one key more": (changed_manifest(more=1), "and no more"),
    "name a number": (changed_manifest(name=1), "wrong type"),
    "name unsafe": (changed_manifest(name=".."), "the name .. of the package has the component"),
    "another name": (changed_manifest(name="other"), "the manifest is of other, the package of case-1"),
    "about a list": (changed_manifest(about=[]), "wrong type"),
    "about a number": (changed_manifest(about={"$float": "nan"}), "no JSON object"),
    "about a wrong number": (changed_manifest(about={"a": {"$float": []}}), "a wrong $float"),
    "about a wrong word": (changed_manifest(about={"a": {"$float": "\n"}}), "a wrong $float"),
    "files an object": (changed_manifest(files={}), "wrong type"),
    "files of texts": (changed_manifest(files=["a.txt"]), "not path, bytes and sha256"),
}
SHAPES = {
    "nothing at all": (b"", "truncated"),
    "only the end": (END, "the archive is empty"),
    "manifest missing": (members() + END, "the first member is case-1/README.md"),
    "manifest not first": (member(f"{ROOT}/README.md", FILES["README.md"]) + good_tar(), "the first member is"),
    "manifest at the top": (member("MANIFEST.json", GOOD) + members() + END, "the first member is MANIFEST.json"),
    "manifest in a folder": (member("a/case-1/MANIFEST.json", GOOD) + END, "the first member is a/case-1/MANIFEST"),
    "manifest a link": (of_type(b"2", f"{ROOT}/MANIFEST.json") + members() + END, "a symbolic link"),
    "manifest twice": (first() + first() + members() + END, "MANIFEST.json is not in the manifest"),
    "not in the manifest": (with_member(member(f"{ROOT}/more.txt")), "more.txt is not in the manifest"),
    "in another root": (with_member(member("other/README.md")), "other/README.md is not in the manifest"),
    "case of a listed one": (with_member(member(f"{ROOT}/readme.md")), "readme.md is not in the manifest"),
    "a pickle": (with_member(member(f"{ROOT}/x.pkl", pickle.dumps([1]))), "x.pkl is not in the manifest"),
    "twice": (
        first() + member(f"{ROOT}/README.md", FILES["README.md"]) + members() + END,
        "README.md stands there twice",
    ),
    "twice, the other way round": (
        first() + member(f"{ROOT}/target.py", FILES["target.py"]) + members() + END,
        "target.py stands there twice",
    ),
    "wrong checksum": (with_member(b"x" + header(f"{ROOT}/a.txt", 0)[1:]), "its checksum is wrong"),
    "larger than the file": (
        first() + header(f"{ROOT}/README.md", 8**11 - 1) + bytes(1024),
        "larger than the manifest and the limits allow",
    ),
    "padding": (first()[:-1] + b"x" + members() + END, "the padding after a member is not empty"),
    "padding of a file": (first() + members()[:-1] + b"x" + END, "the padding after a member is not empty"),
    "one empty block": (first() + members() + bytes(512), "truncated"),
    "half an end": (first() + members() + bytes(512) + b"x" * 512, "does not end with two empty blocks"),
    "much that is empty": (good_tar() + bytes(70_000), "something after the end of the archive"),
    "a byte more": (good_tar() + b"x", "something after the end of the archive"),
    "an archive more": (good_tar() + good_tar(), "something after the end of the archive"),
    "no end": (first() + members(), "truncated"),
    "tarfile PAX": (with_member(tarfile_members("", pax_headers={"path": "../x"})), "a PAX header"),
    "tarfile GNU long name": (with_member(tarfile_members("long")), "a GNU long name"),
}


@pytest.mark.parametrize(
    ("tar", "phrase"),
    [
        pytest.param(tar, phrase, id=f"{kind}: {name}")
        for kind, corpus in {
            "name": UNLISTED,
            "link": LINKS,
            "header": HEADERS,
            "list": LISTS,
            "manifest": MANIFESTS,
            "shape": SHAPES,
        }.items()
        for name, (tar, phrase) in corpus.items()
    ],
)
def test_a_hostile_archive_is_refused_with_its_reason(tmp_path, tar, phrase):
    seen = refused(tmp_path, packed(tar), phrase)
    assert len(seen.refusals) == 1
    assert phrase in seen.refusals[0]
    states = {entry.path: (entry.state, entry.why) for entry in seen.entries}
    assert all(state in {("ok", ""), ("missing", "not read")} for state in states.values())


def test_the_hand_made_archive_is_good():
    assert seen_of(good_tar()).ok


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("edited", [None, "target.py"])
def test_what_another_tool_packed_again_is_read_and_the_edited_file_is_named(tmp_path, form, edited):
    path = tmp_path / "again.tar.gz"
    contents = {"MANIFEST.json": manifest_text(), **dict(reversed(FILES.items()))}
    with tarfile.open(path, "w:gz", format=form) as tar:  # its gzip header holds a file name and a time
        for name, content in contents.items():
            data = content + b"# edited\n" if name == edited else content
            info = tarfile.TarInfo(f"{ROOT}/{name}")
            info.size, info.mtime, info.mode, info.uname, info.uid = len(data), 1_700_000_000, 0o755, "me", 1000
            tar.addfile(info, io.BytesIO(data))
    seen = archive.verify(path)
    assert seen.refusals == ()
    assert [entry.path for entry in seen.entries if entry.state != "ok"] == ([edited] if edited else [])
    assert seen.ok is (edited is None)


@pytest.mark.parametrize(
    ("raw", "phrase"),
    [
        pytest.param(b"", "no gzip file", id="empty"),
        pytest.param(b"\x1f", "truncated", id="one byte"),
        pytest.param(good_tar(), "no gzip file", id="a plain tar"),
        pytest.param(pickle.dumps({"a": 1}), "no gzip file", id="a pickle"),
        pytest.param(b"PK\x03\x04" + bytes(100), "no gzip file", id="a zip"),
        pytest.param(zlib.compress(good_tar()), "no gzip file", id="zlib"),
        pytest.param(packed(good_tar())[:-8] + b"\0" * 8, "the gzip stream is broken", id="CRC"),
        pytest.param(packed(good_tar())[:-4] + b"\0" * 4, "the gzip stream is broken", id="length"),
        pytest.param(packed(good_tar())[:-1], "truncated", id="one byte short"),
        pytest.param(packed(good_tar())[:40] + b"\xff" * 200, "the gzip stream is broken", id="deflate"),
        pytest.param(packed(good_tar()) + packed(b""), "a second gzip member", id="a second empty member"),
        pytest.param(packed(good_tar()) * 2, "a second gzip member", id="two members"),
        pytest.param(packed(first()) + packed(members() + END), "truncated", id="cut over two members"),
        pytest.param(packed(good_tar()) + b"\0", "something after the gzip stream", id="a byte after"),
        pytest.param(packed(good_tar()) + b"x" * 70_000, "something after the gzip stream", id="much after"),
    ],
)
def test_a_hostile_file_is_refused_with_its_reason(tmp_path, raw, phrase):
    refused(tmp_path, raw, phrase)


def test_garbage_that_begins_after_the_last_chunk_is_seen(monkeypatch):
    raw = packed(good_tar())
    monkeypatch.setattr(read_module, "PIECE", len(raw))
    assert examine(io.BytesIO(raw), Path("x")).ok
    for rest, phrase in ((b"x", "something after the gzip stream"), (raw, "a second gzip member")):
        assert phrase in examine(io.BytesIO(raw + rest), Path("x")).refusals[0]


@pytest.mark.parametrize(
    ("path", "data", "phrase"),
    [
        ("a.json", b'{"a": NaN}', "the literal NaN"),
        ("a.json", b'{"a": 1, "a": 2}', "a key stands twice"),
        ("a.json", b'{"a": 1, "\\u0061": 2' + b', "x": [[]]' + b"}", "a key stands twice"),
        ("a.json", b"[" * 100_000, "more than 100 levels"),
        ("a.json", b"[" * 101 + b"]" * 101, "more than 100 levels"),
        ("a.json", b"[1e999]", "a number beyond a float"),
        ("a.json", b"", "not strict JSON"),
        ("a.json", b"\xef\xbb\xbf{}", "not strict JSON"),
        ("a.json", b"{} {}", "not strict JSON"),
        ("a.json", b'"' + b"x" * (16 << 20) + b'"', "more than 16 MiB of JSON"),
        ("a.jsonl", b"1\n" * 70_000 + b"{\n", "line 70001: not strict JSON"),
        ("a.jsonl", b"1\nNaN\n2", "line 2: not strict JSON"),
        ("a.jsonl", b"1\n2\n3 4", "line 3: not strict JSON"),
        ("a.jsonl", b"1\n\n", "line 2: not strict JSON"),
        ("a.jsonl", b"[" * 100_000 + b"\n", "line 1: not strict JSON: more than 100 levels"),
        ("a.jsonl", b'1\n"' + b"x" * (16 << 20) + b'"\n', "line 2: more than 16 MiB of JSON"),
        ("a.txt", pickle.dumps([1, 2, 3]), "not UTF-8"),
        ("a.md", b"a\0b", "NUL byte"),
        ("a.txt", b"x" * 65535 + b"\xc3", "not UTF-8"),
        ("a.html", b"\xed\xa0\x80", "not UTF-8"),
        ("a.py", "ü".encode("latin-1"), "not UTF-8"),
    ],
)
def test_content_that_is_not_what_its_suffix_says_is_refused(tmp_path, path, data, phrase):
    files = {**FILES, path: data}
    seen = refused(tmp_path, packed(first(files) + members(files) + END), phrase)
    assert not seen.refusals
    states = {entry.path: entry.state for entry in seen.entries}
    assert states == {**dict.fromkeys(FILES, "ok"), path: "refused"}
    (tmp_path / "x").mkdir()
    tree(tmp_path / "x", {**files, "MANIFEST.json": manifest_text(files)})
    assert archive.check_folder(tmp_path / "x").entries == seen.entries


def test_text_at_the_borders_of_the_pieces_is_text():
    text = "ü€𝒳".encode() * 30_000
    files = {"a.txt": text, "a.jsonl": b'"' + text + b'"\n"x"', "a.json": b'"' + text + b'"'}
    assert seen_of(first(files) + members(files) + END).ok


def test_a_changed_file_is_named_with_both_hashes_and_the_others_are_read(tmp_path):
    swapped = {**FILES, "README.md": b"# What was sEEn\n", "logs/run.json": b"{}", "target.py": b"\xff"}
    seen = refused(tmp_path, packed(first() + members(swapped) + END), "the manifest says")
    assert not seen.refusals
    said = {entry.path: (entry.state, entry.why) for entry in seen.entries}
    for path in ("README.md", "logs/run.json", "target.py"):
        state, why = said[path]
        assert state == "changed"
        assert hashlib.sha256(swapped[path]).hexdigest() in why
        assert hashlib.sha256(FILES[path]).hexdigest() in why
        assert f"{len(swapped[path])} bytes" in why
    assert said["target.py"][1].endswith("not UTF-8: invalid start byte")
    assert said["logs/observations.jsonl"] == ("ok", "")


def test_a_missing_file_is_named_and_one_not_reached_is_told_as_such():
    less = {path: data for path, data in FILES.items() if path != "logs/run.json"}
    seen = seen_of(first() + members(less) + END)
    assert [(e.path, e.why) for e in seen.entries if e.state != "ok"] == [("logs/run.json", "it is not there")]
    assert (seen.ok, seen.refusals) == (False, ())
    seen = seen_of(first() + member(f"{ROOT}/README.md", FILES["README.md"]) + named(b"../x.txt"))
    assert [(e.state, e.why) for e in seen.entries] == [("ok", "")] + [("missing", "not read")] * 3
    assert len(seen.refusals) == 1


def test_a_size_that_lies_is_seen():
    for lie in (0, 15, 17, 512, 600, 2000):
        data = FILES["README.md"]
        tar = first() + header(f"{ROOT}/README.md", lie) + padded(data)
        seen = seen_of(tar + members()[1024:] + END)
        assert not seen.ok
        assert seen.entries[0].state in {"changed", "missing"}


def test_the_limits_hold(tmp_path, package):
    for limits, phrase in [
        (Limits(files=3), "lists 4 files, more than 3"),
        (Limits(total_bytes=50), "the files together are larger than 50 bytes"),
        (Limits(file_bytes=31), "logs/run.json is larger than 31 bytes"),
        (Limits(manifest_bytes=100), "the manifest is larger than 100 bytes"),
        (Limits(free_bytes=1000, ratio=1), "it grows more than 1 times"),
    ]:
        seen = archive.verify(package, limits=limits)
        assert phrase in seen.refusals[0]
        (tmp_path / "fresh").mkdir(exist_ok=True)
        assert archive.unpack(package, tmp_path / "fresh", limits=limits) == seen
    assert archive.verify(package, limits=Limits(files=4, total_bytes=sum(map(len, FILES.values())))).ok
    many = {"a.txt": b"x" * 100, "b.txt": b"y" * 100}
    smaller = first({"a.txt": b"", "b.txt": b""}) + members(many) + END
    assert "the limits allow" in seen_of(smaller, limits=Limits(total_bytes=150)).refusals[0]
    assert "a.txt is larger than" in seen_of(smaller, limits=Limits(file_bytes=99)).refusals[0]


# --- damage --------------------------------------------------------------------------------------------------------


def test_each_single_byte_of_the_archive_counts():
    tar = good_tar()
    for at in range(len(tar)):
        for mask in (0x01, 0x07, 0x20, 0xFF):
            bad = bytearray(tar)
            bad[at] ^= mask
            seen = examine(io.BytesIO(packed(bytes(bad), 0)), Path("x"))
            assert not seen.ok, (at, mask)
            assert seen.refusals or any(entry.state != "ok" for entry in seen.entries)


def test_no_flipped_bit_of_the_file_gives_another_content():
    raw = packed(good_tar(), 9)
    seen, same = examine(io.BytesIO(raw), Path("x")), 0
    for at in range(len(raw)):
        for bit in range(8):
            bad = bytearray(raw)
            bad[at] ^= 1 << bit
            again = examine(io.BytesIO(bytes(bad)), Path("x"))
            if at in range(4, 10):
                assert again == seen  # the time and the system, which say nothing of the content
            elif again.ok:
                assert again == seen  # the same zeros copied from farther back, say
                same += 1
    assert same < 20


@pytest.mark.parametrize("level", [0, 9])
def test_a_truncated_file_is_never_ok(level):
    rng = random.Random(2)
    files = {**FILES, "noise.txt": rng.randbytes(3000).hex().encode()}
    raw = packed(first(files) + members(files) + END, level)
    assert examine(io.BytesIO(raw), Path("x")).ok
    for end in [*range(0, len(raw), 64 if level == 0 else 7), len(raw) - 1]:
        seen = examine(io.BytesIO(raw[:end]), Path("x"))
        assert not seen.ok
        assert "truncated" in seen.refusals[0] or end == 0


def test_a_truncated_archive_is_never_ok():
    tar = good_tar()
    for end in range(0, len(tar), 64):
        seen = seen_of(tar[:end])
        assert not seen.ok
        assert "truncated" in seen.refusals[0]


@settings(max_examples=300, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, len(good_tar())), st.binary(max_size=20), st.integers(0, 20)), max_size=5)
)
@example(edits=[])
def test_no_edit_of_the_archive_raises_or_is_taken_for_the_same(edits):
    tar = good_tar()
    for at, insert, cut in edits:
        tar = tar[:at] + insert + tar[at + cut :]
    assert seen_of(tar).ok is (tar == good_tar())


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=3000), st.booleans())
def test_no_bytes_raise(data, as_tar):
    assert not examine(io.BytesIO(packed(data) if as_tar else data), Path("x")).ok


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=600))
def test_no_bytes_as_a_manifest_raise(data):
    assert seen_of(raw_manifest(data)).refusals


# --- what is no package at all -------------------------------------------------------------------------------------


def test_a_path_that_cannot_be_read_is_a_reason(tmp_path, package):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(package)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, phrase in [
        (tmp_path, "it is no plain file"),
        (tmp_path / "absent", "No such file"),
        (tmp_path / "fifo", "it is no plain file"),
        (Path("/dev/zero"), "it is no plain file"),
        (tmp_path / "loop", "symbolic links"),
        (package / "x", "Not a directory"),
        (Path("a\0b"), "a\\x00b can't be read"),
        (tmp_path / ("x" * 300), "too long"),
    ]:
        seen = archive.verify(path)
        assert not seen.ok
        assert phrase in seen.refusals[0], seen.refusals
        assert seen.refusals[0].isprintable()
        assert (seen.root, seen.content_id, seen.manifest, seen.entries) == ("", "", None, ())
        with pytest.raises(RecordError, match="can't be read"):
            archive.read_manifest(path)
    assert archive.verify(tmp_path / "link").ok


def test_a_disk_that_fails_while_reading_is_a_reason():
    class Failing(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 0:
                raise OSError(5, "Input/output error")
            return super().read(100)

    seen = examine(Failing(packed(good_tar())), Path("x"))
    assert seen.refusals == ("it can't be read: Input/output error",)


def test_the_manifest_alone_is_read_without_what_follows(tmp_path):
    path = tmp_path / "p.tar.gz"
    path.write_bytes(packed(first() + b"\xff" * 1000))
    assert archive.read_manifest(path).name == ROOT
    assert not archive.verify(path).ok
    path.write_bytes(packed(first(text=b"{}")))
    with pytest.raises(PackageError, match="schema None"):
        archive.read_manifest(path)


# --- unpacking -----------------------------------------------------------------------------------------------------


def test_only_an_empty_folder_is_unpacked_into(tmp_path, package):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for folder in ("staged", "absent", "link", "case.tar.gz"):
        with pytest.raises(WorkspaceError, match="no empty folder"):
            archive.unpack(package, tmp_path / folder)
    assert listing(tmp_path / "empty") == []


@pytest.mark.parametrize("swap", ["another package", "a broken one", "content changed"])
def test_a_package_that_changes_between_the_passes_is_thrown_away(tmp_path, package, monkeypatch, swap):
    folder = tmp_path / "fresh"
    folder.mkdir()
    if swap == "another package":
        other = packed(first({}, manifest_text({}, about={"x": 1})) + END)
    elif swap == "a broken one":
        other = package.read_bytes()[:-1]
    else:
        other = packed(first() + members({**FILES, "target.py": b"print('o')\n "}) + END)
    verify = folders.verify

    def verify_then_swap(path, **options):
        seen = verify(path, **options)
        package.write_bytes(other)
        return seen

    monkeypatch.setattr(folders, "verify", verify_then_swap)
    with pytest.raises(RecordError, match="changed while it was unpacked"):
        archive.unpack(package, folder)
    assert listing(folder) == []


@pytest.mark.parametrize("way", ["a file", "a link", "a folder link"])
def test_what_came_into_the_folder_meanwhile_is_neither_overwritten_nor_followed(tmp_path, package, monkeypatch, way):
    folder, outside = tmp_path / "fresh", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "kept.txt").write_text("kept")
    check = folders._Unpacker.__init__

    def late(self, place):
        check(self, place)
        if way == "a file":
            (folder / "target.py").write_text("kept")
        elif way == "a link":
            (folder / "target.py").symlink_to(outside / "kept.txt")
        else:
            (folder / "logs").symlink_to(outside)

    monkeypatch.setattr(folders._Unpacker, "__init__", late)
    with pytest.raises(WorkspaceError, match=r"(target\.py|logs) can't be written: File exists"):
        archive.unpack(package, folder)
    assert listing(folder) == ["logs" if way == "a folder link" else "target.py"]
    assert listing(outside) == ["kept.txt"]
    assert (outside / "kept.txt").read_text() == "kept"


# --- an unpacked folder --------------------------------------------------------------------------------------------


@pytest.fixture
def unpacked(tmp_path, package):
    folder = tmp_path / "unpacked"
    folder.mkdir()
    assert archive.unpack(package, folder).ok
    return folder


def states(folder):
    return {
        entry.path: (entry.state, entry.why) for entry in archive.check_folder(folder).entries if entry.state != "ok"
    }


def test_a_folder_is_compared_with_its_manifest(unpacked):
    (unpacked / "README.md").write_text("other")
    (unpacked / "target.py").unlink()
    (unpacked / "more.txt").write_text("x")
    (unpacked / "logs" / "a\nb.txt").write_text("x")
    (unpacked / "__pycache__").mkdir()
    (unpacked / "__pycache__" / "target.pyc").write_bytes(b"\0")
    (unpacked / "logs" / ".pytest_cache").mkdir()
    (unpacked / "logs" / ".pytest_cache" / "x").touch()
    assert not archive.check_folder(unpacked).ok
    seen = states(unpacked)
    assert seen.pop("README.md")[0] == "changed"
    assert seen == {
        "target.py": ("missing", "it is not there"),
        "more.txt": ("refused", "not in the manifest"),
        "logs/a\\nb.txt": ("refused", "not in the manifest; holds the character U+000A"),
    }


def test_caches_alone_do_no_harm_and_a_file_named_like_one_does(unpacked):
    (unpacked / "__pycache__").mkdir()
    (unpacked / "__pycache__" / "x.pyc").touch()
    assert archive.check_folder(unpacked).ok
    (unpacked / ".pytest_cache").touch()
    assert states(unpacked) == {".pytest_cache": ("refused", "not in the manifest")}


def test_a_link_in_a_folder_is_not_followed(tmp_path, unpacked):
    (unpacked / "target.py").unlink()
    (unpacked / "target.py").symlink_to(tmp_path / "staged" / "target.py")
    assert states(unpacked) == {"target.py": ("refused", "it is a symbolic link")}
    for path in ("run.json", "observations.jsonl"):
        (unpacked / "logs" / path).unlink()
    (unpacked / "logs").rmdir()
    (unpacked / "logs").symlink_to(tmp_path / "staged" / "logs")
    os.mkfifo(unpacked / "fifo")
    seen = states(unpacked)
    assert seen["logs"] == ("refused", "not in the manifest; a symbolic link")
    assert seen["logs/run.json"] == ("missing", "it is not there")
    assert seen["fifo"] == ("refused", "not in the manifest; neither a file nor a folder")


def test_a_folder_without_a_manifest_is_refused(tmp_path, unpacked):
    for number in range(1001):
        (unpacked / f"{number}.txt").touch()
    seen = archive.check_folder(unpacked)
    assert "1000 files are not in the manifest" in seen.refusals[0]
    (unpacked / "MANIFEST.json").write_bytes(b"[" * 100_000)
    assert "more than 100 levels" in archive.check_folder(unpacked).refusals[0]
    (unpacked / "MANIFEST.json").write_bytes(b" " * (5 << 20))
    assert "larger than" in archive.check_folder(unpacked).refusals[0]
    (unpacked / "MANIFEST.json").unlink()
    assert "No such file" in archive.check_folder(unpacked).refusals[0]
    (unpacked / "MANIFEST.json").symlink_to(tmp_path / "staged" / "README.md")
    assert "symbolic link" in archive.check_folder(unpacked).refusals[0]
    assert "can't be read" in archive.check_folder(tmp_path / "absent").refusals[0]


def test_a_folder_that_fails_while_it_is_read_is_a_reason(unpacked, monkeypatch):
    def failing(*_, **__):
        raise OSError(5, "Input/output error")

    odd = unpacked.rename(unpacked.with_name("a\nb"))
    with monkeypatch.context() as patch:
        patch.setattr(folders.os, "scandir", failing)
        seen = archive.check_folder(odd)
    assert seen.refusals[0].endswith("a\\nb can't be read: Input/output error")
    assert {entry.why for entry in seen.entries} == {"not read"}


# --- the JSON scanner and the names --------------------------------------------------------------------------------

TOKENS = r"""{ } [ ] , : "a" "b" "\u0061" "\ " \n 1 -0 01 1.5e3 1e999 true nul null NaN -Infinity é \ud800 . + -"""
JSONISH = st.lists(st.sampled_from([*TOKENS.split(), " ", "\n", "\t", "\x0b", "\x01"]), max_size=12).map("".join)


@settings(max_examples=1500, deadline=None)
@given(JSONISH | VALUES.map(json.dumps) | VALUES.map(lambda value: json.dumps(value, indent=1, ensure_ascii=False)))
@example('{"a":1,"\\u0061":2}')
@example('{"\\ud83d\\ude00":1,"😀":2}')
@example('["' + "\\n" * 1000 + '"]')
@example("[1}")
@example('{"a":1]')
@example("[1 2]")
@example('{"a" 1}')
@example('{"a":1,}')
@example("[1,]")
@example("[-]")
@example("[1.]")
@example("[01]")
@example('["\t"]')
@example("[tru]")
@example("0." + "0" * 5000)
@example("9" * 310)
@example('{"' + "k" * 1001 + '" : 1}')
def test_the_scanner_says_what_the_standard_reader_says(text):
    data = text.encode("utf-8", "surrogatepass")
    quick = json_fault(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_module, "_QUICK_BYTES", -1)
        scanned = json_fault(data)
    assert bool(quick) is bool(scanned), (quick, scanned)
    if not scanned:
        json.loads(text)


def test_a_hundred_levels_pass_and_one_more_does_not():
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        assert not json_fault((opening * 100 + "1" + closing * 100).encode())
        assert json_fault((opening * 101 + "1" + closing * 101).encode())


def test_a_number_that_python_would_not_read_is_refused():
    for text in (b"1e999", b"-1E+999", b"9" * 310, b"9" * 5000, b"0." + b"0" * 5000):
        assert "a number beyond a float" in json_fault(text)
        assert "a number beyond a float" in json_fault(b"[" * 50 + text + b", []" * 60 + b"]" * 50)
    assert not json_fault(b"[1e308, 5e-324, -0.0, 1e-999, " + b"9" * 308 + b"]")


def test_keys_are_bounded():
    assert "too many keys" in json_fault(b"{" + b",".join(b'"%x":1' % n for n in range(100_001)) + b"}")
    assert "too long a key" in json_fault(b'{"' + b"k" * 70_000 + b'": 1}')
    apart = b"[" + b",".join(b'{"%x":1}' % n for n in range(100_001)) + b"]"
    assert not json_fault(apart)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(1, 50)), st.sampled_from(["a.txt", "a.json", "a.jsonl"]))
def test_the_pieces_in_which_a_text_arrives_do_not_matter(data, cuts, path):
    data = data.replace(b"\xff", b'[1]\n"').replace(b"\xfe", b'"\n')
    whole = TextCheck(path)
    whole.feed(data, last=True)
    parts = TextCheck(path)
    for cut in cuts:
        parts.feed(data[:cut])
        data = data[cut:]
    parts.feed(data)
    parts.feed(b"", last=True)
    assert bool(whole.fault) is bool(parts.fault)


@given(st.text(), st.integers(1, 50))
def test_what_is_shown_is_short_and_printable(text, limit):
    assert visible(text, limit=limit).isprintable()
    assert len(visible(text, limit=limit)) <= limit
    assert visible("a\n\x1b[2J\u202e\ud800") == "a\\n\\x1b[2J\\u202e\\ud800"


@settings(max_examples=300)
@given(
    st.lists(
        st.lists(st.sampled_from(["a", "A", "b", "ß", "SS", "é", "e\u0301", "!"]), min_size=1, max_size=3), max_size=6
    )
)
def test_a_clash_is_found_among_all_pairs(parts):
    def fold(text):
        return unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())

    def clashing(one, two):
        for n, (a, b) in enumerate(zip(one, two, strict=False)):
            if fold(a) != fold(b):
                return False
            if a != b or n == min(len(one), len(two)) - 1:
                return True
        return False

    expected = any(clashing(one, two) for at, one in enumerate(parts) for two in parts[:at])
    assert (clash("/".join(part) for part in parts) is not None) is expected


def test_a_header_holds_no_size_beyond_its_field():
    assert header("a.txt", 8**11 - 1)[124:136] == b"7" * 11 + b"\0"
    with pytest.raises(PackageError, match="too large for a USTAR header"):
        header("a.txt", 8**11)


# --- memory --------------------------------------------------------------------------------------------------------

MEASURED = """
import json, resource, sys, time
from pathlib import Path
from bfo_diag import archive
def peak_mib():
    # Not ru_maxrss where it can be avoided: a new process inherits that of its parent.
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
for name in sys.argv[2:]:
    start, path = time.monotonic(), Path(name)
    if sys.argv[1] == "write":
        archive.write(path, path.with_suffix(".tar.gz"), root="case", about={})
        path = path.with_suffix(".tar.gz")
    seen = archive.verify(path)
    said = [*seen.refusals, *(entry.why for entry in seen.entries if entry.why)]
    print(json.dumps([seen.ok, said, peak_mib(), time.monotonic() - start]), flush=True)
"""


def measured(way, *paths):
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, way, *map(str, paths)], capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def claimed(path, size):
    """Return a manifest that lists one file of this size."""
    return first(text=Manifest(ROOT, (Listed(path, size, "0" * 64),)).to_bytes())


def million():
    yield first()
    block = b"".join(header(f"{ROOT}/{number}.txt", 0) for number in range(1000))
    for _ in range(1000):
        yield block


def bomb(path, size, *, is_listed):
    yield claimed(path if is_listed else "other.txt", size)
    yield header(f"{ROOT}/{path}", size)
    for _ in range(size >> 20):
        yield b"a" * (1 << 20)
    yield END


def json_file(path, data):
    files = {path: data}
    yield first(files) + members(files) + END


BIG = {
    "a million members": (million, "0.txt is not in the manifest"),
    "100 MB not listed": (lambda: bomb("a.txt", 100 << 20, is_listed=False), "is not in the manifest"),
    "100 MB listed": (lambda: bomb("a.txt", 100 << 20, is_listed=True), "grows more than 400 times: 67"),
    "100 MB of JSON": (lambda: bomb("a.json", 100 << 20, is_listed=True), "grows more than 400 times: 67"),
    "one line of 60 MB": (lambda: bomb("a.jsonl", 60 << 20, is_listed=True), "more than 16 MiB of JSON"),
    "a manifest of 100 MB": (
        lambda: iter([header(f"{ROOT}/MANIFEST.json", 100 << 20), bytes(100 << 20)]),
        "the manifest is larger than",
    ),
    "a manifest of lists": (
        lambda: iter([first(text=b'{"a":[' + b"[]," * 1_390_000 + b"1]}")]),
        "more than 100000 values",
    ),
    "a manifest of names": (
        lambda: iter([first(text=b'{"a":["' + b'x","' * 99_000 + b"y" * 3_000_000 + b'"]}')]),
        "schema None",
    ),
    "texts of a letter": (lambda: json_file("a.json", b"[" + b'"ab",' * 3_300_000 + b"1]"), None),
    "a text of escapes": (lambda: json_file("a.json", b'"' + b"\\n" * 8_000_000 + b'"'), None),
    "a text beyond the BMP": (lambda: json_file("a.json", b'"' + "𝒳".encode() * 4_000_000 + b'"'), None),
    "many keys": (
        lambda: json_file("a.json", b"{" + b",".join(b'"%x":1' % n for n in range(1_400_000)) + b"}"),
        "too many keys",
    ),
    "a long key": (lambda: json_file("a.json", b'{"\\n' + "𝒳".encode() * 4_000_000 + b'":1}'), "too long a key"),
    "long numbers": (lambda: json_file("a.json", b"9" * 16_000_000), "a number beyond a float"),
    "deep": (lambda: json_file("a.json", b"[" * 16_000_000), "more than 100 levels"),
    "many manifest files": (
        lambda: iter([first({f"{'n' * 140}/{n:04}/{n}.txt": b"" for n in range(9_999)}) + END]),
        "it is not there",
    ),
}


def test_memory_is_bounded_whatever_the_package_holds(tmp_path):
    paths = []
    for name, (make, _) in BIG.items():
        paths.append(tmp_path / f"{name}.tar.gz")
        with gzip.open(paths[-1], "wb", compresslevel=6) as file:
            for piece in make():
                file.write(piece)
        raw = bytearray(paths[-1].read_bytes())
        end = raw.index(b"\0", 10)
        paths[-1].write_bytes(raw[:3] + b"\0" + raw[4:10] + raw[end + 1 :])  # without the file name
    assert (tmp_path / "100 MB listed.tar.gz").stat().st_size < 110_000
    before = listing(tmp_path)
    for (name, (_, phrase)), (ok, said, peak, seconds) in zip(BIG.items(), measured("verify", *paths), strict=True):
        assert ok is (phrase is None), (name, said)
        assert phrase is None or phrase in said[0], (name, said)
        assert peak < 100, (name, peak)
        assert seconds < 30, (name, seconds)
    assert listing(tmp_path) == before


def test_a_large_package_is_written_and_verified_in_little_memory(tmp_path):
    rng = random.Random(0)
    (tmp_path / "staged").mkdir()
    with (tmp_path / "staged" / "big.txt").open("wb") as file:
        for _ in range(600):
            line = rng.randbytes(2048).hex().encode() + b"\n"
            file.write(line * 256)
    [(ok, said, peak, _)] = measured("write", tmp_path / "staged")
    assert ok, said
    assert peak < 100
