"""Pack and verify a run whose log has so many MiB, and print the peak memory and the time of both.

python benchmarks/package_memory.py [MIB]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bfo_diag import archive, bundle, store
from bfo_diag.records import CaseRecord, Observation, Outcome
from bfo_diag.workspace import Workspace

MIB = 2**20


def recorded(workspace: Path, mib: int) -> Path:
    """Return a run whose target printed so much: numbers that do not repeat, with a path now and then."""
    place = Workspace.find(workspace)
    case = CaseRecord("id", "big")
    folder, header = store.create(place, probe="gradients", case=case, argv=(), environment={}, options={})
    with store.ObservationWriter(folder) as log:
        log.write(Observation("step", {"step_ms": 1.0, "loss": 1.0, "judged": True}))
    store.finish(folder, header, Outcome.COMPLETE)
    with (folder / "raw" / "stdout.txt").open("w") as out:
        number = written = 0
        while written < mib * MIB:
            chunk = "".join(
                f"step {n} loss {n * 0.6180339887 % 1:.12f} {n * 2654435761 % 2**64:016x}\n"
                for n in range(number, number + 10_000)
            )
            number += 10_000
            written += out.write(chunk + f"saved /home/somebody/run/{number}.pt\n")
    return folder


def peak_mib() -> float:
    """Return the peak memory of this process (Linux; what getrusage tells is inherited from who started it)."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    """Measure in processes of their own: the peak is of the whole process, with Python itself."""
    if len(sys.argv) == 4:
        step, run, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
        began = time.monotonic()
        if step == "package":
            bundle.build(bundle.Wanted((run,), "big", cap=2**40), out)
        else:
            assert archive.verify(out / "big.tar.gz").ok
        peak = peak_mib()
        print(f"{step}: peak {peak:.0f} MiB, {time.monotonic() - began:.0f} s")
        return
    mib = int(sys.argv[1]) if len(sys.argv) > 1 else 2048
    with tempfile.TemporaryDirectory() as folder:
        run = recorded(Path(folder), mib)
        print(f"log: {(run / 'raw' / 'stdout.txt').stat().st_size / MIB:.0f} MiB", flush=True)
        for step in ("package", "verify"):
            subprocess.run([sys.executable, __file__, step, str(run), folder], check=True)
        print(f"package: {Path(folder, 'big.tar.gz').stat().st_size / MIB:.0f} MiB")


if __name__ == "__main__":
    main()
