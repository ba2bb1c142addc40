"""What listening to torch's trace adds to the calls of `bfo-diag compile`: fresh processes, interleaved, caches warm.

    python benchmarks/compile_overhead.py [PAIRS] [BACKEND]

Prints the ratio analysed / plain of the time that the same five calls of a training step take, compiles included.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

TARGETS = ("bfo_diag.cases.compiled:digits_mlp_train_step", "bfo_diag.cases.compiled:char_transformer_train_step")
CALLS = 5


def worker(kind: str, target: str, backend: str) -> None:
    """Make the calls, plain or as the probe makes them, and print the seconds from the first to the last."""
    import torch

    from bfo_diag.child import ChildRequest
    from bfo_diag.probes.compile import analyses
    from bfo_diag.subject import fresh

    request = ChildRequest(target, (), "cpu", 0)
    if kind == "plain":
        subject = fresh(request.load(), factory=True)
        compiled = torch.compile(subject.function, backend=backend)
        began = time.perf_counter()
        for number in range(CALLS):
            subject.call(compiled, number)
    else:
        how = {"backend": backend, "mode": None, "dynamic": None, "factory": True, "compiles_itself": False}
        observations = analyses.run_calls(request, calls=CALLS, **how)
        next(observations)  # the target is loaded, and its first call comes next
        began = time.perf_counter()
        for _ in observations:
            pass
    print(time.perf_counter() - began)


def seconds(kind: str, target: str, backend: str) -> float:
    """Return what a worker measured."""
    printed = subprocess.check_output([sys.executable, __file__, "--worker", kind, target, backend], text=True)
    return float(printed.strip().splitlines()[-1])


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        worker(*sys.argv[2:5])
        return
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    backend = sys.argv[2] if len(sys.argv) > 2 else "inductor"
    for target in TARGETS:
        seconds("plain", target, backend)  # fills the cache
        ratios, plains = [], []
        for index in range(pairs):
            order = ("plain", "analysed") if index % 2 == 0 else ("analysed", "plain")
            took = {kind: seconds(kind, target, backend) for kind in order}
            ratios.append(took["analysed"] / took["plain"])
            plains.append(took["plain"])
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"{target}, {backend}: analysed / plain {middle:.2f} (quartiles {low:.2f} to {high:.2f}), "
            f"plain {statistics.median(plains):.2f} s, {pairs} pairs",
            flush=True,
        )


if __name__ == "__main__":
    main()
