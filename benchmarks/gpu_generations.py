"""A momentum generation on a GPU, eager, compiled and as a CUDA graph, beside the bare forward of its population.

    python benchmarks/gpu_generations.py [--device cuda] [--populations 64 256 1024 4096] [--networks 64-32-10 ...]
                                         [--rounds 15] [--rows 1797] [--log FILE]

Beside them whole generations of `AdaptiveBFO.minimize`, with what it keeps on the host, and of EvoTorch's PGPE and
EvoX's OpenES where those are installed. Times are taken by CUDA events, in blocks, all sides in turn in one process:
median and quartiles. The noise is drawn anew by every side, outside of what is compiled.

The machine's limit is bytes over bandwidth, which a large copy measures in the same run. Bytes of the optimizer
itself: the noise is written once and read twice (to spread and to learn), the positions are written once, 2.5 P D
numbers. Bytes of a whole generation: the positions are read as well, and what every layer puts out is written and read,
twice P rows width numbers; nothing for what a cache could hold, nothing for kernels that pass an array twice.

Host synchronisations are what torch's sync debug mode warns of, in one call of spread, evaluate and learn, and in one
more generation of `minimize`. On a CPU the same runs in small, on CPU time, and what needs CUDA says so.
"""

from __future__ import annotations

import argparse
import gc
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from generation_sides import BARE, GENERATIONS, NO_CUDA, OURS, SIDES, Setting, minimising, prepared
from generations import Network, Quartiles, Times, cpu_seconds, cuda_seconds, in_turn, momentum_generation, report

# --- what is measured beside the times ---


def bandwidth(device: torch.device) -> float:
    """Bytes a second of a large copy, read and written bytes both counted."""
    numbers = (2**28 if device.type == "cuda" else 2**23) // 4
    source, target = torch.ones(numbers, device=device), torch.empty(numbers, device=device)
    timer = cuda_seconds if device.type == "cuda" else cpu_seconds
    timer(lambda: target.copy_(source), 3)
    return 8 * numbers / min(timer(lambda: target.copy_(source), 20) for _ in range(5))


@contextmanager
def synchronisations() -> Iterator[list[warnings.WarningMessage]]:
    """Collect what the device made the host wait for."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        seen: list[warnings.WarningMessage] = []
        try:
            yield seen
        finally:
            torch.cuda.set_sync_debug_mode(before)
            seen += [warning for warning in caught if "synchronizing CUDA operation" in str(warning.message)]


def waits(setting: Setting) -> dict[str, int | str]:
    """Host synchronisations in spread, evaluate and learn, and in one more generation of `minimize`."""
    if setting.device.type != "cuda":
        return {"spread, evaluate, learn": NO_CUDA, f"one more generation of {OURS}": NO_CUDA}
    generation, drift = momentum_generation(setting.network.losses), setting.drift()
    setting.noise.normal_()
    with synchronisations() as inside:
        generation(drift, setting.by, setting.noise)
    counts = []
    for generations in (2, 3):
        call = minimising(setting, generations)
        call()
        with synchronisations() as seen:
            call()
        counts.append(len(seen))
    return {"spread, evaluate, learn": len(inside), f"one more generation of {OURS}": counts[1] - counts[0]}


# --- the report ---


def measured(setting: Setting, copy_speed: float, *, rounds: int, block_s: float) -> dict[str, Any]:
    """All figures of one population of one network."""
    torch.compiler.reset()  # else the ninth population would meet the limit of recompilations
    sides, missing = prepared(setting)
    times = in_turn(
        sides, cuda_seconds if setting.device.type == "cuda" else cpu_seconds, rounds=rounds, block_s=block_s
    )
    scaled = Times({name: [s / (GENERATIONS if name == OURS else 1) for s in times.blocks[name]] for name in sides})
    return {
        "network": "-".join(map(str, setting.network.sizes)),
        "dimension": setting.network.dimension,
        "population": setting.population,
        "own_bytes": setting.own_bytes,
        "whole_bytes": setting.whole_bytes,
        "limit_s": {"own": setting.own_bytes / copy_speed, "whole": setting.whole_bytes / copy_speed},
        "seconds": {name: scaled.of(name) for name in sides},
        "to_bare": {name: scaled.ratio(name, BARE) for name in sides if BARE in sides},
        "beyond_bare_s": {name: scaled.beyond(name, BARE) for name in sides if BARE in sides},
        "missing": missing,
        "waits": waits(setting),
    }


def row(name: str, found: Mapping[str, Any]) -> str:
    """One side in the table."""
    if name in found["missing"]:
        return f"| {name} | {found['missing'][name]} | | | |"
    seconds, limit = found["seconds"][name], found["limit_s"]
    cells = [name, Quartiles(*(s * 1e3 for s in seconds)).shown(".4f")]
    cells.append(found["to_bare"][name].shown() if name in found["to_bare"] else "")
    cells.append(f"{seconds.middle / limit['whole']:.1f}")
    own = found["beyond_bare_s"].get(name)
    cells.append(f"{own.middle / limit['own']:.1f}" if own is not None and name != BARE else "")
    return "| " + " | ".join(cells) + " |"


def page(found: Mapping[str, Any]) -> str:
    """The figures of one population as a table."""
    limit = found["limit_s"]
    lines = [
        f"\n{found['network']}, D = {found['dimension']}, P = {found['population']}: at the bandwidth of a copy the "
        f"optimizer's own {found['own_bytes'] / 1e6:.1f} MB take {limit['own'] * 1e3:.4f} ms, the whole generation's "
        f"{found['whole_bytes'] / 1e6:.1f} MB {limit['whole'] * 1e3:.4f} ms",
        "| side | ms a generation | in bare forwards | in limits of the whole | own part in its limits |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [row(name, found) for name in SIDES]
    lines += [f"host synchronisations in {where}: {count}" for where, count in found["waits"].items()]
    return "\n".join(lines)


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--populations", type=int, nargs="+", default=None, help="even numbers")
    parser.add_argument("--networks", nargs="+", default=["64-32-10", "64-256-256-10"], help="widths, from 64 to 10")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--block", type=float, default=0.1, help="seconds of a block, at least about")
    parser.add_argument("--rows", type=int, default=None, help="digits in the batch; all 1797 by default")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=None, help="on by default on CUDA")
    parser.add_argument("--log", type=Path, default=None, help="append table and JSON line")
    options = parser.parse_args(given)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("no CUDA device here: --device cpu runs the same in small")
    if options.rounds < 2:
        parser.error("--rounds: quartiles need at least 2")
    on_cuda = options.device.startswith("cuda")
    options.populations = options.populations or ([64, 256, 1024, 4096] if on_cuda else [64])
    options.compile = on_cuda if options.compile is None else options.compile
    return options


def main(given: list[str] | None = None) -> dict[str, Any]:
    """Measure, and report."""
    options = arguments(given)
    device = torch.device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    copy_speed = bandwidth(device)
    facts: dict[str, Any] = {
        "benchmark": "gpu_generations",
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "copy_bytes_per_s": copy_speed,
        "settings": [],
    }
    pages = [f"{facts['device']}, torch {facts['torch']}: a copy moves {copy_speed / 1e9:.1f} GB/s"]
    for widths in options.networks:
        network = Network([int(width) for width in widths.split("-")], device, rows=options.rows)
        for population in options.populations:
            with torch.no_grad():
                setting = Setting.of(network, population, compiles=options.compile)
                found = measured(setting, copy_speed, rounds=options.rounds, block_s=options.block)
            facts["settings"].append(found)
            pages.append(page(found))
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    report(facts, "\n".join(pages), options.log)
    return facts


if __name__ == "__main__":
    main()
