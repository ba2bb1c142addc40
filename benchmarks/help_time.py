"""How long `--help` takes against `python -c "import typer, rich"`: interleaved pairs, the median of their ratios.

python benchmarks/help_time.py [--pairs 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

BASELINE = [sys.executable, "-c", "import typer, rich"]
DIAG = [sys.executable, "-c", "from bfo_diag.cli.app import main; main()"]
COMMANDS = {
    "bfo-diag --help": [*DIAG, "--help"],
    "bfo-diag gradients --help": [*DIAG, "gradients", "--help"],
}


def seconds(command: list[str]) -> float:
    """Return the wall time of one run."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def ratios(command: list[str], pairs: int) -> list[float]:
    """Return command / baseline for interleaved pairs, the order of each pair the reverse of the one before."""
    found = []
    for index in range(pairs):
        if index % 2:
            mine, base = seconds(command), seconds(BASELINE)
        else:
            base, mine = seconds(BASELINE), seconds(command)
        found.append(mine / base)
    return found


def main() -> None:
    """Print the ratios, with the baseline against itself as the control."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=15)
    pairs = parser.parse_args().pairs
    for name, command in {"control (the baseline itself)": BASELINE, **COMMANDS}.items():
        found = sorted(ratios(command, pairs))
        quarter = len(found) // 4
        spread = f"quartiles {found[quarter]:.2f} to {found[-1 - quarter]:.2f}"
        print(f"{name}: median ratio {statistics.median(found):.2f}, {spread}")


if __name__ == "__main__":
    main()
