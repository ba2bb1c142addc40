"""`bfo-diag bench`: whether compiling pays here: speed-up, compile time, break-even, memory, and the same results.

Each mode's first steps run in processes of their own (cold cache, then warm), and so does each round of timing: within
one process the same kernel can be 1.06 times faster, and 2.75 times in the next.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from bfo_diag.errors import DiagError
from bfo_diag.probes import PartResult, Probe, Request, readers
from bfo_diag.probes.bench.arms import AS_IT_IS, EAGER, MODES, REFERENCE, chosen
from bfo_diag.records import JSONValue, Observation
from bfo_diag.shown import Progress

BUILTINS = ("bfo_generation", "digits_mlp_train_step", "char_transformer_train_step")
_STOPS = ("timed_out",)


def capture(
    request: Request,
    *,
    modes: Annotated[
        str,
        typer.Option(
            help=f"What to compare with eager: {', '.join(MODES)}, or backend:NAME; several with commas.",
        ),
    ] = "eager,default",
    processes: Annotated[int, typer.Option(min=1, help="Fresh processes to time in; fewer than 5 tell little.")] = 5,
    cold: Annotated[
        bool,
        typer.Option("--cold/--warm", help="Count compile time from an empty cache, or with your own cache as it is."),
    ] = True,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of timed blocks in each process.")] = 3.0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps you will train, for an advice.", show_default=False)
    ] = None,
    folds: Annotated[int, typer.Option(min=1, help="Trainings of so many steps one after the other (K folds).")] = 1,
    trials: Annotated[int, typer.Option(min=1, help="Repetitions of all that (trials of a search).")] = 1,
    cases: Annotated[
        str, typer.Option(help=f"Built-in cases, without a TARGET: {', '.join(BUILTINS)}; several with commas, or all.")
    ] = "all",
) -> Iterator[Observation | Progress]:
    """Find out whether compiling pays."""
    arms = chosen(modes)
    builtins = _builtins(cases)
    if request.text is not None:
        if builtins != BUILTINS:
            raise DiagError("--cases names built-in cases, and a TARGET is none", mend="leave one of the two out")
        yield from _Bench(request, arms, processes, cold, seconds).run()
        return
    from bfo_diag.targets import builtin_record

    yield Observation("case", builtin_record(request.device, request.seed).to_json())
    for index, name in enumerate(builtins):
        yield Progress(index, len(builtins), name)
        bench = _Bench(request, arms, processes, cold, seconds, case=name, target=f"bfo_diag.cases.compiled:{name}")
        yield from bench.run()
        if bench.over:
            return


def _builtins(text: str) -> tuple[str, ...]:
    """Return the built-in cases that --cases names.

    Raises:
        DiagError: a name that is not known.
    """
    names = BUILTINS if text == "all" else tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    wrong = [name for name in names if name not in BUILTINS]
    if wrong:
        raise DiagError(f"--cases {', '.join(wrong)} is not known", mend=f"choose from {', '.join(BUILTINS)}, or all")
    return names


@dataclass
class _Bench:
    """The parts of one case, in their order."""

    request: Request
    arms: list[str]
    processes: int
    cold: bool
    seconds: float
    case: str = ""
    target: str | None = None
    over: bool = False
    _durations: dict[str, list[float]] = field(default_factory=dict)
    _done: int = 0

    def run(self) -> Iterator[Observation | Progress]:
        """Yield what the parts do not put on record themselves."""
        import tempfile

        with tempfile.TemporaryDirectory(prefix="bfo-diag-bench-") as folder:
            yield from self._in(Path(folder))

    def _in(self, folder: Path) -> Iterator[Observation | Progress]:
        import shutil

        yield self._progress("eager")
        eager = self._first(EAGER, "none", folder)
        if eager.stopped or not eager.of_kind("first"):
            self.over = any(o.kind in _STOPS for o in eager.observations)
            return
        subject = eager.of_kind("subject")[0]
        compiled = [AS_IT_IS] if subject["compiles_itself"] else self.arms[1:]
        yield self._progress("the float64 reference")
        reference = self._first(REFERENCE, "none", folder, must_end=False)
        if any(o.kind in _STOPS for o in reference.observations):
            self.over = True
            return
        working: list[str] = []
        for index, arm in enumerate(compiled):
            cache = folder / f"cache-{index}" if self.cold else None
            for name in ("cold" if self.cold else "as it is", "warm"):
                yield self._progress(f"{arm}, {name} cache")
                ran = self._first(arm, name, folder, directory=cache, must_end=False)
                if any(o.kind in _STOPS for o in ran.observations):
                    self.over = True
                    return
                if not ran.of_kind("first"):
                    break
            else:
                working.append(arm)
                if cache is not None and cache.exists():
                    shutil.copytree(cache, folder / "cache", dirs_exist_ok=True)
                rng_used = eager.of_kind("first")[0]["rng_used"]
                found = self._compared(arm, folder, rng_used=rng_used)
                yield found
                if found.values["ok"] is False and rng_used:
                    yield self._progress(f"{arm}, with eager's random stream")
                    again = self._first(arm, "warm", folder, directory=cache, must_end=False, same_stream=True)
                    if again.of_kind("first"):
                        yield self._compared(arm, folder, rng_used=rng_used, same_stream=True)
        for process in range(self.processes if working else 0):
            yield self._progress(f"timing, process {process + 1} of {self.processes}")
            options: dict[str, JSONValue] = {
                "arms": [EAGER, *working],
                "process": process,
                "seconds": self.seconds,
                "factory": subject["factory"],
                "compiles_itself": subject["compiles_itself"],
            }
            result = self._part("measure", options, folder / "cache" if self.cold else None)
            if result.stopped:
                self.over = any(o.kind in _STOPS for o in result.observations)
                return

    def _compared(self, arm: str, folder: Path, *, rng_used: bool, same_stream: bool = False) -> Observation:
        from bfo_diag.probes.bench import compare

        mine, eager = compare.load(_state(folder, arm, same_stream)), compare.load(_state(folder, EAGER))
        # (Random numbers drawn in float64 are others: the reference says nothing of a step that draws.)
        wide = None if rng_used else compare.load(_state(folder, REFERENCE))
        values: dict[str, JSONValue] = {"arm": arm, "same_stream": same_stream, "part": "compare"}
        if self.case:
            values["case"] = self.case
        if mine is None or eager is None:
            return Observation("correctness", {**values, **vars(compare.Judgement(None, why="too few steps ran"))})
        against = "eager" if wide is None else REFERENCE
        judged = compare.judge(mine, eager, wide)
        return Observation("correctness", {**values, **vars(judged), "against": against, "tensors": len(mine)})

    def _first(
        self,
        arm: str,
        cache: str,
        folder: Path,
        *,
        directory: Path | None = None,
        must_end: bool = True,
        same_stream: bool = False,
    ) -> PartResult:
        state = _state(folder, arm, same_stream)
        state.unlink(missing_ok=True)
        options: dict[str, JSONValue] = {
            "arm": arm,
            "cache": cache,
            "state_file": str(state),
            "role": self.case or "target",
            "same_stream": same_stream,
        }
        return self._part("first", options, directory, must_end=must_end)

    def _part(
        self, name: str, options: Mapping[str, JSONValue], cache: Path | None, *, must_end: bool = True
    ) -> PartResult:
        environment = {} if cache is None else _cache_environment(cache)
        began = time.monotonic()
        result = self.request.part(
            name, options, case=self.case, target=self.target, environment=environment, must_end=must_end
        )
        self._durations.setdefault(name, []).append(time.monotonic() - began)
        self._done += 1
        return result

    def _progress(self, doing: str) -> Progress:
        total = 2 + 2 * (len(self.arms) - 1) + self.processes
        known = self._durations
        left = None
        if known:
            longest = max(max(times) for times in known.values())
            timing = known["measure"][-1] if "measure" in known else longest + self.seconds * len(self.arms)
            others = max(0, total - self.processes - self._done)
            left = others * longest + min(self.processes, total - self._done) * timing
        where = f"{self.case}: " if self.case else ""
        return Progress(self._done, total, where + doing, left)


def _state(folder: Path, arm: str, same_stream: bool = False) -> Path:
    return folder / f"{arm.replace(':', '-').replace(' ', '-')}{'-same-stream' if same_stream else ''}.npz"


def _cache_environment(folder: Path) -> dict[str, str]:
    return {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"), "TRITON_CACHE_DIR": str(folder / "triton")}


def _part(name: str) -> Any:
    def run(request: Request, **options: Any) -> Iterator[Observation | Progress]:
        from bfo_diag.probes.bench import work

        yield from (work.first if name == "first" else work.measure)(request, **options)

    return run


def _short(target: str | None) -> dict[str, JSONValue]:
    few: dict[str, JSONValue] = {"processes": 3, "seconds": 1.0}
    return few if target is not None else {**few, "cases": "char_transformer_train_step"}


PROBE = Probe(
    name="bench",
    help="Whether compiling pays: speed-up with its interval, compile time, break-even in steps, memory, and whether "
    "the results are the same.",
    capture=capture,
    **readers(__name__),
    parts={name: _part(name) for name in ("first", "measure")},
    needs_processes=True,
    defaults={"device": "auto"},
    short=_short,
)
