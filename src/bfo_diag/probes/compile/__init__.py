"""`bfo-diag compile`: what breaks the graph, what is compiled again and why, and whether compile is applied at all.

Four analyses, each in a process of its own: a survey (eager, `explain`, coverage), the real calls under torch's trace,
`fullgraph=True` where asked for, and one for each mend that is tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bfo_diag.errors import DiagError
from bfo_diag.probes import PartResult, Probe, Request, later, readers
from bfo_diag.probes.compile.builtin import FIRST_LOOK, NAMES, Builtin, chosen
from bfo_diag.probes.compile.fixes import SWITCHES, UNSPEC
from bfo_diag.records import JSONValue, Observation
from bfo_diag.shown import Progress

if TYPE_CHECKING:
    from bfo_diag.probes.compile.analysis import Analysis

MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
_BUILTIN_BACKEND = "aot_eager"


def capture(
    request: Request,
    *,
    fullgraph: Annotated[
        bool, typer.Option("--fullgraph", help="Verify fullgraph=True too, with real calls, forward and backward.")
    ] = False,
    mode: Annotated[
        str | None, typer.Option(metavar="MODE", help=f"Mode of torch.compile: {', '.join(MODES)}.", show_default=False)
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help="Backend of torch.compile; eager and aot_eager find the same breaks sooner.",
            show_default="inductor; aot_eager for the built-in cases",
        ),
    ] = None,
    dynamic: Annotated[bool, typer.Option("--dynamic", help="Compile with dynamic=True.")] = False,
    calls: Annotated[int, typer.Option(min=5, help="Calls to make, so that recompiles can settle.")] = 5,
    try_fixes: Annotated[
        bool, typer.Option("--try-fixes", help="Try the safe switches of torch's config, and say which worked.")
    ] = False,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Sites that are known: only new ones fail.", show_default=False),
    ] = None,
    update_baseline: Annotated[
        bool, typer.Option("--update-baseline", help="Write the sites of this run to the --baseline file.")
    ] = False,
    cases: Annotated[
        str, typer.Option(help=f"Built-in cases, without a TARGET: {', '.join(NAMES)}; several with commas, or all.")
    ] = "all",
) -> Iterator[Observation | Progress]:
    """Find out what breaks the graph, and whether compile is really applied."""
    from bfo_diag.probes.compile import baseline as baselines

    if mode is not None and mode not in MODES:
        raise DiagError(f"--mode {mode!r} is no mode of torch.compile", mend=f"choose from {', '.join(MODES)}")
    if mode is not None and backend not in (None, "inductor"):
        raise DiagError(f"--mode goes with the backend inductor, not with {backend}", mend="leave one of the two out")
    if update_baseline and baseline is None:
        raise DiagError("--update-baseline names no file", mend="add --baseline FILE")
    known = [] if baseline is None or update_baseline else baselines.read(Path(baseline))
    how = {"backend": backend, "mode": mode, "dynamic": True if dynamic else None}
    builtins = chosen(cases)
    if request.text is not None and cases != "all":
        raise DiagError("--cases names built-in cases, and a TARGET is none", mend="leave one of the two out")
    if request.text is None and (try_fixes or baseline is not None):
        raise DiagError("--try-fixes and --baseline go with a TARGET", mend="name one: train.py:train_step")
    if request.text is None:
        yield from _builtins(request, builtins, how, calls=calls, fullgraph=fullgraph)
        return
    how["backend"] = backend or "inductor"
    seen: list[Observation] = []
    yield from _examine(request, how, calls=calls, fullgraph=fullgraph, try_fixes=try_fixes, seen=seen)
    if baseline is not None:
        yield _baseline(Path(baseline), known, seen if update_baseline else None)


def _baseline(path: Path, known: list[dict[str, str]], seen: list[Observation] | None) -> Observation:
    """Return the baseline for the record; with what was `seen`, it is written anew first.

    Raises:
        DiagError: not every call was made, so that the file stays as it is; or it can't be written.
    """
    from bfo_diag.probes.compile import baseline as baselines
    from bfo_diag.probes.compile.analysis import Analysis
    from bfo_diag.probes.compile.judge import baseline_entries

    if seen is not None:
        analysis = Analysis("", tuple(enumerate(seen, 1)))
        made, planned = analysis.calls, analysis.subject.get("calls")
        if not made or len(made) != planned or not all(call["ok"] for call in made):
            raise DiagError(
                f"the baseline {path} is not written: {len(made)} of {planned or 'the'} calls were made",
                mend="mend what ended the run, then write it anew; the file is as it was",
            )
        known = baseline_entries(analysis, path.parent)
        baselines.write(path, known)
    return Observation("baseline", {"file": str(path.resolve()), "sites": known, "written": seen is not None})


def _examine(
    request: Request, how: dict[str, Any], *, calls: int, fullgraph: bool, try_fixes: bool, seen: list[Observation]
) -> Iterator[Observation | Progress]:
    total = 2 + fullgraph
    yield Progress(0, total, "the target as it is, and explain")
    survey = request.part("survey", {"calls": calls, "backend": how["backend"], "role": "target"})
    seen.extend(survey.observations)
    subjects = survey.of_kind("subject")
    if survey.stopped or not subjects:
        return
    common = _common(subjects[0], how)
    calls = subjects[0]["calls"]
    yield Progress(1, total, f"{calls} calls through torch.compile")
    made = request.part("calls", {**common, "calls": calls})
    seen.extend(made.observations)
    if made.stopped:
        return
    if fullgraph:
        yield Progress(2, total, "fullgraph=True")
        full = request.part("fullgraph", common, must_end=False)
        seen.extend(full.observations)
        for died in full.of_kind("part_died"):
            how_it_died = died["signal"] or f"exit status {died['exit_status']}"
            values = {"part": "fullgraph", "ok": False, "graphs": 0, "raised": False, "died": how_it_died}
            yield Observation("fullgraph", values)
        if full.stopped:
            return
    if try_fixes:
        yield from _fixes(request, common, calls, made, subjects[0]["switches"])


def _common(subject: Any, how: dict[str, Any]) -> dict[str, JSONValue]:
    return {**how, "factory": subject["factory"], "compiles_itself": subject["compiles_itself"]}


def _fixes(
    request: Request, common: dict[str, JSONValue], calls: int, before: PartResult, known: list[str]
) -> Iterator[Observation | Progress]:
    from bfo_diag.probes.compile.analysis import Analysis

    analysis = Analysis("", tuple(enumerate(before.observations, 1)))
    switches = list(dict.fromkeys(SWITCHES[site.code] for site in analysis.sites if site.code in SWITCHES))
    if any(UNSPEC in o.values["hint"] for _, o in analysis.recompiles):
        switches.append(UNSPEC)
    switches = [switch for switch in switches if switch in known]
    for index, switch in enumerate(switches):
        yield Progress(index, len(switches), f"trying {switch}")
        tried = request.part("fix", {**common, "calls": calls, "switch": switch}, must_end=False)
        yield _compared(switch, analysis, tried)
        if any(o.kind == "timed_out" for o in tried.observations):
            return


def _compared(switch: str, before: Analysis, tried: PartResult) -> Observation:
    """Return what a switch mended: the sites that are gone, where nothing new broke and every call was made."""
    from bfo_diag.probes.compile.analysis import Analysis

    relabelled = tuple(
        (number, Observation(o.kind, {**o.values, "part": "calls"}, o.place))
        for number, o in enumerate(tried.observations, 1)
    )
    after = Analysis("", relabelled)
    worked = tried.ended and not tried.stopped and len(after.calls) == len(before.calls)
    worked = worked and all(call["ok"] for call in after.calls) and any(after.graphs.values())
    old, new = {site.key(): site for site in before.sites}, {site.key() for site in after.sites}
    differs = worked and any(
        not _same(old_call[key], new_call[key])
        for old_call, new_call in zip(before.calls, after.calls, strict=True)
        for key in ("returned", "parameters")
    )
    gone = [key for key in old if key not in new and SWITCHES.get(old[key].code) == switch]
    mends = gone if worked and not differs and new <= set(old) else []
    return Observation(
        "fix",
        {
            "part": "fix",
            "switch": switch,
            "mends": mends,
            "for": [site.key() for site in before.sites if SWITCHES.get(site.code) == switch],
            "differs": differs,
            "settles": worked and not differs and len(after.recompiles) < len(before.recompiles) and after.settled,
        },
    )


def _same(first: float | None, second: float | None) -> bool:
    if first is None or second is None:
        return first is second
    if first != first or second != second:
        return first != first and second != second
    return abs(first - second) <= 1e-3 * max(1.0, abs(first))


def _builtins(
    request: Request, builtins: tuple[Builtin, ...], how: dict[str, Any], *, calls: int, fullgraph: bool
) -> Iterator[Observation | Progress]:
    from bfo_diag.targets import builtin_record

    yield Observation("case", builtin_record(request.device, request.seed).to_json())
    how = {**how, "backend": how["backend"] or ("inductor" if how["mode"] else _BUILTIN_BACKEND)}
    for index, builtin in enumerate(builtins):
        yield Progress(index, len(builtins), builtin.name)
        options = {"calls": calls, "backend": how["backend"], "role": builtin.name}
        survey = request.part("survey", options, case=builtin.name, target=builtin.target)
        if survey.stopped or not survey.of_kind("subject"):
            if any(o.kind == "timed_out" for o in survey.observations):
                return
            continue
        common = _common(survey.of_kind("subject")[0], how)
        made = request.part("calls", {**common, "calls": calls}, case=builtin.name, target=builtin.target)
        if fullgraph and not made.stopped:
            request.part("fullgraph", common, case=builtin.name, target=builtin.target, must_end=False)
        if any(o.kind == "timed_out" for o in made.observations):
            return


def _part(name: str) -> Any:
    def run(request: Request, **options: Any) -> Iterator[Observation | Progress]:
        from bfo_diag.probes.compile import analyses

        functions: dict[str, Any] = {
            "survey": analyses.survey,
            "calls": analyses.run_calls,
            "fix": analyses.run_calls,
            "fullgraph": analyses.fullgraph,
        }
        yield from functions[name](request, **options)

    return run


def _short(target: str | None) -> dict[str, JSONValue]:
    return {"cases": ",".join(FIRST_LOOK)} if target is None else {"fullgraph": True, "try_fixes": True}


PROBE = Probe(
    name="compile",
    help="Why a step does not compile: each graph break and recompile with its line and mend, and whether compile is "
    "applied at all.",
    capture=capture,
    **readers(__name__),
    details=later(f"{__name__}.summary", "details"),
    parts={name: _part(name) for name in ("survey", "calls", "fullgraph", "fix")},
    gates=("break", "user-break", "recompile"),
    local=("baseline", "update_baseline"),
    short=_short,
    fail_on="user-break,recompile",
)
