"""Install each extra into a fresh environment, and see that its adapter's tests pass there with nothing else around.

python tests/check_extras.py [EXTRA ...]        all that have tests, where none is named

What every one of these environments holds is installed once, below them: torch, this package, pytest. In front of it
each has what its extra brings.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import tomllib

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests" / "pytorch_bfo_optimizer"
ELSEWHERE = {"plot": TESTS / "monitors", "sweep": ROOT / "tests" / "bfo_diag" / "probes" / "sweep" / "test_designs.py"}
"""Tests of what is no adapter."""
UNWANTED = {"fastai": ["torchvision"]}
"""What a framework requires and does without, and what does not import beside torch's build for CPUs."""
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}


class FailedError(Exception):
    """An extra does not install, or its tests do not pass; holds what was printed."""


def run(*command: str) -> str:
    """What the command printed.

    Raises:
        FailedError: it ended with an error.
    """
    done = subprocess.run(
        command, env=ENVIRONMENT, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode:
        raise FailedError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


def pip(folder: Path, *arguments: str) -> None:
    """Run pip for the environment in `folder`, which has none of its own: it would take as long as an extra."""
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python(folder)), *arguments)


def python(folder: Path) -> Path:
    """The interpreter of an environment."""
    return folder / "bin" / "python"


def packages(folder: Path) -> Path:
    """Where an environment keeps what is installed."""
    return Path(sysconfig.get_path("purelib", "posix_prefix", vars={"base": str(folder)}))


def make(folder: Path, below: Path | None = None) -> None:
    """Make an empty environment, or one that finds what it lacks in the one below."""
    run(sys.executable, "-m", "venv", "--without-pip", str(folder))
    if below is not None:
        (packages(folder) / "below.pth").write_text(f"import site; site.addsitedir({str(packages(below))!r})\n")


def make_base(folder: Path) -> Path:
    """Make the environment below all others; returns the wheel of this package."""
    base, pins = folder / "base", ("--constraint", "constraints.txt")
    make(base)
    pip(base, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), ".")
    wheel = next(folder.glob("bfo_diag-*.whl"))
    pip(base, "install", "--quiet", *pins, "torch")  # first: a looser request may bring the CUDA packages
    pip(base, "install", "--quiet", *pins, f"{wheel}[demo]", "pytest", "pytest-timeout")
    return wheel


def check(extra: str, tests: Path, wheel: Path, folder: Path) -> str:
    """Install an extra and run its tests; returns how it went, in a line.

    Raises:
        FailedError: it does not install, a test fails, or is skipped because the extra does not bring what it needs.
    """
    began = time.monotonic()
    make(folder, below=wheel.parent / "base")
    pip(folder, "install", "--quiet", "--constraint", "constraints.txt", f"{wheel}[{extra}]")
    if extra in UNWANTED:
        pip(folder, "uninstall", "--quiet", "--yes", *UNWANTED[extra])
    installed = time.monotonic() - began
    options = ("-q", "-rs", "-p", "no:cacheprovider", "-o", "addopts=", "--import-mode=importlib")
    told = run(str(python(folder)), "-m", "pytest", *options, str(tests))
    if f"bfo-diag[{extra}]" in told:
        raise FailedError(f"tests were skipped as if the extra were not installed\n{told}")
    return f"{told.strip().splitlines()[-1].strip('= ')}; installed in {installed:.0f} s"


def with_tests() -> dict[str, Path]:
    """The extras of pyproject.toml that have tests of their own, and where these are."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    places = {extra: ELSEWHERE.get(extra, TESTS / "adapters" / f"test_{extra}.py") for extra in extras}
    return {extra: place for extra, place in places.items() if place.exists()}


def main() -> None:
    """Check the extras one after the other; exit with an error where one fails."""
    found = with_tests()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("extras", metavar="EXTRA", nargs="*", help=f"of {', '.join(found)}; all, where none is named")
    asked = parser.parse_args().extras or list(found)
    unknown = [extra for extra in asked if extra not in found]
    if unknown:
        parser.error(f"no extra with tests: {', '.join(unknown)} (there are {', '.join(found)})")
    failed = False
    with tempfile.TemporaryDirectory(prefix="extras-") as place:
        folder = Path(place)
        wheel = make_base(folder)
        for extra in asked:
            try:
                told = check(extra, found[extra], wheel, folder / extra)
            except FailedError as error:
                failed, told = True, f"FAILED: {error}"
            print(f"{extra}: {told}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
