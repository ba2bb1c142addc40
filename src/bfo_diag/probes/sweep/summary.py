"""A sweep as summary and verdict. Needs no torch. Its tables are in `tables.py`, its figures in `charts.py`."""

from __future__ import annotations

from typing import get_args

from bfo_diag.probes.sweep import statistics as st
from bfo_diag.probes.sweep.charts import charts
from bfo_diag.probes.sweep.effects import Effects, effects
from bfo_diag.probes.sweep.judge import identical, without_effect
from bfo_diag.probes.sweep.leaderboard import Entry, Leaderboard, leaderboard
from bfo_diag.probes.sweep.results import Arm, Standing, Sweep, Trial, sweep
from bfo_diag.probes.sweep.tables import cost_ratio, details, interval, tables
from bfo_diag.records import Finding, JSONValue, Run

__all__ = ["charts", "details", "measured", "summarise", "tables", "verdict"]

_FIGURES = ("val_loss", "val_accuracy", "train_loss", "loss_variance", "jump_mean", "jump_max")
_COUNTS = ("parameters", "births", "deaths", "epochs", "best_epoch", "steps")


def summarise(run: Run) -> dict[str, JSONValue]:
    """Return all figures. What differs from one machine to another stands under `cost` and `study`."""
    found = sweep(run)
    board = leaderboard(found)
    standings = [entry.arm.standing for entry in board.entries]
    seen = effects(found)
    return {
        "spec": {key: value for key, value in found.spec.items() if key not in ("study", "storage")},
        "study": {"name": found.spec.get("study"), "storage": found.spec.get("storage"), "whole": found.whole},
        "arms": {standing.replace(" ", "_"): standings.count(standing) for standing in get_args(Standing)},
        "leaderboard": [_entry(entry) for entry in board.entries],
        "failed": [failure for arm in found.arms for failure in _failed(arm)],
        "identical": [
            {"arms": [arm.number for arm in group], "without_effect": without_effect(group)}
            for group in identical(found)
        ],
        "effects": None if seen is None else _effects(seen),
        "cost": [_cost(entry.arm, found.control) for entry in board.entries],
    }


def _entry(entry: Entry) -> dict[str, JSONValue]:
    arm, difference = entry.arm, entry.difference
    pruned = arm.pruned_at if arm.standing == "pruned" else None
    return {
        "rank": entry.rank,
        "arm": arm.number,
        "label": arm.label,
        "control": arm.control,
        "levels": dict(arm.levels),
        "standing": arm.standing,
        "why": arm.why if arm.standing in ("failed", "partly failed") else None,
        "pruned_at": None if pruned is None else {"seed": pruned.seed, "epoch": pruned.epochs},
        "by_seed": {str(seed): score for seed, score in arm.scores.items()},
        "metric": _spread(entry.score),
        "difference": None if difference is None else _difference(difference),
        "verdict": entry.verdict,
        "chance_among_all": entry.chance,
        "stands_among_all": entry.stands if entry.chance is not None else None,
        "figures": {name: _spread(arm.over_seeds(name)) for name in _FIGURES},
        "counts": {name: _spread(arm.over_seeds(name)) for name in _COUNTS},
        "lineage": {str(seed): trial.values["lineage"] for seed, trial in _with_lineage(arm)},
        "curve": [list(point) for point in arm.curve],
    }


def _with_lineage(arm: Arm) -> list[tuple[int, Trial]]:
    return [(seed, trial) for seed, trial in arm.trials.items() if trial.values.get("lineage")]


def _spread(found: st.Spread | None) -> dict[str, JSONValue] | None:
    if found is None:
        return None
    return {"mean": found.mean, "standard_deviation": found.deviation, "seeds": found.count}


def _interval(found: st.Interval | None) -> dict[str, JSONValue] | None:
    return None if found is None else {"value": found.value, "low": found.low, "high": found.high}


def _difference(found: st.Difference) -> dict[str, JSONValue]:
    return {
        "by_seed": {str(seed): value for seed, value in found.by_seed.items()},
        "left_out": found.left_out,
        "interval": _interval(found.interval),
        "chance": None if found.interval is None else found.interval.chance,
        "why": found.why,
    }


def _failed(arm: Arm) -> list[dict[str, JSONValue]]:
    return [
        {
            "arm": arm.number,
            "label": arm.label,
            "seed": seed,
            "why": why,
            "recipe": arm.values.get("recipe"),
            "traceback": trial.values.get("traceback"),
            "replay": trial.values.get("replay"),
        }
        for seed, (trial, why) in arm.failures.items()
    ]


def _effects(found: Effects) -> dict[str, JSONValue]:
    return {
        "balanced": found.balanced,
        "arms": [arm.number for arm in found.arms],
        "levels": [
            {
                "factor": level.factor,
                "level": level.name,
                "arms": [arm.number for arm in level.arms],
                "mean": level.mean,
                "effect": level.effect,
                "interval": _interval(level.interval),
            }
            for level in found.levels
        ],
    }


def _cost(arm: Arm, control: Arm | None) -> dict[str, JSONValue]:
    return {"arm": arm.number, "seconds": _spread(arm.over_seeds("seconds")), "ratio": cost_ratio(arm, control)}


def measured(run: Run) -> bool:
    """Whether a trial came to its end with a figure."""
    return any(arm.scores for arm in sweep(run).arms)


def verdict(run: Run, findings: tuple[Finding, ...]) -> str:
    """Return whether an arm beats the control, and how many came how far."""
    found = sweep(run)
    if not any(arm.scores for arm in found.arms):
        return "Nothing was measured: no trial came to its end with a figure."
    board = leaderboard(found)
    return f"{_answer(found, board)} {_counted(board)}"


def _answer(found: Sweep, board: Leaderboard) -> str:
    control, ranked = found.control, board.ranked
    if control is None or not control.scores:
        why = "is not on record" if control is None else "failed" if control.failures else "is not at its end"
        return f"Nothing can be compared: the control {why}."
    if all(entry.arm.control for entry in ranked):
        return "No arm can be compared: none but the control is complete."
    best = ranked[0]
    winner = next((entry for entry in board.better if entry.stands), None)
    if winner is not None:
        said = f"{winner.arm.label} beats the control beyond noise: {_against(found, winner)}"
        if winner.rank == best.rank:
            return f"Best: {said}."
        return f"{said}; the best mean is that of {best.arm.label}, {_but(best)}."
    if board.better:
        names = "; ".join(entry.arm.label for entry in board.better)
        return (
            f"No arm is sure to beat the control: {names} does by itself, and not as one of "
            f"{len(board.compared)} that were compared (Holm). Best mean: {best.arm.label}, {_against(found, best)}."
        )
    if best.arm.control:
        return f"No arm beats the control, whose {found.metric} has the best mean."
    return f"No arm beats the control beyond noise. Best mean: {best.arm.label}, {_but(best)}: {_against(found, best)}."


def _but(entry: Entry) -> str:
    """Return what speaks against an arm whose mean is the best."""
    if entry.verdict == "tie":
        return "but its difference to the control is a tie"
    if entry.arm.control:
        return "the control itself"
    alone = ", and does not outlast the correction for how many are compared" if entry.said != entry.verdict else ""
    return f"but its difference is {entry.said}{alone}"


def _against(found: Sweep, entry: Entry) -> str:
    """Return `val_loss 1.97 against 1.98, -0.01 [-0.02, +0.005] over 3 seeds`."""
    control = st.Spread.of(() if found.control is None else found.control.scores.values())
    if entry.score is None or control is None or entry.difference is None:
        return "not measured"
    means = f"{found.metric} {entry.score.mean:.4g} against {control.mean:.4g}"
    if entry.difference.interval is None:
        return f"{means}, {entry.difference.why}"
    return f"{means}, {interval(entry.difference.interval)} over {len(entry.difference.by_seed)} seeds"


def _counted(board: Leaderboard) -> str:
    """Return how many arms came to which verdict, the control apart."""
    verdicts = [entry.said.replace(",", "") for entry in board.entries if not entry.arm.control]
    known = ("better", "worse", "better by itself", "worse by itself", "tie", "not measured")
    order = (*known, *get_args(Standing))
    said = [f"{count} {word}" for word in order if (count := verdicts.count(word))]
    return f"{len(verdicts)} {'arm' if len(verdicts) == 1 else 'arms'} beside the control: {', '.join(said) or 'none'}."
