from __future__ import annotations

import pytest

from bfo_diag import probes


def test_the_probes_are_found_by_their_folder():
    assert "gradients" in probes.load_all()


def test_a_module_without_a_probe_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "stray.py").write_text("x = 1\n")
    monkeypatch.setattr(probes, "__path__", [*probes.__path__, str(tmp_path)])
    with pytest.raises(TypeError, match=r"bfo_diag\.probes\.stray defines no PROBE"):
        probes.load_all()
