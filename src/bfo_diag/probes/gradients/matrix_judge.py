"""From the cells of a mode x scenario run to findings and the matrix. Reads the record alone: no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from bfo_diag.findings import catalogue
from bfo_diag.records import Finding, JSONValue, Observation, Run, Severity, Table

_WORST = ("trained", "refused", "failed")


def modes(run: Run) -> dict[str, dict[str, dict[str, JSONValue]]]:
    """Return mode -> scenario -> what came of it: the worst of the workloads, with each of them below it."""
    cells: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for _, observation in run.of_kind("cell"):
        values = dict(observation.values)
        cells[values["mode"]][values["scenario"]].append(values)
    return {
        mode: {scenario: _merged(workloads) for scenario, workloads in scenarios.items()}
        for mode, scenarios in cells.items()
    }


def _merged(workloads: list[dict[str, Any]]) -> dict[str, JSONValue]:
    worst = max(workloads, key=lambda values: _WORST.index(values["status"]))
    return {
        **_shown(worst),
        "state_restored": not any(values["state_changed"] for values in workloads),
        "workloads": {values["workload"]: _shown(values) for values in workloads},
    }


def _shown(values: dict[str, Any]) -> dict[str, JSONValue]:
    shown = {
        key: values[key] for key in ("status", "finding", "loss_first", "loss_last", "evaluations", "error", "expected")
    }
    return {**shown, "state_restored": not values["state_changed"]}


def judge(run: Run) -> Iterator[Finding]:
    """Yield a finding for each way that cells did not train, over the modes and workloads it was seen in."""
    grouped: dict[tuple[str, str, bool], list[tuple[int, Observation]]] = defaultdict(list)
    changed: list[tuple[int, Observation]] = []
    for number, observation in run.of_kind("cell"):
        values = observation.values
        if values["finding"] is not None:
            as_expected = values["status"] == values["expected"]
            grouped[values["finding"], values["scenario"], as_expected].append((number, observation))
        if values["state_changed"]:
            changed.append((number, observation))
    for (code, scenario, as_expected), lines in grouped.items():
        values = lines[0][1].values
        seen_in = ", ".join(dict.fromkeys(str(o.values["mode"]) for _, o in lines))
        workloads = ", ".join(dict.fromkeys(str(o.values["workload"]) for _, o in lines))
        message = f"scenario {scenario}, mode {seen_in} ({workloads}): {_what(code, values)}"
        if as_expected:
            message += " This is what should happen here."
        yield catalogue()[code].finding(
            message,
            place=lines[0][1].place,
            evidence=tuple(number for number, _ in lines),
            severity=Severity.NOTE if as_expected else None,
        )
    if changed:
        where = ", ".join(dict.fromkeys(f"{o.values['mode']} x {o.values['scenario']}" for _, o in changed))
        what = ", ".join(dict.fromkeys(name for _, o in changed for name in o.values["state_changed"]))
        yield catalogue()["MODE-STATE-CHANGED"].finding(
            f"{where}: {what} differ after the step.", evidence=tuple(number for number, _ in changed)
        )


def _what(code: str, values: Any) -> str:
    if code == "MODE-NOT-TRAINED":
        spent = " when the evaluations were used up" if values["budget_spent"] else ""
        first, last = _number(values["loss_first"]), _number(values["loss_last"])
        return f"the loss went from {first} to {last}{spent} in {values['evaluations']} evaluations."
    if code == "MODE-SWALLOWED":
        return (
            f"the closure raised {values['swallowed']} times («{values['swallowed_message']}») and step() returned as "
            "if nothing had happened."
        )
    return f"{values['error_type']}: {values['error']}"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def tables(run: Run) -> Iterator[Table]:
    """Yield one matrix for each workload: a row a scenario, a column a mode."""
    found = modes(run)
    if not found:
        return
    scenarios = list(next(iter(found.values())))
    workloads = list(dict.fromkeys(str(o.values["workload"]) for _, o in run.of_kind("cell")))
    optimizer = next((o.values for _, o in run.of_kind("optimizer")), {})
    for workload in workloads:
        rows = tuple(
            (scenario, *(_cell(found[mode].get(scenario, {}), workload) for mode in found)) for scenario in scenarios
        )
        arguments = ", ".join(f"{key}={value}" for key, value in optimizer.get("arguments", {}).items())
        yield Table(
            title=f"{optimizer.get('class', 'optimizer')} on {workload}: loss, first -> last (evaluations)",
            columns=("scenario", *found),
            rows=rows,
            caption=f"made with {arguments}" if arguments else "",
        )


def _cell(cell: dict[str, Any], workload: str) -> str:
    values = cell.get("workloads", {}).get(workload)
    if values is None:
        return "not measured: the run ended before"
    if values["status"] == "trained":
        text = f"{_number(values['loss_first'])} -> {_number(values['loss_last'])} ({values['evaluations']})"
    else:
        text = f"{values['status']}: {values['finding']}"
        if values["status"] == values["expected"]:
            text += " (as it should)"
    return text if values["state_restored"] else text + " state changed"
