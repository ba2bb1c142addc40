"""From what the calls showed to findings: breaks by site, recompiles, fullgraph, and whether compile is applied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bfo_diag.findings import catalogue
from bfo_diag.findings.compile import BREAK_MENDS
from bfo_diag.probes.compile.analysis import NOT_APPLIED, PARTIAL, QUIET_CALLS, Analysis, analyses, near
from bfo_diag.probes.compile.fixes import UNSPEC
from bfo_diag.probes.compile.payload import read_break
from bfo_diag.probes.compile.sites import LIBRARY, ON_PURPOSE, YOURS, Numbered, Site, key_of, portable
from bfo_diag.records import Finding, Place, Run, Severity

_LONGEST = 300


def judge(run: Run) -> Iterator[Finding]:
    """Yield the findings of every case."""
    known = {entry["key"] for _, o in run.of_kind("baseline") for entry in o.values["sites"]}
    root = next((Path(o.values["file"]).parent for _, o in run.of_kind("baseline")), None)
    found = analyses(run)
    for analysis in found:
        if analysis.builtin is not None:
            yield from _of_builtin(analysis)
            continue
        for site in analysis.sites:
            yield _of_site(analysis, site, known=site.key(root) in known)
        yield from _of_recompiles(analysis, known, root)
        yield from _of_errors(analysis)
        yield from _of_application(analysis)
    seen = {entry["key"] for analysis in found for entry in baseline_entries(analysis, root)}
    for number, observation in run.of_kind("baseline"):
        for entry in observation.values["sites"]:
            if entry["key"] not in seen and not observation.values["written"]:
                message = (
                    f"{entry.get('file')} in {entry.get('function')}: «{entry.get('source')}» ({entry.get('code')})"
                )
                yield catalogue()["COMPILE-BASELINE-GONE"].finding(message, evidence=(number,))


def _of_site(analysis: Analysis, site: Site, *, known: bool) -> Finding:
    first = site.first
    times = f"{site.events} time{'s' if site.events > 1 else ''}"
    message = f"{site.type} ({times}, {_owner(site)})."
    if first["explanation"]:
        message += f" {shortened(first['explanation'])}"
    for code, kind in site.cascade:
        message += f"\nOnly because of it: {code} ({kind})."
    tried = [o.values for _, o in analysis.of("fix") if site.key() in o.values["for"]]
    confirmed = [values["switch"] for values in tried if site.key() in values["mends"]]
    fix = mend_of(site)
    if tried and not confirmed:
        fix += f" (tried here, and no mend of it alone: {', '.join(values['switch'] for values in tried)})"
    if confirmed:
        fix = f"confirmed in a run of its own: torch._dynamo.config.{confirmed[0]} = True. Else: {fix}"
    severity = Severity.WARNING if site.owner == YOURS else Severity.NOTE
    gates: tuple[str, ...] = ("break", "user-break") if site.owner == YOURS else ("break",)
    if known:
        severity, gates, message = Severity.NOTE, (), f"known from the baseline: {message}"
    return Finding(
        code=site.code,
        severity=severity,
        message=message,
        fix=fix,
        url=first["url"] or f"https://meta-pytorch.github.io/compile-graph-break-site/gb/{site.code.lower()}.html"
        if site.code != "GB-UNKNOWN"
        else catalogue()["GB-UNKNOWN"].url,
        place=site.place,
        evidence=tuple(number for number, _ in site.observations),
        gates=gates,
    )


def shortened(text: str) -> str:
    """Return the beginning of a long text; the whole of it is in the log."""
    return text if len(text) <= _LONGEST else text[:_LONGEST].rsplit(" ", 1)[0] + " ..."


def _owner(site: Site) -> str:
    where = f" at {near(site.inner)}" if site.inner is not None else ""
    if site.owner == YOURS:
        return "your code" + (f", in Python's own{where}" if where else "")
    return ("torch breaks here on purpose" if site.owner == ON_PURPOSE else f"{LIBRARY} code") + where


def mend_of(site: Site) -> str:
    """Return our mend for the break, else torch's hints, else what the catalogue says of an unknown one."""
    if site.code in BREAK_MENDS:
        return BREAK_MENDS[site.code]
    hints = [hint for hint in site.first["hints"] if not hint.startswith("This graph break is fundamental")]
    return "; ".join(hints[:2]) if hints else "do this outside of the compiled function; torch has no mend for it"


def _by_guard(analysis: Analysis) -> dict[tuple[str, str], list[Numbered]]:
    """Return the recompiles by frame and by what their guard is about."""
    found: dict[tuple[str, str], list[Numbered]] = {}
    for number, observation in analysis.recompiles:
        frame = observation.values["compile_id"].split("/")[0]
        found.setdefault((frame, observation.values["name"]), []).append((number, observation))
    return found


def baseline_entries(analysis: Analysis, root: Path | None) -> list[dict[str, str]]:
    """Return what a baseline in the folder `root` holds of a case: its sites, and the guards that keep failing."""
    found = {site.key(root): {"key": site.key(root), **site.described(root)} for site in analysis.sites}
    for frame, name in _by_guard(analysis):
        entry = _guard_entry(analysis, frame, name, root)
        found[entry["key"]] = entry
    return sorted(found.values(), key=lambda entry: (entry["file"], entry["function"], entry["source"], entry["type"]))


def _guard_entry(analysis: Analysis, frame: str, name: str, root: Path | None) -> dict[str, str]:
    function, file = analysis.frames.get(frame, ("", ""))
    described = {"file": portable(file, root), "function": function, "source": name, "type": "recompile"}
    return {"key": key_of(described), "code": "COMPILE-RECOMPILES", **described}


def _of_recompiles(analysis: Analysis, known: set[str], root: Path | None) -> Iterator[Finding]:
    entries = catalogue()
    confirmed = any(o.values["settles"] for _, o in analysis.of("fix"))
    limited = {o.values["compile_id"].split("/")[0] for _, o in analysis.limits}
    for (frame, name), numbered in _by_guard(analysis).items():
        calls = [o.values["call"] for _, o in numbered]
        shown = numbered[-1][1]
        source = f", guarded because of «{shown.values['source']}»" if shown.values["source"] else ""
        times = f"{len(calls)} time{'s' if len(calls) > 1 else ''}"
        message = (
            f"{analysis.function_of(shown)} was compiled again {times} (at call {_listed(calls)}): the "
            f"guard on {name} failed, at last «{shown.values['guard']}»{source}."
        )
        settled = calls[-1] <= len(analysis.calls) - QUIET_CALLS and frame not in limited
        message += f" Settled after call {calls[-1]}." if settled else " It did not settle."
        entry = entries["COMPILE-RECOMPILED" if settled else "COMPILE-RECOMPILES"]
        accepted = _guard_entry(analysis, frame, name, root)["key"] in known
        fix = _guard_mend(shown.values, settled=settled) or entry.fix
        if confirmed and UNSPEC in shown.values["hint"]:
            fix = f"confirmed in a run of its own: {fix}"
        yield Finding(
            code=entry.code,
            severity=Severity.NOTE if accepted else entry.severity,
            message=f"known from the baseline: {message}" if accepted else message,
            fix=fix,
            url=entry.url,
            place=shown.place,
            evidence=tuple(number for number, _ in numbered),
            gates=() if settled or accepted else ("recompile",),
        )
    for number, observation in analysis.limits:
        name = analysis.function_of(observation)
        call = observation.values["call"]
        eager = len(analysis.calls) - call + 1
        entry = entries["COMPILE-LIMIT"]
        last = next((o for _, o in reversed(analysis.of("recompile", part="calls"))), None)
        guard = f"; the last guard that failed: «{last.values['guard']}»" if last is not None else ""
        yield Finding(
            code=entry.code,
            severity=entry.severity,
            message=f"{name} met the recompile limit at call {call}; {eager} of {len(analysis.calls)} calls ran it "
            f"eagerly{guard}.",
            fix=entry.fix,
            url=entry.url,
            place=last.place if last is not None else None,
            evidence=(number,),
            gates=("recompile",),
        )


def _guard_mend(guard: Mapping[str, Any], *, settled: bool) -> str | None:
    name, text = guard["name"], guard["guard"]
    if UNSPEC in guard["hint"]:
        return f"torch._dynamo.config.{UNSPEC} = True, or keep the number as a tensor (a buffer)"
    if "size mismatch" in text or "stride mismatch" in text:
        return "torch._dynamo.mark_dynamic(tensor, dim) before the first call, or torch.compile(..., dynamic=True)"
    if not settled and name.rstrip("']").endswith("lr"):
        return "make the learning rate a tensor: lr=torch.tensor(0.1); a float that a scheduler changes is a constant"
    if "requires_grad" in text or "dispatch key set" in text:
        return "call it always with inputs of the same kind: requires_grad, inference mode and device are guarded"
    if "grad_mode" in text.lower():
        return "call it always under the same grad mode (training under grad, evaluation through a second compile)"
    return None


def _listed(calls: list[int]) -> str:
    shown = ", ".join(map(str, calls[:8]))
    return shown + (", ..." if len(calls) > 8 else "")


def _of_errors(analysis: Analysis) -> Iterator[Finding]:
    entries = catalogue()
    for number, observation in analysis.of("compile_error"):
        values = observation.values
        text = values["type"]
        if values["code"] == "GB-UNKNOWN":  # no reason that has a name: what torch said, as far as it fits
            text = shortened(" ".join(values["raw"].split()))
        detail = f"{values['error_type']} at call {values['call']}: {values['code']} {text}."
        if values["explanation"]:
            detail += f" {values['explanation']}"
        entry = entries["COMPILE-RAISED"]
        yield Finding(
            code=entry.code,
            severity=entry.severity,
            message=detail,
            fix=BREAK_MENDS.get(values["code"], entry.fix),
            url=values["url"] or entry.url,
            place=observation.place,
            evidence=(number,),
            gates=("break", "user-break", "recompile"),
        )
    full = analysis.fullgraph
    if full is None:
        return
    number = analysis.of("fullgraph", part="fullgraph")[-1][0]
    broken = bool(analysis.sites)
    if not full["ok"]:
        yield _fullgraph_finding(analysis, number, full)
        if full["raised"] and not broken and any(analysis.graphs.values()):
            message = "the default compile has no break, and fullgraph=True fails."
            yield entries["COMPILE-FULLGRAPH-DIFFERS"].finding(message, evidence=(number,))
    elif broken:
        message = f"fullgraph=True gives one graph, and the default compile breaks at {len(analysis.sites)} site"
        yield entries["COMPILE-FULLGRAPH-DIFFERS"].finding(
            message + ("s." if len(analysis.sites) > 1 else "."), evidence=(number,)
        )


def _fullgraph_finding(analysis: Analysis, number: int, full: Mapping[str, Any]) -> Finding:
    raised, graphs, died = full["raised"], full["graphs"], full["died"]
    entry = catalogue()["COMPILE-FULLGRAPH"]
    errors = analysis.of("fullgraph_error")
    evidence: tuple[int, ...] = (number,)
    place, fix = None, entry.fix
    if raised and errors:
        at, error = errors[0]
        evidence = (at, number)
        place = error.place
        message = f"fullgraph=True fails: {error.values['error_type']}: {error.values['code']} {error.values['type']}."
        fix = BREAK_MENDS.get(error.values["code"], "; ".join(error.values["hints"][:2]) or fix)
    elif died is not None:
        message = f"with fullgraph=True the process died: {died}."
        fix = "read raw/stderr.txt of the run: nothing else is known of a process that ends so"
    elif not graphs:
        message = "fullgraph=True raises nothing, and compiled nothing either: that is no pass."
    else:
        message = "fullgraph=True ended without an answer."
    return Finding(
        code=entry.code,
        severity=entry.severity,
        message=message,
        fix=fix,
        url=entry.url,
        place=place,
        evidence=evidence,
        gates=("break", "user-break", "recompile"),
    )


def _of_application(analysis: Analysis) -> Iterator[Finding]:
    entries = catalogue()
    bypassed = analysis.subject.get("bypassed")
    if bypassed and not analysis.subject.get("disabled_by"):
        message = (
            f"{', '.join(bypassed)} went through torch.compile, and the step compiled nothing: it does not go through "
            "the compiled object. All else here is what compiling the whole step would do."
        )
        yield entries["COMPILE-BYPASSED"].finding(message, evidence=(analysis.of("subject")[0][0],))
    if not analysis.calls:
        return
    for number, observation in analysis.skipped:
        values = observation.values
        if values["owner"] == "user":
            place = Place(file=values["file"], line=values["line"], function=values["function"])
            because = read_break(values["fail_reason"] or "")
            message = f"{values['function']} runs eagerly as a whole: {because.code} {because.type}."
            yield entries["COMPILE-SKIPPED"].finding(message, place=place, evidence=(number,))
    state, reason = analysis.applied
    number = analysis.of("call", part="calls")[-1][0]
    if state == NOT_APPLIED and not analysis.of("compile_error"):
        yield entries["COMPILE-NOT-APPLIED"].finding(f"{reason}.", evidence=(number,))
    elif state == PARTIAL:
        yield entries["COMPILE-PARTIAL"].finding(f"{reason}.", evidence=(number,))
    for number, observation in analysis.of("fix"):
        values = observation.values
        if values["differs"]:
            message = f"torch._dynamo.config.{values['switch']} = True changes what the target computes (its losses or "
            message += "parameters): no mend."
            yield entries["COMPILE-RESULT-DIFFERS"].finding(message, evidence=(number,))


def _of_builtin(analysis: Analysis) -> Iterator[Finding]:
    wrong = as_expected(analysis)
    if wrong is not None:
        number = analysis.numbered[-1][0]
        yield catalogue()["COMPILE-NOT-AS-EXPECTED"].finding(f"{analysis.name}: {wrong}", evidence=(number,))


def as_expected(analysis: Analysis) -> str | None:
    """Return what is wrong with a built-in case, None where all is as it should be."""
    builtin = analysis.builtin
    if builtin is None or not analysis.calls:
        return None if analysis.of("raised", "died") else "it was not measured"
    if analysis.of("compile_error"):
        return "torch.compile raised"
    if not builtin.breaks and analysis.fullgraph is not None and not analysis.fullgraph["ok"]:
        return "fullgraph=True fails, and it is one graph"
    if not builtin.breaks and (analysis.sites or analysis.graphs["captured"] != 1 or not analysis.settled):
        return f"{analysis.graphs['captured']} graphs, {len(analysis.sites)} sites; 1 graph without a break is right"
    if builtin.breaks and not analysis.sites:
        return f"no break was seen, though it {builtin.why}"
    return None
