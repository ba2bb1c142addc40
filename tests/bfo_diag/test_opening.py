"""What is opened to be read: packages that verify, unpacked ones, and what was edited in them."""

from __future__ import annotations

import pytest

from bfo_diag import archive, opening
from bfo_diag.errors import DiagError


def test_a_package_that_does_not_verify_is_not_opened(tmp_path):
    (tmp_path / "x.tar.gz").write_bytes(b"no package")
    with pytest.raises(DiagError, match="does not verify"), opening.opened(tmp_path / "x.tar.gz"):
        pass


def test_what_was_edited_in_an_unpacked_package_is_named(tmp_path):
    (tmp_path / "folder" / "src").mkdir(parents=True)
    for name in ("a.py", "b.py"):
        (tmp_path / "folder" / "src" / name).write_text("x = 1\n")
    archive.write(tmp_path / "folder", tmp_path / "p.tar.gz", root="p", about={})
    (tmp_path / "out").mkdir()
    archive.unpack(tmp_path / "p.tar.gz", tmp_path / "out")
    assert opening.edited(tmp_path / "out") == []
    (tmp_path / "out" / "src" / "b.py").write_text("x = 2\n")
    assert opening.edited(tmp_path / "out") == ["src/b.py"]
    assert opening.edited(tmp_path / "p.tar.gz") == []
