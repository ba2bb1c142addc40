"""From timings to findings: what differs, what is too noisy, what failed."""

from __future__ import annotations

from collections.abc import Iterator

from bfo_diag.findings import catalogue
from bfo_diag.probes.bench.arms import EAGER
from bfo_diag.probes.bench.results import Case, Mode, cases
from bfo_diag.records import Finding, Run


def judge(run: Run) -> Iterator[Finding]:
    """Yield the findings of every case."""
    found = cases(run)
    for case in found:
        prefix = f"{case.name}: " if len(found) > 1 else ""
        for finding in _of_case(case):
            yield Finding(**{**vars(finding), "message": prefix + finding.message})


def _of_case(case: Case) -> Iterator[Finding]:
    entries = catalogue()
    if case.noisy and case.control is not None:
        message = f"the same eager step under two names: {case.control.value:.2f} times as fast"
        message += f" [{case.control.low:.2f}, {case.control.high:.2f}]."
        yield entries["BENCH-NOISY"].finding(message, evidence=case.line("measured"))
    for failed in case.of("mode_failed"):
        if failed["arm"] == EAGER or failed["same_stream"]:
            continue
        if "reference" in failed["arm"]:
            message = f"{failed['error'].splitlines()[0]}; the modes are compared with eager."
            yield entries["BENCH-NO-REFERENCE"].finding(message, evidence=case.line("mode_failed", arm=failed["arm"]))
            continue
        message = f"{failed['arm']} ({failed['cache']} cache), step {failed['step']}: {failed['error'].splitlines()[0]}"
        yield entries["BENCH-MODE-FAILED"].finding(message, evidence=case.line("mode_failed", arm=failed["arm"]))
    for died in case.of("part_died"):
        how = died.get("signal") or f"exit status {died.get('exit_status')}"
        code = "BENCH-NO-REFERENCE" if "reference" in died["arm"] else "BENCH-MODE-FAILED"
        evidence = case.line("part_died", arm=died["arm"])
        yield entries[code].finding(f"{died['arm']}: the process ended: {how}.", evidence=evidence)
    for settled in case.of("never_settled"):
        if settled["process"] == 0:
            message = f"{settled['arm']} still compiled after 30 calls; blocks with a compile in them are thrown away."
            yield entries["BENCH-NEVER-SETTLED"].finding(message, evidence=case.line("never_settled"))
    for mode in case.modes:
        yield from _of_mode(case, mode)


def _of_mode(case: Case, mode: Mode) -> Iterator[Finding]:
    entries = catalogue()
    word, compared = case.correctness(mode.name)
    if word == "differs" and compared is not None:
        message = (
            f"{mode.name}: after 5 steps {compared['where']} differs from {compared['against']} by "
            f"{compared['difference']:.2g}, relative; {compared['tolerance']:.2g} is allowed"
        )
        message += "." if compared["eager_difference"] is None else f" (eager: {compared['eager_difference']:.2g})."
        yield entries["BENCH-RESULT-DIFFERS"].finding(message, evidence=case.line("correctness", arm=mode.name))
    elif word == "different random stream":
        message = f"{mode.name} draws other random numbers than eager; with fallback_random the results are the same."
        yield entries["BENCH-OTHER-STREAM"].finding(message, evidence=case.line("correctness", arm=mode.name))
    if any(first["arm"] == mode.name and not first["graphs"] for first in case.of("first")):
        message = f"{mode.name}: no graph was captured, so this is eager under another name."
        yield entries["BENCH-NOT-COMPILED"].finding(message, evidence=case.line("first", arm=mode.name))
    if mode.verdict == "slower" and mode.ratio is not None and not case.noisy:
        message = f"{mode.name} runs at {mode.ratio.value:.2f} of eager's speed."
        yield entries["BENCH-SLOWER"].finding(message, evidence=case.line("measured"))
    skipped = case.cudagraphs(mode.name)
    if skipped:
        yield entries["BENCH-NO-CUDAGRAPHS"].finding(
            f"{mode.name}: {skipped}.", evidence=case.line("first", arm=mode.name)
        )
