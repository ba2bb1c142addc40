"""From the cells of a mode x scenario run to findings and the matrix. Reads the record alone: no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from bfo_diag.findings import catalogue
from bfo_diag.records import Finding, JSONValue, Observation, Run, Severity
from bfo_diag.shown import Cell, Chart, Series, Table

_WORST = ("trained", "refused", "failed")
_PLAIN = "all-grad"


def modes(run: Run) -> dict[str, dict[str, dict[str, JSONValue]]]:
    """Return mode -> scenario -> what came of it: the worst of the workloads, with each of them below it."""
    cells: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for number, observation in run.of_kind("cell"):
        values = {**observation.values, "line": number}
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
        "workloads": {values["workload"]: {**_shown(values), "line": values["line"]} for values in workloads},
    }


def _shown(values: dict[str, Any]) -> dict[str, JSONValue]:
    shown = {
        key: values[key] for key in ("status", "finding", "loss_first", "loss_last", "evaluations", "error", "expected")
    }
    return {**shown, "state_restored": not values["state_changed"]}


def as_expected(values: Mapping[str, Any]) -> bool:
    """Whether a cell came out as it does with a right optimizer; a swallowed error never does."""
    return bool(values["status"] == values["expected"] and values["finding"] != "MODE-SWALLOWED")


def judge(run: Run) -> Iterator[Finding]:
    """Yield a finding for each way that cells did not train, over the modes, scenarios and workloads it was seen in."""
    every = [observation.values for _, observation in run.of_kind("cell")]
    grouped: dict[tuple[Any, ...], list[tuple[int, Observation]]] = defaultdict(list)
    for number, observation in run.of_kind("cell"):
        values = observation.values
        if values["finding"] is not None:
            said = values["error"] or values["swallowed_message"]
            grouped[values["finding"], as_expected(values), values["error_type"], said].append((number, observation))
    for (code, expected, *_), lines in grouped.items():
        entry = catalogue()[code]
        message = f"{_where([o.values for _, o in lines], every)}: {_what(code, lines[0][1].values)}"
        yield entry.finding(
            f"{message.rstrip('.')}. This is what should happen here." if expected else message,
            place=lines[0][1].place,
            evidence=tuple(number for number, _ in lines),
            severity=Severity.NOTE if expected else None,
        )
    changed = [(number, o) for number, o in run.of_kind("cell") if o.values["state_changed"]]
    if changed:
        what = ", ".join(dict.fromkeys(name for _, o in changed for name in o.values["state_changed"]))
        yield catalogue()["MODE-STATE-CHANGED"].finding(
            f"{_where([o.values for _, o in changed], every)}: not as before after the step: {what}.",
            evidence=tuple(number for number, _ in changed),
        )


def _where(cells: list[Mapping[str, Any]], every: list[Mapping[str, Any]]) -> str:
    """Return which cells these are, in as few words as they need."""

    def listed(key: str, chosen: list[Mapping[str, Any]]) -> list[str]:
        return list(dict.fromkeys(str(values[key]) for values in chosen))

    by_scenarios: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for mode in listed("mode", cells):
        by_scenarios[tuple(listed("scenario", [c for c in cells if c["mode"] == mode]))].append(mode)
    total = len(listed("scenario", every))
    parts = [
        f"mode {', '.join(modes)} in {'every scenario' if len(scenarios) == total > 1 else ', '.join(scenarios)}"
        for scenarios, modes in by_scenarios.items()
    ]
    workloads = listed("workload", cells)
    everywhere = len(workloads) == len(listed("workload", every))
    return "; ".join(parts) + ("" if everywhere else f" ({', '.join(workloads)})")


def _what(code: str, values: Any) -> str:
    if code == "MODE-NOT-TRAINED":
        spent = " when a single step was stopped" if values["budget_spent"] else ""
        first, last = _number(values["loss_first"]), _number(values["loss_last"])
        return f"the loss went from {first} to {last}{spent}, in {values['evaluations']} evaluations."
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
    plan = next((o.values for _, o in run.of_kind("plan")), None)
    if plan is None:
        return
    optimizer = next((o.values for _, o in run.of_kind("optimizer")), {})
    arguments = ", ".join(f"{key}={value}" for key, value in optimizer.get("arguments", {}).items())
    for workload in plan["workloads"]:
        yield Table(
            title=f"{optimizer.get('class', 'optimizer')} on {workload}: loss, first -> last (evaluations)",
            columns=("scenario", *plan["modes"]),
            rows=tuple(
                (scenario, *(_cell(found.get(mode, {}).get(scenario, {}), workload) for mode in plan["modes"]))
                for scenario in plan["scenarios"]
            ),
            caption=f"made with {arguments}" if arguments else "",
        )


def _short(code: str) -> str:
    """Return a code for a table: `MODE-NOT-TRAINED` as `not-trained`."""
    return code.removeprefix("MODE-").lower()


def _cell(cell: dict[str, Any], workload: str) -> str | Cell:
    values = cell.get("workloads", {}).get(workload)
    if values is None:
        return "not measured: run ended"
    if values["status"] == "trained":
        text = f"{_number(values['loss_first'])} -> {_number(values['loss_last'])} ({values['evaluations']})"
    else:
        text = (
            f"{values['status']}, as it should"
            if as_expected(values)
            else f"{values['status']}: {_short(values['finding'])}"
        )
    text = text if values["state_restored"] else text + " state changed"
    tone = "" if values["status"] == "trained" else "muted" if as_expected(values) else "bad"
    return Cell(text, tone, (values["line"],))


def charts(run: Run) -> Iterator[Chart]:
    """Yield the loss curves of each workload, where nothing is in a gradient's way."""
    curves: dict[str, list[Series]] = defaultdict(list)
    for number, observation in run.of_kind("cell"):
        values = observation.values
        points = tuple((float(x), float(y)) for x, y in values.get("losses", ()) if y is not None)
        if values["scenario"] == _PLAIN and len(points) > 1:
            curves[values["workload"]].append(Series(values["mode"], points, evidence=(number,)))
    for workload, series in curves.items():
        yield Chart(
            kind="lines",
            title=f"Loss on {workload}, by gradient mode (scenario {_PLAIN})",
            x_axis="evaluations of the closure",
            y_axis="loss",
            series=tuple(series),
            caption="one point before the first step and one after each",
        )
