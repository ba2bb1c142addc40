"""From a run and its probe to findings, exit code, a `Report` and the `--json` document. Values only, no I/O."""

from __future__ import annotations

from bfo_diag.errors import ExitCode
from bfo_diag.findings import catalogue
from bfo_diag.probes import Probe
from bfo_diag.records import SCHEMA, Finding, JSONValue, Outcome, Report, Run, Severity


def findings(run: Run, probe: Probe) -> tuple[Finding, ...]:
    """Return how the run ended and what the probe makes of it, the gravest first, else in the probe's order."""
    found = [*_of_the_run(run), *probe.judge(run)]
    return tuple(sorted(found, key=lambda finding: -finding.severity.rank))


def _of_the_run(run: Run) -> list[Finding]:
    entries = catalogue()
    found: list[Finding] = []
    for number, observation in run.of_kind("raised"):
        values = observation.values
        code = "TARGET-RAISED" if values["by_target"] else "DIAG-DEFECT"
        message = f"{values['type']}: {values['message']}"
        found.append(entries[code].finding(message, place=observation.place, evidence=(number,)))
    for number, observation in run.of_kind("refused"):
        values = observation.values
        found.append(entries["TARGET-REFUSED"].finding(values["message"], fix=values["mend"], evidence=(number,)))
    for number, observation in run.of_kind("died"):
        how = observation.values.get("signal") or f"exit status {observation.values.get('exit_status')}"
        found.append(entries["TARGET-DIED"].finding(f"the target's process ended: {how}", evidence=(number,)))
    interrupted = run.outcome is Outcome.INTERRUPTED
    for number, observation in () if interrupted else run.of_kind("timed_out"):
        phase = observation.values.get("phase")
        message = f"the time limit was reached ({phase}); what was seen until then is judged"
        found.append(entries["TARGET-TIMED-OUT"].finding(message, place=observation.place, evidence=(number,)))
    for number, _ in run.of_kind("interrupted"):
        found.append(entries["RUN-INTERRUPTED"].finding("stopped from the keyboard", evidence=(number,)))
    for number, observation in run.of_kind("damaged"):
        found.append(entries["LOG-DAMAGED"].finding(str(observation.values.get("why")), evidence=(number,)))
    return found


def exit_code(run: Run, probe: Probe, found: tuple[Finding, ...], *, fail_on: tuple[str, ...]) -> ExitCode:
    """Return what the process ends with. How the run ended comes before what was found."""
    codes = {finding.code for finding in found}
    if run.outcome is Outcome.INTERRUPTED:
        return ExitCode.INTERRUPTED
    if "DIAG-DEFECT" in codes:
        return ExitCode.DEFECT
    if codes & {"TARGET-RAISED", "TARGET-DIED", "TARGET-TIMED-OUT"}:
        return ExitCode.TARGET_RAISED
    if not probe.measured(run):
        return ExitCode.NOTHING_MEASURED
    if any(finding.fails_at(gate) for finding in found for gate in fail_on):
        return ExitCode.FINDING
    return ExitCode.CLEAN


def build(run: Run, probe: Probe, found: tuple[Finding, ...]) -> Report:
    """Return what a renderer shows."""
    return Report(
        verdict=probe.verdict(run, found),
        clean=not any(finding.severity.rank >= Severity.WARNING.rank for finding in found),
        tables=tuple(probe.tables(run)),
        findings=found,
        lines=run.damaged,
    )


def document(run: Run, probe: Probe, found: tuple[Finding, ...]) -> dict[str, JSONValue]:
    """Return the one document of `--json`."""
    return {
        "schema": SCHEMA,
        "run_id": run.header.run_id,
        "probe": probe.name,
        "case": run.header.case.to_json(),
        "outcome": run.outcome.value,
        "verdict": build(run, probe, found).verdict,
        "environment": dict(run.header.environment),
        "observations": [observation.to_json() for observation in run.observations],
        "findings": [finding.to_json() for finding in found],
        "summary": probe.summarise(run),
    }
