"""How far `bfo-diag bench` can be believed: the same step under two names, and a step that sleeps for a tenth longer.

    python benchmarks/bench_power.py [RUNS] [BURNERS]

Each run times in five fresh processes with the bench's own timer and judges with its own statistics, while BURNERS
other processes keep the cores busy. Prints how many of RUNS said "no difference" of the same step, and how many found
the sleep.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

PROCESSES = 5
SECONDS = 3.0
BURN = "while True: sum(range(10_000))"


def worker(process: int) -> None:
    """Time the step, the same step, the step with a sleep, and the control, in this process."""
    from bfo_diag.cases import char_transformer
    from bfo_diag.probes.bench.arms import CONTROL, EAGER
    from bfo_diag.probes.bench.work import _Timer

    def plain():
        case = char_transformer.train_step()
        return lambda number: case.step()

    def sleeping(seconds: float):
        step = plain()

        def slower(number: int):
            step(number)
            time.sleep(seconds)

        return slower

    step = plain()
    for _ in range(20):
        step(0)
    times = []
    for _ in range(50):
        began = time.process_time()
        step(0)
        times.append(time.process_time() - began)
    # (A tenth of the step's own time on the processor: what others take of it is not the step's.)
    tenth = sorted(times)[len(times) // 2] / 10
    timer = _Timer({EAGER: plain(), "same": plain(), "sleeping": sleeping(tenth), CONTROL: plain()})
    for arm in timer.times:
        timer.warm_up(arm)
    timer.equalise()
    timer.run(SECONDS, seed=process)
    print(json.dumps(timer.times))


def judged(runs: list[dict[str, list[float | None]]]) -> dict[str, tuple[str, str]]:
    """Return verdict and interval of each arm, as bench gives them."""
    from bfo_diag.probes.bench.results import Case
    from bfo_diag.probes.bench.summary import interval
    from bfo_diag.records import Observation

    measured = [Observation("measured", {"step_s": times}) for times in runs]
    firsts = [Observation("first", _first(arm)) for arm in ("same", "sleeping")]
    case = Case("power", tuple(enumerate([*firsts, *measured])), {})
    control = "-" if case.control is None else interval(case.control)
    found = {m.name: (m.verdict, "-" if m.ratio is None else interval(m.ratio)) for m in case.modes}
    return {**found, "control": ("noisy" if case.noisy else "quiet", control)}


def _first(arm: str) -> dict[str, object]:
    return {"arm": arm, "cache": "none", "same_stream": False, "compile_events": [0], "calls_s": [0.0]}


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        worker(int(sys.argv[2]))
        return
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    burners = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    load = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(burners)]
    right = {"same": 0, "sleeping": 0, "noisy": 0}
    try:
        for run in range(runs):
            command = [sys.executable, __file__, "--worker"]
            times = [json.loads(subprocess.check_output([*command, str(process)])) for process in range(PROCESSES)]
            found = judged(times)
            right["same"] += found["same"][0] == "no difference"
            right["sleeping"] += found["sleeping"][0] == "slower"
            right["noisy"] += found["control"][0] == "noisy"
            print(
                f"run {run + 1}: " + "; ".join(f"{name}: {' '.join(what)}" for name, what in found.items()), flush=True
            )
    finally:
        for process in load:
            process.kill()
    print(f"{runs} runs, {burners} other processes busy")
    print(f"the same step under two names: no difference in {right['same']}")
    print(f"a step that sleeps for a tenth: slower in {right['sleeping']}")
    print(f"marked as a noisy machine: {right['noisy']}")


if __name__ == "__main__":
    main()
