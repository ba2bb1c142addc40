"""A sweep as figures: differences, curves, effects, parallel coordinates, the lineage of one arm. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bfo_diag.neurons import busiest, neurons
from bfo_diag.probes.sweep import statistics as st
from bfo_diag.probes.sweep.effects import effects, level_name
from bfo_diag.probes.sweep.factors import canonical
from bfo_diag.probes.sweep.leaderboard import Entry, Leaderboard, leaderboard
from bfo_diag.probes.sweep.results import Arm, Sweep, Trial, number, sweep
from bfo_diag.records import JSONValue, Run
from bfo_diag.shown import Axis, Chart, Series

_FAR = 100
"""Values that are so many times apart want a logarithmic scale."""


def charts(run: Run) -> Iterator[Chart]:
    """Yield the figures for which there is anything to draw."""
    found = sweep(run)
    board = leaderboard(found)
    yield from _differences(found, board)
    yield from _curves(board)
    yield from _effects(found)
    yield from _parallel(found, board)
    yield from _lineage(board)


def _differences(found: Sweep, board: Leaderboard) -> Iterator[Chart]:
    rows = []
    for entry in board.compared:
        interval = None if entry.difference is None else entry.difference.interval
        if interval is not None:
            rows.append(_row(entry.arm.label, interval, entry.arm.lines))
    if rows:
        yield Chart(
            "intervals",
            "Difference to the control",
            "arm",
            f"{found.metric}, arm - control",
            tuple(rows),
            f"{_better(found)}; 95 % intervals of differences paired by seed, each arm by itself: one that holds 0 is "
            "a tie, and of twenty arms that do nothing one does not hold it",
            reference=0.0,
        )


def _row(name: str, found: st.Interval, lines: tuple[int, ...]) -> Series:
    return Series(name, ((0.0, found.value),), ((found.low, found.high),), lines)


def _better(found: Sweep) -> str:
    return "above 0 is better" if found.higher_is_better else "below 0 is better"


def _curves(board: Leaderboard) -> Iterator[Chart]:
    """Yield the validation loss over epochs, the control first and then the best: there is room for a dozen."""
    ordered = sorted(board.entries, key=lambda entry: not entry.arm.control)
    series = tuple(
        Series(
            entry.arm.label,
            tuple((float(epoch), loss) for epoch, loss in entry.arm.curve),
            evidence=entry.arm.lines,
            tone="control" if entry.arm.control else "",
        )
        for entry in ordered
        if entry.arm.curve
    )
    if series:
        caption = "mean over the seeds of an arm, at the epochs that all of them reached"
        log = _far_apart([loss for entry in ordered for _, loss in entry.arm.curve])
        yield Chart("lines", "Learning curves", "epoch", "validation loss (nats)", series, caption, log_y=log)


def _far_apart(values: Sequence[float]) -> bool:
    """Whether one arm that went astray would press all others together, but for a logarithmic scale."""
    return min(values) > 0 and max(values) >= _FAR * min(values)


def _effects(found: Sweep) -> Iterator[Chart]:
    seen = effects(found)
    if seen is None:
        return
    rows = []
    for level in seen.levels:
        lines = tuple(line for arm in level.arms for line in arm.lines)
        ends = () if level.interval is None else ((level.interval.low, level.interval.high),)
        rows.append(Series(f"{level.factor}: {level.name}", ((0.0, level.effect),), ends, lines))
    what = f"{found.metric}, level - mean of all arms"
    caption = f"{_better(found)}; {seen.about}"
    yield Chart("intervals", "Effects of the factors", "level", what, tuple(rows), caption, reference=0.0)


def _parallel(found: Sweep, board: Leaderboard) -> Iterator[Chart]:
    """Yield each arm as a line through its levels to its metric."""
    factors = [factor for factor in found.factors if any(factor["name"] in arm.levels for arm in found.arms)]
    scores = [entry.score.mean for entry in board.ranked if entry.score is not None]
    if not factors or not scores:
        return
    places = [_places(factor, found.arms) for factor in factors]
    axes = [_axis(factor, place, found.arms) for factor, place in zip(factors, places, strict=True)]
    metric = Axis(found.metric, low=min(scores), high=max(scores), log=_far_apart(scores))
    series = tuple(_line(entry, factors, places) for entry in board.entries)
    yield Chart(
        "parallel",
        "Arms: levels and outcome",
        "factor",
        found.metric,
        series,
        "the mean over seeds on the last axis; arms without one (failed, pruned, not at their end) stop before it",
        axes=(*axes, metric),
    )


def _places(factor: Mapping[str, JSONValue], arms: Sequence[Arm]) -> dict[Any, int] | None:
    """Return the position of each level on its axis; None for a range, where it is the value itself."""
    if factor.get("values") is None:
        return None
    own = [arm.levels[factor["name"]] for arm in arms if factor["name"] in arm.levels]
    return {level: place for place, level in enumerate(dict.fromkeys(map(canonical, (*factor["values"], *own))))}


def _axis(factor: Mapping[str, JSONValue], places: Mapping[Any, int] | None, arms: Sequence[Arm]) -> Axis:
    name = str(factor["name"])
    own = [arm.levels[name] for arm in arms if name in arm.levels]
    if places is None:
        values = [found for value in (factor["low"], factor["high"], *own) if (found := number(value)) is not None]
        return Axis(name, low=min(values), high=max(values), log=bool(factor.get("log")))
    names = {canonical(value): level_name(value) for value in (*factor["values"], *own)}
    ticks = tuple((float(place), names[level]) for level, place in places.items())
    return Axis(name, ticks, 0.0, float(max(1, len(places) - 1)))


def _line(entry: Entry, factors: Sequence[Mapping[str, JSONValue]], places: Sequence[dict[Any, int] | None]) -> Series:
    arm = entry.arm
    points = []
    for index, (factor, place) in enumerate(zip(factors, places, strict=True)):
        value = arm.levels.get(factor["name"])
        if place is not None and factor["name"] in arm.levels:
            points.append((float(index), float(place[canonical(value)])))
        elif place is None and (found := number(value)) is not None:
            points.append((float(index), found))
    if entry.rank is not None and entry.score is not None:
        points.append((float(len(factors)), entry.score.mean))
    return Series(arm.label, tuple(points), evidence=arm.lines, tone="control" if arm.control else "")


def _lineage(board: Leaderboard) -> Iterator[Chart]:
    """Yield who descends from whom in the best arm that had neurons die or born, at its first seed."""
    seen = next((found for entry in board.ranked if (found := _with_events(entry.arm)) is not None), None)
    if seen is None:
        return
    arm, trial = seen
    events = trial.values["events"]
    layer, layers = busiest(events)
    drawn = neurons([event for event in events if event["layer"] == layer], last=int(trial.values.get("steps") or 0))
    others = {1: "", 2: "; 1 more layer is in the log"}.get(layers, f"; {layers - 1} more layers are in the log")
    series = tuple(
        Series(
            str(one.serial),
            one.points,
            evidence=(trial.line,),
            parents=tuple(map(str, one.parents)),
            tone="alive" if one.died is None else "",
        )
        for one in drawn
    )
    title = f"Lineage: {arm.label}, seed {trial.seed}, layer {layer}"
    caption = f"neurons of {layer} from birth to death, and what each was made from{others}"
    yield Chart("lineage", title, "step", "neuron", series, caption)


def _with_events(arm: Arm) -> tuple[Arm, Trial] | None:
    return next(((arm, trial) for trial in arm.trials.values() if trial.values.get("events")), None)
