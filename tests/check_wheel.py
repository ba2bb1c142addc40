"""Unpack a built wheel beside the installed dependencies, and see that it is whole without the checkout: what the
checkout packs, the wheel verifies and replays.

python tests/check_wheel.py dist/NAME.whl
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WANTED = ("bfo_diag/_templates/", "bfo_diag/py.typed", "pytorch_bfo_optimizer/py.typed")
SAYS = """
import pathlib, sys
import bfo_diag, pytorch_bfo_optimizer
for package in (bfo_diag, pytorch_bfo_optimizer):
    assert pathlib.Path(package.__file__).is_relative_to(sys.argv[1]), package.__file__
from bfo_diag.probes import load_all
assert "gradients" in load_all()
"""


def replay(folder: Path, env: dict[str, str]) -> None:
    """Pack a run with the checkout, and verify and replay it with the wheel."""
    tool = [sys.executable, "-m", "bfo_diag"]
    here = {**os.environ, "BFO_DIAG_WORKSPACE": str(folder / "workspace")}
    target = Path(__file__).parents[1] / "examples" / "lost_gradient.py"
    subprocess.run([*tool, "gradients", f"{target}:train_step", "--fail-on", "none"], check=True, env=here)
    subprocess.run([*tool, "package", "--name", "evidence"], check=True, env=here)
    package = str(folder / "workspace" / "review_packages" / "evidence.tar.gz")
    subprocess.run([*tool, "verify", package], check=True, env=env, cwd=folder)
    subprocess.run([*tool, "replay", package, "--yes"], check=True, env=env, cwd=folder)


def main() -> None:
    """Exit with an error where something is missing."""
    with zipfile.ZipFile(sys.argv[1]) as wheel, tempfile.TemporaryDirectory() as folder:
        names = wheel.namelist()
        for wanted in WANTED:
            assert any(name.startswith(wanted) for name in names), f"{wanted} is not in the wheel"
        assert not any(name.startswith(("tests/", "logs/")) for name in names)
        wheel.extractall(folder)
        env = {**os.environ, "PYTHONPATH": folder}
        subprocess.run([sys.executable, "-c", SAYS, folder], check=True, env=env, cwd=folder)
        replay(Path(folder), env)
    print(f"{Path(sys.argv[1]).name}: whole")


if __name__ == "__main__":
    main()
