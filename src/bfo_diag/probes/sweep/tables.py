"""A sweep as tables: the leaderboard, what failed, what each factor did, what was asked for. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from bfo_diag.probes.sweep import statistics as st
from bfo_diag.probes.sweep.effects import Effects, effects, level_name
from bfo_diag.probes.sweep.leaderboard import Entry, Leaderboard, leaderboard
from bfo_diag.probes.sweep.results import Arm, Sweep, sweep
from bfo_diag.records import JSONValue, Run
from bfo_diag.shown import Cell, Table

_TONES = {"worse": "bad", "tie": "muted", "not measured": "muted", "partly failed": "bad", "failed": "bad"}


def tables(run: Run) -> Iterator[Table]:
    """Yield the leaderboard, what failed, what each factor did, and what was asked for."""
    found = sweep(run)
    if found.arms:
        yield _leaderboard(found)
        failed = [row for arm in found.arms for row in _failures(arm)]
        if failed:
            yield Table("Failed trials", ("arm", "seed", "why", "replay"), tuple(failed))
        seen = effects(found)
        if seen is not None:
            yield _effects(found, seen)
    if found.spec:
        yield _spec(found)


def details(run: Run) -> Iterator[Table]:
    """Yield the tracebacks of the trials that raised."""
    rows = [
        (arm.label, str(seed), Cell(str(trial.values["traceback"]), "", (trial.line,)))
        for arm in sweep(run).arms
        for seed, (trial, _) in arm.failures.items()
        if trial.values.get("traceback")
    ]
    if rows:
        yield Table("Failed trials: tracebacks", ("arm", "seed", "traceback"), tuple(rows))


def _leaderboard(found: Sweep) -> Table:
    board = leaderboard(found)
    entries = [entry for entry in board.entries if entry.arm.standing != "unfinished" or entry.arm.trials]
    shown = _columns([entry.arm for entry in entries])
    heads = ("rank", "arm", found.metric, "difference to the control [95 %]", "verdict", "variance of the loss")
    rows = tuple(
        (*_row(entry), *(of(entry.arm) or "-" for of in shown.values()), _cost(entry.arm, found.control))
        for entry in entries
    )
    waiting = len(board.entries) - len(entries)
    caption = _how_to_read(found, board) + (f"; arms without a trial yet: {waiting}" if waiting else "")
    return Table("Leaderboard", (*heads, *shown, "cost"), rows, caption)


def _columns(arms: list[Arm]) -> dict[str, Callable[[Arm], str]]:
    """Return the columns for which any arm has a figure."""
    found: dict[str, Callable[[Arm], str]] = {}
    if any(map(_jump, arms)):
        found["jump of the eval loss, mean / max"] = _jump
    if any(trial.figure(name) for arm in arms for trial in arm.trials.values() for name in ("births", "deaths")):
        found["births / deaths"] = _turnover
    if any(map(_parameters, arms)):
        found["parameters"] = _parameters
    return found


def _row(entry: Entry) -> tuple[str | Cell, ...]:
    arm = entry.arm
    return (
        "-" if entry.rank is None else str(entry.rank),
        Cell(arm.label + (" (control)" if arm.control else ""), "", () if arm.line is None else (arm.line,)),
        _score(entry),
        _difference(entry),
        Cell(entry.said, _TONES.get(entry.verdict, "")),
        _mean(arm.over_seeds("loss_variance"), ".2g") or "-",
    )


def _how_to_read(found: Sweep, board: Leaderboard) -> str:
    better = "higher" if found.higher_is_better else "lower"
    return (
        f"{found.metric}: at the epoch with the lowest validation loss, mean ± standard deviation over seeds, {better} "
        "is better; rank: by the mean alone; difference: arm - control at the same seeds, with Student's t interval, "
        "each arm by itself; tie: it holds 0; by itself: it does not outlast the correction for how many are compared, "
        f"{len(board.compared)} here (Holm); variance: of the training loss over the last epoch; cost: time of a seed, "
        "and against the control"
    )


def _score(entry: Entry) -> Cell:
    """Return the mean of the metric; an arm that failed at each seed has no number."""
    arm, score = entry.arm, entry.score
    if arm.standing == "failed":
        return Cell(f"failed: {arm.why}", "bad", arm.lines)
    if arm.standing == "pruned":
        return Cell(_pruned(arm), "muted", arm.lines)
    if score is None:
        return Cell("not at its end", "muted", arm.lines)
    of = "" if score.count == len(arm.seeds) else f" of {len(arm.seeds)}"
    deviation = "" if score.deviation is None else f" ± {score.deviation:.2g}"
    return Cell(f"{score.mean:.4g}{deviation} ({score.count}{of})", "" if entry.rank else "muted", arm.lines)


def _pruned(arm: Arm) -> str:
    trial = arm.pruned_at
    return "pruned" if trial is None else f"pruned at epoch {trial.epochs} of seed {trial.seed}"


def _difference(entry: Entry) -> Cell | str:
    found = entry.difference
    if found is None:
        return "-"
    if found.interval is None:
        return Cell(f"not measured: {found.why}", "muted")
    left_out = f", {found.left_out} seed{'s' if found.left_out > 1 else ''} left out" if found.left_out else ""
    return Cell(interval(found.interval) + left_out, "" if entry.rank else "muted")


def interval(found: st.Interval) -> str:
    """Return `+0.0123 [-0.004, +0.0286]`."""
    return f"{found.value:+.3g} [{found.low:+.3g}, {found.high:+.3g}]"


def _mean(found: st.Spread | None, form: str) -> str:
    return "" if found is None else f"{found.mean:{form}}"


def _parameters(arm: Arm) -> str:
    return _mean(arm.over_seeds("parameters"), ",.0f")


def _jump(arm: Arm) -> str:
    mean = arm.over_seeds("jump_mean")
    highest = st.finite(arm.trials[seed].figure("jump_max") for seed in arm.scores)
    return f"{mean.mean:.2g} / {max(highest):.2g}" if mean is not None and highest else ""


def _turnover(arm: Arm) -> str:
    born, died = arm.over_seeds("births"), arm.over_seeds("deaths")
    return "" if born is None or died is None else f"{born.mean:,.4g} / {died.mean:,.4g}"


def _cost(arm: Arm, control: Arm | None) -> str:
    took = arm.over_seeds("seconds")
    if took is None:
        return "-"
    ratio = cost_ratio(arm, control)
    return f"{took.mean:.3g} s" + ("" if ratio is None else f", {ratio:.2f} x")


def cost_ratio(arm: Arm, control: Arm | None) -> float | None:
    """Return the time of an arm against the control's."""
    took, base = arm.over_seeds("seconds"), None if control is None else control.over_seeds("seconds")
    return None if took is None or base is None or not base.mean else took.mean / base.mean


def _failures(arm: Arm) -> Iterator[tuple[str | Cell, ...]]:
    name = Cell(arm.label, "", () if arm.line is None else (arm.line,))
    for seed, (trial, why) in arm.failures.items():
        yield name, str(seed), Cell(why, "bad", (trial.line,)), str(trial.values.get("replay") or "-")
    if arm.standing == "failed" and not arm.failures:
        yield name, "-", Cell(arm.why, "bad"), "-"


def _effects(found: Sweep, seen: Effects) -> Table:
    rows = [
        (
            level.factor,
            level.name,
            str(len(level.arms)),
            f"{level.mean:.4g}",
            f"{level.effect:+.3g}, no interval" if level.interval is None else interval(level.interval),
        )
        for level in seen.levels
    ]
    better = "above 0 is better" if found.higher_is_better else "below 0 is better"
    columns = ("factor", "level", "arms", found.metric, "difference to the mean of all [95 %]")
    return Table("Effects of the factors", columns, tuple(rows), f"{seen.about}; {better}")


def _spec(found: Sweep) -> Table:
    spec = found.spec
    rows = [(key, level_name(spec[key])) for key in ("sampler", "array", "metric", "pruner") if spec.get(key)]
    rows.append(("seeds", ", ".join(map(str, found.seeds))))
    rows += [(f"factor {factor['name']}", _range(factor)) for factor in found.factors]
    rows += [(f"control {name}", level_name(value)) for name, value in (spec.get("control") or {}).items()]
    rows += [(key, level_name(spec[key])) for key in ("study", "storage") if spec.get(key)]
    evidence = () if found.spec_line is None else (found.spec_line,)
    cells = tuple((name, Cell(text, "", evidence)) for name, text in rows)
    return Table(f"Sweep {spec.get('name', '')}".strip(), ("what", "value"), cells)


def _range(factor: Mapping[str, JSONValue]) -> str:
    if factor.get("values") is not None:
        return ", ".join(level_name(value) for value in factor["values"])
    log = ", on a logarithmic scale" if factor.get("log") else ""
    return f"{level_name(factor['low'])} to {level_name(factor['high'])}{log}"
