"""Measures this library beside its peers, in an environment of its own, and writes benchmarks/RESULTS.md.

    python benchmarks/peers/run.py                     everything that is missing, then the page
    python benchmarks/peers/run.py quality [OPTIONS]   or digits, cost, report: one part (--help lists its options)
    python benchmarks/peers/run.py --python PYTHON ... with an environment that is there already

Runs are kept in benchmarks/peers/results and not made again; delete a file there to have it made anew. Everything from
nothing takes some four hours of one core.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
TORCH = "torch==2.13.0"
PARTS = ("quality", "digits", "cost", "report")
EVERYTHING = (
    (
        "quality",
        "--optimizers",
        "AdaptiveBFO,BFO,NiaPy L-SHADE,NiaPy L-SHADE 18D,pycma,SciPy DE,NiaPy BFO,EvoTorch CMAES",
    ),
    ("quality", "--budgets", "10000", "--optimizers", "mealpy ABFO,mealpy BFO"),
    (
        "quality",
        "--held-out",
        "--variants",
        "shifted-rotated",
        "--optimizers",
        "AdaptiveBFO,NiaPy L-SHADE,NiaPy L-SHADE 18D,pycma,SciPy DE,NiaPy BFO",
    ),
    ("digits",),
    ("cost",),
    ("report",),
)


def environment() -> Path:
    """Make the environment where caches go, once for each set of requirements; return its Python."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bfo-diag" / "peers"
    python = cache / ("Scripts" if os.name == "nt" else "bin") / "python"
    wanted = TORCH + "\n" + (HERE / "requirements.txt").read_text()
    made = cache / "made-of.txt"
    if made.exists() and made.read_text() == wanted:
        return python
    print(f"making the peers' environment in {cache}", file=sys.stderr)
    venv.create(cache, with_pip=True, clear=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, TORCH], check=True)
    subprocess.run([*install, "--requirement", str(HERE / "requirements.txt")], check=True)
    made.write_text(wanted)
    return python


def part(python: Path, *arguments: str) -> int:
    """Run one part in the environment, on one thread a process."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    path = os.pathsep.join([str(HERE.parent), str(HERE.parents[1] / "src")])
    command = [str(python), "-m", f"peers.{arguments[0]}", *arguments[1:]]
    return subprocess.run(command, env={**os.environ, **threads, "PYTHONPATH": path}).returncode


def main() -> int:
    """Run the part that is named, or all of them until one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, help="a Python with the requirements installed")
    parser.add_argument("--jobs", type=int, default=1, help="processes for the quality runs of everything")
    parser.add_argument("part", nargs="?", choices=PARTS, help="everything, if left out; options after it are its own")
    given = sys.argv[1:]
    end = next((index + 1 for index, word in enumerate(given) if word in PARTS), len(given))
    known = parser.parse_args(given[:end])
    python = known.python or environment()
    if known.part:
        return part(python, known.part, *given[end:])
    for name, *options in EVERYTHING:
        jobs = ["--jobs", str(known.jobs)] if name == "quality" else []
        if code := part(python, name, *options, *jobs):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
